"""Every training argument that a recipe can name, with a value that works and one that is refused before any work."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from feature_rows import head
from transformers.utils import logging

from cr_hf import CRForSequenceClassification, CRTrainingArguments
from cr_hf.errors import RecipeError
from cr_hf.runs.build import check_together, training_arguments
from cr_hf.runs.recipe import TRAINING_KEYS, load_recipe
from cr_hf.training.trainer import check_arguments

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "sst5_finetune.yaml"
TRUE_OR_FALSE = """average_tokens_across_devices fp16_full_eval bf16_full_eval fp16 bf16 auto_find_batch_size use_cache
logging_first_step log_on_each_node logging_nan_inf_filter disable_tqdm eval_on_start eval_use_gather_object
save_only_model save_on_each_node enable_jit_checkpoint push_to_hub hub_private_repo hub_always_push greater_is_better
ignore_data_skip restore_callback_states_from_checkpoint full_determinism use_cpu dataloader_drop_last
dataloader_pin_memory dataloader_in_order ddp_find_unused_parameters ddp_broadcast_buffers ddp_static_graph
skip_memory_metrics activation_checkpointing gradient_checkpointing torch_compile load_best_model_at_end"""
TEXT = "run_name project trackio_space_id trackio_bucket_id hub_token hub_model_id hub_revision"
FIELDS: dict[str, tuple[Any, Any]] = {
    **dict.fromkeys(TRUE_OR_FALSE.split(), (True, "perhaps")),
    **dict.fromkeys(TEXT.split(), ("x", 7)),
    "trackio_static_space_id": ("x", ["x"]),
    "per_device_train_batch_size": (4, 0),
    "per_device_eval_batch_size": (4, 0),
    "num_train_epochs": (0.5, -1),
    "max_steps": (5, 1.5),
    "learning_rate": (1e-3, float("inf")),
    "head_learning_rate": (1e-3, -1),
    "threshold_learning_rate": (1e-3, -1),
    "layer_decay": (0.9, 2),
    "lr_scheduler_type": ("cosine", "warmup_stable_decay"),
    "lr_scheduler_kwargs": ({}, {"nonsense": 1}),
    "warmup_steps": (0.1, -1),
    "optim": ("adafactor", "galore_adamw"),
    "optim_args": ("x=1", "nonsense"),
    "optim_target_modules": (["query"], 7),
    "weight_decay": (0.1, float("inf")),
    "adam_beta1": (0.8, 1.5),
    "adam_beta2": (0.8, 1.5),
    "adam_epsilon": (1e-6, -1),
    "gradient_accumulation_steps": (2, 0),
    "max_grad_norm": (0.5, -1),
    "label_smoothing_factor": (0.1, 2),
    "tf32": (None, "perhaps"),
    "activation_checkpointing_kwargs": ({"use_reentrant": False}, {"nonsense": 1}),
    "gradient_checkpointing_kwargs": ({"use_reentrant": False}, {"nonsense": 1}),
    "torch_compile_backend": ("aot_eager", "nonsense"),
    "torch_compile_mode": ("reduce-overhead", "nonsense"),
    "use_liger_kernel": (False, True),
    "liger_kernel_config": ({"rope": True}, "nonsense"),
    "neftune_noise_alpha": (5.0, -1),
    "torch_empty_cache_steps": (2, 0),
    "logging_strategy": ("steps", "sometimes"),
    "logging_steps": (2, -1),
    "include_num_input_tokens_seen": ("all", "perhaps"),
    "log_level": ("info", "loud"),
    "log_level_replica": ("info", "loud"),
    "report_to": (["none"], "wandb"),
    "eval_strategy": ("epoch", "no"),
    "eval_steps": (2, -1),
    "eval_delay": (1, -1),
    "prediction_loss_only": (False, True),
    "eval_do_concat_batches": (True, False),
    "eval_accumulation_steps": (1, 0),
    "include_for_metrics": (["inputs"], 7),
    "batch_eval_metrics": (False, True),
    "save_strategy": ("epoch", "sometimes"),
    "save_steps": (2, -1),
    "save_total_limit": (1, "many"),
    "hub_strategy": ("end", "sometimes"),
    "metric_for_best_model": ("accuracy", "nonsense"),
    "seed": (1, -1),
    "data_seed": (1, -1),
    "accelerator_config": ({"split_batches": False}, {"nonsense": 1}),
    "parallelism_config": (None, {"tp_size": 2}),
    "dataloader_num_workers": (1, -1),
    "dataloader_persistent_workers": (False, True),
    "dataloader_prefetch_factor": (None, 2),
    "dataloader_multiprocessing_context": (None, "nonsense"),
    "label_names": (None, ["x"]),
    "train_sampling_strategy": ("group_by_length", "nonsense"),
    "length_column_name": ("x", 7),
    "ddp_bucket_cap_mb": (1, "many"),
    "ddp_backend": (None, "nonsense"),
    "ddp_timeout": (10, -1),
    "fsdp": (None, "nonsense"),
    "fsdp_config": (None, "nowhere.json"),
    "deepspeed": (None, "nowhere.json"),
    "debug": ("", "nonsense"),
    "local_rank": (-1, "first"),
    "dreg_lambda_end": (None, -1),
    "dreg_schedule": ("linear", "cos"),
    "dreg_warmup_steps": (0.1, -1),
    "class_weights": ("balanced", [1, -1, 1, 1, 1]),
}
COMPANIONS: dict[str, dict[str, Any]] = {
    "activation_checkpointing_kwargs": {"activation_checkpointing": True},
    "gradient_checkpointing_kwargs": {"activation_checkpointing": True},
    "liger_kernel_config": {"use_liger_kernel": True},
    "fsdp_config": {"fsdp": True},
}
"""Other arguments without which one has no effect."""


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    """Some arguments set more than themselves."""
    environment, verbosity = dict(os.environ), logging.get_verbosity()
    yield
    os.environ.clear()
    os.environ.update(environment)
    logging.set_verbosity(verbosity)
    torch.use_deterministic_algorithms(False)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def model(tiny_backbone: Callable[..., Path]) -> CRForSequenceClassification:
    return CRForSequenceClassification.from_backbone(str(tiny_backbone("bert")), num_labels=5, hidden_sizes=[4])


@pytest.fixture
def check(model: CRForSequenceClassification, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """What `train_recipe` does before it encodes anything, with values as a YAML file gives them."""

    def checked(**values: Any) -> None:
        recipe = load_recipe(RECIPE, ["use_cpu=true", f"output_dir={tmp_path}"])
        recipe.training.update(values)
        recipe.save(tmp_path / "recipe.yaml")
        read = load_recipe(tmp_path / "recipe.yaml")
        check_together(read, training_arguments(read, tmp_path), model)

    yield checked
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_no_field_is_left_out() -> None:
    assert set(FIELDS) == TRAINING_KEYS - {"dreg_lambda"}, "dreg_lambda of a recipe is the model's"


OLD_NAMES = pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")


@OLD_NAMES
@pytest.mark.parametrize("name", FIELDS)
def test_a_good_value_works(name: str, check: Callable[..., None]) -> None:
    check(**{name: FIELDS[name][0]})


@OLD_NAMES
@pytest.mark.parametrize("name", FIELDS)
def test_a_bad_value_is_refused(name: str, check: Callable[..., None]) -> None:
    with pytest.raises(RecipeError) as error:
        check(**COMPANIONS.get(name, {}), **{name: FIELDS[name][1]})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [None, "", "nonsense", ["tensorboard", "nonsense"]])
def test_reporters_that_there_are_not(value: Any, check: Callable[..., None]) -> None:
    with pytest.raises(RecipeError, match="report_to"):
        check(report_to=value)


@pytest.mark.parametrize(("name", "value"), [("dreg_schedule", "cos"), ("dreg_lambda", "auto")])
def test_our_own_fields_are_checked_when_made(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name}='{value}'"):
        CRTrainingArguments(output_dir=str(tmp_path), **{name: value})


@pytest.mark.parametrize(("name", "value"), [("activation_checkpointing", True), ("neftune_noise_alpha", 5.0)])
def test_what_needs_a_backbone_is_refused_for_features(name: str, value: Any, tmp_path: Path) -> None:
    args = CRTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **{name: value})
    with pytest.raises(ValueError, match=name):
        check_arguments(head(), args)
