"""More files like those of `neighbours.py`."""

from __future__ import annotations

import gzip
import json
from typing import Any

from neighbours import GOOD, Refused, jsonl, labelled, lines, objects, texts

from cr_hf.data import SEVERAL

FURTHER: dict[str, tuple[str, str | bytes, dict[str, Any], list[tuple[str, Any]] | Refused]] = {
    "names of the columns again": (
        "a.csv",
        lines(GOOD) + lines(GOOD),
        {},
        Refused("line 6: the names of the columns"),
    ),
    "a table of Markdown": ("a.csv", "| text | label |\n|---|:-:|\n| a | x |\n| b | y |\n", {}, Refused("line 2")),
    "two byte order marks": ("a.csv", "\ufeff\ufeff" + lines(GOOD), {}, GOOD),
    "a byte order mark, said": ("a.csv", "\ufeff" + lines(GOOD), {"encoding": "UTF_8"}, GOOD),
    "no such encoding": ("a.csv", lines(GOOD), {"encoding": "klingon"}, Refused("data.encoding")),
    "invisible in a column's name": ("a.csv", lines(GOOD, header="\u200btext,label\u00a0"), {}, GOOD),
    "two columns of one name but case": ("a.csv", "Text,text,label\na,b,x\nc,d,y\n", {}, [("b", "x"), ("d", "y")]),
    "which of them": ("a.csv", "Text,text,label\na,b,x\n", {"text_column": "TEXT"}, Refused("no column 'TEXT'")),
    "a key twice": ("a.jsonl", '{"text": "a", "text": "b", "label": 0}\n', {}, Refused("a key stands twice")),
    "a key twice in an array": (
        "a.json",
        '[{"text": "a", "label": 0, "label": 1}]',
        {},
        Refused("a key stands twice"),
    ),
    "commas after objects": ("a.jsonl", jsonl(GOOD).replace("}\n", "},\n"), {}, Refused("line 1")),
    "null on a line": ("a.jsonl", jsonl(GOOD) + "null\n", {}, Refused("line 5")),
    "splits in one object": (
        "a.json",
        json.dumps({"train": objects(GOOD), "test": objects(GOOD)}),
        {},
        Refused("text"),
    ),
    "rows by number": ("a.json", json.dumps(dict(enumerate(objects(GOOD)))), {}, Refused("array of objects")),
    "MySQL's null": ("a.csv", lines(labelled("x", "y", "\\N")), {}, Refused("line 4")),
    "an error of a spreadsheet": ("a.csv", lines(labelled("x", "y", "#DIV/0!")), {}, Refused("line 4")),
    "null in brackets": ("a.csv", lines(labelled("x", "(null)")), {}, Refused("line 3")),
    "powers of ten": ("a.csv", lines(labelled("1e0", "2e0", "1")), {}, texts("1", "2", "1")),
    "true and one": ("a.csv", lines(labelled("TRUE", "1", "0")), {}, Refused("line 2")),
    "spaces within": ("a.csv", lines(labelled("very  good", "very good", "bad")), {}, Refused("line 3")),
    "a list of one": ("a.jsonl", jsonl(labelled(["x"], ["y"])), {}, Refused(SEVERAL)),
    "an object as a label": ("a.jsonl", jsonl(labelled({"name": "x"})), {}, Refused("line 1")),
    "an object as a text": ("a.jsonl", '{"text": {"en": "a"}, "label": 0}\n', {}, Refused("line 1")),
    "quotes with backslashes": ("a.csv", 'text,label\n"a \\"b\\" c",x\n', {}, Refused("line 2")),
    "an open quote": ("a.csv", 'text,label\na,x\n"b,y\nc,x\n', {}, Refused("line 3")),
    "lines in quotes": ("a.csv", '"text,label"\n"a,x"\n"b,y"\n', {}, Refused("data.separator")),
    "a count at the end": ("a.csv", lines(GOOD) + "\n(4 rows affected)\n", {}, Refused("line 7")),
    "tabs at the ends": ("a.tsv", "text\tlabel\t\r\na\tx\t\r\nb\ty\t\r\n", {}, [("a", "x"), ("b", "y")]),
    "the names again, spaced": (
        "a.csv",
        lines(GOOD) + "\ufefftext , label\n",
        {},
        Refused("the names of the columns"),
    ),
    "an index without a name in the header": ("a.csv", "text,label\n1,a,x\n2,b,y\n", {}, Refused("name every column")),
    "separators without quotes": ("a.csv", "text,label\na, b,x\nc,y\n", {}, Refused("quotes")),
    "decimal commas": (
        "a.csv",
        lines(labelled(*(f"{row},5" for row in range(30))), ";"),
        {},
        Refused("line 2: the labels look numeric"),
    ),
    "a few decimal commas": ("a.csv", lines(labelled("0,5", "1,5", "0,5"), ";"), {}, texts("0,5", "1,5", "0,5")),
    "numbers of several labels": (
        "a.csv",
        lines(labelled(*(f"{row},{row + 1}" for row in range(15)), *range(16)), ";"),
        {},
        Refused("looks like several labels"),
    ),
    "Greek letters": ("a.csv", lines(labelled("OK", "bad", "\u039f\u039a")), {}, Refused("line 4")),
    "Greek words": (
        "a.csv",
        lines(labelled("\u03ba\u03b1\u03bb\u03cc", "\u03ba\u03b1\u03ba\u03cc")),
        {},
        texts("\u03ba\u03b1\u03bb\u03cc", "\u03ba\u03b1\u03ba\u03cc"),
    ),
    "a set as one class": ("a.csv", lines(labelled("set()", "x")), {}, Refused(SEVERAL)),
    "a name with brackets": ("a.csv", lines(labelled("data set (old)", "x")), {}, texts("data set (old)", "x")),
    "stray nought among stars": (
        "a.csv",
        lines(labelled(*range(1, 6), 0, *range(1, 6))),
        {"label_names": list("abcde")},
        Refused("line 7"),
    ),
    "yes, no and NA": ("a.csv", lines(labelled("yes", "no", "NA")), {}, Refused("line 4")),
    "true, False and 1": ("a.csv", lines(labelled("True", "false", "1")), {}, Refused("line 2")),
    "ids under label": ("a.csv", lines(labelled(*range(1000, 1030))), {}, Refused("label of its own")),
    "a JSON array of arrays": ("a.json", json.dumps([list(row) for row in GOOD]), {}, Refused("row 1")),
    "objects by row": (
        "a.json",
        json.dumps({str(row): one for row, one in enumerate(objects(GOOD))}),
        {},
        Refused("array of objects"),
    ),
    "columns with their schema": ("a.json", json.dumps({"schema": {"fields": []}, "data": objects(GOOD)}), {}, GOOD),
    "objects one after the other": (
        "a.jsonl",
        '{"text": "a", "label": 0}{"text": "b", "label": 1}\n',
        {},
        Refused("line 1"),
    ),
    "objects over lines": ("a.jsonl", '{\n "text": "a",\n "label": 0\n}\n', {}, Refused("line 1")),
    "two gzips": (
        "a.csv.gz",
        gzip.compress(lines(GOOD[:2]).encode()) + gzip.compress(b"fine plot,pos\ndull plot,neg\n"),
        {},
        GOOD,
    ),
    "a zip": ("a.csv.zip", b"PK\x03\x04", {}, Refused("files of this type are not read")),
    "cp1252, said": (
        "a.csv",
        lines([("caf\u00e9 \u20ac", "x"), ("b", "y")]).encode("cp1252"),
        {"encoding": "cp1252"},
        [("caf\u00e9 \u20ac", "x"), ("b", "y")],
    ),
    "Excel's Unicode text": ("a.tsv", lines(GOOD, "\t").encode("utf-16"), {"encoding": "utf-16"}, GOOD),
    "quotes of Word": ("a.csv", "text,label\n\u201cgood\u201d,x\nb,y\n", {}, [("\u201cgood\u201d", "x"), ("b", "y")]),
    "single quotes around": ("a.csv", "text,label\n'a','x'\n'b','y'\n", {}, Refused("quotes around it")),
    "tabs and lines in a cell": (
        "a.csv",
        'text,label\n"a\tb\r\nc",x\nd,y\n',
        {},
        [("a\tb\r\nc", "x"), ("d", "y")],
    ),
    "a line that breaks": ("a.csv", "text,label\na\nb,x\n", {}, Refused("line 2")),
    "an object without a label": (
        "a.jsonl",
        jsonl(GOOD) + '{"text": "b"}\n',
        {},
        Refused("line 5: the label is missing"),
    ),
    "halves of floats with names": (
        "a.csv",
        lines(labelled("1.0", "0.0", "1.5")),
        {"label_names": ["a", "b"]},
        Refused("line"),
    ),
    "floats from one, with names": (
        "a.csv",
        lines(labelled("1.0", "2.0")),
        {"label_names": ["a", "b"]},
        texts("a", "b"),
    ),
    "pandas' index": ("a.csv", "Unnamed: 0,text,label\n0,a,x\n1,b,y\n", {}, [("a", "x"), ("b", "y")]),
    "no parquet": ("a.parquet", b"", {}, Refused("not a readable parquet")),
}
# Words for a missing label: of spreadsheets in several languages, Stata, databases, C.
MISSING = [
    "#NV",
    "#WERT!",
    "#BEZUG!",
    "#VALEUR!",
    "#N/D",
    "#I/T",
    "#NOM?",
    "#REF!",
    "#SPILL!",
    "Err:502",
    "<null>",
    "<none>",
]
MISSING += ["(blank)", "(empty)", "N.A.", "n.a.", "k.A.", ".", ".a", "1.#QNAN", "-1.#IND", "NaT", "<NA>"]
UNSEEN = ["good\u3164", "good\u2800", "go\u034fod", "good\U000e0100", "good\U000e0067", "good\u180e", "g\u0585od"]
FURTHER |= {
    f"{word} for missing": ("a.csv", lines(labelled("x", "y", word)), {}, Refused("line 4")) for word in MISSING
}
FURTHER |= {
    f"good and {word!a}": ("a.csv", lines(labelled("good", "y", word)), {}, Refused("line 4")) for word in UNSEEN
}
FURTHER |= {
    "a hashtag": ("a.csv", lines(labelled("#nice", "#nv2", "#nice")), {}, texts("#nice", "#nv2", "#nice")),
    "SEP in capitals": ("a.csv", "SEP=;\r\n" + lines(GOOD, ";"), {}, GOOD),
    "byte order mark and sep": ("a.csv", "\ufeffsep=;\r\n" + lines(GOOD, ";"), {}, GOOD),
    "spaces, not said": ("a.csv", 'text label\n"good film" x\n"bad" y\n', {}, Refused("data.separator")),
    "spaces": ("a.csv", 'text label\n"a b" x\n"c" y\n', {"separator": " "}, [("a b", "x"), ("c", "y")]),
    "R's write.csv2": ("a.csv", '"";"text";"label"\n"1";"a";"x"\n"2";"b";"y"\n', {}, [("a", "x"), ("b", "y")]),
    "Hive's separator": ("a.csv", lines(GOOD, "\x01"), {"separator": "\x01"}, GOOD),
    "Mac's carriage returns": (
        "a.csv",
        "text;label\rCaf\u00e9;x\rb;y\r".encode("mac_roman"),
        {"encoding": "mac_roman"},
        [("Caf\u00e9", "x"), ("b", "y")],
    ),
    "no header, a year first": ("a.csv", "2012,pos\ngreat film,neg\n", {}, Refused("data.text_column=0")),
    "no header, numbers in both": ("a.csv", "1,2\n3,4\n", {"has_header": False}, Refused("data.text_column=0")),
    "a header that counts": ("a.csv", "0,1\ngood,1\nbad,0\n", {}, Refused("data.has_header=true")),
    "a header that counts, said": (
        "a.csv",
        "0,1\ngood,1\nbad,0\n",
        {"has_header": True},
        [("good", "1"), ("bad", "0")],
    ),
    "sentiment140": (
        "a.csv",
        '"0","14","Mon","Q","u","bad day"\n"4","15","Mon","Q","u","good"\n',
        {"has_header": False, "text_column": 5, "label_column": 0},
        [("bad day", "0"), ("good", "4")],
    ),
    "a comment between": ("a.csv", "text,label\na,x\n# a note, with a comma\nb,y\n", {}, Refused("line 3")),
    "hashtags": ("a.csv", "text,label\n#happy day,x\nb,y\n", {}, [("#happy day", "x"), ("b", "y")]),
    "hashes and spaces": ("a.csv", "text, label\na, x\n# b, y\n", {}, [("a", "x"), ("# b", "y")]),
    "a formula for text": ("a.csv", 'text,label\na,="001"\nb,="002"\n', {}, Refused("quotes around it")),
    "infinity in words": ("a.csv", lines(labelled("inf", "x", "inf")), {}, texts("inf", "x", "inf")),
    "parts that are shared": ("a.csv", 'text,label\na,"x,y"\nb,"y,z"\nc,"x,z"\n', {}, Refused(SEVERAL)),
    "parts that are shared, semicolons": ("a.csv", lines(labelled("x;y", "y;z", "x;z", "x")), {}, Refused(SEVERAL)),
    "parts of one": ("a.csv", 'text,label\na,"Rome, IT"\nb,"Pisa, IT"\n', {}, [("a", "Rome, IT"), ("b", "Pisa, IT")]),
    "halves with commas": ("a.csv", lines(labelled("1,5", "1,0", "5,0"), ";"), {}, texts("1,5", "1,0", "5,0")),
    "annotators' refusals": (
        "a.jsonl",
        '{"text": "a", "label": "x", "answer": "accept"}\n{"text": "b", "label": "x", "answer": "reject"}\n',
        {},
        Refused("line 2: its answer is 'reject'"),
    ),
    "answers that are labels": (
        "a.jsonl",
        '{"text": "a", "answer": "accept"}\n{"text": "b", "answer": "reject"}\n',
        {"label_column": "answer"},
        [("a", "accept"), ("b", "reject")],
    ),
    "Doccano's lists": ("a.jsonl", '{"id": 1, "text": "a", "label": ["x"]}\n', {}, Refused(SEVERAL)),
    "Label Studio's choices": ("a.csv", 'text,sentiment\na,"{""choices"":[""x""]}"\nb,y\n', {}, Refused("line 2")),
    "columns of rows that differ": (
        "a.json",
        '{"text": {"0": "a", "1": "b"}, "label": {"0": "x", "1": "y", "2": "x"}}',
        {},
        [("a", "x"), ("b", "y")],
    ),
    "columns whose rows are in another order": (
        "a.json",
        '{"text": {"1": "b", "0": "a"}, "label": {"0": "x", "1": "y"}}',
        {},
        [("b", "y"), ("a", "x")],
    ),
    "integers of 5,000 digits": ("a.jsonl", '{"text": "a", "label": 1' + "0" * 5000 + "}\n", {}, Refused("line 1")),
    "integers of 23 digits": ("a.jsonl", jsonl(labelled(10**22 + 1, 2)), {}, texts(str(10**22 + 1), "2")),
    "a pickle": ("a.csv", b"\x80\x04\x95\x00\x00\x00\x00]\x94.", {}, Refused("line 1")),
    "rot13 for an encoding": ("a.csv", lines(GOOD), {"encoding": "rot13"}, Refused("data.encoding")),
}
