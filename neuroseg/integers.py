"""Loihi's integers with a straight-through gradient. `export.limits` has the same numbers with their sources."""

from __future__ import annotations

from typing import Any

import torch

WEIGHT_MIN, WEIGHT_MAX = -256, 254  # signed 8-bit mantissa in mixed mode: even integers
POTENTIAL_SHIFT = 6  # potentials are compared and stored times 2^6
POTENTIAL_LIMIT = (2**23 - 1) / 2**POTENTIAL_SHIFT  # 24-bit potentials, in the units of weights
BIAS_MANTISSA_MAX, BIAS_EXPONENT_MAX = 4095, 7


def even_integers(half: torch.Tensor) -> torch.Tensor:
    """Half weights to even integers in [-256, 254]; the gradient passes where nothing is clipped."""
    return _EvenInteger.apply(half)


def loihi_bias(shifted: torch.Tensor) -> torch.Tensor:
    """Biases << 6 to what a 13-bit mantissa with one exponent for all can say; the gradient passes."""
    return _LoihiBias.apply(shifted)


class _EvenInteger(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, half: torch.Tensor) -> torch.Tensor:
        rounded = half.round() * 2
        ctx.save_for_backward((rounded >= WEIGHT_MIN) & (rounded <= WEIGHT_MAX))
        return rounded.clamp(WEIGHT_MIN, WEIGHT_MAX)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (inside,) = ctx.saved_tensors
        return 2 * grad * inside


class _LoihiBias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shifted: torch.Tensor) -> torch.Tensor:
        step = 1
        while step < 2**BIAS_EXPONENT_MAX and float((shifted / step).abs().max().round()) > BIAS_MANTISSA_MAX:
            step *= 2
        return (shifted / step).round().clamp(-BIAS_MANTISSA_MAX, BIAS_MANTISSA_MAX) * step

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad
