"""Recipes and overrides that cannot be used."""

from pathlib import Path

import pytest
from long_use import DEMO as RECIPE
from long_use import TINY
from refusals import BACKBONE, DEMO, CommandLine

from cr_hf.runs.recipe import load_recipe

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
    "a path that is a number": (
        b"backbone: static\nvectors_file: 7\n",
        "recipe.yaml: vectors_file=7 must be text or null (put it in quotes)",
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
    ("hidden_sizes=8", "BACKBONE: hidden_sizes=8 is not allowed: use a list of positive integers, 1000"),
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
    ("dreg_mode=deep", "BACKBONE: dreg_mode='deep' is not allowed: use one of layer, worst, chain (of the"),
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
    ("backbone=RUN", "RUN: a CR checkpoint is no backbone: name the one that it was trained on"),
    ("backbone=HERE", "HERE: Unrecognized model in HERE. Should have a `model_type` key in its"),
    (
        "backbone=static vectors_file=none.txt",
        "vectors_file=none.txt: [Errno 2] No such file or directory: 'none.txt': check",
    ),
    ("backbone=static embedding_size=0", "DEMO: embedding_size=0 must be 1 or above"),
    ("backbone=static embedding_size=wide", "DEMO: embedding_size='wide' must be a whole number"),
    ("backbone=static vocabulary_size=0", "DEMO: vocabulary_size=0 must be 1 or above"),
    ("backbone_revision=main", "revision='main' is of a Hub repository, and this is a folder: leave it out"),
    ("backbone=static backbone_revision=main", "DEMO: backbone_revision is of a backbone on the Hub: leave it out"),
    ("data.revision=main", "data.revision='main' is of a Hub data set: set data.name or leave it out"),
    ("backbone_revision=7", "DEMO: backbone_revision=7 must be text or null (put it in quotes)"),
    ("output_dir=null", "DEMO: output_dir=None must be text (put it in quotes)"),
    ("output_dir=recipe.txt", "output_dir=recipe.txt is a file: choose another output_dir"),
    ("output_dir=recipe.txt/run", "output_dir=recipe.txt/run cannot be written (Not a directory): choose another"),
    ("output_dir=.", "output_dir=. holds other files and no run: choose another output_dir"),
    ("output_dir=/proc/run", "output_dir=/proc/run cannot be written"),
    ("output_dir=a\udce9", r"output_dir='a\udce9' cannot be written"),
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
    (
        "data.label_names=[a,b]",
        "embedded [train], row 1: label 'very negative' of train is not one of the 2 classes ['a'",
    ),
    ("data.label_names=good", "DEMO: data.label_names='good' must be a list or null"),
    ("data.text_column=body", "embedded [train]: no column 'body' among ['text', 'label']: set"),
    ("data.text_column=[body]", "DEMO: data.text_column=['body'] must be a whole number or text or null"),
    ("data.train_file=7", "7: no such file: check the path"),
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


def test_a_path_of_an_override_is_taken_as_it_is_written() -> None:
    assert load_recipe(RECIPE, ["output_dir=7"]).output_dir == "7"
