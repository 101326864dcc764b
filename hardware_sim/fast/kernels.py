"""Neurons in one pass over memory, and spikes as bits, compiled by numba. `hardware_sim.neurons` is their twin.

Arrays are (T, B, n) with the n neurons of a population in (H, W, C) order, which is that of channels-last tensors.
"""

from __future__ import annotations

from hardware_sim.numba_cache import ensure_cache

ensure_cache(__file__)  # before numba looks for a place

import threading

import numba
import numpy as np

from export.limits import DECAY_MAX, POTENTIAL_MAX, POTENTIAL_SHIFT

ALONE = threading.Lock()  # one of numba's thread pools aborts the process where two threads use it at once
BLOCK = 4096  # neurons at a time, so that their potentials stay in the first cache
WRAP = POTENTIAL_MAX + 1  # Loihi's current wraps around at 24 bits

_F32, _U8, _I32 = numba.float32[:, :, ::1], numba.uint8[:, :, ::1], numba.int32[:, :, ::1]
_EACH, _INT, _YES = numba.int32[::1], numba.int32, numba.boolean


@numba.njit(numba.void(_F32, _INT, _INT, _YES, _YES, _YES, _U8, _I32), parallel=True, cache=True)
def integrate_fire(currents, u0, threshold, subtract, fires, every, fired, potentials):
    """Neurons without leak and bias. potentials: after each step if `every`, else (1, B, n) after the last."""
    steps, samples, n = currents.shape
    blocks = (n + BLOCK - 1) // BLOCK
    for block in numba.prange(samples * blocks):
        b, low = block // blocks, block % blocks * BLOCK
        high = min(low + BLOCK, n)
        u = np.full(high - low, u0, np.int32)
        for t in range(steps):
            current, spikes = currents[t, b, low:high], fired[t, b, low:high]
            for k in range(high - low):
                v = u[k] + (np.int32(current[k]) << np.int32(POTENTIAL_SHIFT))
                v = min(max(v, np.int32(-POTENTIAL_MAX)), np.int32(POTENTIAL_MAX))
                spike = fires and v > threshold
                after = v - threshold if subtract else np.int32(0)
                u[k] = after if spike else v
                spikes[k] = spike
            if every or t == steps - 1:
                potentials[t if every else 0, b, low:high] = u


@numba.njit(inline="always")
def _leak_and_add(current, potential, arriving, bias, current_decay, voltage_decay):
    """Current and potential after one step, in the arithmetic of lava-nc's AbstractPyLifModelFixed."""
    left = (np.int64(abs(current)) * (DECAY_MAX - current_decay)) >> 12
    i = (left if current >= 0 else -left) + (np.int64(arriving) << POTENTIAL_SHIFT)
    if i > WRAP:
        i -= 2 * WRAP
    elif i <= -WRAP:
        i += 2 * WRAP
    left = (np.int64(abs(potential)) * (DECAY_MAX - voltage_decay)) >> 12
    v = (left if potential >= 0 else -left) + i + bias
    return i, min(max(v, np.int64(-POTENTIAL_MAX)), np.int64(POTENTIAL_MAX))


@numba.njit(
    numba.void(_F32, _INT, _INT, _EACH, _EACH, _EACH, _EACH, _YES, _YES, _YES, _YES, _U8, _I32),
    parallel=True,
    cache=True,
)
def cuba(
    currents,
    u0,
    threshold,
    drop,
    bias,
    current_decay,
    voltage_decay,
    subtract,
    fires,
    ternary,
    every,
    fired,
    potentials,
):
    """Neurons with whatever a CUBA neuron has, each with its own: as AbstractPyLifModelFixed of lava-nc.

    ternary: they fire at both thresholds, and fired is what they send and 1: 0, 1 or 2.
    """
    steps, samples, n = currents.shape
    blocks = (n + BLOCK - 1) // BLOCK
    for block in numba.prange(samples * blocks):
        b, low = block // blocks, block % blocks * BLOCK
        high = min(low + BLOCK, n)
        u = np.full(high - low, u0, np.int32)
        i = np.zeros(high - low, np.int32)
        for t in range(steps):
            current, spikes = currents[t, b, low:high], fired[t, b, low:high]
            for k in range(high - low):
                i[k], v = _leak_and_add(
                    i[k], u[k], current[k], bias[low + k], current_decay[low + k], voltage_decay[low + k]
                )
                spike = np.int64(fires and v > threshold) - np.int64(ternary and v < -threshold)
                after = v - spike * drop[low + k] if subtract else np.int64(0)
                u[k] = after if spike else v
                spikes[k] = spike + ternary
            if every or t == steps - 1:
                potentials[t if every else 0, b, low:high] = u


@numba.njit(numba.void(_U8, numba.int64, numba.int64, numba.int64, _U8), parallel=True, cache=True)
def pack_spikes(fired, channels, height, width, bits):
    """Set the bit of every spike: bits (B, T, bytes), zeros on entry, big-endian bits in (C, H, W) order."""
    steps, samples, _ = fired.shape
    for frame in numba.prange(steps * samples):
        t, b = frame // samples, frame % samples
        spikes, found, start = fired[t, b], bits[b, t], 0
        if width % 8 == 0 and channels % 8 == 0:
            # A byte is eight pixels of one channel; eight channels are a word, whose bytes are shifted side by side.
            words, here, plane = spikes.view(np.uint64), channels // 8, height * width // 8
            for group in range(plane):
                for k in range(here):
                    word = np.uint64(0)
                    for j in range(8):
                        word |= words[(group * 8 + j) * here + k] << np.uint64(7 - j)
                    for c in range(8):
                        found[(k * 8 + c) * plane + group] = np.uint8(word >> np.uint64(8 * c))
            continue
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    place = np.uint64((c * height + y) * width + x)
                    found[place >> np.uint64(3)] |= np.uint8(spikes[start + c] << (7 - (place & np.uint64(7))))
                start += channels


_FRAMES = numba.uint8[:, :, :, ::1]


@numba.njit(numba.void(_FRAMES, numba.int64, numba.int64, _FRAMES), parallel=True, cache=True)
def sum_pixels(x, sides_y, sides_x, sums):
    """Sum spikes (N, H, W, C) over blocks of pixels into sums (N, H / sides_y, W / sides_x, C)."""
    frames, height, width, channels = sums.shape
    for frame in numba.prange(frames):
        for y in range(height):
            for x0 in range(width):
                total = sums[frame, y, x0]
                for i in range(sides_y):
                    for j in range(sides_x):
                        spikes = x[frame, y * sides_y + i, x0 * sides_x + j]
                        for c in range(channels):
                            total[c] = spikes[c] if i + j == 0 else total[c] + spikes[c]
