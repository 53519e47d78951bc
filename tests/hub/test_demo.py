"""The page of a run against predictions, certificates and sensitivities of the package; the folder of a Space."""

import json
import runpy
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TinyBackbone
from huggingface_hub import constants
from published_run import make_run

from cr_hf.data import DataConfig, label_names_of, load_rows
from cr_hf.errors import PublishError
from cr_hf.evaluation.perturbations import perturb_text
from cr_hf.evaluation.tokens import _gradients
from cr_hf.features import encode_texts
from cr_hf.hub.demo import APP, check_demo, nearest_labels, write_space
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
    read, classes, radius, nearest, words = page["classify"](TEXT, 0)
    assert nearest == ""  # as on a Space
    assert read == TEXT
    assert list(classes) == list(run.model.config.id2label.values())
    assert list(classes.values()) == pytest.approx(predicted.scores, abs=1e-6)
    assert f"**{predicted.radius:.3g}**" in radius
    [(_, ids, norms)] = _gradients(run.model, run.tokenizer, [TEXT])
    special = run.tokenizer.all_special_ids
    tokens = [norm for one, norm in zip(ids[0].tolist(), norms[0].tolist(), strict=True) if one not in special]
    shares = [share / page["STRONGEST"] for _, share in words]
    assert max(shares) == pytest.approx(1.0)
    assert [word for word, _ in words] == ["A", "café", ",", "in", "two", "words", ":", "wonderfully", "slow", "!"]
    if len(tokens) == len(words):
        assert shares == pytest.approx([norm / max(tokens) for norm in tokens], rel=1e-4)


def test_the_slider_types_worse_and_an_empty_text_is_said(page: Any) -> None:
    assert page["classify"](TEXT, 4)[0] == perturb_text(TEXT, "typos", 4)
    assert page["classify"]("  ", 0)[2] == "Type a text first."


def test_labels_of_the_nearest_training_texts_are_counted_where_features_are_kept(
    run: Run, page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    assert nearest_labels(run, run.model, run.tokenizer) is None  # its rows cannot be read
    monkeypatch.setattr(run.recipe, "data", DataConfig(name="embedded", max_train_samples=50))
    assert nearest_labels(run, run.model, run.tokenizer) is None
    rows = load_rows(run.data())["train"]
    features = np.array(encode_texts(run.model, run.tokenizer, rows["text"]))
    for number in (0, 7):
        own = features[number]
        cosines = torch.cosine_similarity(torch.from_numpy(features), torch.from_numpy(own)[None])
        names = [label_names_of(rows)[rows[int(row)]["label"]] for row in cosines.topk(10).indices]
        counts = nearest_labels(run, run.model, run.tokenizer)(rows[number]["text"])
        assert counts == Counter(names)
    monkeypatch.setitem(page["classify"].__globals__, "counts_nearest", lambda text: {"fine": 7, "bad": 3})
    assert page["classify"](TEXT, 0)[3] == "The 10 nearest training texts: 7 fine, 3 bad"


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
