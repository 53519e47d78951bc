"""Records out of real files of every type, good and bad."""

from __future__ import annotations

import gzip
from pathlib import Path

import datasets
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from children import Child
from data_files import TSV, both, write

from cr_hf.data import DataConfig, load_rows
from cr_hf.data.texts import read_records
from cr_hf.errors import DataError

BAD_FILES = {
    "empty": ("a.tsv", b"", "no row of train has a text"),
    "header only": ("a.csv", b"text,label\n", "no row of train has a text"),
    "all blank": ("a.csv", b"text,label\n ,0\n,1\n", "no row of train has a text"),
    "no label column": (
        "a.csv",
        b"text,mood\na,0\n",
        r"no label column found among \['text', 'mood'\]: set data.label_c",
    ),
    "no text column": ("a.csv", b"words,label\na,0\n", r"no text column found among \['words', 'label'\]"),
    "repeated columns": ("a.csv", b"text,text,label\na,b,0\n", "column names repeat"),
    "missing label": ("a.csv", b"text,label\na,0\nb,\n", "line 3: the label is missing"),
    "null label": ("a.jsonl", b'{"text":"a","label":0}\n{"text":"b","label":null}\n', "line 2: the label is missing"),
    "nan label": ("a.jsonl", b'{"text":"a","label":NaN}\n', "line 1: the label is missing"),
    "list label": ("a.jsonl", b'{"text":"a","label":[0,1]}\n', "line 1: the label is a list"),
    "number as text": ("a.jsonl", b'{"text":3,"label":0}\n', "line 1: the text is a int, not a string"),
    "half a surrogate": ("a.jsonl", b'{"text":"\\ud83d","label":0}\n', "line 1: half a surrogate pair"),
    "one class": ("a.tsv", b"1\ta\n1\tb\n", "every row of train has the label '1'"),
    "latin-1": ("a.tsv", b"0\ta\n1\tcaf\xe9\n", "line 2: byte 0xe9 is not utf-8: set data.encoding"),
    "utf-16": ("a.tsv", "0\ta\n1\tb\n".encode("utf-16"), r"line 1: byte 0xff is not utf-8.*perhaps utf-16"),
    "utf-16 unmarked": ("a.tsv", "0\ta\n1\tb\n".encode("utf-16-le"), "line 1: a NUL byte"),
    "NUL": ("a.tsv", b"0\ta\n1\tb\0\n", "line 2: a NUL byte"),
    "ragged csv": ("a.csv", b"text,label\na,0\nb,c,1\n", "line 3: 3 columns instead of 2"),
    "ragged after lines": ("a.csv", b'text,label\n"a\nb",0\nb\n', "line 4: 1 columns instead of 2"),
    "ragged tsv": ("a.tsv", b"0\ta\n1\n", "line 2: 1 columns instead of 2"),
    "open quote": ("a.csv", b'text,label\n"a,0\nb,1\n', "line 2: unexpected end of data: mend its quotes"),
    "not JSON": ("a.jsonl", b'{"text":"a","label":0}\n{"text"\n', "line 2: not JSON"),
    "JSON arrays": ("a.jsonl", b'[{"text":"a","label":0}]\n[1]\n', "line 1: a JSON list: one object a line"),
    "cut gzip": ("a.tsv.gz", gzip.compress(TSV.encode() * 99)[:-30], "damaged gzip .*: fetch the file again"),
    "bad gzip": ("a.tsv.gz", b"\x1f\x8b" + b"x" * 40, "damaged gzip"),
    "not parquet": ("a.parquet", b"text,label\n", "not a readable parquet file"),
    "unknown type": ("a.xlsx", b"PK", r"files of this type are not read: use \.tsv, \.csv"),
}


def test_tsv_without_header_takes_quotes_as_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "0\t\"half a quote\n1\t`` two '' and \"\n0\tx\r\n\n1\ty\u2028z\n")
    assert both(path) == [('"half a quote', 0), ("`` two '' and \"", 1), ("x", 0), ("y\u2028z", 1)]


def test_text_may_come_before_the_label(tmp_path: Path) -> None:
    assert both(write(tmp_path / "a.tsv", "bad\t0\ngood\t1\n")) == [("bad", 0), ("good", 1)]


def test_csv_columns_are_found_and_quoted_lines_stay_together(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,Stars,Review\n7,5,"two\nlines, ""quoted"""\n8,1,bad\n')
    assert both(path) == [('two\nlines, "quoted"', 1), ("bad", 0)]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.jsonl.gz", "a.ndjson", "a.parquet"])
def test_every_type_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = [{"text": "bad", "label": 3}, {"text": "good", "label": 4}, {"text": "né", "label": 3}]
    table = datasets.Dataset.from_list(rows)
    path = tmp_path / name.removesuffix(".gz")
    if "parquet" in name:
        table.to_parquet(path)
    elif "sv" in name:
        table.to_csv(path, sep="\t" if "tsv" in name else ",")
    else:
        table.to_json(path)
    if name.endswith("gz"):
        path = Path(write(tmp_path / name, gzip.compress(path.read_bytes())))
    assert both(str(path)) == [("bad", 0), ("good", 1), ("né", 0)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_encoding_can_be_set_and_a_byte_order_mark_is_no_text(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "a.csv", "text,label\né,0\nb,1\n".encode(encoding))
    assert both(path, encoding="utf-8" if encoding == "utf-8-sig" else encoding) == [("é", 0), ("b", 1)]


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, case: str) -> None:
    name, content, message = BAD_FILES[case]
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as caught:
        load_rows(DataConfig(train_file=path))
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


def test_unknown_encoding(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown encoding: utf-9"):
        load_rows(DataConfig(train_file=write(tmp_path / "a.tsv", TSV), encoding="utf-9"))


@pytest.mark.parametrize("keeps_types", [True, False])
def test_a_dictionary_of_huge_texts_is_neither_unpacked_nor_read_on(keeps_types: bool, tmp_path: Path) -> None:
    path, texts = tmp_path / "a.parquet", pa.array(["x" * 4_000_000, "y" * 4_000_000])
    coded = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 128), texts)
    pq.write_table(pa.table({"text": coded, "label": ["a", "b"] * 128}), path, store_schema=keeps_types)

    def read() -> None:
        assert sum(1 for _ in read_records(path, DataConfig(max_unpacked_ratio=1e9))) == 256

    before = psutil.Process().memory_info().rss
    ended = Child(read).wait()
    assert ended.code == 0, ended.errors
    assert ended.peak < before + 200 * 2**20
    with pytest.raises(DataError, match=r"a\.parquet, row \d+: unpacks to more than 100 times its size"):
        list(read_records(path, DataConfig()))
