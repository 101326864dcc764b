"""Loihi's integers with a straight-through gradient. `export.limits` has the limits, `export.quantize` rounds."""

from __future__ import annotations

from typing import Any

import torch

from export import quantize
from export.limits import BIAS_EXPONENT_MAX, BIAS_MANTISSA_MAX, POTENTIAL_MAX, POTENTIAL_SHIFT, WEIGHT_MAX, WEIGHT_MIN

POTENTIAL_LIMIT = POTENTIAL_MAX / 2**POTENTIAL_SHIFT  # in the units of weights


def even_integers(half: torch.Tensor) -> torch.Tensor:
    """Half weights to even integers in [-256, 254]; the gradient passes where nothing is clipped."""
    return _EvenInteger.apply(half)


def loihi_bias(shifted: torch.Tensor) -> torch.Tensor:
    """Biases << 6 to what a 13-bit mantissa with one exponent for all can say; the gradient passes."""
    return _LoihiBias.apply(shifted)


class _EvenInteger(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, half: torch.Tensor) -> torch.Tensor:
        rounded = quantize.even_integers(half)
        ctx.save_for_backward((rounded >= WEIGHT_MIN) & (rounded <= WEIGHT_MAX))
        return rounded.clamp(WEIGHT_MIN, WEIGHT_MAX)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (inside,) = ctx.saved_tensors
        return 2 * grad * inside


class _LoihiBias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shifted: torch.Tensor) -> torch.Tensor:
        step = quantize.bias_step(shifted) or 2**BIAS_EXPONENT_MAX
        return (shifted / step).round().clamp(-BIAS_MANTISSA_MAX, BIAS_MANTISSA_MAX) * step

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad
