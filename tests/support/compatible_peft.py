"""Lines about peft: every method trains and saves the head whole, beside adapters in the backbone."""

import contextlib
from pathlib import Path
from typing import Any

import peft
import torch
from compatible import Desk, refused, works
from peft.utils.hotswap import hotswap_adapter

from cr_hf import CRForSequenceClassification, merge_lora

AREA = "peft"
ATTENTION = r"backbone\..*(query|value)"
SHARED: dict[str, Any] = {"task_type": "SEQ_CLS", "modules_to_save": ["classifier"]}
LORA: dict[str, Any] = {**SHARED, "target_modules": ATTENTION, "r": 4}
METHODS: dict[str, Any] = {
    "LoRA": lambda: peft.LoraConfig(**LORA),
    "rsLoRA": lambda: peft.LoraConfig(**LORA, use_rslora=True),
    "DoRA": lambda: peft.LoraConfig(**LORA, use_dora=True),
    "AdaLoRA": lambda: peft.AdaLoraConfig(**SHARED, target_modules=ATTENTION, total_step=10),
    "LoHa": lambda: peft.LoHaConfig(**LORA),
    "LoKr": lambda: peft.LoKrConfig(**LORA),
    "VeRA": lambda: peft.VeraConfig(**LORA),
    "OFT": lambda: peft.OFTConfig(**SHARED, target_modules=ATTENTION, oft_block_size=4),
    "IA3": lambda: peft.IA3Config(**SHARED, target_modules=ATTENTION, feedforward_modules=[]),
    "LN tuning": lambda: peft.LNTuningConfig(**SHARED, target_modules=r"backbone\..*LayerNorm"),
}


def adapted(desk: Desk, config: Any) -> tuple[Any, Any, Path]:
    """A classifier under this method, a batch, and the folder of its base."""
    folder, batch, _ = desk.saved()
    base = CRForSequenceClassification.from_pretrained(folder)
    return peft.get_peft_model(base, config), batch, folder


def moved(model: Any, batch: Any) -> torch.Tensor:
    """Logits after a step in which every trainable parameter got a gradient and moved."""
    model.train()(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            assert parameter.grad is not None
            parameter += 0.05 * torch.randn_like(parameter)
        return model.eval()(**batch).logits


def _method(make: Any) -> Any:
    def attempt(desk: Desk) -> None:
        model, batch, base = adapted(desk, make())
        expected, folder = moved(model, batch), desk.folder
        model.save_pretrained(folder)
        loaded = peft.PeftModel.from_pretrained(CRForSequenceClassification.from_pretrained(base), folder)
        torch.testing.assert_close(loaded.eval()(**batch).logits, expected)
        automatic = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder)
        torch.testing.assert_close(automatic.eval()(**batch).logits, expected)
        merged = merge_lora(model)
        assert type(merged) is CRForSequenceClassification
        torch.testing.assert_close(merged(**batch).logits, expected, rtol=1e-4, atol=1e-5)

    return attempt


for _name, _make in METHODS.items():
    works(AREA, f"{_name}: train, save, `PeftModel`, `AutoPeftModel...`, `merge_lora`")(_method(_make))


@works(AREA, "several adapters on one encoder, each with its head, switched by `set_adapter`")
def _(desk: Desk) -> None:
    model, batch, _ = adapted(desk, METHODS["LoRA"]())
    first = moved(model, batch)
    model.add_adapter("other", METHODS["LoRA"]())
    model.set_adapter("other")
    second = moved(model, batch)
    model.set_adapter("default")
    torch.testing.assert_close(model(**batch).logits, first)
    assert not torch.allclose(first, second)


@works(AREA, "`load_adapter`, `delete_adapter`, `disable_adapter`")
def _(desk: Desk) -> None:
    model, batch, base = adapted(desk, METHODS["LoRA"]())
    expected, folder = moved(model, batch), desk.folder
    model.save_pretrained(folder)
    model.load_adapter(folder, "again")
    model.delete_adapter("default")
    model.set_adapter("again")
    torch.testing.assert_close(model(**batch).logits, expected)
    with model.disable_adapter():
        plain = CRForSequenceClassification.from_pretrained(base)(**batch).logits
        torch.testing.assert_close(model(**batch).logits, plain)


@works(AREA, "LoRA under `CRTrainer`")
def _(desk: Desk) -> None:
    model, _, _ = adapted(desk, METHODS["LoRA"]())
    desk.train(model, desk.rows(), {"processing_class": desk.tokenizer})


@works(AREA, "`merge_and_unload` of LoRA, AdaLoRA and LN tuning")
def _(desk: Desk) -> None:
    for name in ("LoRA", "AdaLoRA", "LN tuning"):
        model, batch, _ = adapted(desk, METHODS[name]())
        expected = moved(model, batch)
        torch.testing.assert_close(model.merge_and_unload()(**batch).logits, expected, rtol=1e-4, atol=1e-5)


@refused(
    AREA,
    "`merge_and_unload` of IA3, VeRA, LoHa, LoKr and OFT",
    "peft looks for a `weight` of the head ([peft#3114](https://github.com/huggingface/peft/issues/3114)): use "
    "`cr_hf.merge_lora`, which merges them all",
    "has no attribute 'weight'",
)
def _(desk: Desk) -> None:
    for name in ("VeRA", "LoHa", "LoKr", "OFT", "IA3"):
        model, _, _ = adapted(desk, METHODS[name]())
        with contextlib.suppress(AttributeError) if name != "IA3" else contextlib.nullcontext():
            model.merge_and_unload()
            raise AssertionError(f"{name} merges now")


@refused(
    AREA,
    "`hotswap_adapter`",
    "peft swaps the weights of LoRA alone, not heads ([peft#3581](https://github.com/huggingface/peft/issues/3581)): "
    "load several adapters and use `set_adapter`",
    "classifier",
)
def _(desk: Desk) -> None:
    model, _, _ = adapted(desk, METHODS["LoRA"]())
    folder = desk.folder
    model.save_pretrained(folder)
    hotswap_adapter(model, str(folder), adapter_name="default")


SIZES: dict[str, Any] = {"task_type": "SEQ_CLS", "num_virtual_tokens": 4, "token_dim": 32}
SIZES |= {"num_layers": 2, "num_attention_heads": 2}


@works(AREA, "prompt tuning; `token_dim`, `num_layers` and `num_attention_heads` have to be given")
def _(desk: Desk) -> None:
    model, batch, _ = adapted(desk, peft.PromptTuningConfig(**SIZES))
    moved(model, batch)


@works(AREA, "p-tuning; likewise")
def _(desk: Desk) -> None:
    model, batch, _ = adapted(desk, peft.PromptEncoderConfig(**SIZES, encoder_hidden_size=8))
    moved(model, batch)


@refused(
    AREA,
    "prefix tuning",
    "where `forward` takes no `past_key_values`, peft puts backbone and head together anew and expects a head that "
    "returns logits alone: use another method",
    "'tuple' object has no attribute",
)
def _(desk: Desk) -> None:
    model, batch, _ = adapted(desk, peft.PrefixTuningConfig(**SIZES))
    moved(model, batch)
