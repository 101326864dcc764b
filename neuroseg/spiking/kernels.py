"""The multi-step scan as one pass over memory, forward and backward, compiled by numba for the CPU.

`neuron.scan_torch` and `neuron.backward_torch` are the readable twins; tests hold these kernels equal to them. Arrays
are (T, N), T outermost in memory. bfloat16, which numpy does not know, comes as its bits, uint16.
"""

from __future__ import annotations

from hardware_sim.numba_cache import ensure_cache

ensure_cache(__file__)  # before numba looks for a place

import numba
import numpy as np
from numba.extending import overload

BLOCK = 4096  # neurons at a time, so that their potentials stay in the first cache
STEPS = 126  # fixed-point steps of the stored surrogate

_FLOAT = numba.float32
_F32, _BF16, _TRACE = numba.float32[:, ::1], numba.uint16[:, ::1], numba.int8[:, ::1]
ONE = {np.dtype(np.float32): np.float32(1), np.dtype(np.uint16): np.uint16(0x3F80)}


def _widen(x):
    """float32 of an element."""


def _narrow(value, like):
    """An element like `like` of a float32, rounded to nearest even."""


@overload(_widen, inline="always")
def _widen_for(x):
    if isinstance(x, numba.types.Integer):
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


@overload(_narrow, inline="always")
def _narrow_for(value, like):
    if isinstance(like, numba.types.Integer):

        def to_bfloat16(value, like):
            bits = np.float32(value).view(np.uint32)
            return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

        return to_bfloat16
    return lambda value, like: value


@numba.njit(
    [
        numba.void(_F32, _FLOAT, numba.boolean, _FLOAT, _FLOAT, spikes, one, _TRACE)
        for spikes, one in ((_F32, numba.float32), (_BF16, numba.uint16))
    ],
    parallel=True,
    cache=True,
    error_model="numpy",
)
def forward(currents, threshold, subtract, u0, limit, spikes, one, trace):
    """Fill spikes (0 or `one`) and the trace that `backward` needs: see `neuron.scan_torch`."""
    steps, n = currents.shape
    for block in numba.prange((n + BLOCK - 1) // BLOCK):
        low, high = block * BLOCK, min((block + 1) * BLOCK, n)
        u = np.full(high - low, u0, np.float32)
        for t in range(steps):
            current, fired, kept = currents[t, low:high], spikes[t, low:high], trace[t, low:high]
            for k in range(high - low):
                charged = min(max(u[k] + current[k], -limit), limit)
                spike = charged > threshold
                slope = max(np.float32(1) - abs(charged / threshold - np.float32(1)), np.float32(0))
                step = np.int32(np.rint(slope * np.float32(STEPS))) + np.int32(1)
                kept[k] = np.int8(-step if spike else step)
                fired[k] = one if spike else one - one
                after = charged - threshold if subtract else np.float32(0)
                u[k] = after if spike else charged


@numba.njit(
    [numba.void(grad, _TRACE, numba.boolean, _FLOAT, grad) for grad in (_F32, _BF16)],
    parallel=True,
    cache=True,
    error_model="numpy",
)
def backward(grad_spikes, trace, subtract, height, grad_currents):
    """Fill dL/dcurrents: see `neuron.backward_torch`."""
    steps, n = grad_spikes.shape
    for block in numba.prange((n + BLOCK - 1) // BLOCK):
        low, high = block * BLOCK, min((block + 1) * BLOCK, n)
        carried = np.zeros(high - low, np.float32)
        for t in range(steps - 1, -1, -1):
            grad, kept, out = grad_spikes[t, low:high], trace[t, low:high], grad_currents[t, low:high]
            for k in range(high - low):
                step = np.int32(kept[k])
                through = carried[k] if subtract or step > 0 else np.float32(0)
                slope = np.float32(abs(step) - 1) * height
                carried[k] = through + _widen(grad[k]) * slope
                out[k] = _narrow(carried[k], out[k])
