"""Dropout of many heads at once, and how many of them are trained together."""

import torch

from cr_hf.modeling.configuration_cr import CRConfig
from cr_hf.modeling.layers import Dropout
from cr_hf.training.sampling import dropout_seed
from cr_hf.training.stacked import StackedDropout, default_group_size


def test_dropout_masks_are_those_of_the_module():
    widths, rows, seed = [40, 7], 13, 5
    stacked = StackedDropout([0.3, 0.0], [seed, 6], widths, 8, torch.zeros(()))
    masks = stacked.masks(2, rows)
    module = Dropout(0.3).train()
    for number, (start, end) in enumerate(((0, 8), (8, 13))):
        torch.manual_seed(dropout_seed(seed, 2, number))
        for mask, width in zip(masks, widths, strict=True):
            assert torch.equal(mask[0, start:end], module(torch.ones(end - start, width)))
            assert torch.equal(mask[1], torch.ones(rows, width))
    assert StackedDropout([0.0], [1], widths, 8, torch.zeros(())).masks(0, rows) == []


def test_group_sizes_follow_from_memory():
    cpu = torch.device("cpu")
    wide = CRConfig(in_features=2688, num_labels=5)
    narrow = CRConfig(in_features=384, num_labels=5)
    assert default_group_size(wide, 128, torch.float32, cpu) == 10
    assert default_group_size(narrow, 128, torch.float32, cpu) == 30
    assert default_group_size(wide, 128, torch.float64, cpu) == 5
    assert default_group_size(wide, 128, torch.float32, cpu, copied_rows=100_000) == 3
    assert default_group_size(CRConfig(in_features=10**6, num_labels=5), 128, torch.float32, cpu) == 1


def test_stacked_masks_have_the_asked_rate_and_do_not_depend_on_the_neighbours():
    rates, widths, like = [0.3, 0.0, 0.5], [40, 7], torch.zeros(())
    together = StackedDropout(rates, [1, 2, 3], widths, 64, like)
    alone = StackedDropout(rates[2:], [3], widths, 64, like)
    for step, batch in enumerate((64, 64, 13)):
        masks = together.masks(step, batch)
        assert [mask.shape for mask in masks] == [(3, batch, 40), (3, batch, 7)]
        for mask, single in zip(masks, alone.masks(step, batch), strict=True):
            assert torch.equal(mask[2], single[0])
            assert torch.equal(mask[1], torch.ones_like(mask[1]))
            torch.testing.assert_close(mask[0].unique(), torch.tensor([0, 1 / 0.7]))
    many = StackedDropout(rates, [1, 2, 3], [500], 400, like).masks(0, 400)[0]
    torch.testing.assert_close((many > 0).float().mean((1, 2)), torch.tensor([0.7, 1.0, 0.5]), atol=5e-3, rtol=0)
    torch.testing.assert_close(many.mean((1, 2)), torch.ones(3), atol=1e-2, rtol=0)
    assert torch.isfinite(StackedDropout([1 - 1e-9], [1], [500], 400, like).masks(0, 400)[0]).all()
