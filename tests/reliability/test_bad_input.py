"""Inputs that cannot be used, through the real command line: one line that names thing, place and mend, exit code 2,
and nothing written."""

import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import cr_hf.cli
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe

TinyBackbone = Callable[..., Path]
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "demo.yaml"
TINY = ["data.max_train_samples=60", "data.max_eval_samples=30", "num_train_epochs=1", "hidden_sizes=[8]"]
TINY += ["use_cpu=true", "disable_tqdm=true"]
RUN, BACKBONE, OUT, HERE, DEMO = "RUN", "BACKBONE", "OUT", "HERE", "DEMO"
"""In arguments: a finished run, a tiny backbone, a folder that is not there yet, the scratch folder, a recipe."""


@pytest.fixture(scope="module")
def finished(tiny_backbone: TinyBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    return train_recipe(load_recipe(RECIPE, [f"backbone={tiny_backbone('bert')}", f"output_dir={folder}", *TINY]))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is where the command runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(folder: Path) -> dict[str, int]:
    """The files below a folder with their sizes."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*"))}


class CommandLine:
    """Runs `cr-hf` in this process, with the words of the tables below in the place of the paths of a test."""

    def __init__(
        self, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        self.places, self.monkeypatch, self.capsys = places, monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        words = []
        for word in arguments:
            for name, path in self.places.items():
                word = re.sub(rf"\b{name}\b", str(path), word)
            words.append(word)
        self.monkeypatch.setattr(sys, "argv", ["cr-hf", *words])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cr_hf.cli.main()
        return int(stopped.value.code or 0), *self.capsys.readouterr()

    def refuses(self, message: str, *arguments: str) -> None:
        """One line, exit code 2, and not a byte written."""
        before = tree(self.places[HERE])
        code, _, errors = self(*arguments)
        assert code == 2, errors
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert errors.endswith(f"{lines[0]}\n"), "more lines after the error"
        assert "Traceback" not in errors
        line = lines[0].removeprefix("error: ")
        for name, path in self.places.items():
            line = line.replace(str(path), name)
        assert message in line
        assert len(line) < 1000
        assert tree(self.places[HERE]) == before


@pytest.fixture
def command(
    finished: Path,
    tiny_backbone: TinyBackbone,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> Iterator[CommandLine]:
    places = {RUN: finished, BACKBONE: tiny_backbone("bert"), OUT: scratch / "out", HERE: scratch, DEMO: RECIPE}
    before = tree(finished)
    yield CommandLine(places, monkeypatch, capsys)
    assert tree(finished) == before


# ---- recipes ----

NESTED = b"a: " + b"[" * 5000
RECIPES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "recipe recipe.yaml holds no keys: write one `key: value` a line, as"),
    "only a comment": (b"# nothing\n", "recipe recipe.yaml holds no keys: write one `key: value` a line, as"),
    "a list": (b"- a\n- b\n", "recipe recipe.yaml holds no keys: write one `key: value` a line, as"),
    "a sentence": (b"train me something good", "recipe recipe.yaml holds no keys: write one `key: value` a line, as"),
    "broken": (
        b"backbone: [1, 2\nseed: 3\n",
        "recipe recipe.yaml line 2 is not valid YAML: expected ',' or ']', but got",
    ),
    "tabs": (
        b"data:\n\tname: embedded\n",
        "recipe recipe.yaml line 2 is not valid YAML: found character '\\t' that cannot",
    ),
    "utf-16": (
        "backbone: BACKBONE\n".encode("utf-16"),
        "recipe recipe.yaml is not UTF-8 text at byte 0: save it as UTF-8",
    ),
    "latin-1": (
        "backbone: Müll\n".encode("latin-1"),
        "recipe recipe.yaml is not UTF-8 text at byte 11: save it as UTF-8",
    ),
    "nul": (b"backbone: a\0b\n", "recipe recipe.yaml is not valid YAML: unacceptable character #x0000: special"),
    "nested too deeply": (NESTED, "recipe recipe.yaml is nested too deeply: write one `key: value` a line"),
    "a key twice": (
        b"backbone: BACKBONE\nseed: 1\nseed: 2\n",
        "recipe recipe.yaml line 1 is not valid YAML: a key stands there twice: mend",
    ),
    "an alias": (
        b"backbone: &a BACKBONE\noutput_dir: *a\n",
        "recipe recipe.yaml line 2 is not valid YAML: aliases (*) are not read: mend",
    ),
    "two documents": (
        b"backbone: a\n---\nbackbone: b\n",
        "recipe recipe.yaml line 2 is not valid YAML: but found another document: mend",
    ),
    "no backbone": (
        b"data: {name: embedded}\n",
        "recipe.yaml: backbone is missing: give a Hub id, a folder, or backbone=offline",
    ),
    "a backbone that is a list": (
        b"backbone: [a, b]\ndata: {name: embedded}\n",
        "recipe.yaml: backbone is missing: give a Hub id, a folder, or backbone=offline",
    ),
    "an empty backbone": (b"backbone: ''\ndata: {name: embedded}\n", "backbone '' cannot be loaded"),
    "data that is a sentence": (
        b"backbone: BACKBONE\ndata: my.csv\n",
        "recipe recipe.yaml: data='my.csv' must be a block of keys, such as `data:`",
    ),
    "data that is nothing": (
        b"backbone: BACKBONE\ndata:\n",
        "recipe recipe.yaml: data=None must be a block of keys, such as `data:` and",
    ),
    "a key that is a number": (
        b"backbone: BACKBONE\n7: 8\n",
        "recipe.yaml: unknown key 7: remove it, keys are fields of CRConfig",
    ),
    "a data key that is a number": (
        b"backbone: BACKBONE\ndata: {7: 8}\n",
        "recipe.yaml: unknown key 'data.7' (did you mean 'data.dir'?)",
    ),
    "a key that is a list": (
        b"backbone: BACKBONE\n? [a]\n: 8\n",
        "recipe recipe.yaml line 2 is not valid YAML: found unhashable key: mend it",
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name: str, command: CommandLine, scratch: Path) -> None:
    content, message = RECIPES[name]
    path = scratch / "recipe.yaml"
    path.write_bytes(content.replace(b"BACKBONE", str(command.places[BACKBONE]).encode()))
    command.refuses(message, "train", "recipe.yaml", "output_dir=OUT")


# ---- overrides, each over the demo recipe with a tiny backbone ----

OVERRIDES: list[tuple[str, str]] = [
    ("hidden_sizes", "override 'hidden_sizes' is not of the form key=value, such as"),
    ("=3", "override '=3' is not of the form key=value, such as learning_rate=1e-3"),
    ("hidden_sizes=[8", "override 'hidden_sizes=[8': the value is not YAML, put it in quotes"),
    ("hiden_sizes=[8]", "DEMO: unknown key 'hiden_sizes' (did you mean 'hidden_sizes'?)"),
    ("data.txt_column=a", "DEMO: unknown key 'data.txt_column' (did you mean 'data.text_column'?)"),
    ("data=a", "DEMO: unknown key 'data.a' (did you mean 'data.name'?)"),
    ("hidden_sizes=8", "BACKBONE: hidden_sizes=8 is not allowed: use a list of positive integers, or"),
    ("hidden_sizes=[0]", "BACKBONE: hidden_sizes=[0] is not allowed: use a list of positive integers"),
    ("hidden_sizes=[8.5]", "BACKBONE: hidden_sizes=[8.5] is not allowed: use a list of positive integers"),
    ("hidden_sizes=[a]", "BACKBONE: hidden_sizes=['a'] is not allowed: use a list of positive integers"),
    ("degree=0", "BACKBONE: degree=0 is not allowed: use an integer, 1 or above"),
    ("degree=2.5", "BACKBONE: degree=2.5 is not allowed: use an integer, 1 or above"),
    ("polynomial_range=-1", "BACKBONE: polynomial_range=-1 is not allowed: use a number above 0, or null"),
    ("polynomial_range=.nan", "BACKBONE: polynomial_range=nan is not allowed: use a number above 0, or null"),
    ("dropout=1.5", "BACKBONE: dropout=1.5 is not allowed: use 0 or above and below 1"),
    ("dropout=.nan", "BACKBONE: dropout=nan is not allowed: use 0 or above and below 1"),
    ("dropout=high", "BACKBONE: dropout='high' is not allowed: use 0 or above and below 1"),
    ("dreg_lambda=-1", "BACKBONE: dreg_lambda=-1 is not allowed: use a finite number, 0 or above"),
    ("dreg_lambda=.inf", "BACKBONE: dreg_lambda=inf is not allowed: use a finite number, 0 or above"),
    ("dreg_mode=deep", "BACKBONE: dreg_mode='deep' is not allowed: use one of layer, chain (of the"),
    ("dreg_num_tangents=0", "BACKBONE: dreg_num_tangents=0 is not allowed: use a positive integer or null"),
    ("dreg_schedule=steps", "training arguments: dreg_schedule='steps' is unknown: use one of constant"),
    ("dreg_warmup_steps=-1", "training arguments: dreg_warmup_steps=-1 must be 0 or above (below 1: a"),
    ("dreg_lambda_end=-1", "training arguments: dreg_lambda_end=-1 must be a finite number, 0 or above"),
    ("activation=mish", "BACKBONE: activation='mish' is not allowed: use one of polynomial, gelu"),
    ("coefficient_init=ones", "BACKBONE: coefficient_init='ones' is not allowed: use one of hermite, identity"),
    ("pooling=median", "BACKBONE: pooling='median' is not allowed: use one of cls, mean, max, last"),
    ("pooling=[mean]", "BACKBONE: pooling=['mean'] is not allowed: use one of cls, mean, max, last"),
    ("feature_layers=first", "BACKBONE: feature_layers='first' is not allowed: use 'last', 'all' or a list"),
    ("feature_layers=[9]", "BACKBONE: feature_layers=[9] names hidden state 9, but the backbone has 3 (0"),
    ("feature_norm=batch", "BACKBONE: feature_norm='batch' is not allowed: use one of standardize"),
    ("objective=ranking", "BACKBONE: objective='ranking' is not allowed: use one of cross_entropy"),
    ("problem_type=clustering", "BACKBONE: problem_type='clustering' is not allowed: use one of"),
    ("freeze_backbone=perhaps", "BACKBONE: freeze_backbone='perhaps' is not allowed: use one of True, False"),
    ("max_seq_length=0", "BACKBONE: max_seq_length=0 is not allowed: use a positive integer or null"),
    ("pos_weight=[1,2]", "BACKBONE: pos_weight is only for problem_type='multi_label_classification'"),
    ("num_train_epochs=many", "DEMO: num_train_epochs='many' must be a number"),
    ("num_train_epochs=-1", "training arguments: num_train_epochs=-1 is not allowed: use a number, 0 or"),
    ("num_train_epochs=.nan", "DEMO: num_train_epochs=nan must be a number"),
    ("max_steps=1.5", "DEMO: max_steps=1.5 must be a whole number"),
    ("learning_rate=-0.1", "training arguments: learning_rate=-0.1 is not allowed: use a number, 0 or"),
    ("learning_rate=.nan", "DEMO: learning_rate=nan must be a number"),
    ("learning_rate=[1]", "DEMO: learning_rate=[1] must be a number"),
    ("weight_decay=heavy", "DEMO: weight_decay='heavy' must be a number"),
    ("per_device_train_batch_size=0", "training arguments: per_device_train_batch_size=0 is not allowed: use a"),
    ("per_device_train_batch_size=2.5", "DEMO: per_device_train_batch_size=2.5 must be a whole number"),
    ("per_device_eval_batch_size=-3", "training arguments: per_device_eval_batch_size=-3 is not allowed: use a"),
    ("gradient_accumulation_steps=0", "training arguments: gradient_accumulation_steps=0 is not allowed: use a"),
    ("seed=-1", "training arguments: seed=-1 is not allowed: use a number, 0 or above"),
    ("seed=1.5", "DEMO: seed=1.5 must be a whole number"),
    ("seed=null", "DEMO: seed=None must be a whole number"),
    ("seed=99999999999999999999", "training arguments: seed=99999999999999999999 is not allowed: use a number"),
    ("optim=newton", "training arguments: newton is not a valid OptimizerNames, please select one"),
    ("lr_scheduler_type=random", "training arguments: random is not a valid SchedulerType, please select one of"),
    ("eval_strategy=sometimes", "training arguments: sometimes is not a valid IntervalStrategy, please select"),
    ("save_strategy=no", "DEMO: save_strategy=False must be text (put it in quotes)"),
    ("metric_for_best_model=accuracie", "metric_for_best_model='accuracie' (did you mean 'accuracy'?): use one of"),
    ("class_weights=heavy", "training arguments: class_weights='heavy' is not allowed: use 'balanced' or a"),
    ("class_weights=[1,2]", "training arguments: class_weights has 2 entries but there are 5 classes"),
    ("head_learning_rate=-1", "training arguments: head_learning_rate=-1 is not allowed: use a number, 0 or"),
    ("head_learning_rate=fast", "DEMO: head_learning_rate='fast' must be a number or null"),
    ("layer_decay=2", "training arguments: layer_decay=2 is not allowed: use a number above 0, at"),
    ("early_stopping_patience=0", "DEMO: early_stopping_patience=0 must be 1 or above"),
    ("early_stopping_patience=soon", "DEMO: early_stopping_patience='soon' must be a whole number or null"),
    ("dataloader_num_workers=-1", "training arguments: dataloader_num_workers=-1 is not allowed: use a number, 0"),
    ("lora_r=0", "training arguments: lora_r=0, lora_dropout=0.05: use a rank of 1 or above and"),
    ("lora_r=two", "DEMO: lora_r='two' must be a whole number or null"),
    ("lora_alpha=16", "DEMO: lora_alpha has no effect without lora_r: set lora_r, such as lora_r=8"),
    ("vectors_file=glove.txt", "DEMO: vectors_file is only for backbone: static"),
    ("backbone=nowhere/at-all", "backbone 'nowhere/at-all' cannot be loaded"),
    ("backbone=./nowhere", "backbone './nowhere' cannot be loaded"),
    ("backbone=HERE", "HERE: Unrecognized model in HERE. Should have a `model_type` key in its"),
    (
        "backbone=static vectors_file=none.txt",
        "vectors_file=none.txt: [Errno 2] No such file or directory: 'none.txt': check",
    ),
    ("backbone=static embedding_size=0", "DEMO: embedding_size=0 must be 1 or above"),
    ("backbone=static embedding_size=wide", "DEMO: embedding_size='wide' must be a whole number"),
    ("backbone=static vocabulary_size=0", "DEMO: vocabulary_size=0 must be 1 or above"),
    ("backbone_revision=7", "DEMO: backbone_revision=7 must be text or null (put it in quotes)"),
    ("output_dir=null", "DEMO: output_dir=None must be text (put it in quotes)"),
    ("output_dir=7", "DEMO: output_dir=7 must be text (put it in quotes)"),
    ("output_dir=recipe.txt", "output_dir=recipe.txt is a file: choose another output_dir"),
    ("output_dir=recipe.txt/run", "output_dir=recipe.txt/run cannot be written (Not a directory): choose another"),
    ("output_dir=.", "output_dir=. holds other files and no run: choose another output_dir"),
    ("output_dir=/proc/run", "output_dir=/proc/run cannot be written"),
    ("data.name=null", "no data: set data.name (a Hub data set or 'embedded'), data.dir or"),
    ("data.name=csv", "data.name='csv' is no Hub id: write owner/name, 'embedded', or use data.dir"),
    ("data.name=7", "DEMO: data.name=7 must be text or null (put it in quotes)"),
    ("data.name=no/such-data", "Hub data set 'no/such-data' cannot be loaded"),
    ("data.seed=-1", "data.seed=-1 must be a whole number from 0"),
    ("data.validation_fraction=1", "data.validation_fraction=1 must be between 0 and 1"),
    ("data.train_fraction=0", "data.train_fraction=0 must be above 0 and at most 1"),
    ("data.train_fraction=0.001", "2 rows of train are left for 5 classes: raise data.train_fraction"),
    ("data.max_train_samples=0", "data.max_train_samples=0 must be a whole number from 1"),
    ("data.max_train_samples=2", "2 rows of train are left for 5 classes: raise data.train_fraction"),
    ("data.max_train_samples=all", "DEMO: data.max_train_samples='all' must be a whole number or null"),
    ("data.streaming=perhaps", "DEMO: data.streaming='perhaps' must be true or false"),
    ("data.streaming=true", "data.streaming reads all rows of train: leave out train_fraction and"),
    ("data.label_names=[a]", "data.label_names=['a'] must be two or more different names"),
    ("data.label_names=[a,a]", "data.label_names=['a', 'a'] must be two or more different names"),
    ("data.label_names=[a,b]", "embedded [train], row 3: label '2' of train is not one of the 2 classes ['0'"),
    ("data.label_names=good", "DEMO: data.label_names='good' must be a list or null"),
    ("data.text_column=body", "embedded [train]: no column 'body' among ['text', 'label']: set"),
    ("data.text_column=[body]", "DEMO: data.text_column=['body'] must be text or null"),
    ("data.train_file=7", "DEMO: data.train_file=7 must be text or a list or null (put it in quotes)"),
    ("data.dir=nowhere", "nowhere: no such folder: check data.dir"),
    ("data.dir=recipe.txt", "recipe.txt: no such folder: check data.dir"),
    ("data.dir=.", ".: no train split found: set data.train_file"),
]
DEVICES = [
    ("bf16=true use_cpu=false", "training arguments: Your setup doesn't support bf16/gpu. You need to assign"),
    ("tf32=true", "training arguments: --tf32 requires Ampere or a newer GPU arch, cuda>=11 and"),
    ("deepspeed=none.json", "training.deepspeed: the package deepspeed is not installed: install it, or"),
    ("fsdp=[full]", "training arguments: Unknown `fsdp` option: full"),
]


@pytest.mark.parametrize(("overrides", "message"), [*OVERRIDES, *DEVICES], ids=lambda value: value)
def test_overrides(overrides: str, message: str, command: CommandLine, scratch: Path) -> None:
    (scratch / "recipe.txt").write_text("not a folder", encoding="utf-8")
    command.refuses(message, "train", DEMO, "backbone=BACKBONE", "output_dir=OUT", *TINY, *overrides.split(" "))


# ---- data files ----

GOOD = b"text,label\n" + b"".join(
    b"a %s film number %d,%d\n" % (w, i, j) for i in range(6) for j, w in enumerate((b"bad", b"fine"))
)
DATA: dict[str, tuple[str, bytes, str, str]] = {
    "empty": ("a.csv", b"", "", "a.csv: no row of train has a text: check the file and data.text_column"),
    "only a header": (
        "a.csv",
        b"text,label\n",
        "",
        "a.csv: no row of train has a text: check the file and data.text_column",
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
        "a.csv, line 14: unexpected end of data: mend its quotes, or use jsonl for",
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
        "a.csv, line 14: the label is missing: fill it in or remove the row",
    ),
    "a label out of range": (
        "a.csv",
        GOOD + b"a film,7\n",
        "data.label_names=[bad,good]",
        "a.csv, line 14: label '7' of train is not one of the 2 classes ['0', '1']",
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
        "a.csv: no row of train has a text: check the file and data.text_column",
    ),
    "a line of 5 MB": (
        "a.csv",
        GOOD + b"word " * 1_000_000 + b",1\n",
        "",
        "a.csv, line 14: field larger than field limit (131072): mend its quotes, or",
    ),
    "gzip cut short": ("a.csv.gz", gzip.compress(GOOD * 50)[:-20], "", "a.csv.gz, after line 550: damaged gzip"),
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
        "a.json, line 1: a JSON list: one object a line is needed",
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
        "a.jsonl, line 2: the label is missing: fill it in or remove the row",
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


# ---- checkpoints ----


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        config = {key: value for key, value in {**config, **changes}.items() if value is not ...}
        (run / "config.json").write_text(json.dumps(config), encoding="utf-8")

    return edit


def edit_weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        weights = load_file(run / "model.safetensors")
        save_file(change(weights), run / "model.safetensors", metadata={"format": "pt"})

    return edit


def without(word: str) -> Callable[[Path], None]:
    return edit_weights(lambda weights: {name: value for name, value in weights.items() if word not in name})


def filled(word: str, value: float) -> Callable[[Path], None]:
    return edit_weights(
        lambda weights: {
            name: torch.full_like(tensor, value) if word in name else tensor for name, tensor in weights.items()
        }
    )


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:size]) and None


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda run: (run / name).write_text(content, encoding="utf-8") and None


def other_backbone(**changes: Any) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        config["backbone_config"].update(changes)
        (run / "config.json").write_text(json.dumps(config), encoding="utf-8")

    return edit


CHECKPOINTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no head": (without("classifier"), "run cannot be loaded (run lacks 8 tensors of CRForSequenceClassification"),
    "no backbone": (without("backbone"), "run cannot be loaded (run lacks 37 tensors of CRForSequenceClassification"),
    "no readout": (
        without("readout.weight"),
        "run cannot be loaded (run lacks 1 tensors of CRForSequenceClassification",
    ),
    "no tensors": (without(""), "run cannot be loaded (run lacks 45 tensors of CRForSequenceClassification"),
    "another number of classes": (
        edit_weights(lambda w: {**w, "classifier.readout.weight": torch.zeros(9, 8)}),
        "run cannot be loaded (run has classifier.readout.weight of shape [9, 8], but its",
    ),
    "another width": (
        edit_config(hidden_sizes=[9]),
        "run cannot be loaded (run has classifier.layers.0.coefficients of shape [4",
    ),
    "another depth": (
        edit_config(hidden_sizes=[8, 8]),
        "run cannot be loaded (run lacks 3 tensors of CRForSequenceClassification",
    ),
    "another degree": (
        edit_config(degree=5),
        "run cannot be loaded (run has classifier.layers.0.coefficients of shape [4",
    ),
    "nan in the head": (
        filled("readout.weight", float("nan")),
        "run: classifier.readout.weight is not finite: the weights are damaged, copy",
    ),
    "infinity in the head": (
        filled("coefficients", float("inf")),
        "run: classifier.layers.0.coefficients is not finite: the weights are damaged",
    ),
    "nan in the backbone": (
        filled("word_embeddings", float("nan")),
        "run: backbone.embeddings.word_embeddings.weight is not finite: the weights",
    ),
    "never fitted": (
        edit_weights(lambda w: {**w, "classifier.feature_norm.fitted": torch.zeros((), dtype=torch.int64)}),
        "run was saved before its feature statistics were fitted: train it anew",
    ),
    "weights cut short": (cut("model.safetensors", 5000), "run cannot be loaded"),
    "a header cut short": (cut("model.safetensors", 60), "run cannot be loaded"),
    "empty weights": (cut("model.safetensors", 0), "run cannot be loaded"),
    "weights that are text": (write("model.safetensors", "these are no weights at all"), "run cannot be loaded"),
    "no weights": (lambda run: (run / "model.safetensors").unlink(), "run cannot be loaded"),
    "weights that are a folder": (
        lambda run: [(run / "model.safetensors").unlink(), (run / "model.safetensors").mkdir()].clear(),
        "run cannot be loaded",
    ),
    "no config": (lambda run: (run / "config.json").unlink(), "run/config.json cannot be read"),
    "an empty config": (write("config.json", ""), "run/config.json cannot be read"),
    "a config cut short": (cut("config.json", 100), "run/config.json cannot be read"),
    "a config that is a list": (
        write("config.json", "[]"),
        "run/config.json is not of a CR model (model_type=None): give the directory of",
    ),
    "a config of another model": (
        write("config.json", '{"model_type": "bert"}'),
        "run/config.json is not of a CR model (model_type='bert'): give the directory",
    ),
    "a config without backbone": (
        edit_config(backbone_config=None),
        "run cannot be loaded (config.json has no backbone_config: this is a feature",
    ),
    "a config without the backbone's kind": (
        edit_config(backbone_config={"hidden_size": 32}),
        "run cannot be loaded (backbone_config has no model_type: give a configuration",
    ),
    "an unknown backbone": (
        edit_config(backbone_config={"model_type": "brontosaurus"}),
        "run cannot be loaded (backbone_config has model_type='brontosaurus', which",
    ),
    "a backbone of another width": (
        other_backbone(hidden_size=64),
        "run cannot be loaded (in_features=96 disagrees with the backbone, which gives",
    ),
    "a backbone of another depth": (
        other_backbone(num_hidden_layers=3),
        "run cannot be loaded (in_features=96 disagrees with the backbone, which gives",
    ),
    "a backbone of no width": (
        other_backbone(hidden_size=0),
        "run cannot be loaded (in_features=96 disagrees with the backbone, which gives",
    ),
    "a field out of range": (
        edit_config(dropout=7),
        "run cannot be loaded (dropout=7 is not allowed: use 0 or above and below 1)",
    ),
    "a width of zero": (
        edit_config(hidden_sizes=[0]),
        "run cannot be loaded (hidden_sizes=[0] is not allowed: use a list of positive",
    ),
    "a head-only config without source": (
        edit_config(head_only=True),
        "run cannot be loaded (config.json has head_only but no backbone_source: the",
    ),
    "a source that is gone": (
        edit_config(
            head_only=True,
            backbone_source={"repo_id": "no/where", "revision": "main", "sha256": {"model.safetensors": "0"}},
        ),
        "run cannot be loaded (the backbone no/where at main cannot be fetched",
    ),
    "a source without files": (
        edit_config(head_only=True, backbone_source={"repo_id": "no/where"}),
        "run cannot be loaded ('revision'): copy it again, or train it anew",
    ),
    "no tokenizer": (lambda run: [path.unlink() for path in run.glob("tokenizer*")] and None, "run cannot be loaded"),
    "a tokenizer cut short": (cut("tokenizer.json", 100), "run cannot be loaded"),
    "no recipe": (
        lambda run: (run / "recipe.yaml").unlink(),
        "recipe run/recipe.yaml is not a file: give the path of a YAML file, such as",
    ),
    "a damaged recipe": (
        write("recipe.yaml", "backbone: ["),
        "recipe run/recipe.yaml line 1 is not valid YAML: expected the node content",
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints(name: str, command: CommandLine, finished: Path, scratch: Path) -> None:
    damage, message = CHECKPOINTS[name]
    shutil.copytree(finished, scratch / "run")
    damage(scratch / "run")
    command.refuses(message, "predict", "run", "a film")


# ---- the other commands ----

COMMANDS: list[tuple[str, str]] = [
    ("train nowhere.yaml", "recipe nowhere.yaml is not a file: give the path of a YAML file, such as"),
    ("train .", "recipe . is not a file: give the path of a YAML file, such as"),
    ("train DEMO --overwrite --resume", "--overwrite and --resume contradict each other: give one of them"),
    ("train DEMO output_dir=RUN", "output_dir=RUN holds a finished run: use --overwrite, or choose another"),
    ("predict nowhere text", "nowhere is no run directory (a finished run holds results.json)"),
    ("predict DEMO text", "DEMO is no run directory (a finished run holds results.json)"),
    ("predict RUN none.csv", "none.csv: no such file (did you mean 'rows.csv'?): check the path"),
    ("predict RUN texts.csv", "texts.csv: no text column found among ['sound']: set data.text_column"),
    ("predict RUN texts.jsonl", "texts.jsonl, line 2: the text is a list, not a string: check data.text_column"),
    ("predict RUN text --output OUT", "--output OUT: the name must end in .jsonl or .csv"),
    (
        "predict RUN text --output nowhere/out.csv",
        "--output nowhere/out.csv: there is no folder nowhere: make it, or choose",
    ),
    (
        "predict RUN text --output texts.csv/out.csv",
        "--output texts.csv/out.csv: there is no folder texts.csv: make it, or choose",
    ),
    ("evaluate RUN seed=3", "override 'seed' (did you mean 'data.seed'?): only data.* can be changed on a"),
    (
        "evaluate RUN data.train_fil=a.csv",
        "override 'data.train_fil' (did you mean 'data.train_file'?): only data.* can",
    ),
    (
        "evaluate RUN data.max_eval_samples=many",
        "data.max_eval_samples=many must be a whole number from 1, or leave it out",
    ),
    ("evaluate RUN data.test_file=texts.csv", "texts.csv: no text column found among ['sound']: set data.text_column"),
    ("evaluate RUN --split dev", "no split 'dev': use one of ['train', 'validation', 'test']"),
    (
        "evaluate RUN --output nowhere/metrics.json",
        "--output nowhere/metrics.json: there is no folder nowhere: make it, or choose",
    ),
    (
        "study DEMO backbone=BACKBONE --output OUT --heads none",
        "--heads: 'none' is unknown: use linear, mlp-relu, mlp-gelu, cr, cr+dreg",
    ),
    (
        "study DEMO backbone=BACKBONE --output OUT --heads cr,,mlp",
        "--heads: '' is unknown: use linear, mlp-relu, mlp-gelu, cr, cr+dreg, cr+dreg-linear",
    ),
    (
        "study DEMO backbone=BACKBONE --output OUT --fractions half",
        "--fractions 'half': use numbers with commas between, such as 0.05,1",
    ),
    (
        "study DEMO backbone=BACKBONE --output OUT --fractions 2",
        "a study needs two or more --seeds, and --fractions above 0 and at most 1",
    ),
    (
        "study DEMO backbone=BACKBONE --output OUT --fractions nan",
        "a study needs two or more --seeds, and --fractions above 0 and at most 1",
    ),
    (
        "study DEMO backbone=BACKBONE --output OUT --fractions 0.0001",
        "--fractions 0.0001: 0 of 1500 rows are too few for 5 classes",
    ),
    (
        "study DEMO backbone=BACKBONE --output OUT --seeds 1",
        "a study needs two or more --seeds, and --fractions above 0 and at most 1",
    ),
    ("study DEMO backbone=BACKBONE --output texts.csv", "--output texts.csv is a file: choose another folder"),
    (
        "study DEMO backbone=BACKBONE --output OUT data.name=null data.train_file=rows.csv",
        "a study needs a test split: give data.test_file",
    ),
    (
        "publish nowhere me/model --dry-run --folder OUT",
        "nowhere has no results.json: only a finished run can be published",
    ),
    (
        "publish RUN me/model --dry-run --folder .",
        ". is not an empty folder: choose another one, so that nothing else is",
    ),
    (
        "publish RUN me/model --dry-run --folder texts.csv",
        "texts.csv is not an empty folder: choose another one, so that nothing else is",
    ),
    (
        "publish RUN me/model --dry-run --folder OUT --head-only",
        "RUN: a head-only checkpoint needs a frozen backbone that others can get too",
    ),
    ("publish RUN a/b/c --dry-run --folder OUT", "'a/b/c' is no repository name"),
]


@pytest.mark.parametrize(("words", "message"), COMMANDS, ids=[words for words, _ in COMMANDS])
def test_commands(words: str, message: str, command: CommandLine, scratch: Path) -> None:
    (scratch / "texts.csv").write_text("sound\na film\n", encoding="utf-8")
    (scratch / "texts.jsonl").write_text('{"text": "a film"}\n{"text": ["a", "b"]}\n', encoding="utf-8")
    (scratch / "rows.csv").write_bytes(GOOD)
    command.refuses(message, *words.split())


# ---- texts: they are all answered, one row each ----

TEXTS: dict[str, str] = {
    "empty": "",
    "spaces": "   \t  ",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈 🎬👍🏽",
    "right to left": "\u202b\u05e1\u05e8\u05d8 \u05e0\u05d4\u05d3\u05e8 \u0641\u064a\u0644\u0645\u202c",
    "control characters": "a\x01\x02\x1b[31m film\x7f\x9f\ufeff\u2028\u0000",
    "combining marks": "z" + "\u0301\u0335" * 500,
    "a hundred thousand words": "film " * 100_000,
    "one long word": "a" * 100_000,
    "special tokens": "[CLS] [SEP] [PAD] [MASK] <s> </s>",
    "a noncharacter": "a \uffff\U0010ffff film",
    "markup": "<script>alert(1)</script> {{ 7 * 7 }} ${HOME} %s",
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_answered(name: str, command: CommandLine, scratch: Path) -> None:
    (scratch / "texts.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in ("a film", TEXTS[name])), encoding="utf-8"
    )
    code, _, errors = command("predict", "RUN", "texts.jsonl", "--output", "out.jsonl")
    assert code == 0, errors
    rows = [json.loads(line) for line in (scratch / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert [row["text"] for row in rows] == ["a film", TEXTS[name]]
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    code, output, errors = command("predict", "RUN", TEXTS[name].replace("\0", ""))
    assert code == 0, errors
    assert output.count("\t") >= 2


@pytest.mark.parametrize("name", ["spaces", "emoji", "right to left", "control characters", "one long word"])
def test_texts_are_trained_on(name: str, command: CommandLine, scratch: Path) -> None:
    rows = [{"text": f"{TEXTS[name]} {number}", "label": number % 2} for number in range(20)]
    (scratch / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, _, errors = command(
        "train", DEMO, "backbone=BACKBONE", "output_dir=OUT", *TINY, "data.train_file=rows.jsonl"
    )
    assert code == 0, errors


def test_standard_input_that_is_no_text(finished: Path) -> None:
    for content, message in ((b"a film\n\xff\xfe\n", "standard input"), (b"a\0b\n", "standard input, line 1: a NUL")):
        done = subprocess.run(
            [sys.executable, "-m", "cr_hf.cli", "predict", str(finished)],
            input=content,
            capture_output=True,
            check=False,
        )
        lines = done.stderr.decode().splitlines()
        assert done.returncode == 2, lines
        assert message in lines[-1]
        assert not any("Traceback" in line for line in lines)
        assert done.stdout == b""
