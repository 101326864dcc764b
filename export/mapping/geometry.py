"""Tiles of a population, and what of a source each reads: a synapse is a product of its axes, so axis by axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from export.graph import Conv, ConvT, Dense, Edge, Population, Shape, channels

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


def read_axis(edge: Edge, source: Shape, axis: int, target: Span) -> np.ndarray:
    """Which places of a source (C, H, W) along an axis (0, 1, 2 of these) reach a span of the target: a mask."""
    op = edge.op
    if isinstance(op, Dense):
        return np.ones(source[axis], bool)
    if axis:
        return np.asarray(taps(op, axis - 1, source[axis], target).any(1))
    cin, cout = channels(op)
    group = np.arange(*target) // (cout // op.groups)
    return np.isin(np.arange(cin) // (cin // op.groups), group)


def read(edge: Edge, source: Shape, tile: Tile) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The places of a source (C, H, W) that a tile reads: a mask for each axis; their product is the set of neurons."""
    c, h, w = (read_axis(edge, source, axis, span) for axis, span in enumerate(tile.spans))
    return c, h, w


def neurons_read(edge: Edge, source: Shape, tile: Tile) -> int:
    """How many neurons of a source (C, H, W) a tile reads."""
    return math.prod(int(mask.sum()) for mask in read(edge, source, tile))


def is_dense(population: Population) -> bool:
    """Whether any synapse into a population is all-to-all."""
    return any(isinstance(edge.op, Dense) for edge in population.edges)
