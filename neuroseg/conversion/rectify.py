"""Piecewise linear functions as ReLUs, and so as populations: exact, whatever the values are.

max(a, b) = b + relu(a - b)          leaky(x) = relu(x) - slope relu(-x)      |x| = relu(x) + relu(-x)
clamp(x, low, high) = low + relu(x - low) - relu(x - high)                    x = relu(x) - relu(-x)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from export.graph import Pair
from neuroseg.conversion.linear import Value, added, mapped, scaled, shifted

TERMS_MAX = 3


class Fire(Protocol):
    def __call__(self, value: Value, *, signed: bool = False) -> Value:
        """A value to the spikes of neurons that it drives: its ReLU; signed: the value itself."""


def leaky(value: Value, slope: torch.Tensor | float, fire: Fire) -> Value:
    """relu(x) - slope relu(-x); slope a number, or a constant that broadcasts against x."""
    if value.nonnegative:
        return value
    return _sum(fire(value), scaled(fire(scaled(value, -1)), -torch.as_tensor(slope, dtype=torch.float64)))


def absolute(value: Value, fire: Fire) -> Value:
    return value if value.nonnegative else _sum(fire(value), fire(scaled(value, -1)), nonnegative=True)


def clamp(value: Value, low: float | None, high: float | None, fire: Fire) -> Value:
    """min(max(x, low), high)."""
    if low is not None:
        value = shifted(fire(shifted(value, -low)), low)
    if high is None:
        return value
    beyond = scaled(fire(shifted(value, -high)), -1)
    return _sum(value, beyond, nonnegative=low is not None and low >= 0 and high >= 0)


def maximum(a: Value, b: Value, fire: Fire) -> Value:
    """b + relu(a - b). What is a sum of much already becomes neurons first, or sums of sums would never end."""
    a, b = (fire(value, signed=True) if len(value.terms) > TERMS_MAX else value for value in (a, b))
    difference = fire(added([a, scaled(b, -1)]))
    return _sum(b, difference, nonnegative=a.nonnegative or b.nonnegative)


def minimum(a: Value, b: Value, fire: Fire) -> Value:
    return scaled(maximum(scaled(a, -1), scaled(b, -1), fire), -1)


def max_pool(value: Value, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, sides: Pair, fire: Fire) -> Value:
    """Largest of every window of (1, C, H, W), along rows, then along columns: one population for each further tap.

    What is no spikes yet becomes them first: else each of those populations had the synapses of all that came before.
    """
    if not value.is_spikes:
        value = fire(value, signed=True)
    for axis in (1, 0):
        windows = _windows(value, 2 + axis, kernel[axis], stride[axis], padding[axis], dilation[axis], sides[axis])
        value = largest(value, 2 + axis, windows, fire)
    return value


def largest(value: Value, axis: int, windows: Sequence[Sequence[int]], fire: Fire) -> Value:
    """Largest of every window of places along an axis, two and two at a time; the place after the last is 0."""
    table = np.array(windows)  # windows, taps
    count, taps = table.shape
    if taps == 1:
        return _selected(value, axis, table[:, 0])
    half = taps // 2
    first, second = (_selected(value, axis, table[:, k : 2 * half : 2].reshape(-1)) for k in range(2))
    pairs = maximum(first, second, fire)
    top = largest(pairs, axis, np.arange(count * half).reshape(count, half).tolist(), fire)
    return maximum(top, _selected(value, axis, table[:, -1]), fire) if taps % 2 else top


def _windows(
    value: Value, axis: int, kernel: int, stride: int, padding: int, dilation: int, side: int
) -> list[list[int]]:
    """The places that each window sees.

    Where a tap falls on padding, it sees 0 if nothing is less, or else another of its window: both change no maximum.
    """
    size = value.shape[axis]
    windows = []
    for place in range(side):
        taps = [place * stride - padding + k * dilation for k in range(kernel)]
        inside = [i for i in taps if 0 <= i < size]
        nearest = [min(inside, key=lambda i, tap=tap: abs(i - tap)) for tap in taps]  # type: ignore[misc]
        windows.append([i if i == tap or not value.nonnegative else size for i, tap in zip(nearest, taps, strict=True)])
    return windows


def _selected(value: Value, axis: int, index: np.ndarray) -> Value:
    """Places along an axis; the one after the last is 0."""
    places = torch.from_numpy(index)
    if np.array_equal(index, np.arange(value.shape[axis])):
        return value

    def select(x: torch.Tensor) -> torch.Tensor:
        zero = x.new_zeros([*x.shape[:axis], 1, *x.shape[axis + 1 :]])
        return torch.cat([x, zero], axis).index_select(axis, places)

    return mapped(value, select, positive=True)


def _sum(*values: Value, nonnegative: bool = False) -> Value:
    total = added(values)
    return Value(total.name, total.shape, total.terms, total.constant, nonnegative or total.nonnegative)
