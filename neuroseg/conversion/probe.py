"""The synapse that is a given linear map of a layer: a convolution, a transposed one, or single synapses.

The map is a function, so it is asked: rows of its matrix (by reverse differentiation) at some places of the target are
the taps of a convolution, columns at some places of the source those of a transposed one. What was found is held
against the map on random layers; a linear map that is equal there is equal everywhere, with probability one.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from export.graph import Conv, ConvT, GraphError, Pair, Shape, Sparse, output_shape
from export.limits import GEOMETRY_MAX
from neuroseg.conversion.linear import Convolution, Map

ROOM = 2**25  # numbers held at once while probing
WORK = 2**30  # numbers computed at most for a sparse map
PLACES, PROBING = 9, 2**25  # probed of a convolution, and numbers computed for that, unless nothing else is left
EXACT = 1e-9  # of the largest, in float64
SYNAPSES_MAX = 2**26


def convolution(f: Map, source: Shape, target: Shape, *, work: int = PROBING) -> Convolution | None:
    """f, from (1, *source) to anything of the target's size, as a convolution; None where it is none.

    Exact to float64 rounding, borders included. Depthwise where no channel reads another. work: numbers computed at
    most to find one that mixes channels.
    """
    f = flat_batch(f, source, target)
    shrinks = target[1] <= source[1] and target[2] <= source[2]
    enlarges = target[1] >= source[1] and target[2] >= source[2]
    for depthwise in (True, False):
        if depthwise and source[0] != target[0]:
            continue
        if not depthwise and PLACES * min(source[0], target[0]) * max(math.prod(source), math.prod(target)) > work:
            return None
        found = _forward(f, source, target, depthwise) if shrinks else None
        found = found or (_transposed(f, source, target, depthwise) if enlarges else None)
        if found is not None:
            return found
    return None


def sparse(
    f: Map, source: Shape, target: Shape, *, work: int = WORK, synapses_max: int = SYNAPSES_MAX
) -> Sparse | None:
    """f as single synapses; None where finding them takes too long (numbers computed), or they are too many."""
    f = flat_batch(f, source, target)
    rows, columns = math.prod(target), math.prod(source)
    if source[0] == target[0] > 1:
        found = _sparse_depthwise(f, source, target, work, synapses_max)
        if found is not None:
            return found
    if rows * columns > work:
        return None
    by_row = rows < columns
    shape = target if by_row else source
    units = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    blocks = _rows(f, source, target, units) if by_row else _columns(f, source, units)
    ends: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    count = 0
    for start, block in blocks:
        i, j = block.numpy().nonzero()
        count += len(i)
        if count > synapses_max:
            return None
        ends.append((block.numpy()[i, j], i + start, j))
    weight, one, other = (np.concatenate([end[k] for end in ends]) for k in range(3))
    return Sparse(weight, one if by_row else other, other if by_row else one, target)


def flat_batch(f: Map, source: Shape, target: Shape) -> Map:
    """(N, *source) to (N, *target): f takes a batch of one."""

    def batched(x: torch.Tensor) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of vmap, that it is slow for some operations
            return torch.func.vmap(lambda one: f(one[None]).reshape(target))(x)

    return batched


def _forward(f: Map, source: Shape, target: Shape, depthwise: bool) -> Convolution | None:
    rows: dict[Pair, np.ndarray] = {}  # (Cout, Cin, H, W) of each place; depthwise (C, 1, H, W)
    for place in itertools.product(_probed(target[1]), _probed(target[2])):
        blocks = [block for _, block in _rows(f, source, target, _wanted(target, place, depthwise))]
        rows[place] = torch.cat(blocks).reshape(target[0], -1, *source[1:]).numpy()
    along = [_strides(rows, k, source[1 + k], target[1 + k]) for k in range(2)]
    for strides in itertools.product(along[0], along[1]):
        taps = _taps(rows, strides)
        if taps is None:
            continue
        op = fitted(Conv, *taps, strides, source, target, groups=source[0] if depthwise else 1)
        if is_equal(op, f, source, target):
            return op
    return None


def _transposed(f: Map, source: Shape, target: Shape, depthwise: bool) -> Convolution | None:
    columns: dict[Pair, np.ndarray] = {}  # (Cin, Cout, H, W) of each place; depthwise (C, 1, H, W)
    for place in itertools.product(_probed(source[1]), _probed(source[2])):
        blocks = [block for _, block in _columns(f, source, _wanted(source, place, depthwise))]
        columns[place] = torch.cat(blocks).reshape(source[0], -1, *target[1:]).numpy()
    along = [_strides(columns, k, target[1 + k], source[1 + k]) for k in range(2)]
    for strides in itertools.product(along[0], along[1]):
        taps = _taps(columns, strides)
        if taps is None:
            continue
        op = fitted(ConvT, *taps, strides, source, target, groups=source[0] if depthwise else 1)
        if is_equal(op, f, source, target):
            return op
    return None


def _wanted(shape: Shape, place: Pair, together: bool) -> torch.Tensor:
    """Ones at a place (n, C, H, W): of every channel by itself, or of all of them together (n = 1)."""
    channels = shape[0]
    wanted = torch.zeros(1 if together else channels, *shape, dtype=torch.float64)
    if together:
        wanted[0, :, place[0], place[1]] = 1
    else:
        wanted[torch.arange(channels), torch.arange(channels), place[0], place[1]] = 1
    return wanted


def fitted(
    kind: type[Convolution],
    kernel: np.ndarray,
    low: Pair,
    strides: Pair,
    source: Shape,
    target: Shape,
    groups: int = 1,
) -> Convolution:
    """The operator whose taps begin at `low`, with as many zeros around them as the target's sides need."""
    fit = _fit_transposed if kind is ConvT else _fit
    sides = [fit(source[1 + k], target[1 + k], strides[k], low[k], kernel.shape[2 + k]) for k in range(2)]
    kernel = np.pad(kernel, [(0, 0), (0, 0), *(side[1] for side in sides)])
    return kind(kernel, strides, (sides[0][0], sides[1][0]), groups=groups)


def _probed(side: int) -> list[int]:
    """Places along an axis: both borders, where kernels are cut, and the middle, where they are whole."""
    return sorted({0, side // 2, side - 1})


def _strides(found: dict[Pair, np.ndarray], axis: int, long: int, short: int) -> list[int]:
    """Strides that may lead from one side to the other, the likeliest first: by what places see, and by the sides."""
    ends = {place[axis]: _reach(block, axis) for place, block in found.items()}
    seen = [
        (b[k] - a[k]) // (m - n)
        for (n, a), (m, b) in itertools.combinations(sorted(ends.items()), 2)
        for k in range(2)
        if a and b
    ]
    ratio = long / short
    return list(dict.fromkeys(max(1, int(n)) for n in (round(ratio), *seen, math.floor(ratio), math.ceil(ratio), 1)))


def _reach(block: np.ndarray, axis: int) -> Pair | None:
    """First and last place along an axis (0 rows, 1 columns) where a block (a, b, H, W) is not 0."""
    hit = np.abs(block).max(axis=tuple(k for k in range(4) if k != 2 + axis)).nonzero()[0]
    return (int(hit[0]), int(hit[-1])) if len(hit) else None


def _taps(found: dict[Pair, np.ndarray], strides: Pair) -> tuple[np.ndarray, Pair] | None:
    """Taps by their distance from stride * place, and the least distance; None where all are zero."""
    lows, highs = [], []
    for axis in range(2):
        ends = []
        for place, block in found.items():
            reach = _reach(block, axis)
            ends += [end - strides[axis] * place[axis] for end in reach] if reach else []
        if not ends:
            return None
        lows.append(int(min(ends)))
        highs.append(int(max(ends)))
    shape = next(iter(found.values())).shape
    kernel = np.zeros((*shape[:2], highs[0] - lows[0] + 1, highs[1] - lows[1] + 1))
    for place, block in found.items():
        first = [strides[k] * place[k] + lows[k] for k in range(2)]
        here = [slice(max(first[k], 0), min(first[k] + kernel.shape[2 + k], shape[2 + k])) for k in range(2)]
        there = [slice(part.start - first[k], part.stop - first[k]) for k, part in enumerate(here)]
        if all(part.stop > part.start for part in here):
            kernel[:, :, there[0], there[1]] = block[:, :, here[0], here[1]]
    return kernel, (lows[0], lows[1])


def _fit(source: int, target: int, stride: int, low: int, taps: int) -> tuple[int, Pair]:
    """Padding, and zeros before and after the taps, with which a convolution makes the target's side."""
    before, after = max(low, 0), 0
    padding, taps = max(-low, 0), taps + before
    spare = source + 2 * padding - taps - stride * (target - 1)  # 0 to stride - 1 is right
    if spare < 0:
        padding, before = padding - spare, before - spare
    elif spare >= stride:
        after = spare - stride + 1
    return padding, (before, after)


def _fit_transposed(source: int, target: int, stride: int, low: int, taps: int) -> tuple[int, Pair]:
    before, after = max(low, 0), 0
    padding, taps = max(-low, 0), taps + before
    lack = target - ((source - 1) * stride - 2 * padding + taps)
    if lack < 0:
        padding, before = padding - lack, before - lack
    else:
        after = lack
    return padding, (before, after)


def is_equal(op: Convolution, f: Map, source: Shape, target: Shape) -> bool:
    try:
        if output_shape(op, source) != target or (target[1:] != (1, 1) and max(op.weight.shape[2:]) > GEOMETRY_MAX):
            return False
    except GraphError:
        return False
    x = torch.randn(2, *source, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.from_numpy(op.weight)
    if isinstance(op, ConvT):
        y = F.conv_transpose2d(x, weight, None, op.stride, op.padding, op.output_padding, op.groups)
    else:
        y = F.conv2d(x, weight, None, op.stride, op.padding, groups=op.groups)
    expected = f(x)
    return bool((y - expected).abs().max() <= EXACT * expected.abs().max())


def _sparse_depthwise(f: Map, source: Shape, target: Shape, work: int, synapses_max: int) -> Sparse | None:
    """A spatial map for each channel, found by probing all of them together."""
    channels, height, width = source
    places = height * width
    if places * math.prod(target) > work:
        return None
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start, block in _blocks(torch.eye(places, dtype=torch.float64), max(math.prod(source), math.prod(target))):
        y = f(block.reshape(-1, 1, height, width).expand(-1, channels, -1, -1)).flatten(2).numpy()  # n, C, H'W'
        n, channel, place = y.nonzero()
        to, from_ = channel * math.prod(target[1:]) + place, channel * places + start + n
        found.append((y[n, channel, place], to, from_))
        if sum(len(each[0]) for each in found) > synapses_max:
            return None
    weight, to, from_ = (np.concatenate([each[k] for each in found]) for k in range(3))
    op = Sparse(weight, to, from_, target)
    x = torch.randn(2, *source, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = np.zeros((2, math.prod(target)))
    for one, given in zip(y, x.flatten(1).numpy(), strict=True):
        np.add.at(one, op.target, op.weight * given[op.source])
    expected = f(x).flatten(1).numpy()
    return op if np.abs(y - expected).max() <= EXACT * np.abs(expected).max() else None


def _rows(f: Map, source: Shape, target: Shape, wanted: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """wanted @ the map's matrix, some rows at a time: where they begin, and (n, sources). wanted: (n, *target)."""
    pull: Any = torch.func.vjp(lambda x: f(x[None])[0], torch.zeros(source, dtype=torch.float64))[1]
    for start, block in _blocks(wanted, max(math.prod(source), math.prod(target))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (rows,) = torch.func.vmap(pull)(block)
        yield start, rows.flatten(1)


def _columns(f: Map, source: Shape, wanted: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """The map of wanted (n, *source), some at a time: where they begin, and (n, targets)."""
    for start, block in _blocks(wanted, 4 * math.prod(source)):
        yield start, f(block).flatten(1)


def _blocks(wanted: torch.Tensor, size: int) -> Iterator[tuple[int, torch.Tensor]]:
    """A few at a time, of which each takes room for `size` numbers."""
    step = max(1, ROOM // size)
    for start in range(0, len(wanted), step):
        yield start, wanted[start : start + step]
