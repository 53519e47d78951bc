"""The page of a run against predictions, certificates and sensitivities of the package; the folder of a Space."""

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyBackbone
from published_run import make_run

from cr_hf.errors import PublishError
from cr_hf.evaluation.perturbations import perturb_text
from cr_hf.evaluation.tokens import _gradients
from cr_hf.hub.demo import APP, check_demo, write_space
from cr_hf.runs import Run, predict_run

TEXT = "A café, in two words: wonderfully slow!"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: TinyBackbone) -> Run:
    return Run(make_run(tmp_path_factory.mktemp("runs") / "demo", tiny_backbone("bert")))


@pytest.fixture(scope="module")
def page(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("space") / "space"
    write_space("me/model", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CR_HF_MODEL", str(run.path))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patch.syspath_prepend(str(folder))
        yield runpy.run_path(str(folder / APP.name))
        sys.modules.pop("perturbations", None)


def test_a_page_shows_what_predict_says(run: Run, page: Any) -> None:
    [predicted] = predict_run(run, [TEXT], radius=True)
    read, classes, radius, words = page["classify"](TEXT, 0)
    assert read == TEXT
    assert list(classes) == list(run.model.config.id2label.values())
    assert list(classes.values()) == pytest.approx(predicted.scores, abs=1e-6)
    assert f"**{predicted.radius:.3g}**" in radius
    [(_, ids, norms)] = _gradients(run.model, run.tokenizer, [TEXT])
    special = run.tokenizer.all_special_ids
    tokens = [norm for one, norm in zip(ids[0].tolist(), norms[0].tolist(), strict=True) if one not in special]
    assert max(share for _, share in words) == 1.0
    assert [word for word, _ in words] == ["A", "café", ",", "in", "two", "words", ":", "wonderfully", "slow", "!"]
    if len(tokens) == len(words):
        assert [share for _, share in words] == pytest.approx([norm / max(tokens) for norm in tokens], rel=1e-4)


def test_the_slider_types_worse_and_an_empty_text_is_said(page: Any) -> None:
    assert page["classify"](TEXT, 4)[0] == perturb_text(TEXT, "typos", 4)
    assert page["classify"]("  ", 0)[2] == "Type a text first."


def test_a_space_names_its_model_and_no_folder_of_this_machine(run: Run, tmp_path: Path) -> None:
    folder = write_space("me/model", tmp_path / "space")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "app.py",
        "perturbations.py",
        "requirements.txt",
    ]
    assert '"me/model"' in (folder / "app.py").read_text(encoding="utf-8")
    assert "sdk: gradio" in (folder / "README.md").read_text(encoding="utf-8")
    assert str(run.path) not in "".join(path.read_text(encoding="utf-8") for path in folder.iterdir())
    with pytest.raises(PublishError, match=str(folder)):
        write_space("me/model", folder)


def test_what_the_page_cannot_show_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(run.path, tmp_path / "numbers")
    config = json.loads((run.path / "config.json").read_text(encoding="utf-8"))
    text = json.dumps({**config, "problem_type": "regression"})
    (tmp_path / "numbers" / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(PublishError, match="regression"):
        check_demo(Run(tmp_path / "numbers"))
    monkeypatch.setattr(run.recipe.data, "text_pair_column", "second")
    with pytest.raises(PublishError, match="pairs"):
        check_demo(run)
