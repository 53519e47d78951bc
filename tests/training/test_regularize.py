"""DREG of modules that are no CR heads: exact, whatever the batch is divided into, and seen by trainers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from classifiers import TEXTS
from conftest import TinyBackbone
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

from cr_hf import DREG, CRForSequenceClassification, CRTrainer, CRTrainingArguments

BLOCKS = ["intermediate"]


def bert(tiny_backbone: TinyBackbone, **fields: Any) -> Any:
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = AutoModelForSequenceClassification.from_pretrained(tiny_backbone("bert"), num_labels=3, **off, **fields)
    return model.double().train()


@pytest.fixture
def batch(tiny_backbone: TinyBackbone) -> Any:
    encoded = AutoTokenizer.from_pretrained(tiny_backbone("bert"))(TEXTS, padding=True, return_tensors="pt")
    return {**encoded, "labels": torch.tensor([0, 1, 2])}


@pytest.mark.parametrize(
    "activation", [nn.GELU(), nn.Tanh(), nn.SiLU(), nn.ReLU(inplace=True), nn.Softplus()], ids=str
)
def test_it_is_the_norm_of_autograds_jacobian_and_so_is_its_gradient(activation: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 5), activation, nn.Dropout(0.0), nn.Linear(5, 3)).double()
    reference = nn.ReLU() if isinstance(activation, nn.ReLU) else activation
    rows = torch.randn(6, 4, dtype=torch.float64)
    dreg = DREG(model, readouts=["3"], dreg_lambda=0.1)
    model(rows)

    def squared_norms() -> Tensor:
        first = torch.func.vmap(torch.func.jacrev(lambda row: reference(model[0](row))))(rows)
        return torch.stack([first.square().sum((1, 2)).mean(), model[3].weight.square().sum()])

    dreg_values = torch.stack(list(dreg.values.values()))
    gradients = torch.autograd.grad(dreg.penalty, [*model.parameters()], allow_unused=True)
    dreg.remove()
    expected = squared_norms()
    torch.testing.assert_close(dreg_values, expected)
    wanted = torch.autograd.grad(0.1 * expected.sum(), [*model.parameters()], allow_unused=True)
    for one, other in zip(gradients, wanted, strict=True):
        assert (one is None or not one.any()) == (other is None or not other.any())
        if one is not None and other is not None:
            torch.testing.assert_close(one, other)


def gradients(model: Any, batches: list[Any]) -> list[Tensor]:
    model.zero_grad()
    for part in batches:
        (model(**part).loss * len(part["labels"]) / 3).backward()
    return [parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None]


def test_blocks_of_bert_under_accumulation_and_checkpointing(tiny_backbone: TinyBackbone, batch: Any) -> None:
    """Padding counts for nothing, and what is computed once more in the backward pass counts once."""
    model = bert(tiny_backbone)
    plain = model(**batch).loss
    dreg = DREG(model, BLOCKS, dreg_lambda=0.5)
    output = model(**batch)
    assert set(dreg.values) == {f"bert.encoder.layer.{layer}.intermediate.dense" for layer in (0, 1)}
    torch.testing.assert_close(output.loss, plain + dreg.penalty)
    whole = gradients(model, [batch])
    values = dreg.values
    parts = [{name: column[row : row + 1] for name, column in batch.items()} for row in range(3)]
    for one, other in zip(gradients(model, parts), whole, strict=True):
        torch.testing.assert_close(one, other)
    model.activation_checkpointing_enable({"use_reentrant": False})
    for one, other in zip(gradients(model, [batch]), whole, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(dreg.values, values)
    model.activation_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(ValueError, match="use_reentrant"):
        model(**batch)
    assert "regularization" not in model.eval()(**batch)


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, Any]:
    shared: Any = {"max_steps": 1, "per_device_train_batch_size": 3, "use_cpu": True, "report_to": "none"}
    return shared | {"output_dir": str(tmp_path), "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True}


def focal(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    return nn.functional.cross_entropy(outputs.logits, labels)


@pytest.mark.parametrize("options", [{}, {"compute_loss_func": focal}], ids=["own loss", "a given loss"])
@pytest.mark.parametrize("kind", [Trainer, CRTrainer])
def test_trainers_add_it(
    kind: Any, options: Any, tiny_backbone: TinyBackbone, batch: Any, arguments: dict[str, Any]
) -> None:
    if kind is Trainer and options:
        pytest.skip("transformers' Trainer passes a given loss the outputs: add outputs.regularization there")
    rows = [{name: column[row] for name, column in batch.items()} for row in range(3)]
    torch.manual_seed(0)
    model = bert(tiny_backbone)
    DREG(model, BLOCKS, dreg_lambda=0.5)
    expected = model(**batch).loss.item()
    args = (TrainingArguments if kind is Trainer else CRTrainingArguments)(**arguments)
    trainer = kind(model=model, args=args, train_dataset=rows, **options)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_beside_the_dreg_of_a_head(tiny_backbone: TinyBackbone, batch: Any, arguments: dict[str, Any]) -> None:
    model = CRForSequenceClassification.from_backbone(
        tiny_backbone("bert"), num_labels=3, hidden_sizes=[4], dropout=0.0, freeze_backbone=False, dreg_lambda=0.3
    )
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    dreg = DREG(model, BLOCKS, dreg_lambda=0.5)
    before = model.train()(**batch)
    rows = [{name: column[row] for name, column in batch.items()} for row in range(3)]
    trainer = CRTrainer(model=model, args=CRTrainingArguments(**arguments), train_dataset=rows)
    trainer.train()
    entry = trainer.state.log_history[0]
    assert entry["task_loss"] == pytest.approx(before.task_loss.item(), rel=1e-5)
    expected = before.task_loss + 0.3 * before.dreg.sum() + before.regularization
    assert before.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert entry["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert all(name.startswith("backbone.encoder") for name in dreg.values)


def test_what_it_cannot_see_is_refused() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(2, 2)

        def forward(self, rows: Tensor) -> Tensor:
            return nn.functional.relu(self.dense(rows))

    with pytest.raises(ValueError, match="'intermediat' is in the name of no linear layer"):
        DREG(Functional(), ["intermediat"])
    for model in (Functional(), nn.Sequential(nn.Linear(2, 2), nn.Softmax(-1)), nn.Sequential(nn.Linear(2, 2))):
        DREG(model)
        with pytest.raises(ValueError, match="no activation module"):
            model(torch.ones(1, 2))
