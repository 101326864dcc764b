"""The neuron against a naive re-derivation, its gradient against autograd step by step, the encoders."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroseg.spiking.encode import encode
from neuroseg.spiking.kernels import STEPS
from neuroseg.spiking.neuron import backward_torch, integrate_fire, scan, scan_backward, scan_forward, scan_torch


@given(
    st.lists(st.lists(st.integers(-300, 300), min_size=3, max_size=3), min_size=1, max_size=12),
    st.integers(1, 200),
    st.sampled_from(["subtract", "zero"]),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([math.inf, 400.0]),
)
def test_scan_against_plain_python(currents, threshold, reset, start, limit):
    charged, spikes, after = scan(
        torch.tensor(currents, dtype=torch.float32),
        threshold=threshold,
        reset=reset,
        u0=start * threshold,
        limit=limit,
    )
    for neuron in range(3):
        u = start * threshold
        for t, row in enumerate(currents):
            u = max(-limit, min(limit, u + row[neuron]))
            assert charged[t, neuron] == u
            fires = u > threshold
            assert spikes[t, neuron] == fires
            if fires:
                u = u - threshold if reset == "subtract" else 0
            assert after[t, neuron] == u


class _Spike(torch.autograd.Function):
    """Eq. 4 and 5 for one step, to let autograd do the rest."""

    @staticmethod
    def forward(ctx, u, v, alpha):
        ctx.save_for_backward(u)
        ctx.v, ctx.alpha = v, alpha
        return (u > v).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad * ctx.alpha / ctx.v * torch.clamp(1 - torch.abs(u - ctx.v) / ctx.v, min=0), None, None


@given(
    st.integers(0, 10_000),
    st.integers(1, 9),
    st.sampled_from(["subtract", "zero"]),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.sampled_from([0.3, 1.0]),
)
def test_gradient_against_autograd_step_by_step(seed, timesteps, reset, v, alpha):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(timesteps, 5, generator=generator, dtype=torch.float64) * v
    weights = torch.randn(timesteps, 5, generator=generator, dtype=torch.float64)
    ours = x.clone().requires_grad_()
    (integrate_fire(ours, threshold=v, reset=reset, u0=0.2 * v, alpha=alpha) * weights).sum().backward()

    theirs = x.clone().requires_grad_()
    u, total = torch.full((5,), 0.2 * v, dtype=torch.float64), 0.0
    for t in range(timesteps):
        u = u + theirs[t]
        s = _Spike.apply(u, v, alpha)
        total = total + (s * weights[t]).sum()
        fired = s.detach()  # the reset is detached
        u = u - v * fired if reset == "subtract" else u * (1 - fired)
    total.backward()
    coarse = float(weights.abs().sum()) * alpha / v / STEPS  # the surrogate is kept in fixed point
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=coarse)


@given(
    st.integers(0, 10_000),
    st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 70)),
    st.sampled_from(["subtract", "zero"]),
    st.sampled_from([1.0, 0.37, 251.0]),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([math.inf, 2.0]),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_compiled_scan_equals_its_readable_twin(seed, shape, reset, v, start, limit, channels_last, dtype):
    """Bit for bit, forward and backward, in both memory layouts and precisions."""
    generator = torch.Generator().manual_seed(seed)
    x, weights = (torch.randn(shape, generator=generator) * v for _ in range(2))
    if channels_last:
        x = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    settings = {"threshold": v, "reset": reset, "u0": start * v, "limit": limit * v, "dtype": dtype}
    spikes, trace = scan_torch(x, **settings)
    fired, kept = scan_forward(x, **settings)
    assert fired.dtype == dtype and torch.equal(fired, spikes) and torch.equal(kept, trace)
    gradient = {"reset": reset, "height": 0.7 / v / STEPS}
    expected = backward_torch(weights.to(dtype), trace, **gradient)
    assert torch.equal(scan_backward(weights.to(dtype), kept, **gradient), expected)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8), st.integers(1, 32))
def test_rate_code_against_its_definition(intensities, timesteps):
    spikes = encode(torch.tensor(intensities), timesteps=timesteps)
    for k, x in enumerate(intensities):
        for t in range(1, timesteps + 1):
            expected = math.floor(t * x + 0.5) - math.floor((t - 1) * x + 0.5)
            assert spikes[t - 1, k] == expected


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8), st.integers(1, 32), st.integers(2, 255))
def test_graded_code_against_its_definition(intensities, timesteps, levels):
    spikes = encode(torch.tensor(intensities), timesteps=timesteps, encoder="graded", levels=levels)
    for k, x in enumerate(intensities):
        told = [math.floor(t * (levels * x) + 0.5) for t in range(timesteps + 1)]
        assert spikes[:, k].tolist() == [after - before for before, after in pairwise(told)]
        assert {math.floor(levels * x), math.ceil(levels * x)} >= set(spikes[:, k].tolist())


def test_rate_code_is_a_neuron_under_constant_bias():
    """What an IF neuron with soft reset emits from u0 = v/2; ties aside, since it fires above, not at, v."""
    x = torch.tensor([0.0, 0.123, 0.31, 0.77, 0.9])
    neuron = integrate_fire(x.double().expand(20, -1), threshold=1.0, u0=0.5)
    torch.testing.assert_close(encode(x, timesteps=20).double(), neuron)


def test_poisson_is_seeded_and_has_the_right_rate():
    x = torch.full((100, 100), 0.3)
    a, b = (encode(x, timesteps=20, encoder="poisson", seed=s) for s in (1, 1))
    assert torch.equal(a, b) and set(a.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(a, encode(x, timesteps=20, encoder="poisson", seed=2))
    assert float(a.mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / a.numel()))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="'hard' is unknown"):
        integrate_fire(torch.zeros(2, 1), reset="hard")
    with pytest.raises(ValueError, match="threshold is 0"):
        integrate_fire(torch.zeros(2, 1), threshold=0)
    with pytest.raises(ValueError, match="'latency' is unknown"):
        encode(torch.zeros(2), timesteps=4, encoder="latency")
    with pytest.raises(ValueError, match=r"lie in \[0, 2\]"):
        encode(torch.tensor([0.0, 2.0]), timesteps=4)
    with pytest.raises(ValueError, match="nan"):
        encode(torch.tensor([np.nan]), timesteps=4)
    with pytest.raises(ValueError, match="'graded' with 1 level; 2 or more"):
        encode(torch.zeros(2), timesteps=4, encoder="graded")
