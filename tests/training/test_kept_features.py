"""A frozen backbone under `CRTrainer` encodes every text once, and the training is the one that encodes each epoch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from children import start_together
from process_jobs import arguments, text_rows
from transformers import AutoTokenizer, DataCollatorWithPadding

from cr_hf import CRForSequenceClassification, CRTrainer
from cr_hf.training import kept_features
from cr_hf.training.kept_features import KeptFeatures

TinyBackbone = Callable[..., Path]


def frozen(backbone: Path, dtype: torch.dtype = torch.float64) -> CRForSequenceClassification:
    torch.manual_seed(0)
    options: dict[str, Any] = {"hidden_sizes": [8], "dropout": 0.3, "freeze_backbone": True, "dtype": dtype}
    return CRForSequenceClassification.from_backbone(str(backbone), num_labels=3, **options).to(dtype)


def trainer_of(model: CRForSequenceClassification, folder: Path, backbone: Path, **more: Any) -> CRTrainer:
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    values = {"num_train_epochs": 3, "eval_strategy": "epoch", "per_device_train_batch_size": 16, **more}
    rows = {"train_dataset": text_rows(tokenizer), "eval_dataset": text_rows(tokenizer, 9)}
    return CRTrainer(model, arguments(folder, **values), data_collator=DataCollatorWithPadding(tokenizer), **rows)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each batch that a backbone has read."""
    rows, encode = [], CRForSequenceClassification._encode

    def counting(self: Any, inputs: Any, **outputs: bool) -> Any:
        rows.append(len(inputs["input_ids"]))
        return encode(self, inputs, **outputs)

    monkeypatch.setattr(CRForSequenceClassification, "_encode", counting)
    return rows


def train_both(folder: Path, backbone: Path, encoded: list[int], batch_size: int = 16) -> list[int]:
    """Train with features that are kept, and without; the rows that the backbone read."""
    trained, read = [], []
    for hooked in (False, True):
        model = frozen(backbone)
        if hooked:  # it wants to see the backbone run, so nothing is kept
            model.backbone.register_forward_hook(lambda *_: None)
        trained.append(trainer_of(model, folder / str(hooked), backbone, per_device_train_batch_size=batch_size))
        trained[-1].train()
        read.append(sum(encoded))
        encoded.clear()
    assert "_features" not in vars(trained[0].model)
    logs = [[entry for entry in trainer.state.log_history if "train_runtime" not in entry] for trainer in trained]
    for one, other in zip(*logs, strict=True):
        for name in {"loss", "grad_norm", "dreg", "eval_loss", "eval_gradient_tail_ratio"} & set(one):
            assert one[name] == pytest.approx(other[name], rel=1e-9), name
    for name, value in trained[0].model.state_dict().items():
        torch.testing.assert_close(value, trained[1].model.state_dict()[name], rtol=1e-9, atol=1e-11)
    return read


def test_the_same_losses_and_weights(tiny_backbone: TinyBackbone, tmp_path: Path, encoded: list[int]) -> None:
    read = train_both(tmp_path, tiny_backbone("bert"), encoded)
    assert read == [46, 4 * 46 + 3 * 9]  # the rows of evaluation begin as those of training


@pytest.mark.slow
def test_two_processes_share_the_encoding(tiny_backbone: TinyBackbone, tmp_path: Path, encoded: list[int]) -> None:
    backbone = tiny_backbone("bert")

    def divided() -> None:
        read = train_both(tmp_path, backbone, encoded, batch_size=8)
        assert read[0] == 23, read
        assert read[1] >= 4 * 23 + 3 * 4

    for ended in [child.wait() for child in start_together(divided)]:
        assert ended.code == 0, ended.errors[-4000:]


def test_a_resumed_training_reads_the_same_numbers(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    backbone, weights = tiny_backbone("bert"), []
    for resume in (None, str(tmp_path / "checkpoint-3")):
        trainer = trainer_of(frozen(backbone, torch.float32), tmp_path, backbone, save_strategy="epoch")
        trainer.train(resume)
        weights.append(trainer.model.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_what_is_not_kept(tiny_backbone: TinyBackbone, encoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = frozen(tiny_backbone("bert")), torch.tensor([[2, 40, 41, 3], [2, 42, 43, 3]])
    kept, inputs = KeptFeatures(model), {"input_ids": ids, "attention_mask": torch.ones(2, 4).long()}
    first = kept(inputs)[0]
    padded = {name: torch.nn.functional.pad(value, (1, 2)) for name, value in inputs.items()}
    assert torch.equal(kept(padded)[0], first)
    assert encoded == [2]
    assert kept(inputs, False, True)[1].hidden_states is not None
    model.backbone.requires_grad_(True)
    with torch.no_grad():
        model.backbone.embeddings.word_embeddings.weight[40] *= -1
    kept(inputs)
    model.backbone.requires_grad_(False)
    assert not torch.allclose(kept(inputs)[0][0], first[0])  # trained since, and encoded anew
    monkeypatch.setattr(kept_features, "LIMIT", 0)
    full = KeptFeatures(model)
    assert torch.equal(full(inputs)[0], full(inputs)[0])
    assert encoded == [2] * 6


@pytest.mark.parametrize("values", [{"max_steps": 1}, {"num_train_epochs": 0.5}])
def test_a_training_within_an_epoch_encodes_what_it_reads(
    tiny_backbone: TinyBackbone, tmp_path: Path, encoded: list[int], values: dict[str, Any]
) -> None:
    model = frozen(tiny_backbone("bert"))
    model.fit_feature_norm(torch.randn(8, model.config.in_features, dtype=torch.float64))
    trainer_of(model, tmp_path, tiny_backbone("bert"), eval_strategy="no", **values).train()
    assert sum(encoded) <= 32 < len(text_rows(AutoTokenizer.from_pretrained(tiny_backbone("bert"))))
