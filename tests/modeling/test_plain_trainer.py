"""The models under transformers' own Trainer."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classifiers import LABELS, TEXTS, feature_model, text_model
from conftest import TinyBackbone
from torch import Tensor
from transformers import (
    AutoTokenizer,
    Trainer,
    TrainingArguments,
)


def rows_of(features: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    return [{"features": row, "labels": label} for row, label in zip(features, labels.tolist(), strict=True)]


class TestPlainTrainer:
    @staticmethod
    def arguments(folder: Path, **fields: Any) -> TrainingArguments:
        defaults = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "use_cpu": True}
        return TrainingArguments(
            output_dir=str(folder), **{**defaults, "disable_tqdm": True, "save_strategy": "no", **fields}
        )

    @pytest.mark.parametrize("accumulation", [1, 4])
    def test_one_step_is_the_gradient_of_task_loss_plus_lambda_dreg(self, tmp_path: Path, accumulation: int) -> None:
        model, features = feature_model(dropout=0.0, dreg_lambda=0.2), torch.randn(16, 16)
        labels = torch.randint(0, 3, (16,))
        expected = copy.deepcopy(model).train()
        output = expected(features, labels=labels)
        (output.task_loss + 0.2 * output.dreg.sum()).backward()
        torch.optim.SGD(expected.parameters(), lr=0.1).step()
        arguments = self.arguments(
            tmp_path, per_device_train_batch_size=16 // accumulation, gradient_accumulation_steps=accumulation
        )
        Trainer(model, arguments, train_dataset=rows_of(features, labels)).train()
        for (name, actual), parameter in zip(model.named_parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(
                actual, parameter, rtol=1e-5, atol=1e-7, msg=lambda text, n=name: f"{n}: {text}"
            )

    def test_evaluation_and_prediction(self, tmp_path: Path) -> None:
        model, features, labels = feature_model(), torch.randn(10, 16), torch.randint(0, 3, (10,))
        trainer = Trainer(model, self.arguments(tmp_path), eval_dataset=rows_of(features, labels))
        metrics = trainer.evaluate()
        with torch.no_grad():
            expected = model(features, labels=labels)
        assert metrics["eval_loss"] == pytest.approx(expected.task_loss.item(), rel=1e-5)
        predictions = trainer.predict(rows_of(features, labels)).predictions
        assert isinstance(predictions, np.ndarray)
        np.testing.assert_allclose(predictions, expected.logits, rtol=1e-5, atol=1e-6)

    def test_texts(self, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
        model, _ = text_model(tiny_backbone("bert"))
        tokenizer = AutoTokenizer.from_pretrained(tiny_backbone("bert"))
        rows = [{**tokenizer(text), "labels": label} for text, label in zip(TEXTS, LABELS.tolist(), strict=True)]
        before = copy.deepcopy(model.state_dict())
        trainer = Trainer(
            model,
            self.arguments(tmp_path, per_device_train_batch_size=2),
            train_dataset=rows,
            eval_dataset=rows,
            processing_class=tokenizer,
        )
        trainer.train()
        assert not any(
            torch.equal(parameter, before[name]) for name, parameter in model.named_parameters() if "layers" in name
        )
        assert trainer.predict(rows).predictions.shape == (3, 3)
        assert math.isfinite(trainer.evaluate()["eval_loss"])
