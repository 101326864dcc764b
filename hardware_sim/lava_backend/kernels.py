"""Event-driven integer kernels, compiled by numba before Lava forks. Knows no Lava.

Arrays are flat in Lava's (W, H, C) order, so that the output channels of a synapse are contiguous. The cost of
`scatter` follows the spikes, not the neurons. Inputs are summed in int16: `export.limits` bounds the positive and the
negative part of every sum by int16, hence every partial sum too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from export.graph import Conv, ConvT, Dense, Operator, Shape
from export.limits import DECAY_MAX, POTENTIAL_MAX, POTENTIAL_SHIFT

WRAP = POTENTIAL_MAX + 1  # Loihi's current wraps around at 24 bits


@dataclass(frozen=True, eq=False)
class Taps:
    """Where a source pixel's spike goes. columns: int32 (W, kW) target x per tap, or -1; rows: (H, kH) likewise.

    weight: int16 (Cin, kW, kH, outputs per group). first_output: int32 (Cin,), first target channel of the group.
    source, target: (C, H, W).
    """

    columns: np.ndarray
    rows: np.ndarray
    weight: np.ndarray
    first_output: np.ndarray
    source: Shape
    target: Shape


def make_taps(op: Operator, source: Shape, target: Shape) -> Taps:
    """Tables for any operator; a dense synapse is a convolution over the whole source, with one tap per pixel."""
    if isinstance(op, Dense):
        weight = op.weight.reshape(-1, *source).transpose(1, 3, 2, 0)  # Cin, W, H, out
        columns = np.where(np.eye(source[2], dtype=bool), 0, -1)
        rows = np.where(np.eye(source[1], dtype=bool), 0, -1)
        first = np.zeros(source[0])
        # Neurons are numbered in (C, H, W) order of a target that may have sides; dense targets are (C, 1, 1).
        return _taps(columns, rows, weight, first, source, (int(np.prod(target)), 1, 1))
    per_group_in = source[0] // op.groups
    if isinstance(op, ConvT):
        weight, per_group_out = op.weight.transpose(0, 3, 2, 1), op.weight.shape[1]
    else:
        per_group_out = op.weight.shape[0] // op.groups
        grouped = op.weight.reshape(op.groups, per_group_out, per_group_in, *op.weight.shape[2:])
        weight = grouped.transpose(0, 2, 4, 3, 1).reshape(source[0], *op.weight.shape[:1:-1], per_group_out)
    first = np.arange(source[0]) // per_group_in * per_group_out
    axes = [_axis(op, axis, source[1 + axis], target[1 + axis]) for axis in range(2)]
    return _taps(axes[1], axes[0], weight, first, source, target)


def _taps(columns, rows, weight, first, source: Shape, target: Shape) -> Taps:
    def table(values) -> np.ndarray:
        return np.ascontiguousarray(values, np.int32)

    return Taps(table(columns), table(rows), np.ascontiguousarray(weight, np.int16), table(first), source, target)


def _axis(op: Conv | ConvT, axis: int, size: int, target: int) -> np.ndarray:
    """Target coordinate of each source coordinate and tap along one axis, -1 where there is none."""
    place = np.arange(size)[:, None]
    tap = np.arange(op.weight.shape[2 + axis])[None] * op.dilation[axis]
    if isinstance(op, ConvT):
        reached = place * op.stride[axis] - op.padding[axis] + tap
        hit = np.ones_like(reached, bool)
    else:
        reached, rest = np.divmod(place + op.padding[axis] - tap, op.stride[axis])
        hit = rest == 0
    return np.where(hit & (reached >= 0) & (reached < target), reached, -1)


_U8, _I16, _I32 = numba.uint8[::1], numba.int16[::1], numba.int32[::1]
_TABLE, _WEIGHT = numba.int32[:, ::1], numba.int16[:, :, :, ::1]


@numba.njit(
    numba.void(_U8, _TABLE, _TABLE, _WEIGHT, _I32, numba.int64, numba.int64, numba.int64, _I16), cache=True, nogil=True
)
def _scatter(spikes, columns, rows, weight, first_output, channels, height, width, total):
    cin, kw, kh, n = weight.shape
    h_in = rows.shape[0]
    size = spikes.shape[0]
    words = spikes[: size // 8 * 8].view(np.uint64)
    for word in range((size + 7) // 8):
        if word < words.shape[0] and words[word] == 0:
            continue
        for index in range(8 * word, min(8 * word + 8, size)):
            if spikes[index] == 0:
                continue
            pixel, i = divmod(index, cin)
            x, y = divmod(pixel, h_in)
            for kx in range(kw):
                column = columns[x, kx]
                if column < 0:
                    continue
                for ky in range(kh):
                    row = rows[y, ky]
                    if row < 0:
                        continue
                    base = (column * height + row) * channels + first_output[i]
                    source = weight[i, kx, ky]
                    target = total[base : base + n]
                    for o in range(n):
                        target[o] += source[o]


def scatter(spikes: np.ndarray, taps: Taps, total: np.ndarray) -> None:
    """Add the weights of every spike to the inputs it reaches.

    spikes: uint8, flat (W, H, C) of the source. total: int16, flat (W, H, C) of the target, changed in place.
    """
    channels, height, width = taps.target
    _scatter(spikes, taps.columns, taps.rows, taps.weight, taps.first_output, channels, height, width, total)


@numba.njit(numba.void(_I16, _I32, _U8, numba.int32, numba.boolean, numba.boolean), cache=True, nogil=True)
def integrate_fire(total, potential, fired, threshold, subtract, fires):
    """One step of neurons without leak or bias; takes the inputs and leaves them zero.

    total: int16 inputs. potential: int32, << 6. threshold: int32, << 6. fired: uint8 to fill.
    """
    for k in range(total.shape[0]):
        v = potential[k] + (np.int32(total[k]) << POTENTIAL_SHIFT)
        v = min(max(v, np.int32(-POTENTIAL_MAX)), np.int32(POTENTIAL_MAX))
        spike = fires and v > threshold
        after = v - threshold if subtract else np.int32(0)
        potential[k] = after if spike else v
        fired[k] = spike
        total[k] = 0


@numba.njit(
    numba.void(_I16, _I32, _I32, _I32, _U8, numba.int64, numba.int64, numba.int32, numba.boolean, numba.boolean),
    cache=True,
    nogil=True,
)
def cuba(total, current, potential, bias, fired, current_decay, voltage_decay, threshold, subtract, fires):
    """One step of leaky neurons with bias, in the arithmetic of lava-nc's AbstractPyLifModelFixed."""
    for k in range(total.shape[0]):
        u = np.int64(current[k])
        left = (abs(u) * (DECAY_MAX - current_decay)) >> 12
        u = (left if u >= 0 else -left) + (np.int64(total[k]) << POTENTIAL_SHIFT)
        if u > WRAP:
            u -= 2 * WRAP
        elif u <= -WRAP:
            u += 2 * WRAP
        current[k] = u
        v = np.int64(potential[k])
        left = (abs(v) * (DECAY_MAX - voltage_decay)) >> 12
        v = (left if v >= 0 else -left) + u + bias[k]
        v = min(max(v, np.int64(-POTENTIAL_MAX)), np.int64(POTENTIAL_MAX))
        spike = fires and v > threshold
        after = v - threshold if subtract else np.int64(0)
        potential[k] = after if spike else v
        fired[k] = spike
        total[k] = 0


@numba.njit(numba.void(_U8, numba.int64, numba.int64, numba.int64, _U8), cache=True, nogil=True)
def pack_spikes(fired, channels, height, width, bits):
    """Set the bit of every spike. fired: flat (W, H, C); bits: zeros on entry, big-endian bits in (C, H, W) order."""
    size = fired.shape[0]
    words = fired[: size // 8 * 8].view(np.uint64)
    for word in range((size + 7) // 8):
        if word < words.shape[0] and words[word] == 0:
            continue
        for index in range(8 * word, min(8 * word + 8, size)):
            if fired[index]:
                pixel, c = divmod(index, channels)
                x, y = divmod(pixel, height)
                place = (c * height + y) * width + x
                bits[place >> 3] |= 128 >> (place & 7)
