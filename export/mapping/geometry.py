"""Tiles of a population, and what of a source each reads.

A convolution is a product of its axes, so axis by axis; single synapses are looked up by their target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from export.graph import Conv, ConvT, Dense, Operator, Population, Shape, Sparse, channels

Span = tuple[int, int]  # first, and one past the last


@dataclass(frozen=True)
class Tile:
    """A block of a population: spans of channels, rows and columns."""

    channels: Span
    rows: Span
    columns: Span

    @property
    def shape(self) -> Shape:
        return tuple(stop - start for start, stop in self.spans)

    @property
    def spans(self) -> tuple[Span, Span, Span]:
        return (self.channels, self.rows, self.columns)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        c, h, w = (slice(*span) for span in self.spans)
        return c, h, w

    @property
    def neurons(self) -> int:
        return math.prod(self.shape)


def whole(shape: Shape) -> Tile:
    """All of a population (C, H, W)."""
    c, h, w = shape
    return Tile((0, c), (0, h), (0, w))


def cut(shape: Shape, tile: Shape) -> tuple[Tile, ...]:
    """A population (C, H, W) in blocks of at most `tile`, channels outermost, columns innermost."""
    spans = [
        [(start, min(start + step, size)) for start in range(0, size, step)]
        for size, step in zip(shape, tile, strict=True)
    ]
    return tuple(Tile(c, h, w) for c in spans[0] for h in spans[1] for w in spans[2])


def grid(tiles: Sequence[Tile]) -> tuple[list[Span], list[Span], list[Span]]:
    """The spans of a population cut into tiles, by axis."""
    c, h, w = (sorted({tile.spans[axis] for tile in tiles}) for axis in range(3))
    return c, h, w


@lru_cache(maxsize=4096)
def _taps(
    transposed: bool, size: int, target: Span, kernel: int, stride: int, padding: int, dilation: int
) -> np.ndarray:
    tap = np.arange(kernel) * dilation
    hit = np.zeros((size, kernel), bool)
    if transposed:
        reached = np.arange(size)[:, None] * stride - padding + tap
        hit = (reached >= target[0]) & (reached < target[1])
    else:
        read = np.arange(*target)[:, None] * stride - padding + tap  # of the source, by target place and tap
        place, k = np.nonzero((read >= 0) & (read < size))
        hit[read[place, k], k] = True
    hit.flags.writeable = False
    return hit


def taps(op: Conv | ConvT, axis: int, size: int, target: Span) -> np.ndarray:
    """Which taps (size, taps) of each source place along an axis (0 rows, 1 columns) land in a span of the target."""
    geometry = (op.weight.shape[2 + axis], op.stride[axis], op.padding[axis], op.dilation[axis])
    return _taps(isinstance(op, ConvT), size, target, *geometry)


@lru_cache(maxsize=4096)
def _sets(
    kind: type, size: int, target: Span, kernel: int, stride: int, padding: int, dilation: int
) -> tuple[int, ...]:
    different = np.unique(_taps(kind, size, target, kernel, stride, padding, dilation), axis=0).sum(1)
    return tuple(int(n) for n in different if n)


def tap_sets(op: Conv | ConvT, axis: int, size: int, target: Span) -> tuple[int, ...]:
    """Sizes of the different sets of taps that source places along an axis (0 rows, 1 columns) send into a span."""
    geometry = (op.weight.shape[2 + axis], op.stride[axis], op.padding[axis], op.dilation[axis])
    return _sets(isinstance(op, ConvT), size, target, *geometry)


def read_axis(op: Conv | ConvT | Dense, source: Shape, axis: int, target: Span) -> np.ndarray:
    """Which places of a source (C, H, W) along an axis (0, 1, 2 of these) reach a span of the target: a mask."""
    if isinstance(op, Dense):
        return np.ones(source[axis], bool)
    if axis:
        return np.asarray(taps(op, axis - 1, source[axis], target).any(1))
    cin, cout = channels(op)
    group = np.arange(*target) // (cout // op.groups)
    return np.isin(np.arange(cin) // (cin // op.groups), group)


def fan_out(op: Operator, source: Shape, tile: Tile) -> np.ndarray:
    """Synapses of each source neuron into a tile, those of weight 0 too: broadcasts to the source (C, H, W)."""
    if isinstance(op, Sparse):
        return np.bincount(op.source[inside(op, tile)], minlength=math.prod(source)).reshape(source)
    if isinstance(op, Dense):
        return np.full((1, 1, 1), tile.neurons)
    rows = taps(op, 0, source[1], tile.rows).sum(1)
    columns = taps(op, 1, source[2], tile.columns).sum(1)
    cin, cout = channels(op)
    group = np.arange(*tile.channels) // (cout // op.groups)
    outputs = (np.arange(cin)[:, None] // (cin // op.groups) == group).sum(1)
    return outputs[:, None, None] * rows[:, None] * columns


def neurons_read(op: Operator, source: Shape, tile: Tile) -> int:
    """How many neurons of a source (C, H, W) a tile reads."""
    if isinstance(op, Sparse):
        return int((fan_out(op, source, tile) > 0).sum())
    return math.prod(int(read_axis(op, source, axis, span).sum()) for axis, span in enumerate(tile.spans))


def inside(op: Sparse, tile: Tile) -> np.ndarray:
    """The single synapses that lead into a tile, by their places in `op.weight`, in order."""
    order, starts = _by_target(op)
    _, height, width = op.shape
    rows = [(c * height + y) * width for c in range(*tile.channels) for y in range(*tile.rows)]
    runs = [order[starts[row + tile.columns[0]] : starts[row + tile.columns[1]]] for row in rows]
    return np.sort(np.concatenate(runs))


@lru_cache(maxsize=64)
def _by_target(op: Sparse) -> tuple[np.ndarray, np.ndarray]:
    """The synapses sorted by their target, and where those of each target begin."""
    counts = np.bincount(op.target, minlength=math.prod(op.shape))
    return np.argsort(op.target), np.concatenate([[0], np.cumsum(counts)])


def numbering(shape: Shape, tiles: Sequence[Tile]) -> np.ndarray:
    """Which of some tiles that do not overlap each neuron (C*H*W,) of a population lies on; -1 on none."""
    found = np.full(shape, -1)
    for k, tile in enumerate(tiles):
        found[tile.slices] = k
    return found.ravel()


def has(population: Population, kind: type[Operator]) -> bool:
    """Whether any synapse into a population is of a kind."""
    return any(isinstance(edge.op, kind) for edge in population.edges)
