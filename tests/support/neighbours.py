"""Files beside those of `tests/cases/test_cases.py`, their options, and what is read or what a refusal names."""

from __future__ import annotations

import bz2
import gzip
import json
from typing import Any

from cr_hf.data import SEVERAL

GOOD = [("good film", "pos"), ("bad food", "neg"), ("fine plot", "pos"), ("dull plot", "neg")]


def lines(rows: list[tuple[str, Any]], separator: str = ",", header: str | None = "text,label") -> str:
    head = [header.replace(",", separator)] if header else []
    return "\n".join([*head, *(f"{text}{separator}{label}" for text, label in rows)]) + "\n"


def objects(rows: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    return [{"text": text, "label": label} for text, label in rows]


def jsonl(rows: list[tuple[str, Any]]) -> str:
    return "\n".join(json.dumps(record) for record in objects(rows)) + "\n"


def labelled(*labels: Any) -> list[tuple[str, Any]]:
    return [(f"text number {row}", label) for row, label in enumerate(labels)]


def texts(*names: Any) -> list[tuple[str, Any]]:
    """What is expected of `labelled`, with other names for its labels."""
    return labelled(*names)


class Refused(str):
    """What the one line has to hold."""


READ: dict[str, tuple[str, str | bytes, dict[str, Any], list[tuple[str, Any]] | Refused]] = {
    # separators
    "semicolon": ("a.csv", lines(GOOD, ";"), {}, GOOD),
    "semicolon in gzip": ("a.csv.gz", gzip.compress(lines(GOOD, ";").encode()), {}, GOOD),
    "gzip without its name": ("a.csv", gzip.compress(lines(GOOD).encode()), {}, GOOD),
    "tab in a csv": ("a.csv", lines(GOOD, "\t"), {}, GOOD),
    "pipe": ("a.csv", lines(GOOD, "|"), {}, GOOD),
    "caret, given": ("a.csv", lines(GOOD, "^"), {"separator": "^"}, GOOD),
    "caret, not given": ("a.csv", lines(GOOD, "^"), {}, Refused("data.text_column")),
    "colons, not given": ("a.csv", lines(GOOD, ":"), {}, Refused("data.separator")),
    "comma in a tsv": ("a.tsv", lines(GOOD), {"separator": ","}, GOOD),
    "sep line with a tab": ("a.csv", "sep=\t\n" + lines(GOOD, "\t"), {}, GOOD),
    "semicolon with quotes": ("a.csv", 'text;label\n"a; b";x\n"c";y\n', {}, [("a; b", "x"), ("c", "y")]),
    "commas in semicolon header names": (
        "a.csv",
        "text;note, long;label\na;n;x\nb;n;y\n",
        {},
        [("a", "x"), ("b", "y")],
    ),
    "tsv with quoted header": (
        "a.tsv",
        '"text"\t"label"\n"a ""b"""\t"x"\n"c"\t"y"\n',
        {},
        [('a "b"', "x"), ("c", "y")],
    ),
    "tsv with doubled quotes": ("a.tsv", 'text\tlabel\n"a ""b"""\tx\nc\ty\n', {}, Refused("line 2")),
    "two characters as separator": ("a.csv", lines(GOOD, ";"), {"separator": ";;"}, Refused("data.separator")),
    # headers
    "no header, a number": ("a.csv", "good,1\nbad,0\n", {}, [("good", "1"), ("bad", "0")]),
    "no header, number first": ("a.csv", "1,good\n0,bad\n", {}, [("good", "1"), ("bad", "0")]),
    "no header, words": ("a.csv", lines(GOOD, header=None), {}, Refused("data.has_header=false")),
    "no header, said": ("a.csv", lines(GOOD, header=None), {"has_header": False}, GOOD),
    "no header, columns by number": (
        "a.csv",
        "7,x,good\n8,y,bad\n",
        {"has_header": False, "text_column": 2, "label_column": 1},
        [("good", "x"), ("bad", "y")],
    ),
    "no header in semicolons": ("a.csv", lines(GOOD, ";", None), {"has_header": False}, GOOD),
    "a header where none is said": ("a.csv", lines(GOOD), {"has_header": False}, Refused("data.has_header=true")),
    "another separator than is said": ("a.csv", lines(GOOD), {"separator": ";"}, Refused("data.separator=','")),
    "a comma in a column without others": (
        "a.csv",
        "text\na, b\n",
        {"separator": ";"},
        Refused("no label column"),
    ),
    "a header of numbers, said": (
        "a.csv",
        "1,2\ngood,x\nbad,y\n",
        {"has_header": True, "text_column": "1", "label_column": "2"},
        [("good", "x"), ("bad", "y")],
    ),
    "columns in capitals": ("a.csv", lines(GOOD, header="TEXT,Label"), {}, GOOD),
    "spaces in a column's name": ("a.csv", lines(GOOD, header="Review Text,Star-Rating"), {}, GOOD),
    "asked in another case": (
        "a.csv",
        lines(GOOD, header="Utterance,Mood"),
        {"text_column": "utterance", "label_column": "mood"},
        GOOD,
    ),
    "a title above": ("a.csv", "Export,\n" + lines(GOOD), {}, Refused("names of the columns")),
    "comments above": ("a.csv", "# one\n# two, three\n" + lines(GOOD), {}, GOOD),
    "names that repeat": ("a.csv", "text,label,label\na,x,y\n", {}, Refused("repeat")),
    # rows
    "empty columns": ("a.csv", "text,label,,,\na,x,,,\nb,y,,,\n", {}, [("a", "x"), ("b", "y")]),
    "an index without a name": ("a.csv", ",text,label\n0,a,x\n1,b,y\n", {}, [("a", "x"), ("b", "y")]),
    "two columns without names": ("a.csv", ",,text,label\n0,0,a,x\n1,1,b,y\n", {}, [("a", "x"), ("b", "y")]),
    "rows of commas between": ("a.csv", "text,label\na,x\n,\n , \nb,y\n", {}, [("a", "x"), ("b", "y")]),
    "a cell too many": ("a.csv", "text,label\na,x\nb,y,z\n", {}, Refused("line 3")),
    "carriage returns": ("a.csv", lines(GOOD).replace("\n", "\r"), {}, GOOD),
    "byte order mark": ("a.csv", "\ufeff" + lines(GOOD), {}, GOOD),
    "byte order mark in jsonl": ("a.jsonl", "\ufeff" + jsonl(GOOD), {}, GOOD),
    "utf-16": ("a.csv", lines(GOOD).encode("utf-16"), {"encoding": "utf-16"}, GOOD),
    "utf-16, not said": ("a.csv", lines(GOOD).encode("utf-16"), {}, Refused("data.encoding")),
    "line separator in a text": (
        "a.csv",
        "text,label\na\u2028b,x\nc\x85d,y\n",
        {},
        [("a\u2028b", "x"), ("c\x85d", "y")],
    ),
    "a cell of 200,000 characters": (
        "a.csv",
        f"text,label\n{'a' * 200_000},x\nb,y\n",
        {},
        [("a" * 200_000, "x"), ("b", "y")],
    ),
    "a cell over the limit": (
        "a.csv",
        f"text,label\n{'a' * 2000},x\nb,y\n",
        {"max_cell_characters": 1000},
        Refused("max_cell"),
    ),
    "a JSON text over the limit": (
        "a.jsonl",
        jsonl([("a" * 1500, 0)]),
        {"max_cell_characters": 1000},
        Refused("max_cell"),
    ),
    "more rows than the limit": ("a.csv", lines(GOOD), {"max_rows": 3}, Refused("data.max_rows")),
    "a gzip that grows": (
        "a.csv",
        gzip.compress(b"text,label\n" + b"a,x\n" * 5_000_000),
        {},
        Refused("max_unpacked_ratio"),
    ),
    # JSON
    "array": ("a.json", json.dumps(objects(GOOD)), {}, GOOD),
    "array over lines": ("a.json", json.dumps(objects(GOOD), indent=1), {}, GOOD),
    "array in a .jsonl": ("a.jsonl", json.dumps(objects(GOOD)), {}, GOOD),
    "lines in a .json": ("a.json", jsonl(GOOD), {}, GOOD),
    "an object that holds an array": ("a.json", json.dumps({"version": 1, "rows": objects(GOOD)}), {}, GOOD),
    "columns as lists": (
        "a.json",
        json.dumps({"text": [t for t, _ in GOOD], "label": [n for _, n in GOOD]}),
        {},
        GOOD,
    ),
    "columns as pandas": (
        "a.json",
        json.dumps(
            {
                k: {str(i): v for i, v in enumerate(c)}
                for k, c in (("text", [t for t, _ in GOOD]), ("label", [n for _, n in GOOD]))
            }
        ),
        {},
        GOOD,
    ),
    "split as pandas": (
        "a.json",
        json.dumps({"columns": ["text", "label"], "data": [list(row) for row in GOOD]}),
        {},
        GOOD,
    ),
    "columns of unlike length": ("a.json", json.dumps({"text": ["a", "b"], "label": [0]}), {}, Refused("a.json")),
    "split with a short row": ("a.json", '{"columns": ["text", "label"], "data": [["a"]]}', {}, Refused("a.json")),
    "one column asked for twice": ("a.csv", lines(GOOD), {"text_column": "label"}, Refused("twice")),
    "array of numbers": ("a.json", "[1, 2]", {}, Refused("row 1")),
    "a record without a text": ("a.jsonl", jsonl(GOOD) + '{"sentence": "b", "label": "pos"}\n', {}, Refused("line 5")),
    "half a pair of surrogates": ("a.jsonl", '{"text": "\\ud83d", "label": 0}\n', {}, Refused("line 1")),
    # labels
    "floats that are whole": ("a.csv", lines(labelled("1.0", "2.0", "1")), {}, texts("1", "2", "1")),
    "JSON floats and texts": ("a.jsonl", jsonl(labelled(3, 3.0, "3", "4.0")), {}, texts("3", "3", "3", "4")),
    "signs and zeros": ("a.csv", lines(labelled("+1", "01", "2")), {}, texts("1", "1", "2")),
    "codes with zeros": ("a.csv", lines(labelled("01", "02", "01")), {}, texts("01", "02", "01")),
    "booleans": ("a.jsonl", jsonl(labelled(True, False, True)), {}, texts("True", "False", "True")),
    "booleans in three ways": (
        "a.csv",
        lines(labelled("True", "FALSE", "true", "false")),
        {},
        texts("true", "false", "true", "false"),
    ),
    "booleans and numbers": ("a.jsonl", jsonl(labelled(True, 0, 1)), {}, Refused("line 1")),
    "one to three": ("a.csv", lines(labelled(1, 2, 3)), {"label_names": ["a", "b", "c"]}, texts("a", "b", "c")),
    "nought to two": ("a.csv", lines(labelled(0, 1, 2)), {"label_names": ["a", "b", "c"]}, texts("a", "b", "c")),
    "one to two of three": (
        "a.csv",
        lines(labelled(1, 2, 1)),
        {"label_names": ["a", "b", "c"]},
        Refused("data.label_start"),
    ),
    "one to two of three, said": (
        "a.csv",
        lines(labelled(1, 2, 1)),
        {"label_names": ["a", "b", "c"], "label_start": 1},
        texts("a", "b", "a"),
    ),
    "nought to three of three": (
        "a.csv",
        lines(labelled(0, 1, 2, 3)),
        {"label_names": ["a", "b", "c"]},
        Refused("label '"),
    ),
    "three in one row": (
        "a.csv",
        lines(labelled(0, 1, 2, 0, 1, 2, 3)),
        {"label_names": ["a", "b", "c"]},
        Refused("line 8"),
    ),
    "nought in one row": (
        "a.csv",
        lines(labelled(1, 2, 3, 1, 2, 3, 0)),
        {"label_names": ["a", "b", "c"]},
        Refused("line 8"),
    ),
    "minus one among numbers": ("a.csv", lines(labelled(0, 1, -1)), {"label_names": ["a", "b"]}, Refused("line 4")),
    "a name among numbers": ("a.csv", lines(labelled(0, 1, "b")), {"label_names": ["a", "b"]}, Refused("line 2")),
    "numbers as names": ("a.csv", lines(labelled(0, 1, 2)), {"label_names": ["1", "2"]}, Refused("line 2")),
    "names in another order": ("a.csv", lines(labelled("b", "a")), {"label_names": ["b", "a"]}, texts("b", "a")),
    "names in another case": ("a.csv", lines(labelled("A", "b")), {"label_names": ["a", "b"]}, Refused("line 2")),
    "two names of one number": ("a.csv", lines(labelled(1, 2)), {"label_names": ["1", "01"]}, Refused("label_names")),
    "no-break space": ("a.csv", lines(labelled("very good", "bad", "very\u00a0good")), {}, Refused("line 4")),
    "soft hyphen": ("a.csv", lines(labelled("good", "bad", "go\u00adod")), {}, Refused("line 4")),
    "variation selector": ("a.csv", lines(labelled("\u2764", "bad", "\u2764\ufe0f")), {}, Refused("line 4")),
    "Cyrillic letters": ("a.csv", lines(labelled("cop", "bad", "\u0441\u043e\u0440")), {}, Refused("line 4")),
    "spaces around": ("a.csv", lines(labelled(" good", "bad", "good ")), {}, texts("good", "bad", "good")),
    "quotes around": ("a.jsonl", jsonl(labelled('"good"', "bad", "good")), {}, Refused("line 1")),
    "escape sequence": ("a.jsonl", jsonl(labelled("\x1b[31mgood", "bad")), {}, Refused("line 1")),
    "line break": ("a.jsonl", jsonl(labelled("go\nod", "bad")), {}, Refused("line 1")),
    "right-to-left override": ("a.jsonl", jsonl(labelled("\u202egood", "bad")), {}, Refused("line 1")),
    "300 characters": ("a.csv", lines(labelled("g" * 300, "bad")), {}, Refused("300 characters")),
    "pandas' missing": ("a.csv", lines(labelled("good", "bad", "nan")), {}, Refused("line 4")),
    "None as a text": ("a.csv", lines(labelled("good", "bad", "None")), {}, Refused("line 4")),
    "None that is a class": (
        "a.csv",
        lines(labelled("for", "against", "none")),
        {"label_names": ["for", "against", "none"]},
        texts("for", "against", "none"),
    ),
    "missing ones dropped": (
        "a.csv",
        lines(labelled("good", "bad", "N/A", "")),
        {"missing_labels": "drop"},
        texts("good", "bad"),
    ),
    "null dropped": (
        "a.jsonl",
        jsonl(labelled("good", "bad", None, float("nan"))),
        {"missing_labels": "drop"},
        texts("good", "bad"),
    ),
    "many fractions": ("a.csv", lines(labelled(*(row + 0.5 for row in range(30)))), {}, Refused("regression")),
    "few fractions": ("a.csv", lines(labelled("0.5", "1.5", "0.50")), {}, texts("0.5", "1.5", "0.5")),
    "a label a row": ("a.csv", lines(labelled(*(f"id{row}" for row in range(30)))), {}, Refused("label of its own")),
    "a list as one class": ("a.csv", "text,label\na,\"['x', 'y']\"\nb,x\n", {}, Refused(SEVERAL)),
    "a JSON list as one class": ("a.jsonl", jsonl(labelled('["x"]', "y")), {}, Refused(SEVERAL)),
    "commas as one class": ("a.csv", 'text,label\na,"x,y"\nb,x\nc,y\n', {}, Refused("label_separator")),
    "a web page": ("a.csv", "\n<!DOCTYPE html>\n<p>404, sorry</p>\n", {}, Refused("web page")),
    "a git-lfs pointer": ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", {}, Refused("git lfs pull")),
    "a spreadsheet": ("a.csv", b"PK\x03\x04\x14\x00\x06\x00", {}, Refused("a spreadsheet")),
    "a bz2 archive": ("a.csv", bz2.compress(lines(GOOD).encode()), {}, Refused("an archive")),
    "parquet called csv": ("a.csv", b"PAR1\x15\x04\x15\x10", {}, Refused("name it .parquet")),
    "JSON lines called csv": ("a.csv", jsonl(GOOD), {}, Refused("name it .jsonl")),
    "an array called tsv": ("a.tsv", json.dumps(objects(GOOD)), {}, Refused("name it .jsonl or .json")),
    "XML": ("a.csv", "<?xml version='1.0'?>\n<rows/>\n", {}, Refused("fetch the file itself")),
}
LISTS = ["['x', 'y']", '["x", "y"]', "['x' 'y']", "('x', 'y')", "{'x', 'y'}", "[x, y]", "x|y", " x | y "]
MULTI: dict[str, tuple[str, dict[str, Any], Any]] = {
    **{f"list {cell}": (json.dumps(cell), {}, [["x", "y"], ["x"], []]) for cell in LISTS},
    "commas": ('"x,y"', {"label_separator": ","}, [["x", "y"], ["x"], []]),
    "commas, not said": ('"x,y"', {}, Refused("label_separator")),
    "ones and zeros": ('"[1, 1]"', {"label_names": ["x", "y"]}, Refused("label")),
    "an empty set": (json.dumps("set()"), {}, [[], ["x"], []]),
    "a frozen set": (json.dumps("frozenset({'x', 'y'})"), {}, [["x", "y"], ["x"], []]),
    "an array": (json.dumps("array(['x', 'y'], dtype=object)"), {}, [["x", "y"], ["x"], []]),
    "a broken escape": ("\"['\\x', 1]\"", {}, Refused("line 2")),
    "an open list": ("\"['x', 'y'\"", {}, Refused("")),
}
