"""Data files that cannot be trained on."""

import gzip
from pathlib import Path

import pytest
from long_use import TINY
from refusals import DEMO, GOOD, CommandLine

DATA: dict[str, tuple[str, bytes, str, str]] = {
    "empty": ("a.csv", b"", "", "a.csv: no row of train has a text and a label: check the file and data.text_column"),
    "only a header": (
        "a.csv",
        b"text,label\n",
        "",
        "a.csv: no row of train has a text and a label: check the file and data.text_column",
    ),
    "one row": (
        "a.csv",
        b"text,label\ngood,1\n",
        "",
        "a.csv: every row of train has the label '1': two classes are needed",
    ),
    "one class": (
        "a.csv",
        b"text,label\ngood,1\nfine,1\n",
        "",
        "a.csv: every row of train has the label '1': two classes are needed",
    ),
    "three rows": (
        "a.csv",
        b"text,label\ngood,1\nfine,0\nbad,1\n",
        "data.validation_fraction=0.9",
        "a.csv: 3 rows of 2 classes are too few to split validation off: give more rows",
    ),
    "no label column": (
        "a.csv",
        b"text,colour\ngood,red\n",
        "",
        "a.csv: no label column found among ['text', 'colour']: set data.label_column",
    ),
    "no text column": (
        "a.csv",
        b"sound,label\ngood,1\n",
        "",
        "a.csv: no text column found among ['sound', 'label']: set data.text_column",
    ),
    "wrong column asked": (
        "a.csv",
        GOOD,
        "data.label_column=stars",
        "a.csv: no column 'stars' among ['text', 'label']: set data.label_column",
    ),
    "repeated columns": (
        "a.csv",
        b"text,label,label\ngood,1,1\n",
        "",
        "a.csv, line 1: column names repeat: ['text', 'label', 'label']: rename them",
    ),
    "ragged": ("a.csv", GOOD + b"one,two,three\n", "", "a.csv, line 14: 3 columns instead of 2: mend the row"),
    "too few cells": (
        "a.tsv",
        b"text\tlabel\nonly a text\n",
        "",
        "a.tsv, line 2: 1 columns instead of 2: mend the row",
    ),
    "an open quote": (
        "a.csv",
        GOOD + b'"never closed,1\n',
        "",
        "a.csv, line 14: unexpected end of data: mend its quotes, or use jsonl",
    ),
    "nul bytes": (
        "a.csv",
        GOOD + b"a \0 film,1\n",
        "",
        "a.csv, line 14: a NUL byte: the file is binary or UTF-16; save it as UTF-8 or",
    ),
    "utf-16": (
        "a.csv",
        GOOD.decode().encode("utf-16"),
        "",
        "a.csv, line 1: byte 0xff is not utf-8: set data.encoding (perhaps utf-16) or",
    ),
    "utf-16 without a mark": (
        "a.csv",
        GOOD.decode().encode("utf-16-le"),
        "",
        "a.csv, line 1: a NUL byte: the file is binary or UTF-16; save it as UTF-8 or",
    ),
    "latin-1": (
        "a.csv",
        GOOD + "schön,1\n".encode("latin-1"),
        "",
        "a.csv, line 14: byte 0xf6 is not utf-8: set data.encoding (perhaps latin-1 or",
    ),
    "an encoding that is none": (
        "a.csv",
        GOOD,
        "data.encoding=klingon",
        "a.csv, after line 0: unknown encoding: klingon: set data.encoding to the",
    ),
    "a missing label": (
        "a.csv",
        GOOD + b"no label,\n",
        "",
        "a.csv, line 14: the label is missing: fill it in, remove the row, or",
    ),
    "a label out of range": (
        "a.csv",
        GOOD + b"a film,7\n",
        "data.label_names=[bad,good]",
        "a.csv, line 14: label '7' of train is not one of the 2 classes ['bad', 'good']",
    ),
    "a label of validation alone": (
        "a.csv",
        GOOD,
        "data.validation_file=other.csv",
        "other.csv, line 2: label '9' of validation is not one of the 2 classes ['0'",
    ),
    "only blank texts": (
        "a.csv",
        b"text,label\n,1\n  ,0\n",
        "",
        "a.csv: no row of train has a text and a label: check the file and data.text_column",
    ),
    "gzip cut short": (
        "a.csv.gz",
        gzip.compress(GOOD + GOOD.partition(b"\n")[2] * 50)[:-20],
        "",
        "a.csv.gz, after line 517: damaged gzip",
    ),
    "gzip of something else": ("a.csv.gz", b"\x1f\x8bnot gzip at all", "", "a.csv.gz, after line 0: damaged gzip"),
    "no json": ("a.jsonl", b'{"text": "good", "label": 1}\nnot json\n', "", "a.jsonl, line 2: not JSON"),
    "json that is a number": (
        "a.jsonl",
        b'{"text": "good", "label": 1}\n7\n',
        "",
        "a.jsonl, line 2: a JSON int: one object a line is needed",
    ),
    "json nested too deeply": (
        "a.jsonl",
        b"[" * 100_000 + b"\n",
        "",
        "a.jsonl, line 1: not JSON (maximum recursion depth exceeded while decoding a",
    ),
    "a whole json array": (
        "a.json",
        b'[{"text": "good", "label": 1}]',
        "",
        "a.json: every row of train has the label '1': two classes are needed",
    ),
    "a text that is a number": (
        "a.jsonl",
        b'{"text": 7, "label": 1}\n',
        "",
        "a.jsonl, line 1: the text is a int, not a string: check data.text_column",
    ),
    "a label that is a list": (
        "a.jsonl",
        b'{"text": "good", "label": [1]}\n',
        "",
        "a.jsonl, line 1: the label is a list: one class a row is needed",
    ),
    "a label that is missing later": (
        "a.jsonl",
        b'{"text": "good", "label": 1}\n{"text": "bad"}\n',
        "",
        "a.jsonl, line 2: the label is missing: fill it in, remove the row, or",
    ),
    "half a surrogate pair": (
        "a.jsonl",
        b'{"text": "\\ud83d", "label": 1}\n{"text": "b", "label": 0}\n',
        "",
        "a.jsonl, line 1: half a surrogate pair in the text: remove it",
    ),
    "no parquet": ("a.parquet", b"PAR1 and then nothing", "", "a.parquet: not a readable parquet file"),
    "another type": ("a.xlsx", b"PK", "", "a.xlsx: files of this type are not read: use .tsv, .csv, .jsonl, .ndjson"),
    "no type": ("a", GOOD, "", "a: files of this type are not read: use .tsv, .csv, .jsonl, .ndjson, .json"),
    "words for regression": (
        "a.csv",
        b"text,label\ngood,nice\n",
        "problem_type=regression",
        "a.csv, line 2: the label 'nice' is not a finite number: mend the row, or",
    ),
    "infinity for regression": (
        "a.csv",
        b"text,label\ngood,inf\n",
        "problem_type=regression",
        "a.csv, line 2: the label 'inf' is not a finite number: mend the row, or check",
    ),
    "unequal targets": (
        "a.jsonl",
        b'{"text": "a", "label": [1, 2]}\n{"text": "b", "label": [1]}\n',
        "problem_type=regression",
        "a.jsonl, line 2: 1 targets instead of 2: every row needs as many",
    ),
    "numbers for several classes": (
        "a.jsonl",
        b'{"text": "a", "label": [7, 8]}\n',
        "problem_type=multi_label_classification",
        "a.jsonl, line 1: the classes [7, 8] are numbers: give their names as",
    ),
    "words for ordered classes": (
        "a.csv",
        GOOD.replace(b",1", b",good").replace(b",0", b",bad"),
        "objective=ordinal",
        "objective='ordinal' needs ordered integers as labels, found ['bad', 'good']",
    ),
    "words for classes with soft labels": (
        "a.csv",
        GOOD.replace(b",1", b",good").replace(b",0", b",bad"),
        "soft_labels=0.5",
        "soft_labels needs ordered integers as labels, found ['bad', 'good']",
    ),
    "no second text": (
        "a.csv",
        GOOD,
        "data.text_pair_column=question",
        "a.csv: no column 'question' among ['text', 'label']: set data.text_pair_column",
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_data_files(name: str, command: CommandLine, scratch: Path) -> None:
    file, content, overrides, message = DATA[name]
    (scratch / file).write_bytes(content)
    (scratch / "other.csv").write_bytes(b"text,label\na film,9\n")
    command.refuses(
        message,
        "train",
        DEMO,
        "backbone=BACKBONE",
        "output_dir=OUT",
        *TINY,
        f"data.train_file={file}",
        *overrides.split(),
    )


def test_a_directory_named_like_a_file(command: CommandLine, scratch: Path) -> None:
    (scratch / "a.csv").mkdir()
    command.refuses(
        "a.csv: a folder where a file is needed",
        "train",
        DEMO,
        "backbone=BACKBONE",
        "output_dir=OUT",
        "data.train_file=a.csv",
    )
    command.refuses("a.csv: a folder where a file is needed", "predict", "RUN", "a.csv")
    command.refuses("--output a.csv is a folder", "predict", "RUN", "text", "--output", "a.csv")


def test_a_line_of_5_mb_is_read(command: CommandLine, scratch: Path) -> None:
    (scratch / "a.csv").write_bytes(GOOD + b"word " * 1_000_000 + b",1\n")
    code, _, errors = command("train", DEMO, "backbone=BACKBONE", "output_dir=OUT", *TINY, "data.train_file=a.csv")
    assert code == 0, errors
