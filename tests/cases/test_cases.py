"""Files as people wrote them, which were once read wrong: each is read as it was meant, or refused in one line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cr_hf.data import SEVERAL, SINGLE, DataConfig, load_rows, read_inputs
from cr_hf.errors import CRError, DataError
from cr_hf.runs.recipe import load_recipe

DATA = Path(__file__).parent / "data"
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "text.yaml"
DIGITS, WORDS, STARS = {"0": 12, "1": 12}, {"neg": 12, "pos": 12}, {str(star): 12 for star in range(1, 6)}
ABCD = ["a", "b", "c", "d"]
# File, options, and the rows of each class or a part of the refusal.
CASES: list[tuple[str, dict[str, Any], dict[str, int] | str]] = [
    *((f"01-semicolon/{name}.csv", {}, DIGITS) for name in ("semi", "semi_bom_crlf", "semi_commas", "pipes", "tabs")),
    ("01-semicolon/sep_line.csv", {}, DIGITS),
    ("02-label-variants/case.csv", {}, {"Positive": 6, "positive": 6, "negative": 6, "Negative": 6}),
    *((f"02-label-variants/{name}.csv", {}, "line 4") for name in ("double_space", "nfc_nfd", "zwsp")),
    ("02-label-variants/numbers.csv", {}, {"1": 12, "2": 12}),
    ("02-label-variants/floats.csv", {}, {"1": 8, "1.5": 8, "2": 8}),
    ("03-missing-label-words/miss.csv", {}, {"neg": 6, "pos": 12, "unlabeled": 6}),
    ("06-save-to-disk/saved", {}, {"negative": 12, "positive": 12}),
    ("06-save-to-disk/hublike", {}, {"negative": 12, "positive": 12}),
    *((f"08-no-header/{name}", {}, DIGITS) for name in ("allquoted.csv", "float.csv", "num.tsv")),
    *((f"08-no-header/{name}", {"has_header": False}, DIGITS) for name in ("allquoted.csv", "float.csv", "num.tsv")),
    ("08-no-header/minus.csv", {}, {"-1": 12, "1": 11}),
    ("08-no-header/minusfirst.csv", {}, {"-1": 12, "1": 12}),
    ("08-no-header/words.csv", {}, "data.has_header=false"),
    ("08-no-header/words.csv", {"has_header": False}, WORDS),
    ("08-no-header/three.csv", {}, "data.has_header=false"),
    ("08-no-header/three.csv", {"has_header": False}, "data.text_column"),
    ("08-no-header/three.csv", {"has_header": False, "text_column": 2, "label_column": 0}, {"1": 12, "2": 12}),
    ("08-no-header/textnum.csv", {}, "label of its own"),
    ("08-no-header/headernum.csv", {}, "data.label_column"),
    ("08-no-header/year.csv", {}, "data.text_column"),
    *((f"09-multilabel-cells/{name}", {}, SEVERAL) for name in ("good.jsonl", "jsonstr.jsonl", "pylist.csv")),
    ("09-multilabel-cells/goemotions.tsv", {}, SEVERAL),
    *((f"09-multilabel-cells/{name}", {}, "line 4") for name in ("commas.csv", "semi.csv")),
    ("10-yaml-scalars/null.csv", {}, "'null'"),
    ("10-yaml-scalars/half.csv", {}, {"1": 12, "2": 12}),
    ("10-yaml-scalars/yesno.csv", {}, {"no": 12, "yes": 12}),
    ("11-label-index-shift/stars.csv", {"label_names": list("abcde")}, dict.fromkeys("abcde", 12)),
    ("11-label-index-shift/stars.csv", {"label_names": list("12345")}, STARS),
    ("11-label-index-shift/onebased.csv", {"label_names": ABCD}, dict.fromkeys("abcd", 10)),
    ("11-label-index-shift/onebased.csv", {"label_names": list("abcde")}, "data.label_start"),
    ("11-label-index-shift/zero_based.csv", {"label_names": list("abcde")}, dict.fromkeys("abcde", 12)),
    ("11-label-index-shift/zero_based.csv", {"label_names": list("12345")}, "line 2: label '0'"),
    ("11-label-index-shift/one_typo_zero.csv", {"label_names": ABCD}, "line 62: label '0'"),
    ("11-label-index-shift/one_typo_zero.csv", {"label_names": list("1234")}, "line 62: label '0'"),
    ("11-label-index-shift/zero_and_two.csv", {"label_names": ["a", "b"]}, "label '"),
    ("11-label-index-shift/floats.csv", {"label_names": ["a", "b"]}, {"a": 20, "b": 20}),
    ("21-predict-columns/pairs.csv", {"text_pair_column": "second"}, {"0": 40, "1": 40}),
    ("21-predict-columns/latin.csv", {}, "line 2"),
    ("21-predict-columns/latin.csv", {"encoding": "latin-1"}, {"0": 40, "1": 40}),
    ("22-predict-io/t.csv", {}, {'a, "b" | no': 40, 'a, "b" | yes': 40}),
]
SPREADSHEETS: dict[str, dict[str, int] | str] = {
    **dict.fromkeys(("#2.csv", "a b, [1]; #2.csv", "blank_first_line.csv", "blank_rows_commas.csv"), WORDS),
    **dict.fromkeys(("case_cols.csv", "comment_lines.csv", "crcrlf.csv", "ctrlz.csv", "inch.csv", "index.csv"), WORDS),
    **dict.fromkeys(("lone_cr_in_text.csv", "nul_end.csv", "ok.csv", "oldmac.csv", "one_trailing_comma.csv"), WORDS),
    **dict.fromkeys(("rows_trailing_comma.csv", "space_after_comma.csv", "space_quotes.csv", "unnamed.csv"), WORDS),
    **dict.fromkeys(("space_quotes_comma.csv", "trailing_commas.csv", "twoindex.csv"), WORDS),
    **dict.fromkeys(("array.json", "columns.json", "label_text.csv", "mixint.jsonl", "pretty.json"), DIGITS),
    **dict.fromkeys(("text_and_review.csv", "wrapped.json"), DIGITS),
    "bools.jsonl": {"False": 12, "True": 12},
    "long.csv": {"neg": 13, "pos": 12},
    "nantext.csv": {"neg": 13, "pos": 13},
    "nulltext.jsonl": {"0": 11, "1": 12},
    "backslash.csv": "line 2",
    "index_only_two.csv": "data.label_column",
    "labelnamesdict.jsonl": "line 1",
    "lone_cr_unquoted.csv": "line 2",
    "mixbool.jsonl": "line 1",
    "mixkeys.jsonl": "line 2",
    "rating_float.csv": "regression",
    "single_quotes.csv": "line 2",
    "title_line.csv": "names of the columns",
}


def counts(path: Path, options: dict[str, Any], problem: str = SINGLE) -> dict[str, int]:
    where = {"dir": str(path)} if path.is_dir() else {"train_file": str(path)}
    found: Counter[str] = Counter()
    understood = load_rows(DataConfig(**where, **options), problem, ["train", "validation"]).understood  # type: ignore[arg-type]
    splits = understood.classes if path.name != "saved" else {"train": understood.classes["train"]}
    for part in splits.values():
        found.update(part)
    assert len(understood.lines()) <= 5
    return dict(found)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [*CASES, *((f"26-excel-csv/{name}", {}, expected) for name, expected in SPREADSHEETS.items())],
)
def test_a_file(name: str, options: dict[str, Any], expected: dict[str, int] | str) -> None:
    if isinstance(expected, dict):
        assert counts(DATA / name, options) == expected
        return
    with pytest.raises(CRError) as caught:
        counts(DATA / name, options)
    assert expected in str(caught.value)
    assert str(DATA / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        *((name, {}, {"anger": 12, "joy": 12}) for name in ("good.jsonl", "jsonstr.jsonl", "pylist.csv")),
        ("commas.csv", {"label_separator": ","}, {"anger": 12, "joy": 12}),
        ("semi.csv", {"label_separator": ";"}, {"anger": 12, "joy": 12}),
        ("goemotions.tsv", {"label_separator": ","}, {"2": 12, "20": 12, "27": 6}),
        ("space.jsonl", {}, {"anger": 12, "Anger": 6, "joy": 6}),
        ("onehot_str.csv", {"label_names": ["a", "b", "c"]}, {"a": 12, "b": 12, "c": 6}),
        ("columns.csv", {"label_columns": ["toxic", "insult", "threat"]}, {"toxic": 12, "insult": 9, "threat": 0}),
    ],
)
def test_several_labels(name: str, options: dict[str, Any], expected: dict[str, int]) -> None:
    found = counts(DATA / "09-multilabel-cells" / name, options, SEVERAL)
    assert found.keys() == expected.keys()
    assert all(found[label] > 0 or not expected[label] for label in expected)


def test_look_alikes_and_unlabelled_rows_are_said() -> None:
    found = load_rows(DataConfig(train_file=str(DATA / "02-label-variants/case.csv"))).understood
    assert any("'Positive' (6) and 'positive' (6)" in note for note in found.notes)
    found = load_rows(DataConfig(train_file=str(DATA / "03-missing-label-words/miss.csv"))).understood
    assert any("'unlabeled' (6 rows)" in note for note in found.notes)
    found = load_rows(
        DataConfig(train_file=str(DATA / "11-label-index-shift/onebased.csv"), label_names=ABCD)
    ).understood
    assert any("1 to 4" in note for note in found.notes)
    assert found.reading["label_start"] == 1


def test_evaluation_counts_classes_as_training_did() -> None:
    folder = DATA / "11-label-index-shift"
    train = load_rows(DataConfig(train_file=str(folder / "learn.csv"), label_names=ABCD)).understood
    for name, expected in (("test_ok.csv", {"a": 20, "b": 20, "c": 20, "d": 0}), ("test_one_zero.csv", "line 62")):
        config = DataConfig(
            test_file=str(folder / name), label_names=ABCD, label_start=int(train.reading["label_start"])
        )
        if isinstance(expected, dict):
            assert load_rows(config, splits=["test"]).understood.classes["test"] == expected
            continue
        with pytest.raises(DataError, match=expected):
            load_rows(config, splits=["test"])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[no, yes]", ["no", "yes"]),
        ("[on, off]", ["on", "off"]),
        ("[null, some]", ["null", "some"]),
        ("[2020-01-01, 1:30]", ["2020-01-01", "1:30"]),
        ("[1.0, 2.0]", ["1.0", "2.0"]),
        ("[false, true]", ["false", "true"]),
    ],
)
def test_label_names_are_taken_as_written(names: str, expected: list[str], tmp_path: Path) -> None:
    assert load_recipe(RECIPE, [f"data.label_names={names}"]).data.label_names == expected
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"backbone: offline\ndata:\n  train_file: t.csv\n  label_names: {names}\n", encoding="utf-8")
    found = load_recipe(recipe)
    assert found.data.label_names == expected
    found.save(recipe)
    assert load_recipe(recipe).data.label_names == expected


@pytest.mark.parametrize("name", ["#2.csv", "a b, [1]; #2.csv", "a: b.csv", "|", "- x.csv", "1.0"])
def test_a_path_is_taken_as_written(name: str) -> None:
    assert load_recipe(RECIPE, [f"data.train_file={name}"]).data.train_file == name


@pytest.mark.parametrize("name", ["#text", "no", "a: b", "*", "2020-01-01", "1.5", "0"])
def test_a_column_is_taken_as_written(name: str) -> None:
    assert load_recipe(RECIPE, [f"data.text_column={name}"]).data.text_column == name
    assert load_recipe(RECIPE, ["data.text_column=null"]).data.text_column is None


@pytest.mark.parametrize(
    ("name", "options", "first"),
    [
        ("21-predict-columns/new.csv", {"text_column": "Utterance"}, "good fine superb 0"),
        ("21-predict-columns/both.csv", {"text_column": "summary"}, "good fine superb 0"),
        ("21-predict-columns/latin.csv", {"encoding": "latin-1"}, "schön good fine superb 0"),
        ("21-predict-columns/sst5_train.csv", {"unescape_ptb": True}, '( good fine superb 0 ) " so " '),
        ("22-predict-io/in.jsonl", {}, 'two\nlines, "quoted"\r and \u2028'),
        ("22-predict-io/t.csv", {}, "good fine superb 0"),
    ],
)
def test_rows_to_predict(name: str, options: dict[str, Any], first: str) -> None:
    rows = list(read_inputs(DATA / name, DataConfig(**options)))
    assert rows[0].text == first
    assert list(rows[0].record)
    pairs = DataConfig(text_pair_column="second")
    found = next(read_inputs(DATA / "21-predict-columns/pairs.csv", pairs))
    assert (found.text, found.text_pair, list(found.record)) == (
        "the film",
        "good fine superb 0",
        ["text", "second", "label"],
    )


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (["https://x.org/a.csv"], {}, "https://x.org/a.csv: a URL"),
        ([str(DATA)], {}, "folder"),
        (["no_such.csv"], {}, "no such file"),
        ([str(DATA / "26-excel-csv/ok.csv"), "a text"], {}, "give files or texts"),
        (["a text"], {"text_pair_column": "second"}, "'second'"),
        ([str(DATA / "26-excel-csv/ok.csv")], {"text_pair_column": "second"}, "'second'"),
        (["half \ud83d"], {}, "surrogate"),
    ],
)
def test_what_is_no_text_is_refused(source: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_inputs(source, DataConfig(**options)))
    two = [str(DATA / "26-excel-csv/ok.csv")] * 2
    assert len(list(read_inputs(two, DataConfig()))) == 48
