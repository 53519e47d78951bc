"""Bounds in float32 against exact Jacobians in float64."""

import pytest
import torch

from cr_hf.modeling.layer_jacobian import LayerJacobian

UNITS = (9, 33, 17)


def spread_out(*shape: int, seed: int, decades: float) -> torch.Tensor:
    """Numbers of both signs over so many powers of ten, as float32's rounding likes them least."""
    generator = torch.Generator().manual_seed(seed)
    sizes = decades * (torch.rand(*shape, generator=generator, dtype=torch.float64) - 0.5)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * 10**sizes


@pytest.mark.parametrize("size", [1.0, 1e-25, 1e25])
@pytest.mark.parametrize("decades", [0.0, 6.0, 40.0])
def test_bounds_hold_and_are_tight_where_numbers_are_alike(size: float, decades: float) -> None:
    weights = [
        spread_out(out, into, seed=out, decades=decades) for into, out in zip((21, *UNITS), UNITS, strict=False)
    ]
    weights[0] *= size
    slopes = [spread_out(5, units, seed=units + 1, decades=decades) for units in UNITS]
    bounded, exact = LayerJacobian.of_first(weights[0]), weights[0].expand(5, -1, -1)
    for layer, weight in enumerate(weights):
        if layer:
            bounded = bounded.after(slopes[layer - 1], weight)
            exact = weight @ (slopes[layer - 1].unsqueeze(-1) * exact)
        lengths = exact.norm(dim=-1)
        assert (bounded.norms >= lengths * (1 - 1e-12)).all()
        factors = spread_out(5, 3, len(weight), seed=7, decades=decades).abs()
        found = [bounded.largest_square(factors, "test") for _ in range(40)][-1]
        root = factors.sqrt().unsqueeze(-1) * exact.unsqueeze(1)
        largest = torch.linalg.matrix_norm(root, ord=2).square()
        assert (found >= largest * (1 - 1e-12)).all()
        if not decades:
            torch.testing.assert_close(bounded.norms.expand_as(lengths), lengths, rtol=1e-3, atol=0.0)
            of_absolutes = (exact @ exact.mT).abs().unsqueeze(1) * factors.unsqueeze(-1)
            top = torch.linalg.eigvals(of_absolutes).abs().amax(-1)
            torch.testing.assert_close(found, top, rtol=2e-3, atol=0.0)


def test_without_weight_nothing_is_found() -> None:
    bounded = LayerJacobian.of_first(torch.eye(3, dtype=torch.float64))
    assert bounded.largest_square(torch.zeros(2, 4, 3, dtype=torch.float64), "test").max() < 1e-40
