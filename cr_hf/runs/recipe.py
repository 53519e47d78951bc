"""Recipes: one YAML file a regime, turned into a finished run directory.

A recipe is flat. Every key is a field of `CRConfig` or of `CRTrainingArguments`, or one of the few of `Recipe` itself;
the keys under `data:` are those of `DataConfig`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import yaml

from ..data import SINGLE, DataConfig, check_files, is_data
from ..errors import RecipeError, nearest
from ..files import write_text
from .draft import draft_recipe
from .keys import as_number, check_types, declared_fields, described_fields, searched_values
from .row_kinds import NO_BACKBONE, STATIC_BACKBONE, check_rows, reads_images

if TYPE_CHECKING:
    from ..evaluation import Task

AUTO_LAMBDA = "auto"
Kind: TypeAlias = Literal["texts", "table"]
DATA_FIELDS = declared_fields("cr_hf.data.config", "DataConfig")
TRAINING_FIELDS = {
    **declared_fields("transformers.training_args", "TrainingArguments"),
    **declared_fields("cr_hf.training.arguments", "CRTrainingArguments"),
}
# What training settles, and what loading and saving set.
NOT_OF_MODEL = {"in_features", "class_weights", "label_smoothing", "backbone_config", "backbone_source", "head_only"}
MODEL_KEYS = {*declared_fields("cr_hf.modeling.configuration_cr", "CRConfig"), "problem_type"} - NOT_OF_MODEL
# The run directory decides where things go, so that a run can be found, resumed and published as a whole.
DECIDED = {"output_dir", "do_train", "do_eval", "do_predict", "resume_from_checkpoint", "remove_unused_columns"}
TRAINING_KEYS = {*TRAINING_FIELDS} - DECIDED
WHOLE = {key for key, types in TRAINING_FIELDS.items() if "int" in types and "float" not in types}
# Values that are taken as they are written: names such as no, null and 1.0 are not YAML's values of these forms, and
# "#2.csv" is a path.
NAMES = {"label_names", "label_columns", "feature_columns", "missing_columns"}
AS_WRITTEN = {f"data.{name}" for name in ("dir", "train_file", "validation_file", "test_file", "separator")}
AS_WRITTEN |= {"data.text_column", "data.text_pair_column", "data.label_column", "data.label_separator"}
AS_WRITTEN |= {"output_dir", "backbone", "vectors_file"}
TRANSFORMERS = "Training (transformers' TrainingArguments)"
NO_HINT = ": remove it, keys are fields of CRConfig, CRTrainingArguments and, below data, of DataConfig"
# A score of one of these could not be compared with that of another.
NOT_SEARCHED = {"problem_type", "metric_for_best_model", "greater_is_better", "eval_strategy", "num_labels"}
OF_THE_LOSS = {"objective", "label_smoothing_factor", "soft_labels", "squared_emd", "class_weights", "pos_weight"}
AT_LEAST = {"early_stopping_patience": 1, "embedding_size": 1, "vocabulary_size": 1}


@dataclass
class Recipe:
    """A checked recipe.

    Args:
        backbone: a Hub id or a local folder; "offline" for the encoder packaged in the `offline` extra, "static" for
            word embeddings, "none" for a table of numbers.
        data: where the rows come from.
        model: fields of `CRConfig`.
        training: fields of `CRTrainingArguments`.
        output_dir: the run directory.
        backbone_revision: Hub branch, tag or commit of the backbone.
        early_stopping_patience: evaluations without a better metric before training stops; `None`: never.
        lora_r: rank of LoRA adapters on the backbone; `None`: no adapters.
        lora_alpha: scale of the adapters; `None`: 2 * lora_r.
        lora_dropout: dropout before the adapters.
        lora_target_modules: names of the layers that get adapters; `None`: every linear layer of the backbone.
        vectors_file: GloVe or word2vec text for `backbone: static`; `None`: vectors are learned from scratch.
        embedding_size: width of vectors learned from scratch.
        encoder: what runs a frozen backbone: "torch", or on the CPU "openvino" or "onnx" (extra `fast`); rows of train
            in fewer bits: "torch-bf16", "openvino-bf16", "onnx-int8".
        vocabulary_size: words of `backbone: static`, the most frequent of train.
        search: keys to try values of on validation rows before training, each with a list, such as `[0.1, 0.3]`, or a
            range, such as `{low: 0.001, high: 0.1, log: true}`; and how many `trials`, 20 by default.
    """

    backbone: str
    data: DataConfig
    output_dir: str
    backbone_revision: str | None = None
    early_stopping_patience: int | None = None
    lora_r: int | None = None
    lora_alpha: int | None = None
    lora_dropout: float = 0.05
    lora_target_modules: list[str] | None = None
    vectors_file: str | None = None
    embedding_size: int = 300
    encoder: str = "torch"
    vocabulary_size: int = 30_000
    search: dict[str, Any] | None = None
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """What its rows are: "texts", or "table" for rows of numbers: columns, or pixels of images."""
        return "table" if self.backbone == NO_BACKBONE or self.reads_images else "texts"

    @property
    def reads_images(self) -> bool:
        """Whether its rows are images: arrays, which a backbone reads."""
        return reads_images(self.backbone, self.data.train_file)

    @property
    def seed(self) -> int:
        """Seed of initialisation, dropout and data order."""
        return int(self.training.get("seed", 42))

    @property
    def chooses_lambda(self) -> bool:
        """Whether lambda is to be chosen on validation rows: `dreg_lambda: auto`."""
        return bool(self.model.get("dreg_lambda") == AUTO_LAMBDA)

    @property
    def task(self) -> Task:
        """What the model is asked; the names of its classes are only known from the data."""
        from ..evaluation import Task  # it imports torch, which a recipe with a misspelt key need not wait for

        is_ordered = self.model.get("objective") == "ordinal" or self.model.get("soft_labels") is not None
        return Task(str(self.model.get("problem_type") or SINGLE), is_ordered)

    def check_data(self) -> None:
        """Refuse files of rows that are missing or lack a column; what stands below the header is not read.

        Raises:
            DataError: naming the file, the column and the mend.
        """
        check_files(self.data, self.kind == "table")

    def read_data(self) -> Any:
        """Its rows, by split.

        Raises:
            DataError: naming the file, the row and the mend.
        """
        from ..data import load_rows, load_streamed, load_tables  # they import datasets

        if self.kind == "table":
            return load_tables(self.data, are_images=self.reads_images)
        load = load_streamed if self.data.streaming else load_rows
        return load(self.data, self.task.problem_type)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as its YAML file would say it, defaults of `data` left out."""
        own, data = _not_default(self), _not_default(self.data)
        for name in ("model", "training", "data", "output_dir"):
            own.pop(name, None)
        return {**own, "data": data, **self.model, **self.training, "output_dir": self.output_dir}

    def to_yaml(self) -> str:
        """The recipe as a run keeps it."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def save(self, path: Path) -> None:
        """Write the recipe as YAML."""
        write_text(path, self.to_yaml())


def _not_default(config: Recipe | DataConfig) -> dict[str, Any]:
    values = {item.name: (getattr(config, item.name), item.default) for item in dataclasses.fields(config)}
    return {name: value for name, (value, default) in values.items() if value != default}


def recipe_keys() -> dict[str, dict[str, tuple[str, str]]]:
    """Every key that a recipe can have, by group: its default, empty where it must be given, and its meaning."""
    data = described_fields("cr_hf.data.config", "DataConfig")
    model = described_fields("cr_hf.modeling.configuration_cr", "CRConfig")
    own = described_fields("cr_hf.training.arguments", "CRTrainingArguments")
    others = described_fields("transformers.training_args", "TrainingArguments")
    recipe = described_fields("cr_hf.runs.recipe", "Recipe")
    return {
        "What is trained, and where it goes": {
            name: found for name, found in recipe.items() if name not in ("data", "model", "training")
        },
        "Data": {f"data.{name}": found for name, found in data.items()},
        "Model (CRConfig)": {name: found for name, found in model.items() if name in MODEL_KEYS},
        "Training (CRTrainingArguments)": {name: found for name, found in own.items() if name not in MODEL_KEYS},
        TRANSFORMERS: {name: found for name, found in others.items() if name in TRAINING_KEYS - own.keys()},
    }


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file and apply `key=value` overrides.

    Args:
        path: the YAML file; or a file or folder of rows, which gets the recipe that `cr-hf new` writes for it.
        overrides: such as `["output_dir=runs/x", "data.train_file=my.csv", "hidden_sizes=[64]"]`; values are YAML.

    Returns:
        The recipe, every key and value checked.

    Raises:
        RecipeError: naming the key, the file and the mend.
    """
    path = Path(path)
    own = load_yaml(draft_recipe(path)) if is_data(path) else read_recipe(path)
    values = {"output_dir": f"runs/{path.stem}", **own}
    return _check(_overridden(values, dict(_read_overrides(overrides or []))), str(path))


def override_recipe(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    """A recipe with some of its keys replaced, checked anew; keys of the data begin with `data.`.

    Raises:
        RecipeError: naming the key and the mend.
    """
    return _check(_overridden(recipe.to_dict(), overrides), "override")


def _overridden(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    values = {**values, "data": dict(values["data"])}
    for key, value in overrides.items():
        if key.startswith("data."):
            values["data"][key.removeprefix("data.")] = value
        else:
            values[key] = value
    return values


def data_overrides(overrides: list[str]) -> dict[str, Any]:
    """Overrides of a finished run's data, such as `["data.test_file=x.csv"]`, as fields of `DataConfig`.

    Raises:
        RecipeError: if an override is not of the data.
    """
    values = {}
    for key, value in _read_overrides(overrides):
        name = key.removeprefix("data.")
        if name == key or name not in DATA_FIELDS:
            known = {f"data.{field_name}" for field_name in DATA_FIELDS}
            mend = "only data.* can be changed on a finished run, `cr-hf keys data.` lists them"
            raise RecipeError(f"override {key!r}{nearest(key, known)}: {mend}")
        values[name] = _data_value(name, value)
    return values


def _read_overrides(overrides: list[str]) -> list[tuple[str, Any]]:
    pairs = []
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not key:
            raise RecipeError(f"override {override!r} is not of the form key=value, such as learning_rate=1e-3")
        if key in AS_WRITTEN and text not in ("", "null", "~") and text[0] not in "['\"":
            pairs.append((key, text))
            continue
        try:
            name = key.removeprefix("data.")
            pairs.append((key, load_yaml(f"{name}: {text}")[name] if name in NAMES else load_yaml(text)))
        except (yaml.YAMLError, RecursionError) as error:
            if key in AS_WRITTEN and Path(text).exists():
                pairs.append((key, text))
                continue
            raise RecipeError(f"override {override!r}: the value is not YAML, put it in quotes") from error
    return pairs


class _Loader(yaml.SafeLoader):
    """YAML without tags that make objects, aliases (they can grow without bound) or repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases (*) are not read", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        for key, value in node.value:
            if isinstance(value, yaml.SequenceNode) and isinstance(key, yaml.ScalarNode) and key.value in NAMES:
                for item in value.value:
                    item.tag = "tag:yaml.org,2002:str" if isinstance(item, yaml.ScalarNode) else item.tag
        values: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        if len(values) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key stands there twice", node.start_mark)
        return values


def load_yaml(text: str) -> Any:
    """Plain values out of YAML that may come from anywhere: no tags of Python, no aliases, no key twice."""
    return yaml.load(text, _Loader)


def read_recipe(path: Path) -> dict[str, Any]:
    """The keys and values of a recipe file, not checked yet.

    Raises:
        RecipeError: if it is no file, or its YAML is not plain.
    """
    if not path.is_file():
        raise RecipeError(f"recipe {path} is not a file: give the path of a YAML file, such as recipes/demo.yaml")
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipe {path} is not UTF-8 text at byte {error.start}: save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        cause = str(getattr(error, "problem", error)).splitlines()[0]
        raise RecipeError(f"recipe {path}{place} is not valid YAML: {cause}: mend it, quotes often help") from error
    except RecursionError as error:
        raise RecipeError(f"recipe {path} is nested too deeply: write one `key: value` a line") from error
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {path} holds no keys: write one `key: value` a line, as recipes/demo.yaml does")
    data = values.setdefault("data", {})
    if not isinstance(data, dict):
        raise RecipeError(
            f"recipe {path}: data={data!r} must be a block of keys, such as `data:` and below it `dir: x`"
        )
    return values


def _check(values: dict[str, Any], place: str) -> Recipe:
    own = {item.name for item in dataclasses.fields(Recipe)} - {"data", "model", "training"}
    known = own | MODEL_KEYS | TRAINING_KEYS
    unknown = [key for key in values if key not in known | {"data"}]
    unknown += [f"data.{name}" for name in values["data"] if name not in DATA_FIELDS]
    if unknown:
        hint = nearest(str(unknown[0]), known | {f"data.{name}" for name in DATA_FIELDS})
        raise RecipeError(f"{place}: unknown key {unknown[0]!r}{hint or NO_HINT}")
    # `dreg_lambda` is a field of both; the model's is the one that travels with the checkpoint.
    parts = {"own": own, "model": MODEL_KEYS, "training": TRAINING_KEYS - MODEL_KEYS}
    numbered = {key: value if key in AS_WRITTEN else as_number(value) for key, value in values.items()}
    sorted_out = {part: {key: value for key, value in numbered.items() if key in keys} for part, keys in parts.items()}
    if not isinstance(sorted_out["own"].get("backbone"), str):
        raise RecipeError(f"{place}: backbone is missing: give a Hub id, a folder, or backbone=offline")
    for name in sorted_out["own"]:
        if name.startswith("lora_") and name != "lora_r" and sorted_out["own"].get("lora_r") is None:
            raise RecipeError(f"{place}: {name} has no effect without lora_r: set lora_r, such as lora_r=8")
    if "vectors_file" in sorted_out["own"] and sorted_out["own"]["backbone"] != STATIC_BACKBONE:
        raise RecipeError(f"{place}: vectors_file is only for backbone: static")
    if sorted_out["own"]["backbone"] == STATIC_BACKBONE and sorted_out["own"].get("backbone_revision"):
        raise RecipeError(f"{place}: backbone_revision is of a backbone on the Hub: leave it out")
    check_rows(sorted_out, values["data"], place)
    check_types(sorted_out["own"], declared_fields(__name__, "Recipe"), place)
    check_types(sorted_out["training"], TRAINING_FIELDS, place)
    check_types(values["data"], DATA_FIELDS, place, "data.")
    for name, least in AT_LEAST.items():
        value = sorted_out["own"].get(name)
        if value is not None and value < least:
            raise RecipeError(f"{place}: {name}={value} must be {least} or above")
    data = DataConfig(**{name: _data_value(name, value) for name, value in values["data"].items()})
    recipe = Recipe(data=data, model=sorted_out["model"], training=sorted_out["training"], **sorted_out["own"])
    if recipe.chooses_lambda:
        _check_auto_lambda(recipe, place)
    if recipe.search is not None:
        _check_search(recipe, values, place)
    return recipe


def _check_search(recipe: Recipe, values: dict[str, Any], place: str) -> None:
    """Every key of the search, with every value of a list and both ends of a range."""
    metric = str(recipe.training.get("metric_for_best_model") or recipe.task.best_metric)
    known = (MODEL_KEYS | TRAINING_KEYS) - NOT_SEARCHED - (OF_THE_LOSS if metric.endswith("loss") else set())
    for key, value in searched_values(recipe.search or {}, known | {"lora_r", "lora_alpha", "lora_dropout"}, place):
        _check({**values, key: value, "search": None}, f"{place}: search")


def _check_auto_lambda(recipe: Recipe, place: str) -> None:
    """Lambda is chosen by a sweep over cached features, which has one loss, one normalisation and one penalty."""
    model = recipe.model
    for wrong, what in (
        (
            not model.get("freeze_backbone") and recipe.kind == "texts",
            "a frozen backbone: set freeze_backbone: true",
        ),
        (recipe.lora_r is not None, "a backbone without LoRA: take lora_r away"),
        (not recipe.task.is_single, "single-label classification"),
        ((model.get("feature_norm") or "standardize") != "standardize", "feature_norm: standardize"),
        (model.get("dreg_mode") == "chain", "dreg_mode: layer or worst"),
    ):
        if wrong:
            raise RecipeError(f"{place}: dreg_lambda: auto needs {what}, or give dreg_lambda a number")


def _data_value(name: str, value: Any) -> Any:
    return value if f"data.{name}" in AS_WRITTEN else as_number(value)
