"""Dropout's masks: how often, how strong, of what layout, from which seed; elsewhere PyTorch's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from neuroseg.training.dropout import LEVELS, Dropout, noise

SHAPE = (6, 5, 30, 29)  # an odd number of values: the last draw is used in part


def image(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(SHAPE, dtype=dtype).add_(0.5).requires_grad_()


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_share_is_dropped_and_the_rest_scaled(p):
    torch.manual_seed(3)
    drawn = noise(torch.empty(40, 25, 30, 30), p)
    dropped = (drawn == 0).double().mean().item()
    assert abs(dropped - p) < 5 * math.sqrt(p * (1 - p) / drawn.numel()) + 1 / LEVELS
    (kept,) = set(drawn.unique().tolist()) - {0.0}
    assert kept == pytest.approx(1 / (1 - round(p * LEVELS) / LEVELS))


def test_neighbours_are_dropped_independently():
    """Four numbers come with a draw: none may follow from another."""
    torch.manual_seed(4)
    drawn = (noise(torch.empty(2**20), 0.3) == 0).numpy().reshape(-1, 8).astype(float)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(8)).max() < 0.02  # 131,072 rows: 7 standard errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_pass_through_the_same_mask(dtype, layout):
    x = image(dtype).detach().contiguous(memory_format=layout).requires_grad_()
    torch.manual_seed(5)
    y = Dropout(0.25)(x)
    assert y.dtype == dtype and y.is_contiguous(memory_format=layout)
    y.sum().backward()
    scale = torch.tensor(1 / 0.75, dtype=dtype)
    assert {0.0, float(scale)} == set(x.grad.unique().tolist())
    assert torch.equal(y, x * x.grad)


def test_a_view_of_other_strides_keeps_its_shape():
    x = torch.rand(4, 6, 8).requires_grad_()
    y = Dropout(0.5)(x.transpose(0, 2))
    assert y.shape == (8, 6, 4) and 0.2 < (y == 0).double().mean() < 0.8


def test_the_seed_of_torch_decides():
    x, drop = image(), Dropout(0.1)
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append((drop(x), drop(x)))
    assert torch.equal(made[0][0], made[1][0]) and torch.equal(made[0][1], made[1][1])
    assert not torch.equal(made[0][0], made[0][1]) and not torch.equal(made[0][0], made[2][0])


@pytest.mark.parametrize("p", [0.0, 1e-7, 0.3, 1 - 1e-7, 1.0])
def test_elsewhere_it_is_that_of_pytorch(p):
    """Where it is switched off, where no gradient flows, and at shares that 16 bits do not tell from 0 or 1."""
    ours, theirs, x = Dropout(p), nn.Dropout(p), image()
    cases = [(False, x), (True, x.detach())] + ([] if p == 0.3 else [(True, x)])
    for training, given in cases:
        found = []
        for module in (ours, theirs):
            torch.manual_seed(6)
            found.append(module.train(training)(given))
        assert torch.equal(*found)
