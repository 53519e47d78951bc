"""Features: the same as encoding text by text, and found again wherever nothing that they depend on has changed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import TinyBackbone
from encoding import ROWS_OF_SHARD, TEXTS, build, entry_of, one_by_one
from transformers import AutoTokenizer, BertConfig, ByT5Tokenizer
from transformers.utils import logging

from cr_hf import CRConfig
from cr_hf import CRForSequenceClassification as Model
from cr_hf.errors import DataError
from cr_hf.features.cache import clear_caches, default_cache_dir, list_caches
from cr_hf.features.encode import cut_note, encode_texts


def test_features_are_those_of_each_text_alone_for_every_backbone(
    family: str, tiny_backbone: TinyBackbone, tmp_path: Path
) -> None:
    folder = tiny_backbone(family)
    model, tokenizer = build(folder), AutoTokenizer.from_pretrained(folder)
    found = encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path, token_budget=40)
    expected = one_by_one(model, tokenizer, TEXTS)
    assert found.shape == (len(TEXTS), model.config.in_features)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(np.unique(expected.round(4), axis=0)) == len(TEXTS)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_features_are_those_of_each_text_alone_for_every_pooling(
    pooling: str, padding_side: str, tiny_backbone: TinyBackbone, tmp_path: Path
) -> None:
    folder = tiny_backbone("bert" if padding_side == "right" else "llama", padding_side)
    model = build(folder, pooling=pooling, feature_layers=[0, -1])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path)
    if padding_side == "right":
        np.testing.assert_allclose(found, one_by_one(model, tokenizer, TEXTS), atol=1e-5)
    assert np.isfinite(found).all()


def test_pairs_are_encoded_together(model: Model, tokenizer: Any, tmp_path: Path, encoded: list[int]) -> None:
    pairs = TEXTS[::-1]
    found = encode_texts(model, tokenizer, TEXTS, pairs, cache_dir=tmp_path)
    np.testing.assert_allclose(found, one_by_one(model, tokenizer, TEXTS, pairs), atol=1e-5)
    encoded.clear()
    encode_texts(model, tokenizer, ["ab", "a", "ab"], ["c", "bc", "c"], cache_dir=tmp_path)
    assert sum(encoded) == 2


def test_maximum_length_is_that_of_the_configuration(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    model = build(folder, max_seq_length=6)
    long = ["good bad great awful", "good bad great awful dull", "good bad great awful witty film plot"]
    found = encode_texts(model, tokenizer, long, cache_dir=tmp_path)
    np.testing.assert_allclose(found[1:], found[:1].repeat(2, 0), atol=1e-5)


def test_a_column_of_a_data_set_shares_the_entry_of_a_list(model: Model, tokenizer: Any, tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": TEXTS, "text_pair": TEXTS[::-1]})
    found = encode_texts(model, tokenizer, rows["text"], rows["text_pair"], cache_dir=tmp_path)
    same = encode_texts(model, tokenizer, TEXTS, TEXTS[::-1], cache_dir=tmp_path)
    np.testing.assert_array_equal(found, same)
    assert entry_of(tmp_path).is_dir()


def test_identical_texts_are_encoded_once(model: Model, tokenizer: Any, tmp_path: Path, encoded: list[int]) -> None:
    found = encode_texts(model, tokenizer, ["good film", "bad", "good film", "", "good film", ""], cache_dir=tmp_path)
    assert sum(encoded) == 3
    np.testing.assert_array_equal(found[[0, 0, 3]], found[[2, 4, 5]])
    assert not np.allclose(found[0], found[1])


def test_batches_keep_to_the_token_budget(model: Model, tokenizer: Any, encoded: list[int]) -> None:
    encode_texts(model, tokenizer, TEXTS, cache_dir=False, token_budget=1)
    assert set(encoded) == {1}
    encoded.clear()
    encode_texts(model, tokenizer, TEXTS, cache_dir=False, token_budget=10_000)
    assert encoded == [ROWS_OF_SHARD] * 3


@pytest.fixture
def hf_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_without_a_cache_nothing_is_written(model: Model, tokenizer: Any, tmp_path: Path, hf_home: Path) -> None:
    found = encode_texts(model, tokenizer, TEXTS, cache_dir=False)
    np.testing.assert_array_equal(found, encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path / "cache"))
    assert not hf_home.exists()


def test_the_default_place_is_under_hf_home(model: Model, tokenizer: Any, hf_home: Path) -> None:
    found = encode_texts(model, tokenizer, TEXTS[:2])
    assert default_cache_dir() == hf_home / "cr_hf" / "features"
    assert Path(found.filename).parent.parent == default_cache_dir()  # type: ignore[attr-defined]
    (removed,) = clear_caches()
    assert removed.texts == 2
    assert list(default_cache_dir().iterdir()) == []


def test_dropout_autocast_and_the_mode_of_the_model_change_nothing(
    model: Model, tokenizer: Any, tmp_path: Path
) -> None:
    expected = one_by_one(model, tokenizer, TEXTS)
    model.requires_grad_(True).train()
    with torch.autocast("cpu", torch.bfloat16):
        found = encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert model.training
    assert model.backbone.training


@pytest.mark.parametrize(
    ("texts", "pairs", "message"),
    [
        ([], None, "no texts"),
        (["a", "b"], ["c"], "1 entries for 2 texts"),
        (["a", None], None, "row 1 of the texts"),
        (["a", "b", b"c"], None, "row 2 of the texts"),
        (["\ud800"], None, "row 0 of the texts"),
    ],
)
def test_texts_that_cannot_be_encoded_are_one_clear_error(
    texts: Any, pairs: Any, message: str, model: Model, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        encode_texts(model, tokenizer, texts, pairs, cache_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def change_one_weight(model: Model, tokenizer: Any, texts: list[str]) -> None:
    next(iter(model.backbone.parameters())).data.view(-1)[7] += 1e-6


def change_dtype(model: Model, tokenizer: Any, texts: list[str]) -> None:
    model.backbone.double()


def change_tokenizer(model: Model, tokenizer: Any, texts: list[str]) -> None:
    tokenizer.add_tokens(["good"])


def change_truncation_side(model: Model, tokenizer: Any, texts: list[str]) -> None:
    tokenizer.truncation_side = "left"


def change_text(model: Model, tokenizer: Any, texts: list[str]) -> None:
    texts[3] += " "


def change_order(model: Model, tokenizer: Any, texts: list[str]) -> None:
    texts[3], texts[4] = texts[4], texts[3]


CHANGES = [change_one_weight, change_dtype, change_tokenizer, change_truncation_side, change_text, change_order]
FIELDS: list[tuple[str, Any]] = [("pooling", "cls"), ("feature_layers", "last"), ("feature_layers", [2, 1, 0])]
FIELDS += [("max_seq_length", 8)]


@pytest.mark.parametrize("change", CHANGES)
def test_another_ingredient_is_another_entry(
    change: Callable[..., None], model: Model, tokenizer: Any, tmp_path: Path
) -> None:
    texts = TEXTS[:6]
    encode_texts(model, tokenizer, texts, cache_dir=tmp_path)
    change(model, tokenizer, texts)
    encode_texts(model, tokenizer, texts, cache_dir=tmp_path)
    assert len(list_caches(tmp_path)) == 2


@pytest.mark.parametrize(("name", "value"), FIELDS)
def test_another_setting_is_another_entry(
    name: str, value: Any, model: Model, folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    encode_texts(model, tokenizer, TEXTS[:6], cache_dir=tmp_path)
    encode_texts(build(folder, **{name: value}), tokenizer, TEXTS[:6], cache_dir=tmp_path)
    assert len(list_caches(tmp_path)) == 2


def test_what_does_not_change_features_finds_the_same_entry(
    model: Model, folder: Path, tmp_path: Path, tokenizer: Any, encoded: list[int]
) -> None:
    cache_dir = tmp_path / "cache"
    first = encode_texts(model, tokenizer, TEXTS, cache_dir=cache_dir)
    encoded.clear()
    model.save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    moved = Model.from_pretrained(tmp_path / "run").train()
    moved.classifier.readout.weight.data.zero_()
    again = AutoTokenizer.from_pretrained(tmp_path / "run")
    again(TEXTS, truncation=True, max_length=5, padding="max_length")
    second = encode_texts(moved, again, TEXTS, cache_dir=cache_dir, token_budget=30, description="other")
    np.testing.assert_array_equal(first, second)
    assert encoded == []
    other = encode_texts(build(folder, feature_layers=[0, 1, 2]), again, TEXTS, cache_dir=cache_dir)
    np.testing.assert_array_equal(first, other)
    assert encoded == []


def test_a_tokenizer_without_a_fast_backend_is_part_of_the_address(tmp_path: Path, encoded: list[int]) -> None:
    backbone = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    model = Model(CRConfig(backbone_config=backbone, num_labels=2, freeze_backbone=True)).eval()
    found = encode_texts(model, ByT5Tokenizer(), TEXTS, cache_dir=tmp_path)
    np.testing.assert_allclose(found, one_by_one(model, ByT5Tokenizer(), TEXTS), atol=1e-5)
    encoded.clear()
    encode_texts(model, ByT5Tokenizer(), TEXTS, cache_dir=tmp_path)
    assert encoded == []
    encode_texts(model, ByT5Tokenizer(extra_ids=3), TEXTS, cache_dir=tmp_path)
    assert len(list_caches(tmp_path)) == 2


# ---- progress ----


def test_progress_counts_every_row_and_starts_where_the_last_run_stopped(
    model: Model, tokenizer: Any, tmp_path: Path
) -> None:
    bars = []

    class Bar:
        def __init__(self, **options: Any) -> None:
            self.options, self.done = options, options["initial"]
            bars.append(self)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, rows: int) -> None:
            self.done += rows

    with ExitStack() as stack:
        stack.callback(logging.set_tqdm_hook, logging.set_tqdm_hook(lambda factory, args, kwargs: Bar(**kwargs)))
        texts = TEXTS + TEXTS[:5]
        encode_texts(model, tokenizer, texts, cache_dir=tmp_path, description="train")
        path = entry_of(tmp_path) / "checksums"
        path.write_bytes(path.read_bytes()[:32])
        encode_texts(model, tokenizer, texts, cache_dir=tmp_path)
        encode_texts(model, tokenizer, texts, cache_dir=tmp_path)
    first, second = bars
    assert first.done == second.done == first.options["total"] == len(texts)
    assert (first.options["initial"], second.options["initial"]) == (0, ROWS_OF_SHARD)
    assert first.options["desc"] == "encode train"
    assert first.options["delay"] == 2


def test_what_is_cut_of_long_texts_is_what_the_tokenizer_leaves_out(folder: Path, tokenizer: Any) -> None:
    texts = [*TEXTS, "good film " * 30, "film" * 3]
    for limit in (5, 8):
        model = build(folder, max_seq_length=limit)
        lengths = np.array([len(tokenizer(text)["input_ids"]) for text in texts])
        note = cut_note(model, tokenizer, texts)
        assert note is not None
        assert note.startswith(f"{(lengths > limit).sum()} of {len(texts)} texts are longer than the {limit} tokens")
        assert f" {np.maximum(lengths - limit, 0).sum() / lengths.sum():.1%} of all tokens" in note
        assert "max_seq_length" in note


def test_pairs_are_cut_as_one_and_short_texts_are_not(folder: Path, tokenizer: Any) -> None:
    model = build(folder, max_seq_length=8)
    assert cut_note(model, tokenizer, ["good film"], ["bad"]) is None
    longer = cut_note(model, tokenizer, ["good film"] * 2, ["bad", "bad " * 9])
    assert longer is not None
    assert longer.startswith("1 of 2 texts are longer than the 8 tokens")


def test_many_texts_are_drawn_and_texts_that_are_none_are_left_to_others(folder: Path, tokenizer: Any) -> None:
    model = build(folder, max_seq_length=4)
    note = cut_note(model, tokenizer, ["good " * 9, "bad"] * 1000)
    assert note is not None
    assert 450 < int(note.split(" of 1,000 texts looked at")[0]) < 550
    for bad in ([7, "good " * 9], ["\ud800" * 40]):
        assert cut_note(model, tokenizer, bad) is None  # type: ignore[arg-type]
    whole = build(folder)
    most = whole.config.max_length_for(tokenizer)
    note = cut_note(whole, tokenizer, ["good " * 2 * most])
    assert note is not None
    assert note.endswith("(this backbone reads no more)")
