"""Checkpoints and recipes made to do harm: nothing of them executes, nothing is written, one line says what is wrong;
and what a label or a result holds is shown as text, never as markup."""

import contextlib
import copy
import json
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from children import run_command
from hostile import CASES, edit, try_case
from huggingface_hub import ModelCard
from long_use import DEMO, TINY
from markdown_it import MarkdownIt
from sample_run import CONFIG, RESULTS, STUDY

from cr_hf import CRForSequenceClassification
from cr_hf.errors import CheckpointError
from cr_hf.hub.card import render_card, write_card

TinyBackbone = Callable[..., Path]

MARKUP = "<script>alert(1)</script>`<img src=x onerror=alert(1)>`</code></style>\n\n<script>alert(2)</script>"


@pytest.mark.parametrize("name", CASES)
def test_nothing_hostile_executes(name: str, finished: Path, tmp_path: Path) -> None:
    assert try_case(CASES[name], finished, tmp_path) == ""


@pytest.mark.parametrize("name", ["a pickle alone", "an index to the folder above", "a vocabulary of a trillion"])
def test_nor_does_it_through_the_library(name: str, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    CASES[name].damage(tmp_path / "run", tmp_path / "canary")
    with pytest.raises((OSError, ValueError), match=CASES[name].message):
        CRForSequenceClassification.from_pretrained(tmp_path / "run")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("command", ["predict", "train", "fine-tune"])
def test_a_tokenizer_that_does_not_end_is_stopped(
    command: str, finished: Path, tiny_backbone: TinyBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rows = finished if command == "predict" else tiny_backbone("bert"), tmp_path / "rows.csv"
    run = shutil.copytree(folder, tmp_path / "run")
    # 30 letters take a quarter of a second, one letter more 1.4 times as much; with 35 the library gives up by itself.
    endless = {"type": "Split", "pattern": {"Regex": "(?:a|aa)+$b"}, "behavior": "Isolated", "invert": False}
    edit(run / "tokenizer.json", pre_tokenizer=endless)
    rows.write_text("text,label\n" + "".join(f"fine,{i % 2}\n" for i in range(6)) + f"{('a' * 30 + ' ') * 90},1\n" * 9)
    monkeypatch.setenv("CR_HF_TOKENIZER_SECONDS", "1")
    words = ["predict", "run", "rows.csv"]
    if command != "predict":
        words = ["train", str(DEMO), "backbone=run", "output_dir=out", "data.train_file=rows.csv", *TINY]
        words += ["freeze_backbone=false"] if command == "fine-tune" else []
    ended = run_command(words, tmp_path)
    assert ended.code == 2, ended.errors
    assert "Traceback" not in ended.errors
    assert re.search(r"still works on texts \d+ to \d+: .*CR_HF_TOKENIZER_SECONDS\n\Z", ended.errors)
    assert ("rows.csv, line 2" in ended.errors) == (command == "predict")


class Tags(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "iframe") or any(name.startswith("on") for name, _ in attributes):
            self.found.append(tag)


def shown(card: str) -> str:
    """A card as a viewer shows it that lets HTML through."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(ModelCard(card).text)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all that is no list and no object."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path


def replaced(value: Any, path: tuple[Any, ...], leaf: Any) -> Any:
    """A copy with another leaf."""
    copied = copy.deepcopy(value)
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = leaf
    return copied


PARTS = {"results": RESULTS | {"diagnostics": {"tail": 1.5}}, "config": CONFIG, "study": STUDY}


@pytest.mark.parametrize("part", PARTS)
def test_no_field_of_a_run_becomes_markup_in_its_card(part: str, tmp_path: Path) -> None:
    written = 0
    for path in leaves(PARTS[part]):
        parts = {**PARTS, part: replaced(PARTS[part], path, MARKUP)}
        for name, content in parts.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        (tmp_path / "README.md").unlink(missing_ok=True)
        with contextlib.suppress(CheckpointError):  # no number where one is needed
            write_card(tmp_path, name="me/x")
        if (tmp_path / "README.md").is_file():
            written += 1
            assert Tags(shown((tmp_path / "README.md").read_text(encoding="utf-8"))).found == [], path
    assert written > 2


def test_no_name_in_the_results_becomes_markup_in_the_card() -> None:
    results = copy.deepcopy(PARTS["results"])
    for inner in (results["metrics"], results["metrics"]["test"], results["data"]["rows"], results["diagnostics"]):
        inner[MARKUP] = copy.deepcopy(next(iter(inner.values())))
    assert Tags(shown(str(render_card(results, CONFIG, "me/x")))).found == []
    assert Tags(shown(str(render_card(RESULTS, CONFIG, "me/x", earlier=[MARKUP])))).found, "the parser finds none"


def test_labels_are_text_in_the_card_and_the_page_of_a_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cr_hf.hub.publish.check_loads", lambda folder: None)  # takes seconds, seen elsewhere
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    labels = [f"{MARKUP}{number}" for number in range(5)]
    edit(folder / "config.json", id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)})
    data = json.loads((folder / "results.json").read_text(encoding="utf-8"))["data"]
    edit(folder / "results.json", data={**data, "labels": labels})
    ended = run_command(["publish", "run", "me/model", "--dry-run", "--folder", "published"], tmp_path)
    assert ended.code == 0, ended.errors
    card = (tmp_path / "published" / "README.md").read_text(encoding="utf-8")
    assert "script" in card
    assert Tags(shown(card)).found == []
    ended = run_command(["diagnose", "run", f"a film {MARKUP}", "a dull film", "--html", "page.html"], tmp_path)
    assert ended.code == 0, ended.errors
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "script" in page
    assert Tags(page).found == []
