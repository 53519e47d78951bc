"""Static word embeddings: the vectors of a file, the backbone among transformers, and its way to the Hub and back."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from cr_hf import CRConfig, CRForSequenceClassification, StaticEmbeddingConfig, StaticEmbeddingModel
from cr_hf.errors import RecipeError
from cr_hf.modeling.static_embeddings import build_backbone, build_tokenizer, read_vectors
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import load_run, train_recipe

TEXTS = ["A good film, a GOOD plot.", "A bad film: a bad plot!", "Good food ."]
RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def classifier(texts: list[str] = TEXTS, **fields: object) -> tuple[CRForSequenceClassification, object]:
    tokenizer = build_tokenizer(texts, min_count=1)
    backbone = build_backbone(tokenizer, 6)
    config = CRConfig(backbone_config=backbone.config, num_labels=5, hidden_sizes=[8], objective="ordinal", **fields)
    return CRForSequenceClassification(config, backbone=backbone).eval(), tokenizer


def test_the_tokenizer_knows_the_frequent_words_of_the_training_texts(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(TEXTS, min_count=2)
    tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert set(tokenizer.get_vocab()) == {"[PAD]", "[UNK]", "a", "good", "bad", "film", "plot", "."}
    assert tokenizer.tokenize("Good, food.") == ["good", "[UNK]", "[UNK]", "."]
    assert tokenizer(["good film", "good"], padding=True)["input_ids"][1][1] == tokenizer.pad_token_id == 0
    assert len(build_tokenizer(TEXTS, vocabulary_size=4, min_count=1)) == 4


def test_the_vocabulary_is_the_same_every_time() -> None:
    """Every process of a run, and a resumed one, builds its own."""
    texts = [f"word{row % 97} word{row % 89}" for row in range(300)]
    found = [build_tokenizer(texts, vocabulary_size=120, min_count=1).get_vocab() for _ in range(3)]
    assert found[0] == found[1] == found[2]


def test_no_frequent_word_is_an_error() -> None:
    with pytest.raises(ValueError, match="no word stands 9 times"):
        build_tokenizer(TEXTS, min_count=9)


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
    backbone = build_backbone(build_tokenizer(TEXTS, min_count=1), 6)
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
kind, folder = sys.argv[1:]
sys.modules["cr_hf"] = None
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
auto = AutoModel if kind == "backbone" else AutoModelForSequenceClassification
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
        for kind, saved, expected in (
            ("classifier", model, model(**inputs).logits),
            ("backbone", model.backbone, model.backbone(**inputs).pooler_output),
        ):
            folder = tmp_path / kind
            saved.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            command = [sys.executable, "-c", script, kind, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            found = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
            torch.testing.assert_close(found, expected[0].detach())
    finally:
        for registered in (CRConfig, CRForSequenceClassification, StaticEmbeddingConfig, StaticEmbeddingModel):
            registered._auto_class = None


GLOVE = "good 1 2 3\nfilm 0.5 -1e-1 0\n. . . 7 7 7\nunwanted 4 5 6\ngood 9 9 9\nbad x 1 2\nplot nan 1 2\nfood 3 2 1\n"


@pytest.mark.parametrize("form", ["glove", "word2vec", "gzip", "windows"])
def test_vectors_of_a_file(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "8 3\n" + GLOVE if form == "word2vec" else GLOVE.replace("\n", "\r\n") if form == "windows" else GLOVE
    path = tmp_path / "vectors.txt"
    path.write_bytes(gzip.compress(text.encode()) if form == "gzip" else text.encode())
    found = read_vectors(path, ["good", "film", "bad", "plot", "food", ". . .", "absent"])
    assert {word: vector.tolist() for word, vector in found.items()} == {
        "good": [1, 2, 3],
        "film": pytest.approx([0.5, -0.1, 0]),
        ". . .": [7, 7, 7],
        "food": [3, 2, 1],
    }


def test_words_without_a_vector_get_random_ones_of_the_same_size(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(TEXTS, min_count=1)
    path = tmp_path / "vectors.txt"
    path.write_text(GLOVE, encoding="utf-8")
    backbone = build_backbone(tokenizer, 300, path)
    table, vocabulary = backbone.embeddings.weight, tokenizer.get_vocab()
    assert table.shape == (len(vocabulary), 3)
    assert table[vocabulary["good"]].tolist() == [1, 2, 3]
    assert 0 < table[vocabulary["plot"]].abs().max() < 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good 1 2 3\nfilm 1 2\n", "vectors.txt, line 2: 2 numbers instead of 3"),
        (b"good 1 2 3\nunwanted 1 2 3 4\n", "vectors.txt, line 2: 4 numbers instead of 3"),
        (b"4 3\ngood 1 2\n", "vectors.txt, line 2: 2 numbers instead of 3"),
        (b"unwanted 1 2 3\n", "none of the 1 words"),
        (b"", "none of the 1 words"),
        (b"good \xff\xfe 2 3\n", "vectors.txt, line 1: not UTF-8"),
    ],
)
def test_bad_files_are_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_vectors(path, ["good"])
    assert "\n" not in str(caught.value)


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
    model, tokenizer, _ = load_run(
        train_recipe(load_recipe(RECIPES / "yelp_full.yaml", recipe_overrides(tmp_path, *more)))
    )
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
