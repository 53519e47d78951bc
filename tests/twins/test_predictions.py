"""One text, one answer: whichever way it is asked for."""

import csv
import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from children import run_command
from conftest import TinyBackbone
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from cr_hf.features import classify_features, encode_texts
from cr_hf.hub import export_graph
from cr_hf.modeling import CRConfig, CRForFeatureClassification, CRForSequenceClassification
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "text.yaml"
TEXTS = {
    "plain": ("a gorgeous, witty film", "the service was great"),
    "long": ("good food and awful service . " * 60, "bad plot . " * 90),
    "empty": ("", "a plot"),  # of an empty second text a pipeline makes a single one
    "not latin": ("すばらしい映画", "плохой фильм и скучный сюжет"),
    "one of many letters": ("g" * 5000, "bad"),
}
SIDES = ["right", "left"]


@pytest.fixture(scope="module", params=[("bert", 24, False), ("llama", None, False), ("bert", None, True)], ids=str)
def run(request: Any, tiny_backbone: TinyBackbone, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool]:
    """A finished run, and whether it reads pairs."""
    family, length, has_pairs = request.param
    folder = tmp_path_factory.mktemp("twins")
    words = ["good", "great", "bad", "awful"]
    lines = [f"a {words[row % 4]} film,film {row},{'no' if row % 4 > 1 else 'yes'}" for row in range(40)]
    (folder / "train.csv").write_text("\n".join(["text,other,label", *lines]), encoding="utf-8")
    more = [f"max_seq_length={length}"] if length else []
    more += ["data.text_pair_column=other"] if has_pairs else []
    more += [f"backbone={tiny_backbone(family, 'left')}", f"data.train_file={folder / 'train.csv'}"]
    more += ["hidden_sizes=[8]", "num_train_epochs=2", "use_cpu=true", f"output_dir={folder / 'run'}"]
    recipe = load_recipe(RECIPE, more)
    return train_recipe(recipe), has_pairs


@pytest.mark.slow
def test_the_exported_graph_gives_the_same_probabilities(run: tuple[Path, bool], tmp_path: Path) -> None:
    folder, has_pairs = run
    columns = [list(column) for column in zip(*TEXTS.values(), strict=True)][: 1 + has_pairs]
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    expected = model.predict_texts(columns[0], AutoTokenizer.from_pretrained(folder), *columns[1:]).softmax(-1)
    export_graph(folder, tmp_path / "graph")
    session = onnxruntime.InferenceSession(tmp_path / "graph" / "onnx" / "model.onnx")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "graph")
    for rows in (slice(None), slice(1), slice(2, 3)):
        encoded = tokenizer(*[column[rows] for column in columns], padding=True, truncation=True, return_tensors="np")
        logits = session.run(None, {given.name: encoded[given.name] for given in session.get_inputs()})[0]
        torch.testing.assert_close(torch.tensor(logits).softmax(-1), expected[rows], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
def test_every_route_gives_the_same_probabilities(run: tuple[Path, bool], side: str, tmp_path: Path) -> None:
    folder, has_pairs = run
    texts = [first for first, _ in TEXTS.values()]
    pairs = [second for _, second in TEXTS.values()] if has_pairs else None
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    expected = model.predict_texts(texts, tokenizer, pairs).softmax(-1)

    alone = [model.predict_texts([text], tokenizer, pairs and [pairs[row]]) for row, text in enumerate(texts)]
    torch.testing.assert_close(torch.cat(alone).softmax(-1), expected)

    classify: Any = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    asked = [{"text": text, "text_pair": pairs[row]} for row, text in enumerate(texts)] if pairs else texts
    for batch_size in (1, 3):
        rows = classify(asked, truncation=True, batch_size=batch_size)
        found = [
            [score["score"] for score in sorted(row, key=lambda s: model.config.label2id[s["label"]])] for row in rows
        ]
        torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-4, atol=1e-5)

    features = torch.tensor(encode_texts(model, tokenizer, texts, pairs, cache_dir=False))
    torch.testing.assert_close(model.classifier(features)[0].softmax(-1), expected)
    head = CRForFeatureClassification(CRConfig.from_dict({**model.config.to_dict(), "backbone_config": None}))
    head.classifier.load_state_dict(model.classifier.state_dict())
    torch.testing.assert_close(classify_features(head, features.numpy()).softmax(-1), expected)
    mounted = CRForSequenceClassification(model.config, backbone=model.backbone)
    mounted.classifier.load_state_dict(head.classifier.state_dict())
    torch.testing.assert_close(mounted.eval().predict_texts(texts, tokenizer, pairs).softmax(-1), expected)


def test_the_command_line_gives_the_same_probabilities(run: tuple[Path, bool], tmp_path: Path) -> None:
    folder, has_pairs = run
    if has_pairs:
        pytest.skip("pairs at the command line are tested with the commands")
    texts = [first for name, (first, _) in TEXTS.items() if name != "empty"]
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([["text"], *[[text] for text in texts]])
    done = run_command(["predict", str(folder), "rows.csv", "--output", "found.jsonl"], tmp_path)
    assert done.code == 0, done.errors
    found = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text(encoding="utf-8").splitlines()]
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    expected = model.predict_texts(texts, AutoTokenizer.from_pretrained(folder)).softmax(-1)
    values = [[row["probabilities"][name] for name in model.config.label2id] for row in found]
    torch.testing.assert_close(torch.tensor(values), expected, rtol=1e-3, atol=1e-3)


def test_the_saved_tokenizer_carries_the_length_of_training(run: tuple[Path, bool]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(run[0])
    tokenizer = AutoTokenizer.from_pretrained(run[0])
    assert tokenizer.model_max_length == (model.config.max_seq_length or 64)
    assert tokenizer.padding_side == "right"
    assert len(tokenizer(TEXTS["long"][0], truncation=True)["input_ids"]) == tokenizer.model_max_length
