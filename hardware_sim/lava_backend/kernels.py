"""Event-driven integer kernels, compiled by numba before Lava forks. Knows no Lava.

Arrays are flat in Lava's (W, H, C) order, so that the output channels of a synapse are contiguous. The cost of
`scatter` follows the spikes, not the neurons. Inputs are summed in int16: `export.limits` bounds the positive and the
negative part of every sum by int16, hence every partial sum too.
"""

from __future__ import annotations

import math

from hardware_sim.numba_cache import ensure_cache

ensure_cache(__file__)  # before numba looks for a place

import numba
import numpy as np

from hardware_sim.lava_backend.tables import Columns, Pooled, Taps

_U8, _I16, _I32 = numba.uint8[::1], numba.int16[::1], numba.int32[::1]
_COLUMNS, _ROWS, _WEIGHT = numba.int32[:, ::1], numba.int32[:, :, ::1], numba.int16[:, :, :, ::1]
_INT = numba.int64


SPREAD = np.uint64(0x8040201008040201)  # times a word of eight bytes 0 or 1: its highest byte has them as bits
_SET = np.array([[k for k in range(8) if byte >> (7 - k) & 1] + [0] * (8 - byte.bit_count()) for byte in range(256)])
PLACES, COUNTS = _SET.astype(np.int32), np.array([byte.bit_count() for byte in range(256)])  # of the bits of a byte


@numba.njit(inline="always")
def _bits(word):
    """Eight bytes 0 or 1 in memory's order as bits, the first one highest."""
    return np.uint8(word * SPREAD >> np.uint64(56))


@numba.njit(inline="always")
def _firing(spikes, words, start, channels, active):
    """List the channels that spike at one pixel in `active`, which has room for 8 more; returns how many."""
    count = 0
    if channels % 8 == 0:  # eight at a time, by a table: a branch on a spike is one that none could predict
        for i in range(channels >> 3):
            word = words[(start >> 3) + i]
            if word:
                byte = _bits(word)
                for j in range(8):
                    active[count + j] = (i << 3) + PLACES[byte, j]
                count += COUNTS[byte]
        return count
    for j in range(channels):
        active[count] = j
        count += spikes[start + j]
    return count


@numba.njit(inline="always")
def _add_up(flat, size, active, firing, sums):
    """Sums of the weights of all that fire at a pixel, `size` of a channel, two channels at a time."""
    first = np.uint64(active[0] * size)
    if firing == 1:
        for o in range(np.uint64(size)):
            sums[o] = flat[first + o]
        return
    second = np.uint64(active[1] * size)
    for o in range(np.uint64(size)):
        sums[o] = flat[first + o] + flat[second + o]
    k = 2
    while k + 1 < firing:
        first, second = np.uint64(active[k] * size), np.uint64(active[k + 1] * size)
        for o in range(np.uint64(size)):
            sums[o] += flat[first + o] + flat[second + o]
        k += 2
    if k < firing:
        first = np.uint64(active[k] * size)
        for o in range(np.uint64(size)):
            sums[o] += flat[first + o]


@numba.njit(numba.void(_U8, _COLUMNS, _ROWS, _WEIGHT, _INT, _INT, _I16, _I32, _I16), cache=True, nogil=True)
def scatter_whole(spikes, columns, rows, weight, channels, height, total, active, sums):
    # Where nearly all taps of a pixel land somewhere, and all channels' on the same places: their weights lie in one
    # piece, so they are added up in long loops first. Unsigned indexes spare numba's handling of negative ones, and so
    # let LLVM vectorise the innermost loop.
    cin, kw, kh, n = weight.shape
    flat = weight.reshape(-1)
    words = spikes[: spikes.shape[0] // 8 * 8].view(np.uint64)
    start = 0
    for x in range(columns.shape[0]):
        for y in range(rows.shape[0]):
            firing = _firing(spikes, words, start, cin, active)
            start += cin
            if firing == 0:
                continue
            _add_up(flat, kw * kh * n, active, firing, sums)
            for kx in range(kw):
                column = columns[x, kx]
                if column < 0:
                    continue
                for run in range(rows.shape[1]):
                    count = rows[y, run, 1]
                    if count == 0:
                        break
                    target = np.uint64((column * height + rows[y, run, 2]) * channels)
                    source = np.uint64((kx * kh + rows[y, run, 0]) * n)
                    for o in range(np.uint64(count * n)):
                        total[target + o] += sums[source + o]


@numba.njit(parallel=True, cache=True)  # compiled when it is called, which a process that Lava forks does not
def scatter_frames(x, columns, rows, weight, channels, height, sums):
    """What whole taps make of frames of spikes, uint8 (N, n): sums, float32 (N, m). For the fast engine."""
    for frame in numba.prange(len(x)):
        total = np.zeros(sums.shape[1], np.int16)
        active = np.empty(weight.shape[0] + 8, np.int32)
        added = np.empty(weight.shape[1] * weight.shape[2] * weight.shape[3], np.int16)
        scatter_whole(x[frame], columns, rows, weight, channels, height, total, active, added)
        for k in range(len(total)):
            sums[frame, k] = total[k]


@numba.njit(numba.void(_U8, _I16, _I16), cache=True, nogil=True)
def _scatter_dot(spikes, weight, total):
    """One weight a channel, one target a pixel: all channels, which is less than to look which of them spike."""
    channels = weight.shape[0]
    for pixel in range(total.shape[0]):
        found = np.int16(0)
        for c in range(channels):
            found += np.int16(spikes[pixel * channels + c]) * weight[c]
        total[pixel] += found


@numba.njit(numba.void(_U8, _COLUMNS, _ROWS, _WEIGHT, _I32, _INT, _INT, _I16, _I32), cache=True, nogil=True)
def _scatter(spikes, columns, rows, weight, first_output, channels, height, total, active):
    # Pixel by pixel: the tables are looked up once for all its spikes, which add to the same place.
    cin, kw, kh, n = weight.shape
    flat = weight.reshape(-1)
    words = spikes[: spikes.shape[0] // 8 * 8].view(np.uint64)
    start = 0
    for x in range(columns.shape[0]):
        for y in range(rows.shape[0]):
            firing = _firing(spikes, words, start, cin, active)
            start += cin
            if firing == 0:
                continue
            for kx in range(kw):
                column = columns[x, kx]
                if column < 0:
                    continue
                for run in range(rows.shape[1]):
                    count = rows[y, run, 1]
                    if count == 0:
                        break
                    place = (column * height + rows[y, run, 2]) * channels
                    tap = (kx * kh + rows[y, run, 0]) * n
                    k = 0
                    while k < firing:  # two spikes at a time, which halves the traffic with their common target
                        target = np.uint64(place + first_output[active[k]])
                        source = np.uint64(active[k] * kw * kh * n + tap)
                        if k + 1 < firing and first_output[active[k]] == first_output[active[k + 1]]:
                            other = np.uint64(active[k + 1] * kw * kh * n + tap)
                            for o in range(np.uint64(count * n)):
                                total[target + o] += flat[source + o] + flat[other + o]
                            k += 2
                        else:
                            for o in range(np.uint64(count * n)):
                                total[target + o] += flat[source + o]
                            k += 1


@numba.njit(numba.void(_U8, numba.int64[::1], _I32, _I16, _I16), cache=True, nogil=True)
def _scatter_columns(spikes, starts, places, weight, total):
    words = spikes[: spikes.shape[0] // 8 * 8].view(np.uint64)
    for first in range(0, spikes.shape[0], 8):
        if first >> 3 < words.shape[0] and words[first >> 3] == 0:
            continue
        for neuron in range(first, min(first + 8, spikes.shape[0])):
            if spikes[neuron]:
                for k in range(starts[neuron], starts[neuron + 1]):
                    total[places[k]] += weight[k]


@numba.njit(numba.void(_U8, _INT, _INT, _INT, _INT, _INT, _INT, _U8, _U8), cache=True, nogil=True)
def _sum_in_bits(spikes, height, channels, side_y, side_x, down, across, sums, bits):
    """Sums of spikes over blocks of pixels, bit by bit, each of all channels: flat (across, down, bit, channel)."""
    most = np.uint64(channels)
    place = np.uint64(0)
    for x in range(across):
        for y in range(down):
            sums[:] = 0
            for i in range(side_x):
                for j in range(side_y):
                    start = np.uint64(((x * side_x + i) * height + y * side_y + j) * channels)
                    for c in range(most):
                        sums[c] += spikes[start + c]
            for bit in range(bits.shape[0] // (across * down * channels)):
                for c in range(most):
                    bits[place + c] = sums[c] >> np.uint8(bit) & np.uint8(1)
                place += most


def scatter(taps: Taps | Columns, spikes: np.ndarray, total: np.ndarray) -> None:
    """Add the weights of every spike to the inputs it reaches.

    spikes: uint8, flat (W, H, C) of the source. total: int16, flat (W, H, C) of the target, changed in place.
    """
    if isinstance(taps, Columns):
        _scatter_columns(spikes, taps.starts, taps.places, taps.weight, total)
        return
    channels, height, _ = taps.target
    active = np.empty(taps.source[0] + 8, np.int32)
    if taps.one_each:
        _scatter_dot(spikes, taps.weight.reshape(-1), total)
    elif taps.whole:
        sums = np.empty(math.prod(taps.weight.shape[1:]), np.int16)
        scatter_whole(spikes, taps.columns, taps.rows, taps.weight, channels, height, total, active, sums)
    else:
        _scatter(spikes, taps.columns, taps.rows, taps.weight, taps.first_output, channels, height, total, active)


def scatter_sums(pool: Pooled, spikes: np.ndarray, total: np.ndarray) -> None:
    """`scatter` of a convolution that holds mean pooling: there are fewer sums than spikes, and fewer pixels."""
    channels, height, _ = pool.source
    planes, down, across = pool.taps.source
    bits = np.empty(planes * down * across, np.uint8)
    _sum_in_bits(spikes, height, channels, *pool.sides, down, across, np.empty(channels, np.uint8), bits)
    scatter(pool.taps, bits, total)


@numba.njit(numba.void(_I32, _I32, _I32, numba.int64[::1], _I32), cache=True, nogil=True)
def add_columns(starts, rows, values, active, total):
    """Add the active columns of a sparse matrix (CSC) to int32 totals."""
    for column in active:
        for k in range(starts[column], starts[column + 1]):
            total[rows[k]] += values[k]


@numba.njit(numba.void(_U8, _INT, _INT, _INT, _U8), cache=True, nogil=True)
def _pack_blocks(fired, channels, height, width, bits):
    """`pack_spikes` of sides that divide by 8: eight pixels of a row by eight channels at a time."""
    words = fired.view(np.uint64)
    for x in range(0, width, 8):
        for y in range(height):
            for c in range(0, channels, 8):
                block = np.uint64(0)  # a byte is a channel
                for k in range(8):
                    block |= words[(((x + k) * height + y) * channels + c) >> 3] << np.uint64(7 - k)
                if block:
                    for k in range(8):
                        bits[(((c + k) * height + y) * width + x) >> 3] = np.uint8(block >> np.uint64(8 * k))


@numba.njit(numba.void(_U8, _INT, _INT, _INT, _U8), cache=True, nogil=True)
def pack_spikes(fired, channels, height, width, bits):
    """Set the bit of every spike. fired: flat (W, H, C); bits: zeros on entry, big-endian bits in (C, H, W) order."""
    if channels % 8 == 0 and width % 8 == 0:
        _pack_blocks(fired, channels, height, width, bits)
        return
    words = fired[: fired.shape[0] // 8 * 8].view(np.uint64)
    aligned = channels % 8 == 0
    start = 0
    for x in range(width):
        for y in range(height):
            for c in range(0, channels, 8):
                if aligned and words[(start + c) >> 3] == 0:
                    continue
                for j in range(c, min(c + 8, channels)):  # without a branch on the spike, which none could predict
                    place = np.uint64((j * height + y) * width + x)
                    bits[place >> np.uint64(3)] |= np.uint8(fired[start + j] << (7 - (place & np.uint64(7))))
            start += channels
