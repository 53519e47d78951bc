"""The heads of a study: what each of them is, and the settings that are tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import RecipeError, nearest

LINEAR_SETTINGS = tuple({"learning_rate": value} for value in (1e-4, 3e-4, 1e-3, 3e-3))
DROPOUT_SETTINGS = tuple({"dropout": value} for value in (0.1, 0.3, 0.5, 0.7))
DREG_SETTINGS = tuple({"dreg_lambda": value, "dropout": 0.3} for value in (0.01, 0.02, 0.04, 0.08))
DECAY_SETTINGS = tuple({"weight_decay": value, "dropout": 0.3} for value in (0.1, 1.0, 10.0, 30.0))
GRADIENT_SETTINGS = tuple({"penalty": value, "dropout": 0.3} for value in (0.1, 1.0, 10.0, 100.0))
JACOBIAN_SETTINGS = tuple({"penalty": value, "dropout": 0.3} for value in (0.01, 0.1, 1.0, 10.0))


@dataclass(frozen=True)
class Head:
    """A head of a study.

    Args:
        fields: of `CRConfig`, the same for every setting.
        settings: fields of `HeadSpec`, and `penalty` for the coefficient of another penalty than DREG; every head of a
            study tries equally many.
        penalty: one of `penalties.PENALTIES` in place of DREG.
    """

    fields: dict[str, Any]
    settings: tuple[dict[str, float], ...]
    penalty: str | None = None


HEADS = {
    "linear": Head({"hidden_sizes": []}, LINEAR_SETTINGS),
    "mlp-relu": Head({"activation": "relu"}, DROPOUT_SETTINGS),
    "mlp-gelu": Head({"activation": "gelu"}, DROPOUT_SETTINGS),
    "cr": Head({"activation": "polynomial"}, DROPOUT_SETTINGS),
    "cr+dreg": Head({"activation": "polynomial"}, DREG_SETTINGS),
    "gelu+dreg": Head({"activation": "gelu"}, DREG_SETTINGS),
    "gelu+weight-decay": Head({"activation": "gelu"}, DECAY_SETTINGS),
    "gelu+gradient-penalty": Head({"activation": "gelu"}, GRADIENT_SETTINGS, "input_gradient"),
    "gelu+jacobian": Head({"activation": "gelu"}, JACOBIAN_SETTINGS, "jacobian"),
    "gelu+spectral-norm": Head({"activation": "gelu"}, DROPOUT_SETTINGS, "spectral_norm"),
}

DESCRIPTIONS = {
    "linear": "one linear map, no hidden layer; learning rates are tried",
    "mlp-relu": "an MLP with ReLU; dropouts are tried",
    "mlp-gelu": "an MLP with GELU; dropouts are tried",
    "cr": "ChainzRule: an MLP with a learnable cubic polynomial for each unit; dropouts are tried",
    "cr+dreg": "ChainzRule with DREG, the penalty on the Jacobian of every layer; lambdas are tried",
    "gelu+dreg": "an MLP with GELU and DREG; lambdas are tried",
    "gelu+weight-decay": "an MLP with GELU; weight decays are tried",
    "gelu+gradient-penalty": "an MLP with GELU and a penalty on the input gradient of the loss; lambdas are tried",
    "gelu+jacobian": "an MLP with GELU and a penalty on a random projection of its Jacobian; lambdas are tried",
    "gelu+spectral-norm": "an MLP with GELU, its weights divided by their spectral norm; dropouts are tried",
}


def check_heads(heads: Sequence[str]) -> None:
    """Refuse names out of no study.

    Raises:
        RecipeError: naming the head that is unknown or given twice.
    """
    for head in heads:
        if head not in HEADS:
            raise RecipeError(f"--heads: {head!r} is unknown{nearest(head, HEADS)}: use {', '.join(HEADS)}")
        if heads.count(head) > 1:
            raise RecipeError(f"--heads: {head!r} is given twice")
