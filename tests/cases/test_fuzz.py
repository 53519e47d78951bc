"""Random small tables, a head trained on each: what was read is what was written, or it is refused in one line."""

from __future__ import annotations

import csv
import gc
import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cr_hf.data import DataConfig, load_rows, load_tables
from cr_hf.data.label_cells import key_of
from cr_hf.data.tables import table_features
from cr_hf.data.words import build_static_backbone, build_word_tokenizer
from cr_hf.errors import CRError
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "500"))
"""More are tried by `python -m experiments.fuzz`, with other seeds."""
NUMBER_EXAMPLES = EXAMPLES // 5
TRAIN_EVERY = int(os.environ.get("FUZZ_TRAIN_EVERY", "1"))
COUNTS: Counter[str] = Counter()
RECIPE = """
hidden_sizes: [2]
activation: relu  # the search for a polynomial's largest slope is a fifth of such a run
max_steps: 1
eval_strategy: "no"
save_strategy: "no"
load_best_model_at_end: false
use_cpu: true
"""
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


FLOATS = st.one_of(
    st.integers(-9, 9).map(float), st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False, width=32)
)
NUMBERS = st.builds(
    lambda cells, labels, picks: [(row, labels[pick % len(labels)]) for row, pick in zip(cells, picks, strict=False)],
    st.integers(1, 3).flatmap(
        lambda width: st.lists(st.lists(FLOATS, min_size=width, max_size=width), min_size=2, max_size=8)
    ),
    LABELS,
    st.lists(st.integers(0, 11), min_size=8, max_size=8),
)


def write(folder: Path, kind: str, rows: Sequence[tuple[Any, Any]]) -> Path:
    path = folder / f"rows.{kind.partition(' ')[0]}"
    if kind.startswith("csv"):
        with path.open("w", encoding="utf-8", newline="") as handle:
            separator = {"csv": ",", "csv ;": ";", "csv |": "|", "csv quoted": ","}[kind]
            quoting = csv.QUOTE_ALL if kind == "csv quoted" else csv.QUOTE_MINIMAL
            writer = csv.writer(handle, delimiter=separator, quoting=quoting, lineterminator="\n")
            if rows and isinstance(rows[0][0], list):
                names = [f"x{column}" for column in range(len(rows[0][0]))]
                writer.writerows([(*names, "label"), *((*cells, label) for cells, label in rows)])
            else:
                writer.writerows([("text", "label"), *rows])
    elif kind == "parquet":
        pq.write_table(pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), path)
    else:
        records = [{"text": text, "label": label} for text, label in rows]
        content = json.dumps(records) if kind == "json" else "\n".join(map(json.dumps, records))
        path.write_text(content, encoding="utf-8")
    return path


def compare(path: Path, backbone: Path | str, meant: list[tuple[Any, str]], blank: int = 0) -> None:
    """Hold what reading and a step of training make of a file against what was written into it."""
    COUNTS["tried"] += 1
    config = DataConfig(train_file=str(path), validation_file=str(path))
    read: Any = load_tables if backbone == "none" else load_rows
    try:
        loaded = read(config)
    except CRError as error:
        assert "\n" not in str(error)  # noqa: PT017
        COUNTS["refused"] += 1
        return
    rows, names = loaded["train"], loaded["train"].features["label"].names
    cells = table_features(rows).tolist() if backbone == "none" else rows["text"][:]
    assert [(cell, key_of(names[label])) for cell, label in zip(cells, rows["label"], strict=True)] == meant
    assert len(loaded.understood.lines()) <= 5
    if COUNTS["tried"] % TRAIN_EVERY:
        return
    COUNTS["trained"] += 1
    recipe = path.with_name("recipe.yaml")
    recipe.write_text(f"backbone: {backbone}\ndata: {{train_file: {path}, validation_file: {path}}}\n{RECIPE}")
    run = train_recipe(load_recipe(recipe, [f"output_dir={path.with_name('run')}"]))
    told = json.loads((run / "results.json").read_text(encoding="utf-8"))["data"]["understood"]
    assert told["rows"]["train"] == len(meant)
    counts = {key_of(name): count for name, count in told["classes"]["train"].items() if count}
    assert counts == Counter(key for _, key in meant)
    assert told["text_columns"] == ([] if backbone == "none" else ["text"])
    assert told["label_columns"] == ["label"]
    assert told["dropped"].get("empty text", 0) == blank


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors of three words: of all backbones the one that costs least."""
    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = build_word_tokenizer(["one two three one two three"])
    build_static_backbone(tokenizer, 4).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rows = [("one", "a"), ("two", "b")]
    compare(write(tmp_path_factory.mktemp("first"), "csv", rows), folder, rows)
    COUNTS.clear()
    gc.collect()
    gc.freeze()  # what a run imports
    return folder


@settings(
    max_examples=EXAMPLES - NUMBER_EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 500,
    suppress_health_check=list(HealthCheck),
)
@given(TABLES, st.sampled_from(["csv", "csv ;", "csv |", "csv quoted", "jsonl", "json", "parquet"]))
def test_texts_are_read_as_written_or_refused(backbone: Path, rows: list[tuple[str, Any]], kind: str) -> None:
    meant = [(text, key_of(str(label).strip())) for text, label in rows if text.strip()]
    with tempfile.TemporaryDirectory() as folder:
        compare(write(Path(folder), kind, rows), backbone, meant, len(rows) - len(meant))


@settings(
    max_examples=NUMBER_EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 500,
    suppress_health_check=list(HealthCheck),
)
@given(NUMBERS, st.sampled_from(["csv", "csv ;", "csv |", "csv quoted"]))
def test_numbers_are_read_as_written_or_refused(rows: list[tuple[list[float], Any]], kind: str) -> None:
    meant = [(np.float32(cells).tolist(), key_of(str(label).strip())) for cells, label in rows]
    with tempfile.TemporaryDirectory() as folder:
        compare(write(Path(folder), kind, rows), "none", meant)


def test_a_text_without_a_token_is_measured_like_others(backbone: Path, tmp_path: Path) -> None:
    rows = [("one", "a"), ("two", "b"), ("", "a"), ("\u200b", "b")]
    compare(write(tmp_path, "jsonl", rows), backbone, [row for row in rows if row[0]], 1)


def test_most_tables_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        counts = " / ".join(f"{what} {COUNTS[what]}" for what in ("tried", "trained", "refused"))
        print(f"\n{counts} / wrong 0 / traceback 0")
    assert COUNTS["refused"] <= 0.6 * COUNTS["tried"]
