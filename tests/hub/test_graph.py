"""A finished run as a graph for other runtimes: the same logits, written whole or not at all."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import TinyBackbone
from documents import lay_out
from transformers import AutoTokenizer

from cr_hf.errors import PublishError
from cr_hf.hub import export_graph, graph
from cr_hf.runs import Run, load_recipe, train_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
TRANSFORMERS_JS = RECIPES.parent / "node_modules" / "@huggingface" / "transformers"
TEXTS = ["a gorgeous film", "", "すばらしい映画", "word " * 500]


@pytest.fixture(scope="module")
def runs(tiny_backbone: TinyBackbone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    lay_out(folder)
    tiny = ["hidden_sizes=[8]", "num_train_epochs=1", "use_cpu=true"]
    texts = [f"backbone={tiny_backbone('bert')}", f"data.train_file={folder / 'my.csv'}", "objective=ordinal"]
    texts += ["data.label_names=[very negative,negative,neutral,positive,very positive]"]
    table = [f"data.dir={folder / 'pima'}"]
    return {
        "texts": train_recipe(load_recipe(RECIPES / "text.yaml", [*tiny, *texts, f"output_dir={folder / 'texts'}"])),
        "table": train_recipe(load_recipe(RECIPES / "pima.yaml", [*tiny, *table, f"output_dir={folder / 'table'}"])),
    }


def test_a_graph_of_texts_and_one_of_eight_bits(runs: dict[str, Path], tmp_path: Path) -> None:
    run, folder = Run(runs["texts"]), tmp_path / "deep" / "exported"
    found = export_graph(run.path, folder, int8=True)
    assert set(found) == {"difference", "validation", "validation_int8"}
    expected = run.model.predict_texts(TEXTS, run.tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for file, tolerance in (("model", 1e-4), ("model_quantized", 0.5)):
        session = onnxruntime.InferenceSession(folder / "onnx" / f"{file}.onnx")
        for texts in (TEXTS, TEXTS[:1]):
            encoded = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
            logits = session.run(None, {given.name: encoded[given.name] for given in session.get_inputs()})[0]
            np.testing.assert_allclose(logits, expected[: len(texts)], rtol=tolerance, atol=tolerance)
    config = json.loads((folder / "config.json").read_text())
    assert {int(number): name for number, name in config["id2label"].items()} == run.model.config.id2label


IN_NODE = """
const { pipeline, env } = require(process.argv[1]);
env.allowRemoteModels = false;
env.localModelPath = process.argv[2];
pipeline("text-classification", "graph", { dtype: "fp32" })
  .then((classify) => classify(JSON.parse(process.argv[3]), { top_k: null }))
  .then((found) => console.log(JSON.stringify(found)));
"""


@pytest.mark.skipif(not TRANSFORMERS_JS.is_dir(), reason="npm install --ignore-scripts @huggingface/transformers")
def test_transformers_js_gives_the_same_probabilities(runs: dict[str, Path], tmp_path: Path) -> None:
    run, texts = Run(runs["texts"]), TEXTS[:3]  # it cuts the last token off a text that is too long
    export_graph(run.path, tmp_path / "graph")
    command = ["node", "-e", IN_NODE, str(TRANSFORMERS_JS), str(tmp_path), json.dumps(texts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    names = run.model.config.id2label.values()
    found = [{one["label"]: one["score"] for one in row} for row in json.loads(done.stdout)]
    probabilities = [[row[name] for name in names] for row in found]
    expected = run.model.predict_texts(texts, run.tokenizer).softmax(-1)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "max", "last"])
def test_every_pooling(pooling: str, runs: dict[str, Path], tmp_path: Path) -> None:
    run = shutil.copytree(runs["texts"], tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "pooling": pooling}))
    assert Run(run).model.config.pooling == pooling
    assert export_graph(run, tmp_path / "exported")["difference"] <= 1e-4


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_a_graph_of_rows(format: str, runs: dict[str, Path], tmp_path: Path) -> None:
    run = Run(runs["table"])
    export_graph(run.path, tmp_path / "exported", format)
    rows = torch.rand(5, run.model.config.in_features) * 50
    if format == "onnx":
        session = onnxruntime.InferenceSession(tmp_path / "exported" / "onnx" / "model.onnx")
        logits: Any = session.run(None, {"features": rows.numpy()})[0]
    else:
        logits = torch.export.load(tmp_path / "exported" / "model.pt2").module()(features=rows).detach()
    np.testing.assert_allclose(logits, run.model(rows).logits.detach(), rtol=1e-4, atol=1e-4)


def test_a_program_of_torch_takes_batches_and_lengths_of_any_size(runs: dict[str, Path], tmp_path: Path) -> None:
    run = Run(runs["texts"])
    export_graph(run.path, tmp_path / "exported", "torch-export")
    program = torch.export.load(tmp_path / "exported" / "model.pt2").module()
    encoded = AutoTokenizer.from_pretrained(tmp_path / "exported")(TEXTS[:2], padding=True, return_tensors="pt")
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(program(**inputs).detach(), run.model(**inputs).logits.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "options", "cause"),
    [
        ("texts", {"format": "tflite"}, "format='tflite' is unknown: use onnx or torch-export"),
        ("texts", {"format": "torch-export", "int8": True}, "int8 is for the ONNX graph"),
        ("table", {"int8": True}, "int8 is for the ONNX graph"),
        ("there", {}, "is there already"),
        ("other logits", {"format": "torch-export"}, "gives other logits than the model"),
        ("no package", {}, "needs onnxruntime: pip install"),
    ],
)
def test_refused_and_nothing_left(
    kind: str, options: Any, cause: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "exported"
    if kind == "there":
        folder.mkdir()
    if kind == "other logits":
        monkeypatch.setattr(graph, "TOLERANCE", -1.0)
    if kind == "no package":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PublishError, match=cause) as error:
        export_graph(runs.get(kind, runs["table"]), folder, **options)
    assert "\n" not in str(error.value)
    assert [path for path in tmp_path.rglob("*") if path != folder] == []
