"""Features: the same as encoding text by text, kept whole through kills, damage, full disks and company."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
import torch.distributed
from torch.utils.data import DataLoader, Subset
from transformers import AutoTokenizer, BertConfig, ByT5Tokenizer, Trainer, TrainingArguments
from transformers.utils import logging

from cr_hf import CRConfig, CRForFeatureClassification, CRForSequenceClassification
from cr_hf.errors import DataError, FeatureCacheError
from cr_hf.features import cache as feature_cache
from cr_hf.features import encode as features
from cr_hf.features.cache import FEATURES, FeatureFile, clear_caches, default_cache_dir, list_caches
from cr_hf.features.encode import FeatureDataset, collate_features, encode_texts

WORDS = ["good", "bad", "great", "awful", "dull", "witty", "boring", "superb", "film", "plot"]
TEXTS = [" ".join(WORDS[(row * step) % 10] for step in range(1, 2 + row % 9)) + f" {row}" for row in range(24)]
ROWS_OF_SHARD = 8
WRITES_OF_SHARD = ROWS_OF_SHARD + 1
FORK = multiprocessing.get_context("fork")

Model = CRForSequenceClassification
TinyBackbone = Callable[..., Path]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD_ROWS", ROWS_OF_SHARD)


@pytest.fixture(scope="module")
def folder(tiny_backbone: TinyBackbone) -> Path:
    return tiny_backbone("bert")


@pytest.fixture
def model(folder: Path) -> Model:
    return build(folder)


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every batch that a backbone encodes."""
    batches: list[int] = []
    original = Model.get_features

    def get_features(self: Model, **inputs: torch.Tensor) -> torch.Tensor:
        batches.append(len(inputs["input_ids"]))
        return original(self, **inputs)

    monkeypatch.setattr(Model, "get_features", get_features)
    return batches


def build(folder: Path, **fields: Any) -> Model:
    torch.manual_seed(0)
    return Model.from_backbone(str(folder), num_labels=3, freeze_backbone=True, **{"feature_layers": "all", **fields})


@torch.no_grad()
def one_by_one(model: Model, tokenizer: Any, texts: list[str], pairs: list[str] | None = None) -> np.ndarray:
    length = model.config.max_length_for(tokenizer)
    rows = []
    for number, text in enumerate(texts):
        pair = None if pairs is None else [pairs[number]]
        inputs = tokenizer([text], pair, truncation=True, max_length=length, return_tensors="pt")
        rows.append(model.get_features(**inputs)[0])
    return torch.stack(rows).numpy()


def entry_of(cache_dir: Path) -> Path:
    (entry,) = cache_dir.iterdir()
    return entry


def in_child(work: Callable[[], object], wait: bool = True) -> Any:
    """Run something in a forked process; its exit code, or the process if it is not waited for."""
    process = FORK.Process(target=work)
    process.start()
    if not wait:
        return process
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- the features ----


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


# ---- the address ----


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


# ---- on disk ----


def test_what_is_kept_is_one_read_only_map_without_pickle(model: Model, tokenizer: Any, tmp_path: Path) -> None:
    found = encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path)
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    entry = entry_of(tmp_path)
    assert sorted(path.name for path in entry.iterdir()) == ["about.json", "checksums", "features.npy"]
    np.testing.assert_array_equal(np.load(entry / FEATURES, allow_pickle=False), found)


@pytest.mark.parametrize("damage", ["bit", "cut", "emptied", "gone", "header", "checksum"])
def test_damaged_shards_are_encoded_again(
    damage: str, model: Model, tokenizer: Any, tmp_path: Path, encoded: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    expected = np.array(encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path))
    path = entry_of(tmp_path) / FEATURES
    checksums = path.with_name("checksums")
    content, sums = bytearray(path.read_bytes()), bytearray(checksums.read_bytes())
    again = ROWS_OF_SHARD
    if damage == "bit":
        content[-5] ^= 1
    elif damage == "cut":
        # The last two rows, of the longest and of the shortest texts.
        del content[-2 * 4 * expected.shape[1] :]
        again = 2 * ROWS_OF_SHARD
    elif damage == "emptied":
        content.clear()
        again = len(TEXTS)
    elif damage == "header":
        content[20] ^= 1
        again = 0
    elif damage == "checksum":
        sums[40] ^= 1
    path.write_bytes(content)
    checksums.write_bytes(sums)
    if damage == "gone":
        checksums.unlink()
        again = len(TEXTS)
    encoded.clear()
    found = encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert sum(encoded) == again
    warnings = [record for record in caplog.records if record.name == "cr_hf.features.cache"]
    assert len(warnings) == (damage not in ("gone", "header"))
    encoded.clear()
    encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path)
    assert encoded == []


@pytest.mark.parametrize("moment", range(1 + 3 * WRITES_OF_SHARD))
def test_a_kill_at_any_moment_loses_one_shard_at_most(
    moment: int, model: Model, tokenizer: Any, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode_and_die() -> None:
        original, writes = feature_cache._write_at, iter(range(1000))

        def write_half(handle: Any, offset: int, data: bytes) -> None:
            if next(writes) == moment:
                original(handle, offset, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            original(handle, offset, data)

        monkeypatch.setattr(feature_cache, "_write_at", write_half)
        encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path)

    assert in_child(encode_and_die) == -signal.SIGKILL
    assert [entry.complete for entry in list_caches(tmp_path)] == [False] or moment == 3 * WRITES_OF_SHARD
    found = encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path)
    np.testing.assert_allclose(found, encode_texts(model, tokenizer, TEXTS, cache_dir=False), atol=1e-6)
    finished = max(moment - 1, 0) // WRITES_OF_SHARD
    assert sum(encoded) - len(TEXTS) == len(TEXTS) - finished * ROWS_OF_SHARD


@pytest.mark.parametrize("in_one_job", [False, True])
def test_processes_share_the_work(
    in_one_job: bool, model: Model, tokenizer: Any, tmp_path: Path, encoded: list[int]
) -> None:
    texts, start = [f"film {row}" for row in range(20 * ROWS_OF_SHARD)], FORK.Barrier(2)
    bars: list[bool] = []

    def note_bar(factory: Callable[..., Any], args: Any, options: dict[str, Any]) -> Any:
        bars.append(options["disable"])
        return factory(*args, **options)

    def encode(rank: int) -> None:
        if in_one_job:
            store = f"file://{tmp_path}/store"
            torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
        logging.set_tqdm_hook(note_bar)
        get_features = Model.get_features
        Model.get_features = lambda self, **inputs: time.sleep(0.02) or get_features(self, **inputs)  # type: ignore
        start.wait()
        np.save(tmp_path / f"{rank}.npy", encode_texts(model, tokenizer, texts, cache_dir=tmp_path / "cache"))
        (tmp_path / f"{rank}.json").write_text(json.dumps([sum(encoded), *bars]))

    processes = [in_child(partial(encode, rank), wait=False) for rank in range(2)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    shares, hidden = zip(*[json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)], strict=True)
    assert sum(shares) == len(texts)
    assert min(shares) >= ROWS_OF_SHARD
    assert hidden == (False, in_one_job)
    np.testing.assert_array_equal(np.load(tmp_path / "0.npy"), np.load(tmp_path / "1.npy"))
    expected = encode_texts(model, tokenizer, texts, cache_dir=False)
    np.testing.assert_allclose(np.load(tmp_path / "0.npy"), expected, atol=1e-6)


def test_nobody_waits_for_a_process_that_died(
    model: Model, tokenizer: Any, tmp_path: Path, encoded: list[int]
) -> None:
    held = tmp_path / "held"

    def encode_forever() -> None:
        Model.get_features = lambda self, **inputs: held.touch() or time.sleep(60)  # type: ignore
        encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path / "cache")

    process = in_child(encode_forever, wait=False)
    wait_for(held.exists)
    assert clear_caches(tmp_path / "cache") == []
    killer = threading.Timer(0.5, process.kill)
    killer.start()
    started = time.monotonic()
    found = encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path / "cache")
    assert 0.2 < time.monotonic() - started < 20
    assert sum(encoded) == len(TEXTS)
    np.testing.assert_allclose(found, encode_texts(model, tokenizer, TEXTS, cache_dir=False), atol=1e-6)
    process.join()


def test_a_full_disk_is_known_before_the_work(
    model: Model, tokenizer: Any, tmp_path: Path, encoded: list[int]
) -> None:
    def encode_with_little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        with pytest.raises(FeatureCacheError, match="File too large") as caught:
            encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert encoded == []

    assert in_child(encode_with_little_room) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", [3, 9, 12, "fsync"])
def test_a_disk_that_fills_up_leaves_no_half_shard_in_use(
    moment: int | str,
    model: Model,
    tokenizer: Any,
    tmp_path: Path,
    encoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, writes = feature_cache._write_at, iter(range(1000))

    def full(handle: Any, *_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(handle: Any, offset: int, data: bytes) -> None:
        (full if next(writes) == moment else original)(handle, offset, data)

    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "_write_at", write)
        if moment == "fsync":
            patch.setattr(os, "fsync", full)
        with pytest.raises(FeatureCacheError, match="No space left on device: free some space") as caught:
            encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path)
    assert str(entry_of(tmp_path)) in str(caught.value)
    encoded.clear()
    found = encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path)
    np.testing.assert_allclose(found, encode_texts(model, tokenizer, TEXTS, cache_dir=False), atol=1e-6)
    finished = 3 if isinstance(moment, str) else (moment - 1) // WRITES_OF_SHARD
    assert sum(encoded) - len(TEXTS) == len(TEXTS) - finished * ROWS_OF_SHARD


def test_a_folder_that_cannot_be_written_is_one_clear_error(model: Model, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FeatureCacheError, match=r"Not a directory: .* set cache_dir"):
        encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path / "file")


def test_a_complete_entry_is_read_from_a_disk_that_cannot_be_written(
    model: Model, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path)
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode="r", **more: original(self, "rb") if mode == "rb" else 1 / 0)
    np.testing.assert_array_equal(encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path), expected)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_the_features_are_never_all_in_memory(tmp_path: Path) -> None:
    def anonymous_bytes() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    shards = np.array_split(np.random.default_rng(1).permutation(12_800), 100)
    about = {"description": "x", "backbone": "y", "texts": 12_800}
    entry = FeatureFile(tmp_path / ("0" * 32), shards, 2_000, about)
    before, highest = anonymous_bytes(), 0

    def encode(rows: np.ndarray, bar: Any) -> np.ndarray:
        nonlocal highest
        highest = max(highest, anonymous_bytes())
        return np.broadcast_to(rows[:, None], (len(rows), 2_000)).astype(np.float32)

    missing = entry.missing()
    # Room is taken before the work, not page by page.
    assert (entry.folder / FEATURES).stat().st_blocks * 512 >= entry.size
    entry.fill(missing, encode, logging.tqdm(disable=True))
    assert entry.missing() == []
    found = entry.open()
    assert (found[:, 7] == np.arange(12_800)).all()
    assert found.nbytes > 100e6
    assert max(highest, anonymous_bytes()) - before < 20e6


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


# ---- list and clear ----


def test_list_and_clear(model: Model, tokenizer: Any, tmp_path: Path) -> None:
    assert list_caches(tmp_path / "none") == clear_caches(tmp_path / "none") == []
    kept = encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path, description="train")
    (entry,) = list_caches(tmp_path)
    assert (entry.description, entry.texts, entry.complete) == ("train, bert, 96 features", len(TEXTS), True)
    assert entry.folder == entry_of(tmp_path)
    assert entry.size == sum(path.stat().st_size for path in entry.folder.iterdir())
    assert -1 < entry.age < 60
    path = entry.folder / "checksums"
    path.write_bytes(path.read_bytes()[:64])
    assert not list_caches(tmp_path)[0].complete

    foreign = [tmp_path / "notes.txt", tmp_path / ("a" * 32) / "mine.txt", entry.folder / "mine.txt"]
    foreign += [tmp_path / ("b" * 32) / "about.json", tmp_path / "other" / "about.json"]
    for file in foreign:
        file.parent.mkdir(exist_ok=True)
        file.write_text("[1]")
    (tmp_path / ("c" * 32)).symlink_to(entry.folder)
    (entry.folder / "about.json.17.part").touch()
    assert [removed.folder for removed in clear_caches(tmp_path)] == [entry.folder]
    assert all(file.exists() for file in foreign)
    assert [file.name for file in entry.folder.iterdir()] == ["mine.txt"]
    assert list_caches(tmp_path) == []
    assert np.isfinite(kept).all()
    encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path)
    assert list_caches(tmp_path)[0].complete


# ---- for the trainer ----


@pytest.fixture
def rows() -> np.ndarray:
    return np.arange(40, dtype=np.float32).reshape(10, 4)


def test_a_batch_is_gathered_in_the_order_asked_for(rows: np.ndarray) -> None:
    data = FeatureDataset(rows, list(range(10)), indices=[9, 2, 5, 7])
    assert len(data) == 4
    assert data.labels.tolist() == [9, 2, 5, 7]
    batch = collate_features(data.__getitems__([3, 0, 3]))
    assert batch["features"].tolist() == rows[[7, 9, 7]].tolist()
    assert batch["labels"].tolist() == [7, 9, 7]
    assert batch["labels"].dtype == torch.int64
    single = data[1]
    assert single["features"].tolist() == rows[2].tolist()
    stacked = collate_features([data[0], data[1]])
    assert stacked["features"].shape == (2, 4)
    assert stacked["labels"].tolist() == [9, 2]
    with pytest.raises(IndexError):
        data[4]


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        (np.arange(10, dtype=np.int32), torch.int64),
        (np.linspace(0, 1, 10), torch.float32),
        (np.eye(10), torch.float32),
        (torch.arange(10), torch.int64),
        (datasets.Dataset.from_dict({"label": list(range(10))})["label"], torch.int64),
    ],
)
def test_labels_of_every_kind(labels: Any, dtype: torch.dtype, rows: np.ndarray) -> None:
    (batch,) = FeatureDataset(rows, labels).__getitems__([4, 2])
    assert batch["labels"].dtype == dtype
    np.testing.assert_allclose(batch["labels"], np.asarray(labels[:])[[4, 2]], rtol=1e-6)


def test_one_label_a_row_is_needed(rows: np.ndarray) -> None:
    with pytest.raises(DataError, match="9 entries for 10 rows"):
        FeatureDataset(rows, [0] * 9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("remove_unused_columns", [True, False])
def test_loaders_of_the_trainer_and_of_torch_take_it(
    remove_unused_columns: bool, model: Model, tokenizer: Any, tmp_path: Path
) -> None:
    found = encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path)
    data = FeatureDataset(found, np.arange(24) % 3)
    batches = list(DataLoader(Subset(data, range(0, 24, 2)), batch_size=5, collate_fn=collate_features))
    np.testing.assert_array_equal(torch.cat([batch["features"] for batch in batches]), found[::2])
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        per_device_train_batch_size=5,
        remove_unused_columns=remove_unused_columns,
        dataloader_pin_memory=False,
        use_cpu=True,
        max_steps=2,
        disable_tqdm=True,
    )
    head = CRForFeatureClassification(CRConfig(in_features=96, num_labels=3, feature_norm="layer_norm"))
    trainer = Trainer(head, arguments, train_dataset=data, data_collator=collate_features)
    loaded = list(trainer.get_train_dataloader())
    assert [len(batch["labels"]) for batch in loaded] == [5, 5, 5, 5, 4]
    seen = torch.cat([batch["features"] for batch in loaded])
    assert {tuple(row) for row in seen.tolist()} == {tuple(row) for row in found.tolist()}
    assert np.isfinite(trainer.train().training_loss)
