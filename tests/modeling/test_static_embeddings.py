"""Static word embeddings: the backbone among transformers, and its way to the Hub and back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from cr_hf import CRConfig, CRForSequenceClassification, StaticEmbeddingConfig, StaticEmbeddingModel
from cr_hf.data.words import build_static_backbone, build_word_tokenizer
from cr_hf.errors import RecipeError
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe
from cr_hf.runs.use import Run

TEXTS = ["A good film, a GOOD plot.", "A bad film: a bad plot!", "Good food ."]
RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def classifier(texts: list[str] = TEXTS, **fields: object) -> tuple[CRForSequenceClassification, object]:
    tokenizer = build_word_tokenizer(texts, min_count=1)
    backbone = build_static_backbone(tokenizer, 6)
    config = CRConfig(
        backbone_config=backbone.config,
        num_labels=5,
        hidden_sizes=[8],
        objective="ordinal",
        ordinal_loss="cumulative_link",
        **fields,
    )
    return CRForSequenceClassification(config, backbone=backbone).eval(), tokenizer


def test_the_features_are_the_mean_of_the_vectors_of_the_words() -> None:
    model, tokenizer = classifier()
    inputs = tokenizer(["good film", "bad"], padding=True, return_tensors="pt")
    table = model.backbone.embeddings.weight
    vocabulary = tokenizer.get_vocab()
    expected = torch.stack([(table[vocabulary["good"]] + table[vocabulary["film"]]) / 2, table[vocabulary["bad"]]])
    torch.testing.assert_close(model.get_features(**inputs), expected)
    torch.testing.assert_close(model.backbone(**inputs).pooler_output, expected)
    assert torch.equal(table[0], torch.zeros(6))


def test_it_is_an_auto_model_like_any_other(tmp_path: Path) -> None:
    backbone = build_static_backbone(build_word_tokenizer(TEXTS, min_count=1), 6)
    backbone.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert isinstance(again, StaticEmbeddingModel)
    assert torch.equal(again.embeddings.weight, backbone.embeddings.weight)
    assert isinstance(again.config, StaticEmbeddingConfig)
    model = CRForSequenceClassification.from_backbone(str(tmp_path), num_labels=2, hidden_sizes=[4])
    assert torch.equal(model.backbone.embeddings.weight, backbone.embeddings.weight)


def test_every_parameter_trains(tmp_path: Path) -> None:
    model, tokenizer = classifier()
    model.train()
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    model(**inputs, labels=torch.tensor([0, 4, 2])).loss.backward()
    for name, value in model.named_parameters():
        assert value.grad is not None, name
        assert value.grad.abs().sum() > 0, name
    assert torch.equal(model.backbone.embeddings.weight.grad[0], torch.zeros(6))


@pytest.mark.slow
def test_a_saved_classifier_loads_where_nobody_knows_the_type(tmp_path: Path) -> None:
    """As remote code, in a process that cannot import the package."""
    script = """
import json, sys
sys.modules["cr_hf"] = None
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
for kind, auto in (("classifier", AutoModelForSequenceClassification), ("backbone", AutoModel)):
    folder = sys.argv[1] + "/" + kind
    model = auto.from_pretrained(folder, trust_remote_code=True).eval()
    inputs = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)("good film", return_tensors="pt")
    output = model(**inputs)
    print(json.dumps((output.pooler_output if kind == "backbone" else output.logits)[0].tolist()))
"""
    model, tokenizer = classifier()
    CRConfig.register_for_auto_class()
    CRForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
    StaticEmbeddingConfig.register_for_auto_class()
    StaticEmbeddingModel.register_for_auto_class("AutoModel")
    inputs = tokenizer("good film", return_tensors="pt")
    try:
        for kind, saved in (("classifier", model), ("backbone", model.backbone)):
            saved.save_pretrained(tmp_path / kind)
            tokenizer.save_pretrained(tmp_path / kind)
        command = [sys.executable, "-c", script, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        found = [torch.tensor(json.loads(line)) for line in done.stdout.splitlines()[-2:]]
        for logits, expected in zip(
            found, (model(**inputs).logits, model.backbone(**inputs).pooler_output), strict=True
        ):
            torch.testing.assert_close(logits, expected[0].detach())
    finally:
        for registered in (CRConfig, CRForSequenceClassification, StaticEmbeddingConfig, StaticEmbeddingModel):
            registered._auto_class = None


def recipe_overrides(tmp_path: Path, *more: str) -> list[str]:
    data = ["data.name=embedded", "data.max_train_samples=60", "data.max_eval_samples=30", "use_cpu=true"]
    small = ["num_train_epochs=2", "hidden_sizes=[8]", f"output_dir={tmp_path / 'run'}"]
    return [*data, *small, *more]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_recipe_with_vectors(frozen: bool, tmp_path: Path) -> None:
    words = ["and", "the", "was", "a", "room", "service", "it", ".", ","]
    lines = [f"{word} {number} {-number} 0.5 {number % 3}" for number, word in enumerate(words)]
    (tmp_path / "vectors.txt").write_text("\n".join(lines), encoding="utf-8")
    more = [f"vectors_file={tmp_path / 'vectors.txt'}", f"freeze_backbone={str(frozen).lower()}"]
    run = Run(train_recipe(load_recipe(RECIPES / "yelp_full.yaml", recipe_overrides(tmp_path, *more))))
    model, tokenizer = run.model, run.tokenizer
    assert model.config.in_features == 4
    row = model.backbone.embeddings.weight[tokenizer.get_vocab()["the"]]
    assert (row.tolist() == [1, -1, 0.5, 1]) == frozen


@pytest.mark.parametrize(
    ("content", "message"),
    [("film 1 2\nfood 1\n", "line 2: 1 numbers instead of 2"), (None, "vectors_file=.*No such file")],
)
def test_a_recipe_with_bad_vectors(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    recipe = load_recipe(RECIPES / "yelp_full.yaml", recipe_overrides(tmp_path, f"vectors_file={path}"))
    with pytest.raises(RecipeError, match=message) as caught:
        train_recipe(recipe)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_vectors_for_another_backbone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="vectors_file is only for backbone: static"):
        load_recipe(RECIPES / "yelp_full.yaml", ["backbone=offline", "vectors_file=x.txt"])
