"""Neurons of one step, compiled by numba before Lava forks, on flat arrays of any order. Knows no Lava.

`hardware_sim.neurons` is their twin.
"""

from __future__ import annotations

from hardware_sim.numba_cache import ensure_cache

ensure_cache(__file__)  # before numba looks for a place

import numba
import numpy as np

from export.limits import DECAY_MAX, POTENTIAL_MAX, POTENTIAL_SHIFT

WRAP = POTENTIAL_MAX + 1  # Loihi's current wraps around at 24 bits
_U8, _I16, _I32, _INT = numba.uint8[::1], numba.int16[::1], numba.int32[::1], numba.int64


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


@numba.njit(inline="always")
def _leak_and_add(current, potential, arriving, bias, current_decay, voltage_decay):
    """Current and potential after one step, in the arithmetic of lava-nc's AbstractPyLifModelFixed."""
    left = (abs(current) * (DECAY_MAX - current_decay)) >> 12
    u = (left if current >= 0 else -left) + (arriving << POTENTIAL_SHIFT)
    if u > WRAP:
        u -= 2 * WRAP
    elif u <= -WRAP:
        u += 2 * WRAP
    left = (abs(potential) * (DECAY_MAX - voltage_decay)) >> 12
    v = (left if potential >= 0 else -left) + u + bias
    return u, min(max(v, np.int64(-POTENTIAL_MAX)), np.int64(POTENTIAL_MAX))


@numba.njit(numba.void(_I32, _I32, _I32, _I32, _INT, _INT), cache=True, nogil=True)
def subthreshold(arriving, current, potential, bias, current_decay, voltage_decay):
    """One step of leaky neurons up to their firing, in place. All int32, potentials and bias << 6."""
    for k in range(arriving.shape[0]):
        current[k], potential[k] = _leak_and_add(
            np.int64(current[k]), np.int64(potential[k]), np.int64(arriving[k]), bias[k], current_decay, voltage_decay
        )


@numba.njit(
    numba.void(_I16, _I32, _I32, _I32, _U8, _I16, _I16, _I32, numba.int32, numba.boolean, numba.boolean),
    cache=True,
    nogil=True,
)
def cuba(total, current, potential, bias, fired, current_decay, voltage_decay, drop, threshold, subtract, fires):
    """One step of leaky neurons with bias, each with its decays and what a spike subtracts; leaves the inputs zero."""
    for k in range(total.shape[0]):
        current[k], v = _leak_and_add(
            np.int64(current[k]),
            np.int64(potential[k]),
            np.int64(total[k]),
            bias[k],
            np.int64(current_decay[k]),
            np.int64(voltage_decay[k]),
        )
        spike = fires and v > threshold
        after = v - drop[k] if subtract else np.int64(0)
        potential[k] = after if spike else v
        fired[k] = spike
        total[k] = 0


@numba.njit(
    numba.void(_I16, _I32, _I32, _I32, _I32, _I16, _I16, _I32, numba.int32, numba.boolean), cache=True, nogil=True
)
def ternary(total, current, potential, bias, fired, current_decay, voltage_decay, drop, threshold, subtract):
    """`cuba` of neurons that fire at both thresholds: fired is int32, -1, 0 and 1."""
    for k in range(total.shape[0]):
        current[k], v = _leak_and_add(
            np.int64(current[k]),
            np.int64(potential[k]),
            np.int64(total[k]),
            bias[k],
            np.int64(current_decay[k]),
            np.int64(voltage_decay[k]),
        )
        spike = np.int64(v > threshold) - np.int64(v < -threshold)
        after = v - spike * drop[k] if subtract else np.int64(0)
        potential[k] = after if spike else v
        fired[k] = spike
        total[k] = 0


@numba.njit(numba.void(_I32, _I32, _I32, _I32, _I32, _I32, _INT, _INT), cache=True, nogil=True)
def sigma_delta(total, sigma, act, residue, bias, sent, threshold, shift):
    """One step of sigma-delta neurons, in the units of their state; takes the inputs and leaves them zero."""
    for k in range(total.shape[0]):
        sigma[k] += total[k]
        total[k] = 0
        new = max(np.int64(sigma[k]) + bias[k], np.int64(0))
        delta = new - act[k] + residue[k]
        told = delta if abs(delta) >= threshold else np.int64(0)
        act[k], residue[k] = new, delta - told
        sent[k] = told >> shift
