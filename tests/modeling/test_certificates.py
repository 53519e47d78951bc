"""Certified radii against attacks, brute force and the exact distances of linear heads."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cr_hf.evaluation.lipschitz import lipschitz_bound
from cr_hf.modeling import CRConfig, CRForFeatureClassification, CRHead
from cr_hf.modeling.activations import FIXED_ACTIVATIONS
from cr_hf.modeling.certificates import bend_range, certified_radius, largest_slopes, slope_range

IN_FEATURES = 6
LINK = {"objective": "ordinal", "ordinal_loss": "cumulative_link"}
ACTIVATIONS: list[dict[str, Any]] = [
    *({"activation": name} for name in FIXED_ACTIVATIONS),
    *({"degree": degree, "polynomial_range": reach} for degree in (1, 2, 3, 5) for reach in (0.7, 6.0, None)),
]
HIDDEN_SIZES: list[list[int]] = [[], [7], [8, 5], [6, 9, 4]]


def random_head(seed: int = 0, spread: float = 2.0, **fields: Any) -> CRHead:
    """A fitted float64 head whose weights are larger than at the start, so that it is far from linear."""
    torch.manual_seed(seed)
    values = {"in_features": IN_FEATURES, "num_labels": 4, "hidden_sizes": [8, 7], "dropout": 0.5, **fields}
    head = CRHead(CRConfig(**values)).double().eval()
    with torch.no_grad():
        for layer in head.layers:
            layer.linear.weight.mul_(spread)
            if layer.coefficients is not None:
                layer.coefficients.add_(0.2 * torch.randn_like(layer.coefficients))
    if hasattr(head.feature_norm, "set_statistics"):
        head.feature_norm.set_statistics(torch.ones(IN_FEATURES), torch.full((IN_FEATURES,), 4.0))
    return head


def rows_of(count: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, IN_FEATURES, generator=generator, dtype=torch.float64) * 2 + 1


def trained_head(**fields: Any) -> CRHead:
    """A head after a hundred steps on classes that a random linear map with noise makes."""
    head, rows = random_head(spread=1.0, **fields), rows_of(200, seed=9)
    labels = (rows @ rows_of(4, seed=5).T + 2 * torch.randn(200, 4, dtype=torch.float64)).argmax(-1)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        logits, dreg = head(rows, output_dreg=True)
        assert dreg is not None
        (F.cross_entropy(logits, labels) + 0.01 * dreg.sum()).backward()
        optimizer.step()
    return head


def attack(head: CRHead, rows: Tensor, radii: Tensor, restarts: int, steps: int = 12) -> Tensor:
    """Whether projected gradient descent on a margin changes the class within the radius, shape (rows, restarts)."""
    start = head.feature_norm(rows.to(head.readout.weight)).detach().repeat_interleave(restarts, 0)
    limit = (radii * (1 - (1e-12 if start.dtype == torch.float64 else 1e-6))).to(start).repeat_interleave(restarts)
    own = head.trace(start).logits.argmax(-1, keepdim=True)
    # Restart after restart another class is aimed at.
    target = (own + 1 + torch.arange(len(start))[:, None] % (head.config.num_labels - 1)) % head.config.num_labels
    generator = torch.Generator().manual_seed(0)
    moved = torch.randn(start.shape, generator=generator, dtype=torch.float64).to(start)
    changed = torch.zeros(len(start), dtype=torch.bool)
    for _ in range(steps):
        moved = limit[:, None] * F.normalize(moved, dim=-1)
        point = (start + moved).requires_grad_()
        logits = head.trace(point).logits
        changed |= logits.argmax(-1) != own[:, 0]
        margin = (logits.gather(1, own) - logits.gather(1, target)).sum()
        (slope,) = torch.autograd.grad(margin, point)
        moved = moved - limit[:, None] * F.normalize(slope, dim=-1)
    return changed.view(len(rows), restarts)


@pytest.mark.parametrize("hidden_sizes", HIDDEN_SIZES, ids=str)
@pytest.mark.parametrize("fields", ACTIVATIONS, ids=lambda fields: "-".join(map(str, fields.values())))
def test_no_attack_succeeds_within_a_radius(fields: dict[str, Any], hidden_sizes: list[int]) -> None:
    rows = rows_of(8)
    for head in (random_head(hidden_sizes=hidden_sizes, **fields), trained_head(hidden_sizes=hidden_sizes, **fields)):
        for model in (head, copy.deepcopy(head).float()):
            radii = certified_radius(model, rows)
            assert radii.dtype == torch.float64
            assert not attack(model, rows, radii, restarts=12).any()


@pytest.mark.parametrize("fields", [LINK, {"objective": "ordinal"}, {"feature_norm": "layer_norm"}], ids=str)
def test_no_attack_succeeds_on_ordered_classes_and_layer_norm(fields: dict[str, Any]) -> None:
    rows = rows_of(40)
    for seed in range(4):
        head = random_head(seed, **fields)
        radii = certified_radius(head, rows)
        assert (radii > 0).all()
        assert not attack(head, rows, radii, restarts=12).any()


def test_attacks_are_strong_enough_to_succeed_a_little_further() -> None:
    head, rows = trained_head(), rows_of(50)
    assert attack(head, rows, 1.5 * certified_radius(head, rows), restarts=12).any(1).double().mean() > 0.5


@pytest.mark.parametrize("fields", [{}, LINK], ids=str)
def test_linear_heads_have_their_exact_distance(fields: dict[str, Any]) -> None:
    head, rows = random_head(hidden_sizes=[], **fields), rows_of(30)
    weight, points = head.readout.weight.detach(), head.feature_norm(rows)
    if fields:
        # With two classes the only boundary is where the score meets the threshold.
        head = random_head(hidden_sizes=[], num_labels=2, **fields)
        weight = head.readout.weight.detach()
        exact = (head.readout(points) - head.thresholds()).abs()[:, 0] / weight.norm()
    else:
        logits = head.trace(points).logits
        own = logits.argmax(-1)
        distances = (logits.amax(-1, keepdim=True) - logits) / (weight[own][:, None] - weight).norm(dim=-1)
        exact = distances.scatter(1, own[:, None], math.inf).amin(-1)
    radii = certified_radius(head, rows)
    torch.testing.assert_close(radii, exact.detach(), rtol=1e-9, atol=1e-12)
    assert (radii < exact).all()


@pytest.mark.parametrize("fields", ACTIVATIONS, ids=lambda fields: "-".join(map(str, fields.values())))
def test_radii_are_never_below_the_bound_that_holds_everywhere(fields: dict[str, Any]) -> None:
    head, rows = random_head(**fields), rows_of(30)
    logits = head(rows)[0]
    top = logits.topk(2).values
    steepest = 2**0.5 * lipschitz_bound(head)
    assert (certified_radius(head, rows) >= (top[:, 0] - top[:, 1]) / steepest * (1 - 1e-6)).all()


def test_radii_do_not_depend_on_the_rows_beside_or_on_the_mode() -> None:
    head, rows = random_head(), rows_of(30)
    model = CRForFeatureClassification(head.config).double()
    model.classifier.load_state_dict(head.state_dict())
    together = model.train().certified_radius(rows)
    assert model.training
    # The bound holds Gram matrices in float32, whose sums are taken in another order for another number of rows.
    torch.testing.assert_close(together[3:5], model.certified_radius(rows[3:5]), rtol=1e-7, atol=0)
    assert model.certified_radius(rows[:0]).shape == (0,)


@pytest.mark.parametrize(
    "fields", [{"problem_type": "regression"}, {"problem_type": "multi_label_classification"}], ids=str
)
def test_what_has_no_classes_has_no_radius(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=fields["problem_type"]):
        certified_radius(random_head(**fields), rows_of(2))


def test_rows_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        certified_radius(random_head(), torch.full((1, IN_FEATURES), math.nan))


# ---- one layer ----


@pytest.mark.parametrize(
    "fields",
    [*ACTIVATIONS, {"degree": 12, "polynomial_range": 2.0}],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_ranges_hold_on_dense_grids(fields: dict[str, Any]) -> None:
    layer = random_head(**fields).layers[0]
    z = torch.linspace(-4, 4, 41, dtype=torch.float64)[:, None].expand(-1, 8).contiguous()
    for width in (0.02, 0.5, 3.0):
        distance = torch.full_like(z, width)
        steps = torch.linspace(-width, width, 402, dtype=torch.float64)[:, None, None]  # 0 is not among them
        (value, slope), (values, slopes) = layer.activate(z), layer.activate((z + steps).flatten(0, 1))
        slopes, values = slopes.view(-1, *z.shape), values.view(-1, *z.shape)
        least, most = slope_range(layer, z - distance, z + distance)
        assert (least <= slopes.amin(0)).all()
        assert (slopes.amax(0) <= most).all()
        bends = (values - value - slope * steps) / steps.square()
        rounding = 1e-15 * (1 + value.abs()) * 64 / steps.square().amin()
        least, most = bend_range(layer, z, distance)
        assert (least <= bends.amin(0) + rounding).all()
        assert (bends.amax(0) <= most + rounding).all()


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("reach", [0.7, 6.0])
def test_largest_slopes_are_tight_and_never_too_low(degree: int, reach: float) -> None:
    layer = random_head(degree=degree, polynomial_range=reach).layers[0]
    coefficients = layer.coefficients.detach().numpy()
    for unit, bound in enumerate(largest_slopes(layer).tolist()):
        derivative = np.polynomial.Polynomial(coefficients[:, unit]).deriv()
        values = np.abs(derivative(np.linspace(-reach, reach, 20001)))
        assert values.max() <= bound <= values.max() * 1.1


@pytest.mark.parametrize(
    "fields",
    [one for one in ACTIVATIONS if one.get("degree", 3) <= 3 and one.get("polynomial_range", 1.0) is not None],
)
def test_the_slope_that_a_certificate_allows_is_that_which_dreg_penalises(fields: dict[str, Any]) -> None:
    layer = random_head(**fields).layers[0]
    allowed = largest_slopes(layer)
    penalised = torch.as_tensor(layer.worst_squared_slopes, dtype=torch.float64).sqrt().expand_as(allowed)
    assert (allowed >= penalised * (1 - 1e-6)).all()
    torch.testing.assert_close(allowed, penalised.detach(), rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("activation", FIXED_ACTIVATIONS)
def test_largest_slopes_of_fixed_activations(activation: str) -> None:
    layer = random_head(activation=activation, hidden_sizes=[1]).layers[0]
    with torch.no_grad():
        layer.linear.weight.zero_()
        layer.linear.weight[0, 0], layer.linear.bias[0] = 1.0, 0.0
    z = torch.zeros(200_001, IN_FEATURES, dtype=torch.float64)
    z[:, 0] = torch.linspace(-40, 40, len(z), dtype=torch.float64)
    steepest = layer(z)[1].abs().max().item()
    assert steepest <= largest_slopes(layer).item() <= steepest + 1e-6
