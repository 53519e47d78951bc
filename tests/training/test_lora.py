"""LoRA on every backbone: the adapters train, are saved, loaded by peft's own class, and merged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer

from cr_hf import CRForSequenceClassification
from cr_hf.errors import RecipeError
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe
from cr_hf.runs.use import Run
from cr_hf.training.lora import add_lora, linear_layers, lora_config, merge_lora

# peft 0.21 reads it when it loads an adapter.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TinyBackbone = Callable[..., Path]
RECIPES = Path(__file__).resolve().parents[2] / "recipes"
TEXTS = ["a witty film", "bad", "so dull a plot"]


def classifier(folder: Path, frozen: bool) -> CRForSequenceClassification:
    torch.manual_seed(0)
    model = CRForSequenceClassification.from_backbone(
        str(folder), num_labels=3, hidden_sizes=[8], freeze_backbone=frozen
    )
    if frozen:
        model.fit_feature_norm(torch.randn(50, model.config.in_features))
    return model


def take_steps(model: Any, inputs: Any, steps: int = 3) -> None:
    model.train()
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**inputs, labels=torch.tensor([0, 2, 1])).loss.backward()
        optimizer.step()
    model.eval()


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trainable"])
def test_train_save_reload_and_merge_give_equal_logits(
    family: str, frozen: bool, tiny_backbone: TinyBackbone, tmp_path: Path
) -> None:
    folder = tiny_backbone(family)
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS, return_tensors="pt", padding=True)
    model = classifier(folder, frozen)
    untouched = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    adapted = add_lora(model, tmp_path / "base")
    before = {name: value.detach().clone() for name, value in adapted.named_parameters()}
    take_steps(adapted, inputs)
    moved = {name for name, value in adapted.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name, value in adapted.named_parameters() if value.requires_grad}
    assert sum("lora_A" in name for name in moved) == len(linear_layers(classifier(folder, frozen)))
    assert any("classifier.modules_to_save" in name for name in moved)
    state = adapted.state_dict()
    for name, value in untouched.items():
        at = f"base_model.model.backbone.{name}"
        plain = at if at in state else at.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias")
        assert torch.equal(state[plain], value), name
    logits = adapted(**inputs).logits
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(str(tmp_path / "adapter")).eval()
    assert torch.equal(loaded(**inputs).logits, logits)
    merged = merge_lora(adapted)
    torch.testing.assert_close(merged(**inputs).logits, logits, rtol=1e-4, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    again = CRForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(again(**inputs).logits, logits, rtol=1e-4, atol=1e-5)
    assert not any("lora" in name for name in again.state_dict())


def test_chosen_layers_alone_are_adapted(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    model = classifier(tiny_backbone("bert"), frozen=True)
    config = lora_config(model, r=4, target_modules=["query", "attention.output.dense"])
    assert config.lora_alpha == 8
    adapted = add_lora(model, tmp_path / "base", config)
    names = {name.partition(".lora_A")[0] for name, _ in adapted.named_parameters() if ".lora_A" in name}
    assert {name.removeprefix("base_model.model.backbone.encoder.layer.")[2:] for name in names} == {
        "attention.self.query",
        "attention.output.dense",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["q_proj"]}, r"'q_proj' matches no linear layer of the backbone: use some of \['dense'"),
        ({"r": 0}, "lora_r=0"),
        ({"dropout": 1.0}, "lora_dropout=1.0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str, tiny_backbone: TinyBackbone) -> None:
    with pytest.raises(ValueError, match=message):
        lora_config(classifier(tiny_backbone("bert"), frozen=True), **options)


def recipe_overrides(folder: Path, backbone: Path, *more: str) -> list[str]:
    data = ["data.name=embedded", "data.label_names=null", "data.max_train_samples=60", "data.max_eval_samples=30"]
    small = ["num_train_epochs=2", "hidden_sizes=[8]", "lora_r=2", "use_cpu=true"]
    return [f"backbone={backbone}", f"output_dir={folder}", *data, *small, *more]


def test_a_recipe_leaves_the_merged_classifier_and_the_adapter(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    overrides = recipe_overrides(tmp_path / "run", tiny_backbone("bert"))
    run_dir = train_recipe(load_recipe(RECIPES / "sst5_lora.yaml", overrides))
    run = Run(run_dir)
    model, tokenizer = run.model, run.tokenizer
    adapted = AutoPeftModelForSequenceClassification.from_pretrained(str(run_dir / "adapter")).eval()
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    torch.testing.assert_close(adapted(**inputs).logits, model(**inputs).logits, rtol=1e-4, atol=1e-5)


def test_a_target_that_matches_nothing_is_one_line_before_training(
    tiny_backbone: TinyBackbone, tmp_path: Path
) -> None:
    overrides = recipe_overrides(tmp_path / "run", tiny_backbone("bert"), "lora_target_modules=[nothing]")
    with pytest.raises(RecipeError, match="'nothing' matches no linear layer") as caught:
        train_recipe(load_recipe(RECIPES / "sst5_lora.yaml", overrides))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_options_without_a_rank_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="lora_alpha has no effect without lora_r"):
        load_recipe(RECIPES / "sst5_finetune.yaml", ["lora_alpha=4"])
