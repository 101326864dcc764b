"""What observed spikes say about the numbers behind them: sums that drove a neuron, and bounds on one weight.

For neurons that only integrate (no decay), whose potentials do not clip.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from export.graph import Conv, Dense, Edge, Neuron, Sparse
from export.limits import POTENTIAL_SHIFT

UNIT = 1 << POTENTIAL_SHIFT  # potential of one weight unit
Range = tuple[float, float]


def taps(edge: Edge, x: torch.Tensor, channel: int) -> Iterator[tuple[Callable[[int], tuple[int, ...]], torch.Tensor]]:
    """For each input channel the spikes (T, B, K, H, W) that K weights into one channel carry, and a weight's index."""
    op = edge.op
    assert not isinstance(op, Sparse), "its weights lead into one neuron each"
    if isinstance(op, Dense):
        yield (lambda k: (channel, k)), x.flatten(2)[..., None, None]
        return
    height, width = op.weight.shape[2:]
    ones = torch.eye(height * width).unflatten(1, (height, width))  # K, kH, kW
    outputs = op.weight.shape[0] if isinstance(op, Conv) else op.weight.shape[1] * op.groups
    inputs = x.shape[2] // op.groups
    first = channel // (outputs // op.groups) * inputs
    for k in range(inputs):
        alone = x[:, :, first + k : first + k + 1].flatten(0, 1)
        if isinstance(op, Conv):
            seen = F.conv2d(alone, ones[:, None], None, op.stride, op.padding, op.dilation)
            index = (channel, k)
        else:
            seen = F.conv_transpose2d(alone, ones[None], None, op.stride, op.padding, op.output_padding, 1, op.dilation)
            index = (first + k, channel % op.weight.shape[1])
        yield functools.partial(_tap_index, index, width), seen.unflatten(0, x.shape[:2])


def into_neuron(op: Sparse, x: torch.Tensor, number: int) -> tuple[np.ndarray, torch.Tensor]:
    """The K single synapses into one neuron: their places in `op.weight`, and the spikes (T, B, K, 1, 1) they carry."""
    synapses = np.flatnonzero(op.target == number)
    return synapses, x.flatten(2)[:, :, op.source[synapses], None, None]


def _tap_index(channels: tuple[int, int], width: int, tap: int) -> tuple[int, ...]:
    return (*channels, tap // width, tap % width)


def drive(currents: torch.Tensor, observed: torch.Tensor, neuron: Neuron) -> torch.Tensor:
    """All that drove the neurons up to each step, in weight units: input, bias and start potential. float64."""
    driven = currents.double().clone()
    if neuron.bias is not None:
        bias = torch.as_tensor(neuron.bias).double() / UNIT
        bias = bias.reshape((1,) * (3 - bias.ndim) + bias.shape)  # C, H, W, any of them 1
        driven += bias
    driven[0] += neuron.u0 / UNIT
    return gather(driven, observed, neuron)


def gather(currents: torch.Tensor, observed: torch.Tensor, neuron: Neuron) -> torch.Tensor:
    """Sums up to each step, float64; with reset `zero` since the last spike that was observed."""
    if neuron.threshold is None or neuron.reset == "subtract":
        return currents.double().cumsum(0)
    total = torch.zeros_like(currents[0], dtype=torch.float64)
    sums = []
    for arriving, fired in zip(currents, observed, strict=True):
        total = total + arriving
        sums.append(total)
        total = total * (fired == 0)
    return torch.stack(sums)


def spent(observed: torch.Tensor, neuron: Neuron) -> torch.Tensor:
    """Spikes before each step, whose thresholds are gone from the potential; none with reset `zero`."""
    before = observed.double().cumsum(0) - observed
    return before if neuron.reset == "subtract" else torch.zeros_like(before)


def bounds(carried: torch.Tensor, missing: torch.Tensor, fired: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and greatest integer d (K,) with d * carried > missing where neurons fired and only there; else an empty
    range.

    carried: (T, B, K, H, W), of either sign; missing, fired: (T, B, 1, H, W).
    """
    away = (0, 1, 3, 4)
    up, down = carried > 0, carried < 0
    ratio = missing / torch.where(up | down, carried, 1)
    low = torch.where(up & fired, ratio.floor() + 1, torch.where(down & ~fired, ratio.ceil(), -math.inf))
    high = torch.where(up & ~fired, ratio.floor(), torch.where(down & fired, ratio.ceil() - 1, math.inf))
    impossible = (~(up | down) & (fired != (missing < 0))).any(4).any(3).any(1).any(0)
    return torch.where(impossible, math.inf, low.amax(away)), torch.where(impossible, -math.inf, high.amin(away))


def thresholds(driven: torch.Tensor, before: torch.Tensor, observed: torch.Tensor, neuron: Neuron) -> Range:
    """Least and greatest threshold v with which neurons do what was observed; an empty range where none does.

    They fire where driven > v (before + 1) and only there, ternary ones -1 where driven < v (before - 1). before: what
    was `spent`; all of one shape.
    """
    low, high = _below(before + 1, driven, observed > 0)
    if neuron.ternary:
        further = _below(1 - before, -driven, observed < 0)
        low, high = max(low, further[0]), min(high, further[1])
    return low, high


def _below(times: torch.Tensor, sums: torch.Tensor, fired: torch.Tensor) -> Range:
    """Least and greatest integer v with v * times < sums where `fired` and only there; an empty range where none is."""
    up, down = times > 0, times < 0
    ratio = sums / torch.where(up | down, times, 1)
    low = torch.where(up & ~fired, ratio.ceil(), torch.where(down & fired, ratio.floor() + 1, -math.inf))
    high = torch.where(up & fired, ratio.ceil() - 1, torch.where(down & ~fired, ratio.floor(), math.inf))
    if bool((~(up | down) & (fired != (sums > 0))).any()):
        return math.inf, -math.inf
    return float(low.max()), float(high.min())


def exact(carried: torch.Tensor, difference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The d (K,) with d * carried = difference in all (B, K, H, W), twice; an empty range where there is none."""
    away = (0, 2, 3)
    moved = carried != 0
    ratio = difference / torch.where(moved, carried, 1)
    low = torch.where(moved, ratio, math.inf).amin(away)
    high = torch.where(moved, ratio, -math.inf).amax(away)
    impossible = (low != high) | (~moved & (difference != 0)).any(3).any(2).any(0)
    return torch.where(impossible, math.inf, low), torch.where(impossible, -math.inf, high)


def between(low: float, high: float) -> str:
    if low == high:
        return f"{low:g}"
    if math.isinf(low) or math.isinf(high):
        return f"at least {low:g}" if math.isinf(high) else f"at most {high:g}"
    return f"between {low:g} and {high:g}"
