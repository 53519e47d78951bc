"""A training that ends in the middle, as a kill would end it."""

from typing import Any

import pytest
import torch

import cr_hf.runs.job
import cr_hf.runs.train
from cr_hf.runs.recipe import Recipe


class Interrupted(Exception):
    """Raised in the second step."""


class InterruptedTrainer(cr_hf.runs.job.CRTrainer):
    """Takes one step."""

    def training_step(self, *arguments: Any, **keywords: Any) -> torch.Tensor:
        """Raise in the second one."""
        if self.state.global_step == 1:
            raise Interrupted
        return super().training_step(*arguments, **keywords)


def interrupt(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train a recipe until its second step."""
    with monkeypatch.context() as patch:
        patch.setattr(cr_hf.runs.job, "CRTrainer", InterruptedTrainer)
        with pytest.raises(Interrupted):
            cr_hf.runs.train.train_recipe(recipe)
