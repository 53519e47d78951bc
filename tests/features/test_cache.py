"""The cache of features: kept whole through kills, damage, full disks and company; cleared of its own files alone."""

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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from encoding import ROWS_OF_SHARD, TEXTS, entry_of
from transformers.utils import logging

from cr_hf import CRForSequenceClassification as Model
from cr_hf.errors import FeatureCacheError
from cr_hf.features import cache as feature_cache
from cr_hf.features import clear_caches, list_caches
from cr_hf.features.cache import FEATURES, FeatureFile
from cr_hf.features.encode import encode_texts

WRITES_OF_SHARD = ROWS_OF_SHARD + 1
FORK = multiprocessing.get_context("fork")
ABOUT = {"format": 1, "shards": 1, "features": 2, "description": "texts", "backbone": "bert", "texts": 1}
OURS = ("features.npy", "checksums", "about.json", ".about.json.17.part", "about.json.18.part")


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


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    folder = tmp_path / "cache" / ("a" * 32)
    folder.mkdir(parents=True)
    for name in OURS:
        (folder / name).write_text(json.dumps(ABOUT) if name == "about.json" else "", encoding="utf-8")
    return folder


def test_an_entry_is_removed_whole(entry: Path) -> None:
    assert [found.folder for found in clear_caches(entry.parent)] == [entry]
    assert not list(entry.parent.iterdir())


def test_what_is_not_of_the_cache_stays(entry: Path, tmp_path: Path) -> None:
    for place in (entry, entry.parent, tmp_path / "elsewhere"):
        place.mkdir(exist_ok=True)
        for name in ("thesis.txt", "about.json.bak"):
            (place / name).write_text("mine", encoding="utf-8")
    (tmp_path / "elsewhere" / "about.json").write_text(json.dumps(ABOUT), encoding="utf-8")
    (entry.parent / ("b" * 32)).symlink_to(tmp_path / "elsewhere")
    clear_caches(entry.parent)
    assert {path.name for path in entry.iterdir()} == {"thesis.txt", "about.json.bak"}
    assert {path.name for path in entry.parent.iterdir()} == {"a" * 32, "b" * 32, "thesis.txt", "about.json.bak"}
    assert len(list((tmp_path / "elsewhere").iterdir())) == 3
    assert list_caches(entry.parent) == []
