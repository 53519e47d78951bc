"""Where rows come from: files found by name, and data sets."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any

import datasets
import pytest
from data_files import SHARED_DATA, TSV, both, needs_shared_data, rows_of, write
from hub_server import HubServer

from cr_hf.data import SEVERAL, DataConfig, load_rows, reach_hub
from cr_hf.data.paths import split_paths
from cr_hf.errors import DataError


def test_penn_treebank_escapes_turn_back_in_files_called_sst5(tmp_path: Path) -> None:
    text = r"-LRB- `` one \/ two '' \* -rrb- `"
    path = write(tmp_path / "sst5_x.tsv", f"0\t{text}\n1\tb\n")
    assert both(path)[0] == ('( " one / two " * ) \'', 0)
    assert both(path, unescape_ptb=False)[0] == (text, 0)


def test_the_files_of_a_folder_are_found_by_name(tmp_path: Path) -> None:
    for name in ("x_train.tsv", "x_train_phrases.tsv", "x-train_pool.tsv", "x_val.tsv", "x-Test.tsv", "notes.txt"):
        write(tmp_path / name, TSV)
    assert set(load_rows(DataConfig(dir=str(tmp_path)))) == {"train", "validation", "test"}
    write(tmp_path / "y_train.tsv", TSV)
    with pytest.raises(DataError, match=r"\['x_train.tsv', 'y_train.tsv'\] could each be train: set data.train_file"):
        load_rows(DataConfig(dir=str(tmp_path)))
    assert load_rows(DataConfig(dir=str(tmp_path), train_file="y_train.tsv"))["train"].num_rows == 6


def test_hub_shards_are_found_by_name(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 1]}).to_parquet(
        tmp_path / "train-00000-of-00001.parquet"
    )
    assert set(load_rows(DataConfig(dir=str(tmp_path)))) == {"train", "validation"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-00000-of-00002.csv"], "1 files of train are not the 00002 parts"),
        (["data/train-00001-of-00003.csv", "data/train-00002-of-00003.csv"], "2 files of train are not the 00003"),
        (["train/part-00000-of-00002.csv"], "1 files of train are not the 00002 parts"),
        ([f"train-0000{part}-of-0000{of}.csv" for part, of in ((0, 1), (0, 2), (1, 2))], "3 files of train are not"),
        (["train_val.csv", "test.csv"], "train_val.csv could be train or validation: set data.train_file"),
    ],
)
def test_parts_that_are_not_all_there_and_files_of_two_splits(names: list[str], message: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text,label\na,x\nb,y\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        split_paths(DataConfig(dir=str(tmp_path)))


def test_parts_that_are_all_there_are_read(tmp_path: Path) -> None:
    for part in range(2):
        (tmp_path / f"train-0000{part}-of-00002.csv").write_text(f"text,label\na{part},x\nb{part},y\n")
    found = load_rows(DataConfig(dir=str(tmp_path), validation_file="train-00000-of-00002.csv"))
    assert found["train"]["text"][:] == ["a0", "b0", "a1", "b1"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train_val.csv").write_text("text,label\na,x\nb,y\n")
    config = DataConfig(dir=str(tmp_path / "other"), train_file="train_val.csv")
    assert set(split_paths(config)) == {"train"}


def test_paths_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", TSV)
    with pytest.raises(DataError, match=r"no such file \(did you mean 'train.tsv'\?\)"):
        load_rows(DataConfig(train_file=str(tmp_path / "trian.tsv")))
    with pytest.raises(DataError, match="a folder where a file is needed"):
        load_rows(DataConfig(train_file=str(tmp_path)))
    with pytest.raises(DataError, match=r"no such folder: check data.dir"):
        load_rows(DataConfig(dir=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"no data: set data.name"):
        load_rows(DataConfig())


def test_a_hub_failure_names_the_data_set_and_the_mend() -> None:
    with pytest.raises(DataError, match=r"Hub data set 'nobody/nothing' cannot be loaded .*data.name=embedded"):
        load_rows(DataConfig(name="nobody/nothing"))


def test_a_hub_that_is_silent_is_given_up_and_one_that_answers_anything_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("cr_hf.data.sources.CONNECTION_SECONDS", 0.3)
    with HubServer() as server:  # it has no front page
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        reach_hub(tmp_path / "nowhere")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        reach_hub(tmp_path)
        with pytest.raises(ConnectionError, match=f"no answer from {address}"):
            reach_hub(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["csv", "imbd", "./here", "a/b/c"])
def test_a_name_that_is_no_hub_id_is_not_taken_for_local_files(name: str) -> None:
    with pytest.raises(DataError, match="is no Hub id"):
        load_rows(DataConfig(name=name))


def test_a_hub_data_set_keeps_its_class_names(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`load_dataset` is replaced because tests have no network; what it returns here is a real data set."""
    labels = datasets.ClassLabel(names=["2", "1", "0"])
    features = datasets.Features({"sentence": datasets.Value("string"), "label": labels})
    splits = {
        "train": datasets.Dataset.from_dict({"sentence": ["a", "b", "c"], "label": [0, 1, 2]}, features),
        "validation": datasets.Dataset.from_dict({"sentence": ["-LRB-", "e"], "label": [1, 2]}, features),
        "test": datasets.Dataset.from_dict({"sentence": ["f", "g"], "label": [-1, -1]}, features),
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(splits))
    loaded = load_rows(DataConfig(name="SetFit/sst5"))
    assert loaded["train"].features["label"].names == ["2", "1", "0"]
    assert rows_of(loaded["validation"]) == [("(", 1), ("e", 2)]
    assert "test" not in loaded
    assert "its test split has no labels" in caplog.text
    renamed = load_rows(DataConfig(name="SetFit/sst5", label_names=["x", "y", "z"]), splits=["validation"])
    assert renamed["validation"].features["label"].names == ["x", "y", "z"]


NAMES = {
    "of the same order": (["neg", "pos"], {}, ["neg", "pos", "pos"]),
    "of another order": (["pos", "neg"], {}, ["pos", "neg", "neg"]),
    "as text": (None, {}, ["neg", "pos", "pos"]),
    "in new words": (["neg", "pos"], {"label_names": ["bad", "good"]}, ["bad", "good", "good"]),
    "in new words for another order": (["pos", "neg"], {"label_names": ["bad", "good"]}, "gives them new names"),
    "in the user's order": (["neg", "pos"], {"label_names": ["pos", "neg"]}, ["neg", "pos", "pos"]),
    "of another name": (["neg", "other"], {}, "row 2: label 'other' of test is not one of the 2 classes"),
    "in some new words": (["neg", "pos"], {"label_names": ["neg", "good"]}, "label 'pos' of train is not one of"),
}


@pytest.mark.parametrize("case", NAMES)
def test_numbers_of_classes_mean_what_the_type_of_their_own_file_says(case: str, tmp_path: Path) -> None:
    names, options, expected = NAMES[case]
    for name, classes, labels in (("train", ["neg", "pos"], [1, 0, 1]), ("test", names, [0, 1, 1])):
        rows: dict[str, list[Any]] = {"text": ["a", "b", "c"], "label": labels}
        kind: Any = datasets.Value("string")
        if classes is None:
            rows["label"] = ["neg", "pos", "pos"]
        else:
            kind = datasets.ClassLabel(names=classes)
        features = datasets.Features({"text": datasets.Value("string"), "label": kind})
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / f"{name}.parquet")
    train = str(tmp_path / "train.parquet")
    config = DataConfig(train_file=train, validation_file=train, test_file=str(tmp_path / "test.parquet"), **options)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            load_rows(config)
        return
    test = load_rows(config)["test"]
    assert [test.features["label"].names[label] for label in test["label"]] == expected
    known = dataclasses.replace(config, label_names=test.features["label"].names)  # as `evaluate_run` reads it
    assert load_rows(known, splits=["test"])["test"]["label"][:] == test["label"][:]


def test_several_numbers_of_classes_are_their_names(tmp_path: Path) -> None:
    labels = datasets.List(datasets.ClassLabel(names=["x", "y"]))
    features = datasets.Features({"text": datasets.Value("string"), "label": labels})
    rows = {"text": ["a", "b", "c"], "label": [[0, 1], [1], []]}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "train.parquet")
    train = str(tmp_path / "train.parquet")
    found = load_rows(DataConfig(train_file=train, validation_file=train), SEVERAL)["train"]
    assert found["label"][:] == [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]


@needs_shared_data
def test_sst5_escapes_can_be_kept() -> None:
    loaded = load_rows(DataConfig(dir=str(SHARED_DATA / "sst5"), unescape_ptb=False), splits=["test"])
    assert any("-LRB-" in text for text in loaded["test"]["text"])


def test_names_of_splits_are_those_of_the_hub_and_hidden_files_are_none(tmp_path: Path) -> None:
    for name in ("train.csv", "._train.csv", "testing.csv", "dev.csv"):
        (tmp_path / name).write_text("text,label\na,x\nb,y\n", encoding="utf-8")
    found = split_paths(DataConfig(dir=str(tmp_path)))
    assert {split: [path.name for path in paths] for split, paths in found.items()} == {
        "train": ["train.csv"],
        "validation": ["dev.csv"],
        "test": ["testing.csv"],
    }
