"""Clearing the cache removes its own files and nothing else."""

import json
from pathlib import Path

import pytest

from cr_hf.features import clear_caches, list_caches

ABOUT = {"format": 1, "shards": 1, "features": 2, "description": "texts", "backbone": "bert", "texts": 1}
OURS = ("features.npy", "checksums", "about.json", ".about.json.17.part", "about.json.18.part")


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
