"""Inputs beside those of `test_cases.py`: each is read as it was meant, or refused in one line."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from further_neighbours import FURTHER
from neighbours import GOOD, MULTI, READ, Refused, lines

from cr_hf.data import NUMBERS, SEVERAL, SINGLE, DataConfig, load_rows, read_inputs
from cr_hf.errors import CRError

COUNTS: Counter[str] = Counter()


def outcome(path: Path, problem: str, options: dict[str, Any]) -> Any:
    """Rows with their labels as names, or the one line of a refusal."""
    try:
        loaded = load_rows(DataConfig(train_file=str(path), validation_file=str(path), **options), problem)
    except CRError as refusal:
        return Refused(refusal)
    found = loaded["train"]
    names = list(loaded.understood.classes.get("train", {}))
    if problem == SINGLE:
        return [(text, names[label]) for text, label in zip(found["text"], found["label"], strict=True)]
    if problem == SEVERAL:
        return [[name for name, one in zip(names, row, strict=True) if one] for row in found["label"]]
    return found["label"][:]


def check(found: Any, expected: Any) -> None:
    if isinstance(found, Refused):
        COUNTS["refused in one line"] += 1
        assert isinstance(expected, Refused), found
        assert "\n" not in found
        assert expected in found
    else:
        assert found == expected
        COUNTS["read right"] += 1


@pytest.mark.parametrize("case", [*READ, *FURTHER])
def test_a_neighbour(case: str, tmp_path: Path) -> None:
    name, content, options, expected = (READ | FURTHER)[case]
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    check(outcome(path, SINGLE, options), expected)


@pytest.mark.parametrize("case", MULTI)
def test_several_labels(case: str, tmp_path: Path) -> None:
    cell, options, expected = MULTI[case]
    text = cell if cell.startswith('"') and '\\"' not in cell else '"' + json.loads(cell).replace('"', '""') + '"'
    (tmp_path / "a.csv").write_text(f"text,label\na,{text}\nb,x\nc,\n", encoding="utf-8")
    check(outcome(tmp_path / "a.csv", SEVERAL, options), expected)


COLUMNS = pa.table({"text": ["a", "b", "c"], "x": [1, 0, 1], "y": [True, False, True], "n": [0.5, -1.0, 2.0]})
TYPES = {
    "integers": (pa.array([3, 4, 3]), ["3", "4", "3"]),
    "floats": (pa.array([3.0, 4.0, 3.0]), ["3", "4", "3"]),
    "floats of 32 bits": (pa.array([0.1, 0.7, 0.1], pa.float32()), ["0.1", "0.7", "0.1"]),
    "floats of 16 bits": (pa.array(np.array([0.1, 2, 0.1], np.float16)), ["0.1", "2", "0.1"]),
    "booleans": (pa.array([True, False, True]), ["True", "False", "True"]),
    "categories": (pa.array(["p", "q", "p"]).dictionary_encode(), ["p", "q", "p"]),
    "large strings": (pa.array(["p", "q", "p"], pa.large_string()), ["p", "q", "p"]),
    "dates": (pa.array([18000, 18001, 18000], pa.date32()), ["2019-04-14", "2019-04-15", "2019-04-14"]),
    "bytes": (pa.array([b"p", b"q", b"p"]), Refused("row 1: the label is a bytes")),
    "categories of bytes": (pa.array([b"p", b"q", b"p"]).dictionary_encode(), Refused("decode")),
    "decimals": (pa.array([1, 2, 1], pa.decimal128(5, 2)), ["1", "2", "1"]),
    "times": (
        pa.array([0, 86_400, 0], pa.timestamp("s")),
        ["1970-01-01 00:00:00", "1970-01-02 00:00:00", "1970-01-01 00:00:00"],
    ),
    "nulls": (pa.array(["p", None, "p"]), Refused("row 2")),
    "structs": (pa.array([{"name": "p"}, {"name": "q"}, {"name": "p"}]), Refused("row 1")),
}


@pytest.mark.parametrize("case", TYPES)
def test_types_of_parquet(case: str, tmp_path: Path) -> None:
    labels, expected = TYPES[case]
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": labels}), tmp_path / "a.parquet")
    rows = expected if isinstance(expected, Refused) else list(zip("abc", expected, strict=True))
    check(outcome(tmp_path / "a.parquet", SINGLE, {}), rows)


def test_a_column_twice(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array(["a", "b"])] * 3, names=["text", "label", "label"])
    pq.write_table(twice, tmp_path / "a.parquet")
    check(outcome(tmp_path / "a.parquet", SINGLE, {}), Refused("column names repeat"))


FILES = {
    "columns in another order": ("id,label,text\n1,pos,new\n", [("new", "pos")]),
    "other names": ("review,stars\nnew,pos\n", [("new", "pos")]),
    "another separator": ("text;label\nnew;pos\n", [("new", "pos")]),
    "no header": ("new,pos\nold,neg\n", Refused("b.csv: no text column")),
    "no rows": ("text,label\n", []),
    "no labels": ("text\nnew\n", Refused("b.csv: no label column")),
    "no label in common": ("text,label\nnew,good\nold,poor\n", [("new", "good"), ("old", "poor")]),
    "names of the columns that differ": ("text,label,label\nnew,pos,x\n", Refused("b.csv, line 1")),
}


@pytest.mark.parametrize("case", FILES)
def test_a_second_file_that_is_unlike_the_first(case: str, tmp_path: Path) -> None:
    content, expected = FILES[case]
    (tmp_path / "a.csv").write_text("text,label\ngood,pos\nbad,neg\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text(content, encoding="utf-8")
    rows = expected if isinstance(expected, Refused) else [("good", "pos"), ("bad", "neg"), *expected]
    check(outcome(tmp_path / "?.csv", SINGLE, {}), rows)


def test_files_without_a_label_in_common_are_named(tmp_path: Path) -> None:
    for name, labels in {"a.csv": "xy", "b.csv": "yz", "c.csv": "vw"}.items():
        (tmp_path / name).write_text("text,label\n" + "".join(f"t {label},{label}\n" for label in labels))
    notes = load_rows(DataConfig(train_file=str(tmp_path / "?.csv"), validation_file=str(tmp_path / "a.csv")))
    assert notes.understood.notes[0] == "c.csv: its labels ['v', 'w'] stand in no other file of train"


@pytest.mark.parametrize(
    ("problem", "columns", "expected"),
    [
        (SEVERAL, ["x", "y"], [["x", "y"], [], ["x", "y"]]),
        (SEVERAL, ["y"], [["y"], [], ["y"]]),
        (SEVERAL, ["x", "n"], Refused("column 'n'")),
        (SEVERAL, ["x", "z"], Refused("'z'")),
        (SINGLE, ["x", "y"], Refused("data.label_columns")),
        (NUMBERS, ["n"], [[0.5], [-1.0], [2.0]]),
        (NUMBERS, ["n", "x"], [[0.5, 1.0], [-1.0, 0.0], [2.0, 1.0]]),
    ],
)
def test_a_column_a_label(problem: str, columns: list[str], expected: Any, tmp_path: Path) -> None:
    pq.write_table(COLUMNS, tmp_path / "a.parquet")
    check(outcome(tmp_path / "a.parquet", problem, {"label_columns": columns}), expected)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "2.5", "-3e2"], [[1.0], [2.5], [-300.0]]),
        (["[1, 2]", "[3, 4]", "[5, 6.5]"], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.5]]),
        (["1", "", "2"], Refused("line 3")),
        (["1", "inf", "2"], Refused("line 3")),
        (["1", "1e300", "2"], Refused("line 3")),
        (["1", "3,5", "2"], Refused("line 3")),
        (["1", "NA", "2"], Refused("line 3")),
        (["1", ".", "2"], Refused("line 3")),
        (["True", "False"], Refused("line 2")),
    ],
)
def test_numbers(cells: list[str], expected: Any, tmp_path: Path) -> None:
    rows = "".join(f't,"{cell}"\n' for cell in cells)
    (tmp_path / "a.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    check(outcome(tmp_path / "a.csv", NUMBERS, {}), expected)


def test_rows_to_predict_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text\na\n""\n  \n\nb\n')
    rows = read_inputs(tmp_path / "a.csv", DataConfig())
    assert [(row.text, row.place().rpartition(", ")[2]) for row in rows] == [
        ("a", "line 2"),
        ("", "line 3"),
        ("  ", "line 4"),
        ("b", "line 6"),
    ]


@pytest.mark.parametrize("label", [[[0, 4, "pos"]], [["x"]], [{"label": 1}], ["x", ["y"]]])
@pytest.mark.parametrize("names", [None, ["x", "y"]])
def test_lists_of_what_are_no_names(label: Any, names: list[str] | None, tmp_path: Path) -> None:
    rows = [{"text": "a", "label": ["x"]}, {"text": "b", "label": label}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    check(outcome(tmp_path / "a.jsonl", SEVERAL, {"label_names": names}), Refused("line 2: "))
    assert "no name of a class" in outcome(tmp_path / "a.jsonl", SEVERAL, {"label_names": names})


def test_a_row_that_may_be_a_comment_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n# made in May,x\n#sunny day,y\n# by hand,x\n")
    said = load_rows(DataConfig(train_file=str(tmp_path / "a.csv"), validation_file=str(tmp_path / "a.csv")))
    assert said.understood.notes[0] == "a.csv, line 2: '# made in May' is read as a row: remove it if it is a comment"


def test_one_path_twice_or_a_pipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "~a.csv").write_text(lines(GOOD))
    os.mkfifo(tmp_path / "b.csv")
    check(outcome(tmp_path / "b.csv", SINGLE, {}), Refused("a pipe or a device"))
    with pytest.raises(CRError, match=r"stands twice in data\.train_file"):
        load_rows(DataConfig(dir=str(tmp_path), train_file=["~a.csv", "~a.csv"]))


def test_a_test_file_without_labels_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(lines(GOOD))
    (tmp_path / "test.csv").write_text("text\nnew\n")
    with pytest.raises(CRError, match="rows to predict go to cr-hf predict after training"):
        load_rows(DataConfig(dir=str(tmp_path)))


def test_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """The last of this file: a case that was read wrong, or ended in a traceback, has failed above."""
    tried = COUNTS.total()
    right, refused = COUNTS["read right"], COUNTS["refused in one line"]
    with capsys.disabled():
        print(f"\ntried {tried} / read right {right} / refused in one line {refused} / wrong 0 / traceback 0")
    assert tried == 0 or tried >= 60
