"""Small data files for tests."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from cr_hf.data import DataConfig, load_rows

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


needs_shared_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs ../shared/data")


TSV = "0\tawful\n1\tfine\n0\tbad\n1\tgood\n0\tdull\n1\tnice\n"


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def rows_of(dataset: datasets.Dataset) -> list[tuple[str, int]]:
    return list(zip(dataset["text"], dataset["label"], strict=True))


def both(path: str, **more: object) -> list[tuple[str, int]]:
    """All rows of a file given as train, before any is split off."""
    loaded = load_rows(DataConfig(train_file=path, validation_file=path, **more))  # type: ignore[arg-type]
    assert rows_of(loaded["train"]) == rows_of(loaded["validation"])
    return rows_of(loaded["train"])
