"""Synapses as tables, as the event-driven kernels read them. Knows no Lava, and nothing of numba.

Arrays are flat in Lava's (W, H, C) order, so that the output channels of a synapse are contiguous.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np

from export.graph import Conv, ConvT, Dense, Operator, Pair, Shape, Sparse
from export.operators import pooled
from hardware_sim.lava_backend.synapses import to_sparse

SUM_MAX = 127  # pixels of a block: what its sum is multiplied by stays within 16 bits, and so do both
LANDING = 0.6  # share of taps, from which on they are added up before


@dataclass(frozen=True, eq=False)
class Taps:
    """A synapse as tables. weight: int16 (Cin, kW, kH, outputs of the source's group), kH in the order of `rows`.

    columns: int32 (W, kW), target x of each source x and tap, or -1. rows: int32 (H, runs, 3), for each source y its
    runs of taps that land on successive target rows: first tap, count, first row; a count of 0 ends the list.
    first_output: int32 (Cin,), first channel of the source's group. source, target: (C, H, W).
    """

    columns: np.ndarray
    rows: np.ndarray
    weight: np.ndarray
    first_output: np.ndarray
    source: Shape
    target: Shape

    @functools.cached_property
    def whole(self) -> bool:
        """Whether most taps of a pixel land somewhere, and those of all its channels on the same places."""
        landing = (self.columns >= 0).mean() * self.rows[:, :, 1].sum() / (len(self.rows) * self.weight.shape[2])
        return bool(landing > LANDING and not self.first_output.any())

    @functools.cached_property
    def one_each(self) -> bool:
        """Whether every pixel has one target, at its own place, and a channel one weight."""
        if self.weight.shape[1:] != (1, 1, 1) or self.target != (1, *self.source[1:]):
            return False
        straight = (self.columns[:, 0] == np.arange(self.source[2])).all()
        return bool(straight and (self.rows[:, 0, 1:] == [[1, y] for y in range(self.source[1])]).all())


@dataclass(frozen=True, eq=False)
class Columns:
    """Single synapses as tables: those of source neuron k from starts[k] on, before starts[k + 1].

    starts: int64 (neurons + 1,). places: int32, target neurons. weight: int16. Neurons are numbered in (W, H, C) order.
    """

    starts: np.ndarray
    places: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, eq=False)
class Pooled:
    """A convolution of sums of spikes over blocks of pixels, `sides` rows and columns each.

    taps: of what the sums are in bits, a channel a bit and source channel, the ones' channels first; a bit's weights
    are twice those of the one below. source: (C, H, W) of the spikes.
    """

    sides: Pair
    taps: Taps
    source: Shape


def make_pooled(op: Operator, source: Shape, target: Shape) -> Pooled | None:
    """Tables for spikes of 1, summed before, where an operator holds mean pooling."""
    pool = pooled(op, source, SUM_MAX) if isinstance(op, Conv) and op.groups == 1 else None
    if pool is None:
        return None
    sides, conv = pool
    bits = (sides[0] * sides[1]).bit_length()
    planes = np.concatenate([conv.weight << bit for bit in range(bits)], axis=1)
    sums = (bits * source[0], source[1] // sides[0], source[2] // sides[1])
    return Pooled(sides, make_taps(dataclasses.replace(conv, weight=planes), sums, target), source)


def make_tables(op: Operator, source: Shape, target: Shape) -> Taps | Columns:
    """Tables for any operator."""
    if isinstance(op, Sparse):
        matrix = to_sparse(op, source, target).tocsc()
        return Columns(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data.astype(np.int16))
    return make_taps(op, source, target)


def make_taps(op: Conv | ConvT | Dense, source: Shape, target: Shape) -> Taps:
    """A dense synapse is a convolution over the whole source, with one tap per pixel."""
    if isinstance(op, Dense):
        weight = op.weight.reshape(-1, *source).transpose(1, 3, 2, 0)  # Cin, W, H, out
        rows, columns = (np.where(np.eye(source[axis], dtype=bool), 0, -1) for axis in (1, 2))
        return _taps(columns, rows, weight, np.zeros(source[0]), source, (int(np.prod(target)), 1, 1))
    per_group_in = source[0] // op.groups
    if isinstance(op, ConvT):
        weight, per_group_out = op.weight.transpose(0, 3, 2, 1), op.weight.shape[1]
    else:
        per_group_out = op.weight.shape[0] // op.groups
        grouped = op.weight.reshape(op.groups, per_group_out, per_group_in, *op.weight.shape[2:])
        weight = grouped.transpose(0, 2, 4, 3, 1).reshape(source[0], *op.weight.shape[:1:-1], per_group_out)
    first = np.arange(source[0]) // per_group_in * per_group_out
    rows, columns = (_hits(op, axis, source[1 + axis], target[1 + axis]) for axis in range(2))
    return _taps(columns, rows, weight, first, source, target)


def _taps(
    columns: np.ndarray, rows: np.ndarray, weight: np.ndarray, first: np.ndarray, source: Shape, target: Shape
) -> Taps:
    order, runs = _runs(rows, joined=weight.shape[3] == target[0])
    return Taps(
        columns=np.ascontiguousarray(columns, np.int32),
        rows=runs,
        weight=np.ascontiguousarray(weight[:, :, order], np.int16),
        first_output=np.ascontiguousarray(first, np.int32),
        source=source,
        target=target,
    )


def _hits(op: Conv | ConvT, axis: int, size: int, target: int) -> np.ndarray:
    """Target coordinate of each source coordinate and tap along one axis, -1 where there is none: (size, taps)."""
    place = np.arange(size)[:, None]
    tap = np.arange(op.weight.shape[2 + axis])[None] * op.dilation[axis]
    if isinstance(op, ConvT):
        reached = place * op.stride[axis] - op.padding[axis] + tap
        hit = np.ones_like(reached, bool)
    else:
        reached, rest = np.divmod(place + op.padding[axis] - tap, op.stride[axis])
        hit = rest == 0
    return np.where(hit & (reached >= 0) & (reached < target), reached, -1)


def _runs(hits: np.ndarray, *, joined: bool) -> tuple[np.ndarray, np.ndarray]:
    """Order the taps so that those of a source row that land on successive target rows follow each other.

    hits: (size, taps). Returns the order and the runs, int32 (size, runs, 3). Successive rows are neighbours in
    memory, so a run is one long vector; `joined` is False where channels of other groups lie between.
    """
    # A convolution of stride s hits every s-th tap, on falling rows; a transposed one all taps, on rising rows.
    seen = [(np.nonzero(row >= 0)[0], row[row >= 0]) for row in hits]
    step = min((int(np.diff(taps).min()) for taps, _ in seen if len(taps) > 1), default=1)
    order = np.concatenate([np.arange(phase, hits.shape[1], step) for phase in range(step)])
    if any(len(rows) > 1 and rows[1] < rows[0] for _, rows in seen):
        order = order[::-1]
    runs: list[list[list[int]]] = []
    for row in hits[:, order]:
        found: list[list[int]] = []
        for tap in np.nonzero(row >= 0)[0]:
            last = found[-1] if found else None
            if joined and last and last[0] + last[1] == tap and last[2] + last[1] == row[tap]:
                last[1] += 1
            else:
                found.append([int(tap), 1, int(row[tap])])
        runs.append(found)
    table = np.zeros((len(runs), max(1, *map(len, runs)), 3), np.int32)
    for y, found in enumerate(runs):
        table[y, : len(found)] = np.array(found, np.int32).reshape(-1, 3)
    return order, table
