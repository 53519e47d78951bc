"""The penalties that DREG is measured against: many heads at a time, each with its `SweepHead.penalty_weight`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from ..training import HeadGroup, Rows, Stacked


class DoubleBackwardGroup(HeadGroup):
    """Heads whose penalty is the squared norm of a gradient by the normalised features, by double backward."""

    def read_rows(self, features: Tensor) -> Tensor:
        """The rows as leaves of the graph."""
        return super().read_rows(features).clone().requires_grad_()

    def penalty(self, rows: Tensor, logits: Tensor, losses: Tensor) -> Tensor:
        """The squared norm of the gradient of `output`, a mean over rows, times the weight of each head."""
        (gradient,) = torch.autograd.grad(self.output(logits, losses).sum(), rows, create_graph=True)
        return self.penalty_weights * (gradient.square().sum(dim=(1, 2)) / rows.shape[1])

    def output(self, logits: Tensor, losses: Tensor) -> Tensor:
        """What is differentiated: a sum over rows, shape (K,)."""
        raise NotImplementedError


class InputGradientGroup(DoubleBackwardGroup):
    """The mean over rows of the squared norm of the gradient of the row's loss by its normalised features.

    Source: Drucker and LeCun (1992), Improving generalization performance using double backpropagation.
    """

    def output(self, logits: Tensor, losses: Tensor) -> Tensor:
        """The loss summed over rows, shape (K,)."""
        return losses * logits.shape[1]


class JacobianGroup(DoubleBackwardGroup):
    """An unbiased estimate, by one random projection a row, of the mean squared Frobenius norm of the Jacobian.

    Source: Hoffman, Roberts and Yaida (2019), Robust learning with Jacobian regularization, arXiv 1908.02729.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.directions = [torch.Generator().manual_seed(head.arguments.seed) for head in self.heads]

    def output(self, logits: Tensor, losses: Tensor) -> Tensor:
        """The logits along the projections, summed over rows, shape (K,)."""
        shape = logits.shape[1:]
        drawn = torch.stack([torch.randn(shape, generator=generator) for generator in self.directions]).to(logits)
        return (logits * F.normalize(drawn, dim=-1)).sum(dim=(1, 2)) * shape[-1] ** 0.5


class SpectralNormGroup(HeadGroup):
    """Heads whose weights are divided by their largest singular value, by torch's own parametrisation.

    Source: Miyato et al. (2018), Spectral normalization for generative adversarial networks.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.norms = {
            name: [_parametrisation(weight) for weight in values]
            for name, values in self.leaves.items()
            if name.endswith(".weight")
        }

    def evaluate(self, features: Rows, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As in a sweep, with the weights that are in force; they are what is kept."""
        every = [norm for norms in self.norms.values() for norm in norms]
        for norm in every:
            norm.eval()  # a look at the weights takes no step of the power iteration
        with torch.no_grad():
            self.parameters = self.effective_parameters()
        for norm in every:
            norm.train()
        return super().evaluate(features, labels)

    def effective_parameters(self) -> Stacked:
        """The weights over their largest singular values."""
        return {
            name: torch.stack([norm(weight) for norm, weight in zip(self.norms[name], values, strict=True)])
            if name in self.norms
            else values
            for name, values in self.leaves.items()
        }


def _parametrisation(weight: Tensor) -> Any:
    """Torch's spectral normalisation of one weight, with its power iteration."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        parametrised: Any = parametrizations.spectral_norm(linear)
    return parametrised.parametrizations.weight[0]


PENALTIES = {"input_gradient": InputGradientGroup, "jacobian": JacobianGroup, "spectral_norm": SpectralNormGroup}
