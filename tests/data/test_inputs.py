"""Rows to predict."""

from __future__ import annotations

import gzip
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_files import write

from cr_hf.data import DataConfig, read_inputs
from cr_hf.errors import DataError


def texts_in(source: object) -> list[str]:
    return [row.text for row in read_inputs(source, DataConfig())]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one\n\nthree, 3\n"),
        ("a.csv", 'id,text\n1,one\n2,\n3,"three, 3"\n'),
        ("a.tsv", "0\tone\n1\t\n1\tthree, 3\n"),
        ("a.jsonl", '{"review":"one"}\n{"review":null}\n{"review":"three, 3"}\n'),
        ("a.txt.gz", gzip.compress(b"one\n\nthree, 3")),
    ],
    ids=["txt", "csv", "tsv", "jsonl", "gz"],
)
def test_texts_to_predict_line_up_with_the_input(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert texts_in(write(tmp_path / name, content)) == ["one", "", "three, 3"]


def test_a_name_that_is_also_a_pattern_is_the_file_of_that_name(tmp_path: Path) -> None:
    write(tmp_path / "a1.csv", "text\nwrong\n")
    name = write(tmp_path / "a[1].csv", "text\nright\n")
    assert texts_in([str(name)]) == ["right"]


@pytest.mark.parametrize("name", ["a.csv", "A.CSV", "a.jsonl.gz", "a.cvs", "a.xlsx", "a.zip", "HTTP://b.c/a"])
def test_a_name_without_its_file_is_no_text(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file|a URL is not read"):
        texts_in([name if "/" in name else str(tmp_path / name)])


def test_texts_of_a_handle_are_read_as_they_come() -> None:
    assert texts_in(io.StringIO("one\ntwo\n")) == ["one", "two"]

    def endless() -> Iterator[str]:
        yield from (f"line {n}\n" for n in itertools.count())

    first = itertools.islice(read_inputs(endless(), DataConfig()), 3)
    assert [row.text for row in first] == ["line 0", "line 1", "line 2"]


def test_texts_of_a_bad_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text column found among"):
        texts_in(write(tmp_path / "a.csv", "words\na\n"))
    with pytest.raises(DataError, match="line 2: byte 0xff is not utf-8"):
        texts_in(write(tmp_path / "a.txt", b"a\n\xff\n"))
    for errors, message in (("surrogateescape", "standard input, line 2: byte 0xe9"), ("strict", "standard input: ")):
        with pytest.raises(DataError, match=message):
            texts_in(io.TextIOWrapper(io.BytesIO(b"a\n\xe9\n"), "utf-8", errors=errors))
