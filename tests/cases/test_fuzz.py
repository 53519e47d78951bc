"""Random small tables: what is understood is what was written, or the table is refused in one line."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cr_hf.data import DataConfig, load_rows
from cr_hf.data.label_cells import key_of
from cr_hf.errors import CRError
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "500"))
"""More are tried by `python -m experiments.fuzz`, with other seeds."""
COUNTS: Counter[str] = Counter()
CHARACTERS = st.characters(exclude_categories=["Cs"])
NASTY = st.sampled_from(
    ['"', "'", ",", ";", "\t", "|", "\n", "\r", "\r\n", "\\", "#", "=", "é", "e\u0301", "\u200b", " "]
)
TEXTS = st.lists(st.one_of(NASTY, st.text(CHARACTERS, max_size=4)), max_size=6).map("".join)
TEXTS = st.one_of(TEXTS, *[TEXTS.map(f"{word} {{}}".format) for word in ("one", "two", "three")])
WORDS = ["pos", "neg", "Pos", "neu tral", " pos", "1", "01", "+1", "1.0", "true", "nan", "", "[a]", "a,b", "-1", "2"]
PLAIN = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
SIZES = {"min_size": 2, "max_size": 4, "unique": True}
LABELS = st.one_of(
    st.lists(st.text(CHARACTERS, min_size=1, max_size=5), **SIZES),
    st.lists(st.text(PLAIN, min_size=1, max_size=5), **SIZES),
    st.lists(st.sampled_from(WORDS), **SIZES),
    st.lists(st.integers(-2, 6), **SIZES),
    st.lists(st.floats(-3, 3).map(lambda number: round(number, 1)), **SIZES),
    st.just([True, False]),
)
TABLES = st.builds(
    lambda texts, labels, picks: [
        (text, labels[pick % len(labels)]) for text, pick in zip(texts, picks, strict=False)
    ],
    st.lists(TEXTS, min_size=2, max_size=8),
    LABELS,
    st.lists(st.integers(0, 11), min_size=8, max_size=8),
)


def write(folder: Path, kind: str, rows: list[tuple[str, Any]]) -> Path:
    path = folder / f"rows.{kind.partition(' ')[0]}"
    if kind.startswith("csv"):
        with path.open("w", encoding="utf-8", newline="") as handle:
            separator = {"csv": ",", "csv ;": ";", "csv |": "|", "csv quoted": ","}[kind]
            quoting = csv.QUOTE_ALL if kind == "csv quoted" else csv.QUOTE_MINIMAL
            writer = csv.writer(handle, delimiter=separator, quoting=quoting, lineterminator="\n")
            writer.writerows([("text", "label"), *rows])
    elif kind == "parquet":
        pq.write_table(pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), path)
    else:
        records = [{"text": text, "label": label} for text, label in rows]
        content = json.dumps(records) if kind == "json" else "\n".join(map(json.dumps, records))
        path.write_text(content, encoding="utf-8")
    return path


def understood(path: Path) -> list[tuple[str, str]] | None:
    """Texts and labels that were read; None if the table was refused."""
    try:
        loaded = load_rows(DataConfig(train_file=str(path), validation_file=str(path)), splits=["train"])
    except CRError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return None
    names = list(loaded.understood.classes["train"])
    found = [(text, key_of(names[label])) for text, label in zip(*loaded["train"][:].values(), strict=True)]
    assert Counter(key for _, key in found) == Counter(
        {key_of(name): count for name, count in loaded.understood.classes["train"].items() if count}
    )
    assert len(loaded.understood.lines()) <= 5
    return found


def meant(rows: list[tuple[str, Any]]) -> list[tuple[str, str]]:
    return [(text, key_of(str(label).strip())) for text, label in rows if text.strip()]


@settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 500, suppress_health_check=list(HealthCheck))
@given(TABLES, st.sampled_from(["csv", "csv ;", "csv |", "csv quoted", "jsonl", "json", "parquet"]))
def test_a_table_is_read_as_written_or_refused(rows: list[tuple[str, Any]], kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = understood(write(Path(folder), kind, rows))
    COUNTS["tried"] += 1
    COUNTS["refused"] += found is None
    assert found is None or found == meant(rows)


def test_most_tables_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\ntried {COUNTS['tried']} / refused {COUNTS['refused']} / wrong 0 / traceback 0")
    assert COUNTS["refused"] <= 0.6 * COUNTS["tried"]


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("csv ;", [("one; two", "b"), ('"three"', "a"), ("four\nfive", "b"), ("", "a"), ("é", "a")]),
        ("jsonl", [("one", 2), ("two\u2028", 1.0), ("three", "3"), ("four", "01")]),
    ],
)
def test_results_say_what_was_read(
    kind: str, rows: list[tuple[str, Any]], tiny_backbone: Callable[..., Path], tmp_path: Path
) -> None:
    path = write(tmp_path, kind, rows)
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "text.yaml"
    small = ["hidden_sizes=[2]", "max_steps=1", "eval_strategy=steps", "save_strategy=steps", "use_cpu=true"]
    files = [f"data.train_file={path}", f"data.validation_file={path}", f"output_dir={tmp_path / 'run'}"]
    run = train_recipe(load_recipe(recipe, [f"backbone={tiny_backbone('bert')}", *files, *small]))
    told = json.loads((run / "results.json").read_text(encoding="utf-8"))["data"]["understood"]
    assert told["rows"]["train"] == len(meant(rows))
    counts = Counter(key for _, key in meant(rows))
    assert {key_of(name): count for name, count in told["classes"]["train"].items()} == counts
