"""The folder that is published: what it holds, what is refused, and that it loads where the package is not."""

import json
import pickle
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TinyBackbone
from published_run import TEXT, append, make_run, write
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cr_hf.errors import CheckpointError, PublishError
from cr_hf.hub.export import check_folder, check_loads, export_run


@pytest.fixture(scope="module")
def run_dir(tiny_backbone: TinyBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", tiny_backbone("bert"))


@pytest.fixture
def exported(run_dir: Path, tmp_path: Path) -> Path:
    return export_run(run_dir, tmp_path / "repository", name="me/tiny")


def test_the_repository_is_what_a_stranger_needs_and_no_more(exported: Path) -> None:
    names = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    needed = {"config.json", "model.safetensors", "tokenizer.json", "modeling_cr.py", "configuration_cr.py"}
    assert needed | {"README.md", "results.json", "recipe.yaml", "probe.json"} <= names
    assert not [name for name in names if "checkpoint" in name or name.endswith((".pt", ".bin", ".csv"))]
    recipe = (exported / "recipe.yaml").read_text(encoding="utf-8")
    assert "train_file: train.csv" in recipe
    assert "backbone: encoder" in recipe
    check_folder(exported, [TEXT])


def test_an_inference_endpoint_answers(exported: Path) -> None:
    handler = runpy.run_path(str(exported / "handler.py"))["EndpointHandler"](str(exported))
    texts = ["a good film", "dull " * 2000]
    tokenizer = AutoTokenizer.from_pretrained(exported)
    model = AutoModelForSequenceClassification.from_pretrained(exported)
    expected = model.predict_texts(texts, tokenizer).softmax(-1)
    assert [row["score"] for row in handler({"inputs": texts})] == pytest.approx(expected.max(-1).values.tolist())
    every = handler({"inputs": texts[0], "parameters": {"top_k": None}})
    found = {row["label"]: row["score"] for row in every}
    assert found == pytest.approx(dict(zip(model.config.id2label.values(), expected[0].tolist(), strict=True)))
    for wrong in ({}, [], "a text", {"inputs": []}, {"inputs": None}, {"inputs": 7}, {"inputs": [["a text"]]}):
        with pytest.raises(ValueError, match="such as"):
            handler(wrong)
    with pytest.raises(ValueError, match='"parameters" must be names'):
        handler({"inputs": texts, "parameters": 7})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (write("training_args.bin", b"x"), r"^training_args.bin holds training arguments as a pickle"),
        (write("optimizer.pt", b"x"), r"^optimizer.pt is the state of an optimizer"),
        (write("checkpoint-4/rng_state.pth", b"x"), r"^checkpoint-4/rng_state.pth is the state"),
        (write("pytorch_model.bin", b"x"), r"^pytorch_model.bin is a pickle"),
        (write("head.pkl", b"x"), r"^head.pkl is a pickle"),
        (write("vocab.json", pickle.dumps({})), r"^vocab.json is a pickle by its content"),
        (write("train.csv", "text,label"), r"^train.csv may hold training data"),
        (write("notes.docx", b"x"), r"^notes.docx is no part of a checkpoint"),
        (append("README.md", "\nsee /home/me/secret/run"), r"^README.md holds the absolute path /home/me/secret/run"),
        (append("recipe.yaml", "\nx: C:\\Users\\me\\x"), r"^recipe.yaml holds the absolute path"),
        (append("README.md", "\ntoken hf_" + "a" * 34), r"^README.md holds an access token"),
        (append("README.md", f"\n> {TEXT}"), r"^a training text is quoted"),
        (lambda folder: (folder / "config.json").unlink(), r"^config.json is missing"),
        (lambda folder: (folder / "LICENSE").symlink_to("/etc/hostname"), r"^LICENSE is a link"),
    ],
)
def test_what_must_not_be_published_is_refused_by_name(
    change: Callable[[Path], None], message: str, exported: Path
) -> None:
    change(exported)
    with pytest.raises(PublishError, match=message) as caught:
        check_folder(exported, [TEXT])
    assert "\n" not in str(caught.value)


def test_the_token_that_is_logged_in_is_found_whatever_its_form(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "an-unusual-token")
    append("README.md", "\nuse an-unusual-token")(exported)
    with pytest.raises(PublishError, match="holds an access token"):
        check_folder(exported)


def test_an_export_never_mixes_with_other_files(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(PublishError, match="is not an empty folder"):
        export_run(run_dir, tmp_path)
    with pytest.raises(CheckpointError, match="only a finished run can be published"):
        export_run(tmp_path, tmp_path / "new")


def test_what_cannot_travel_is_refused(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="needs a frozen backbone that others can get too"):
        export_run(run_dir, tmp_path / "head", head_only=True)
    shutil.copytree(run_dir, tmp_path / "run")
    config = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
    config["backbone_config"]["auto_map"] = {"AutoModel": "modeling_x.X"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(PublishError, match="needs code of its own repository"):
        export_run(tmp_path / "run", tmp_path / "remote")


@pytest.mark.slow
def test_a_folder_with_other_logits_or_that_does_not_load_is_refused(exported: Path) -> None:
    probe = json.loads((exported / "probe.json").read_text(encoding="utf-8"))
    probe["logits"][0][0] += 0.01
    write("probe.json", json.dumps(probe))(exported)
    with pytest.raises(PublishError, match="gives other logits than the run did"):
        check_loads(exported)
    (exported / "layers.py").unlink()
    with pytest.raises(PublishError, match="does not load in a fresh process"):
        check_loads(exported)
