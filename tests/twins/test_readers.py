"""The same rows are the same examples, whatever they come from and however they are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from cr_hf.data import NUMBERS, SEVERAL, SINGLE, DataConfig, load_rows, load_streamed, read_inputs
from cr_hf.errors import CRError

Rows = list[dict[str, Any]]
ESCAPED = "-LRB- he said `` yes \\/ no '' -RRB-"
WORDS = [f"text number {row}, \"quoted\" and 'so' on" for row in range(12)]


def rows(labels: list[Any], **more: list[Any]) -> Rows:
    columns = {"text": WORDS, **more, "label": [labels[row % len(labels)] for row in range(12)]}
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


# Rows, options, problem type, and the file types that can hold them.
KINDS: dict[str, tuple[Rows, dict[str, Any], str, str]] = {
    "names": (rows(["b", "a"]), {"label_names": ["b", "a"]}, SINGLE, "csv tsv jsonl parquet"),
    "numbers as names": (rows([3, 4]), {"label_names": ["3", "4"]}, SINGLE, "csv tsv jsonl parquet"),
    "numbers from 0": (rows([1, 0]), {"label_names": ["x", "y"]}, SINGLE, "csv tsv jsonl parquet"),
    "numbers from 1": (rows([1, 2, 3]), {"label_names": ["x", "y", "z"]}, SINGLE, "csv tsv jsonl parquet"),
    "whole floats": (rows([2.0, 1.0]), {"label_names": ["1", "2"]}, SINGLE, "csv tsv jsonl parquet"),
    "booleans": (rows([True, False]), {"label_names": ["false", "true"]}, SINGLE, "csv tsv jsonl parquet"),
    "pairs": (
        rows(["b", "a"], other=[f"second {row}" for row in range(12)]),
        {"label_names": ["a", "b"], "text_pair_column": "other"},
        SINGLE,
        "csv tsv jsonl parquet",
    ),
    "escapes": (
        rows(["b", "a"], review=[f"{ESCAPED} {row}" for row in range(12)]),
        {"label_names": ["a", "b"], "unescape_ptb": True, "text_column": "review"},
        SINGLE,
        "csv tsv jsonl parquet",
    ),
    "blank texts": (
        rows(["b", "a"], review=["", "  ", *WORDS[:10]]),
        {"label_names": ["a", "b"], "text_column": "review"},
        SINGLE,
        "csv tsv jsonl parquet",
    ),
    "missing labels": (
        rows(["b", "a", "NA"]),
        {"label_names": ["a", "b"], "missing_labels": "drop"},
        SINGLE,
        "csv tsv jsonl parquet",
    ),
    "lists": (rows([["x"], ["x", "y"], []]), {"label_names": ["x", "y"]}, SEVERAL, "jsonl parquet"),
    "words between": (rows(["x", "x|y"]), {"label_names": ["x", "y"]}, SEVERAL, "csv tsv jsonl parquet"),
    "zeros and ones": (rows([[0, 1], [1, 1]]), {"label_names": ["x", "y"]}, SEVERAL, "csv tsv jsonl parquet"),
    "columns": (
        rows([0], x=[0, 1] * 6, y=[1, 1] * 6),
        {"label_columns": ["x", "y"], "label_names": ["x", "y"]},
        SEVERAL,
        "csv tsv jsonl parquet",
    ),
    "a number": (rows([0.5, -2]), {}, NUMBERS, "csv tsv jsonl"),
    "two numbers": (rows([[0.5, 1.0], [2.0, -1.0]]), {}, NUMBERS, "csv jsonl parquet"),
}


def write(folder: Path, name: str, found: Rows) -> str:
    path = folder / f"{name}.{name}"
    if name == "jsonl":
        path.write_text("\n".join(map(json.dumps, found)) + "\n", encoding="utf-8")
    elif name == "parquet":
        datasets.Dataset.from_list(found).to_parquet(path)
    elif name == "csv":
        pd.DataFrame(found).to_csv(path, index=False)
    else:
        columns = list(found[0])
        lines = [columns, *([str(row[column]) for column in columns] for row in found)]
        path.write_text("\n".join("\t".join(cells) for cells in lines) + "\n", encoding="utf-8")
    return str(path)


def examples(split: Any) -> Rows:
    return sorted(split, key=lambda row: row["text"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_examples(kind: str, tmp_path: Path) -> None:
    found, options, problem, types = KINDS[kind]
    given = datasets.DatasetDict({split: datasets.Dataset.from_list(found) for split in ("train", "validation")})
    expected = load_rows(DataConfig(**options), problem, dataset=given)
    seen = {"a data set": examples(expected["train"])}
    for name in types.split():
        path = write(tmp_path, name, found)
        config = DataConfig(train_file=path, validation_file=path, **options)
        loaded = load_rows(config, problem)
        streamed = load_streamed(config, problem)
        seen |= {name: examples(loaded["train"]), f"{name}, streamed": examples(streamed["train"])}
        assert examples(streamed["validation"]) == examples(loaded["validation"])
        assert loaded.understood.classes == expected.understood.classes
        inputs = list(read_inputs(path, config))
        texts = [(row.text, row.text_pair) for row in inputs if row.text.strip()]
        assert sorted(texts) == [(row["text"], row.get("text_pair")) for row in seen[name]] or kind == "missing labels"
        assert list(inputs[0].record) == list(found[0])
    given["train"].save_to_disk(tmp_path / "saved" / "train")
    datasets.DatasetDict(given).save_to_disk(tmp_path / "disk")
    seen["on disk"] = examples(load_rows(DataConfig(dir=str(tmp_path / "disk"), **options), problem)["train"])
    for name, rows_of in seen.items():
        assert rows_of == seen["a data set"], name


def refusal(load: Callable[[], Any]) -> str:
    with pytest.raises(CRError) as caught:
        load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("record", "problem", "place"),
    [
        ({"text": 3, "label": "a"}, SINGLE, "line 13"),
        ({"text": "x", "label": "c"}, SINGLE, "line 13"),
        ({"text": "x", "label": None}, SINGLE, "line 13"),
        ({"text": "x", "label": ["a"]}, SINGLE, "line 13"),
        ({"text": "\ud83d", "label": "a"}, SINGLE, "line 13"),
        ({"label": "a"}, SINGLE, "line 13"),
        ({"text": "x", "label": "many"}, NUMBERS, "line 13"),
        ({"text": "x", "label": 3}, SEVERAL, "line 13"),
    ],
)
def test_every_way_of_reading_refuses_the_same_row(
    record: dict[str, Any], problem: str, place: str, tmp_path: Path
) -> None:
    found = [*rows([0.5] if problem == NUMBERS else ["b", "a"]), record]
    path = write(tmp_path, "jsonl", found)
    config = DataConfig(train_file=path, validation_file=path, label_names=["a", "b"])
    said = {refusal(lambda: load_rows(config, problem)), refusal(lambda: load_streamed(config, problem))}
    assert len(said) == 1
    assert place in said.pop()
