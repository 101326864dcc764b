"""`kernels` of spikes that carry values, compiled likewise. Knows no Lava."""

from __future__ import annotations

from hardware_sim.numba_cache import ensure_cache

ensure_cache(__file__)  # before numba looks for a place

import numba
import numpy as np

from hardware_sim.lava_backend.tables import Columns, Taps

_I16, _I32, _INT = numba.int16[::1], numba.int32[::1], numba.int64
_COLUMNS, _ROWS, _WEIGHT = numba.int32[:, ::1], numba.int32[:, :, ::1], numba.int16[:, :, :, ::1]


@numba.njit(numba.void(_I32, _COLUMNS, _ROWS, _WEIGHT, _I32, _INT, _INT, _I32), cache=True, nogil=True)
def _scatter_values(values, columns, rows, weight, first_output, channels, height, total):
    cin, kw, kh, n = weight.shape
    flat = weight.reshape(-1)
    start = 0
    for x in range(columns.shape[0]):
        for y in range(rows.shape[0]):
            for c in range(cin):
                value = values[start + c]
                if value == 0:
                    continue
                for kx in range(kw):
                    column = columns[x, kx]
                    if column < 0:
                        continue
                    for run in range(rows.shape[1]):
                        count = rows[y, run, 1]
                        if count == 0:
                            break
                        target = np.uint64((column * height + rows[y, run, 2]) * channels + first_output[c])
                        source = np.uint64(((c * kw + kx) * kh + rows[y, run, 0]) * n)
                        for o in range(np.uint64(count * n)):
                            total[target + o] += value * np.int32(flat[source + o])
            start += cin


@numba.njit(numba.void(_I32, numba.int64[::1], _I32, _I16, _I32), cache=True, nogil=True)
def _scatter_column_values(values, starts, places, weight, total):
    for neuron in range(values.shape[0]):
        if values[neuron] != 0:
            for k in range(starts[neuron], starts[neuron + 1]):
                total[places[k]] += values[neuron] * np.int32(weight[k])


def scatter_values(taps: Taps | Columns, spikes: np.ndarray, total: np.ndarray) -> None:
    """`scatter` of spikes that carry values: int32, as the total is."""
    if isinstance(taps, Columns):
        _scatter_column_values(spikes, taps.starts, taps.places, taps.weight, total)
        return
    channels, height, _ = taps.target
    _scatter_values(spikes, taps.columns, taps.rows, taps.weight, taps.first_output, channels, height, total)


def scatter_levels(taps: Taps | Columns, spikes: np.ndarray, total: np.ndarray) -> None:
    """`scatter` of spikes uint8 that carry values, whose sums are known to fit int16."""
    wide = np.zeros(total.shape, np.int32)
    scatter_values(taps, spikes.astype(np.int32), wide)
    total += wide.astype(np.int16)
