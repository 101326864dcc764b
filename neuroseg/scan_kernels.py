"""The multi-step scan as one pass over memory, forward and backward, compiled by numba for the CPU.

`neuron.scan_torch` and `neuron.backward_torch` are the readable twins; tests hold these kernels equal to them. Arrays
are (T, N), T outermost in memory.
"""

from __future__ import annotations

import numba
import numpy as np

BLOCK = 4096  # neurons at a time, so that their potentials stay in the first cache
STEPS = 32766  # fixed-point steps of the stored surrogate

_F32, _I16 = numba.float32[:, ::1], numba.int16[:, ::1]
_FLOAT = numba.float32


@numba.njit(
    numba.void(_F32, _FLOAT, numba.boolean, _FLOAT, _FLOAT, _F32, _I16), parallel=True, cache=True, error_model="numpy"
)
def forward(currents, threshold, subtract, u0, limit, spikes, trace):
    """Fill spikes (0 or 1) and the trace that `backward` needs: see `neuron.scan_torch`."""
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
                step = np.int16(np.rint(slope * np.float32(STEPS))) + np.int16(1)
                kept[k] = -step if spike else step
                fired[k] = np.float32(spike)
                after = charged - threshold if subtract else np.float32(0)
                u[k] = after if spike else charged


@numba.njit(numba.void(_F32, _I16, numba.boolean, _FLOAT, _F32), parallel=True, cache=True, error_model="numpy")
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
                carried[k] = through + grad[k] * slope
                out[k] = carried[k]
