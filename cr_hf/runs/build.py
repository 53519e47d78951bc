"""What a recipe trains: the model, its tokenizer and the training arguments, checked together before any training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from accelerate.utils import is_deepspeed_available, parse_flag_from_env
from huggingface_hub import constants
from huggingface_hub.errors import StrictDataclassError
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..data import build_static_backbone, build_word_tokenizer, label_names_of, reach_hub, refuse_unordered
from ..errors import RecipeError, nearest
from ..features import cut_note, text_columns
from ..modeling import (
    CRConfig,
    CRForFeatureClassification,
    CRForImageClassification,
    CRForSequenceClassification,
    backbone_path,
    prepare_tokenizer,
)
from ..training import (
    CRTrainingArguments,
    SweepHead,
    check_arguments,
    lora_config,
    normalized_class_weights,
)
from .directory import CHECKPOINTS
from .recipe import Recipe, override_recipe
from .row_kinds import NO_BACKBONE, STATIC_BACKBONE

logger = logging.get_logger(__name__)

# What every run does unless its recipe says otherwise.
TRAINING_DEFAULTS: dict[str, Any] = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "report_to": "none",
}
# Other values take away the predictions that a run is measured by, or cannot be written in YAML.
NOT_FOR_RUNS: dict[str, Any] = {
    "prediction_loss_only": False,
    "batch_eval_metrics": False,
    "eval_do_concat_batches": True,
    "label_names": None,
    "parallelism_config": None,
}


def build_model(recipe: Recipe, dataset: datasets.DatasetDict) -> tuple[Any, Any]:
    """The classifier that a recipe describes, with a fresh head, and its tokenizer or image processor.

    Raises:
        RecipeError: if a field of the model is not allowed, or the backbone cannot be loaded.
    """
    names = label_names_of(dataset["train"])
    fields: dict[str, Any] = (
        {"num_labels": len(dataset["train"][0]["label"])}
        if names is None
        else {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    )
    if recipe.task.is_ordered and names is not None:
        is_ordinal = recipe.model.get("objective") == "ordinal"
        refuse_unordered(recipe.data, names, "objective='ordinal'" if is_ordinal else "soft_labels")
    fields.update(recipe.model)
    if recipe.chooses_lambda:
        del fields["dreg_lambda"]  # the default's place is taken by the choice, before training
    if recipe.backbone == NO_BACKBONE:
        width = len(dataset["train"][0]["features"])
        return build_classifier(recipe, {"in_features": width, **fields})
    return build_classifier(recipe, fields, dataset["train"])


def note_cut_texts(model: Any, tokenizer: Any, dataset: Any) -> None:
    """Say of training texts, or of validation's where those are streamed, how much is cut, and keep it as a note."""
    split = "train" if isinstance(dataset["train"], datasets.Dataset) else "validation"
    note = "text" in dataset[split].column_names and cut_note(model, tokenizer, *text_columns(dataset[split]))
    if note:
        dataset.understood.notes.append(f"{split}: {note}")
        logger.warning(dataset.understood.notes[-1])


def build_classifier(recipe: Recipe, fields: dict[str, Any], rows: Any = None) -> tuple[Any, Any]:
    """`build_model` for fields of `CRConfig` that are known; the training rows are the words of `backbone: static`."""
    try:
        if recipe.backbone == NO_BACKBONE:
            return CRForFeatureClassification(CRConfig(**fields)), None
        if recipe.backbone == STATIC_BACKBONE:
            return _static_model(recipe, rows, fields)
        model, processor = _pretrained(recipe, fields)
        return model, processor if recipe.reads_images else _own_tokenizer(processor, model)
    except ValueError as error:
        raise RecipeError(f"{recipe.backbone}: {str(error).splitlines()[0]}") from error
    except OSError as error:
        if recipe.backbone == STATIC_BACKBONE:
            raise RecipeError(f"vectors_file={recipe.vectors_file}: {error}: check the path") from error
        raise RecipeError(
            f"backbone {recipe.backbone!r} cannot be loaded ({str(error).splitlines()[0]}): check the name and the "
            "network, give a local folder, or use backbone=offline"
        ) from error


def _pretrained(recipe: Recipe, fields: dict[str, Any]) -> tuple[Any, Any]:
    kind: Any = CRForImageClassification if recipe.reads_images else CRForSequenceClassification
    name = backbone_path(recipe.backbone)
    if re.match(r"\w", name) and not Path(name).exists():
        reach_hub(Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}"))
    try:
        model = kind.from_backbone(name, revision=recipe.backbone_revision, **fields)
        options: Any = {"revision": recipe.backbone_revision, "trust_remote_code": False}
        return model, getattr(transformers, kind.auto_processor).from_pretrained(name, **options)
    except (AssertionError, ImportError, KeyError, TypeError, StrictDataclassError) as error:
        # What transformers makes of values in config.json and tokenizer.json that it does not check.
        raise ValueError(f"its config.json or its tokenizer is refused: {' '.join(str(error).split())}") from error


def _static_model(recipe: Recipe, rows: Any, fields: dict[str, Any]) -> Any:
    """Word embeddings over the words of the training texts, and their tokenizer."""
    texts = (text for column in text_columns(rows) for text in column)
    tokenizer = build_word_tokenizer(texts, recipe.vocabulary_size, max_length=fields.get("max_seq_length") or 512)
    backbone = build_static_backbone(tokenizer, recipe.embedding_size, recipe.vectors_file)
    config = CRConfig(backbone_config=backbone.config, **fields)
    model = CRForSequenceClassification(config, backbone=backbone).eval()
    return model, _own_tokenizer(tokenizer, model)


def _own_tokenizer(tokenizer: PreTrainedTokenizerBase, model: CRForSequenceClassification) -> Any:
    """The tokenizer as the run keeps it: it knows the model's length, so that whoever loads it cuts texts alike."""
    own = prepare_tokenizer(tokenizer, model.config.max_length_for(tokenizer))
    embeddings: Any = model.get_input_embeddings()
    size = len(embeddings.weight)
    if len(own) <= len(own.all_special_ids):
        raise ValueError("its tokenizer knows no tokens but special ones: are its files there (tokenizer.json)?")
    if len(own) > size:
        raise ValueError(f"the tokenizer has {len(own)} tokens, the backbone {size}: they do not belong together")
    return own


def training_arguments(recipe: Recipe, run_dir: Path) -> CRTrainingArguments:
    """The arguments of the trainer: the recipe's own over `TRAINING_DEFAULTS`. If several processes were started, they
    connect here.

    Raises:
        RecipeError: naming the field that is not allowed.
    """
    values: dict[str, Any] = {
        **TRAINING_DEFAULTS,
        "metric_for_best_model": recipe.task.best_metric,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **recipe.training,
    }
    if values["metric_for_best_model"] is not None:
        metric = str(values["metric_for_best_model"]).removeprefix("eval_")
        known = recipe.task.metrics
        if metric not in known:
            raise RecipeError(
                f"metric_for_best_model={metric!r}{nearest(metric, known)}: use one of {', '.join(known)}"
            )
        # `Trainer` would take every name that does not end in "loss" for one to raise.
        values.setdefault("greater_is_better", known[metric])
    if values.get("deepspeed") and not is_deepspeed_available():
        # transformers would leave half a configuration behind, over which every model loaded later trips.
        raise RecipeError(
            "training.deepspeed: the package deepspeed is not installed: install it, or shard by "
            "configs/accelerate/fsdp2.yaml"
        )
    try:
        return CRTrainingArguments(output_dir=str(run_dir / CHECKPOINTS), **values)
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise RecipeError(f"training arguments: {str(error).splitlines()[0]}") from error


def sweep_head(
    recipe: Recipe,
    config: CRConfig,
    overrides: dict[str, Any] | None = None,
    train_indices: Sequence[int] | NDArray[np.int64] | None = None,
    penalty_weight: float = 0.0,
) -> SweepHead:
    """The head that a recipe trains on features, with some of its keys replaced.

    Args:
        recipe: of a frozen backbone or of a table.
        config: the configuration of the recipe's classifier, which knows the width of the features and the classes.
        overrides: keys of the recipe and their values.
        train_indices: the training rows in use; `None` (default) means all of them.
        penalty_weight: weight of the penalty of another `group_type` than DREG's, 0.0 by default.

    Raises:
        RecipeError: naming the key that is not allowed.
    """
    recipe = override_recipe(recipe, overrides or {})
    fields = {**config.to_dict(), **recipe.model, "backbone_config": None}
    if recipe.chooses_lambda:
        fields["dreg_lambda"] = config.dreg_lambda
    try:
        own = CRConfig.from_dict(fields)
    except ValueError as error:
        raise RecipeError(str(error).splitlines()[0]) from error
    arguments = training_arguments(recipe, Path(recipe.output_dir))
    return SweepHead(own, arguments, train_indices, recipe.early_stopping_patience, penalty_weight)


def check_together(recipe: Recipe, arguments: CRTrainingArguments, model: Any) -> None:
    """Refuse combinations of model, arguments and recipe that cannot work.

    Raises:
        RecipeError: naming the field and the mend.
    """
    is_sharded = bool(arguments.fsdp) or parse_flag_from_env("ACCELERATE_USE_FSDP")
    if is_sharded and arguments.device.type == "cpu" and arguments.process_index == 0:
        logger.warning("accelerate shards on GPUs alone: on the CPU every process holds the whole model, as under DDP")
    if recipe.encoder != "torch" and not trains_on_features(recipe, model):
        raise RecipeError(f"encoder={recipe.encoder!r} is for a frozen backbone: set freeze_backbone: true")
    try:
        refused = next((name for name, only in NOT_FOR_RUNS.items() if getattr(arguments, name) != only), None)
        if refused is not None:
            raise ValueError(f"{refused}={getattr(arguments, refused)!r} is not for a recipe: leave it out")
        if recipe.early_stopping_patience is not None and arguments.eval_strategy == "no":
            raise ValueError("early_stopping_patience needs evaluations: set eval_strategy to epoch or steps")
        arguments.check_lambda(model.config.dreg_lambda)
        if isinstance(arguments.class_weights, list):
            normalized_class_weights(arguments.class_weights, [1] * int(model.config.num_labels or 0))
        if recipe.data.streaming and (trains_on_features(recipe, model) or model.config.feature_norm == "standardize"):
            raise ValueError("data.streaming needs a backbone that trains, or LoRA, and feature_norm=layer_norm")
        if recipe.data.streaming and arguments.max_steps <= 0:
            raise ValueError("data.streaming does not know how many rows there are: set max_steps")
        if recipe.lora_r is not None:
            if is_sharded:
                raise ValueError("LoRA is not for FSDP: its few weights train under DDP (configs/accelerate/ddp.yaml)")
            recipe_lora_config(recipe, model)
        trained = model
        if trains_on_features(recipe, model):
            trained = CRForFeatureClassification(CRConfig(**{**model.config.to_dict(), "backbone_config": None}))
        check_arguments(trained, arguments)
    except ValueError as error:
        raise RecipeError(f"training arguments: {error}") from error


def recipe_lora_config(recipe: Recipe, model: CRForSequenceClassification) -> Any:
    """The `LoraConfig` that a recipe with `lora_r` asks for."""
    rank = int(recipe.lora_r or 0)
    return lora_config(model, rank, recipe.lora_alpha, recipe.lora_dropout, recipe.lora_target_modules)


def trains_on_features(recipe: Recipe, model: Any) -> bool:
    """Whether the head trains on features that are encoded once, or are a table's columns."""
    return recipe.kind == "table" or (bool(model.config.freeze_backbone) and recipe.lora_r is None)
