"""How a population's synapses are computed: which arithmetic, dense or by events, and which of them together.

What arrives is uint8 (N, C, H, W) of spikes, or of an encoder's graded ones, N = T * B, channels last in memory; what
a part makes of it is float32 likewise, whole numbers below 2^24, which float32 holds exactly. Of ternary spikes the
value and 1 arrives, since bytes here have no sign: what all these ones make is subtracted again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from export.graph import SPIKE_SPAN, Conv, ConvT, Dense, Edge, Graph, Operator, Pair, Population, Shape, spans
from export.limits import WEIGHT_MAX, WEIGHT_MIN
from export.operators import output_shape, pooled
from hardware_sim.fast import kernels
from hardware_sim.fast.bytes import COUNT_MAX, bytes_are_fast, multiplies_bytes, pack_weight, reads
from hardware_sim.lava_backend import kernels as event_kernels
from hardware_sim.lava_backend.tables import make_taps
from hardware_sim.reference import apply_operator

Apply = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Part:
    """Some edges of a population as one map, of the channels of all their sources. late: steps for each target."""

    sources: tuple[str, ...]
    apply: Apply
    late: np.ndarray | None


def parts_of(graph: Graph, population: Population, samples: int) -> tuple[Part, ...]:
    """The maps of a population; convolutions of one geometry are one. samples: how many N comes in."""
    groups: list[list[Edge]] = []
    values = spans(graph)
    for edge in population.edges:
        same = next((group for group in groups if _joins(group[0], edge, graph)), None)
        if same is None:
            groups.append([edge])
        else:
            same.append(edge)
    made = []
    for group in groups:
        sources = tuple(edge.source for edge in group)
        shapes = [graph[name].shape for name in sources]
        shape = (sum(c for c, _, _ in shapes), *shapes[0][1:])
        op = group[0].op
        if len(group) > 1:
            op = dataclasses.replace(op, weight=np.concatenate([edge.op.weight for edge in group], axis=1))
        ends = [values.get(name, SPIKE_SPAN) for name in sources]
        apply, _ = choose(op, shape, samples, most=max(most - least for least, most in ends))
        if any(least for least, _ in ends):
            offsets = [torch.full(source, -float(least)) for source, (least, _) in zip(shapes, ends, strict=True)]
            apply = _without(apply, apply_operator(op, torch.cat(offsets)[None]))
        made.append(Part(sources, apply, group[0].target_delay))
    return tuple(made)


def _without(apply: Apply, offset: torch.Tensor) -> Apply:
    """A map of values that are too large by what makes `offset` (1, C, H, W)."""
    return lambda x: apply(x) - offset


def _joins(first: Edge, edge: Edge, graph: Graph) -> bool:
    """Whether two edges are one convolution of both sources' channels."""
    a, b = first.op, edge.op
    if not (isinstance(a, Conv) and isinstance(b, Conv)) or a.groups != 1 or b.groups != 1:
        return False
    if first.target_delay is not None or edge.target_delay is not None:
        return False
    geometries = [(op.weight.shape[2:], op.stride, op.padding, op.dilation) for op in (a, b)]
    return geometries[0] == geometries[1] and graph[first.source].shape[1:] == graph[edge.source].shape[1:]


def choose(op: Operator, source: Shape, samples: int, *, most: int = 1) -> tuple[Apply, str]:
    """An operator in the cheapest arithmetic that holds it, and that arithmetic's name.

    most: the largest value of a spike. Where the processor has no instructions for bytes, adding up the weights of
    spikes may be cheaper: that is tried on what comes first, and known from then on.
    """
    dense, name = _dense_way(op, source, samples, most)
    if most > 1 or multiplies_bytes() or not isinstance(op, Conv | ConvT):
        return dense, name
    events = _by_events(op, source)
    if events is None:
        return dense, name
    key = (type(op), op.weight.shape, op.stride, op.padding, op.dilation, source)
    return _Faster(key, (dense, events)), f"{name} or events"


def _dense_way(op: Operator, source: Shape, samples: int, most: int) -> tuple[Apply, str]:
    halves = most <= COUNT_MAX and _are_bytes(op.weight) and bytes_are_fast()
    if isinstance(op, Conv) and halves and reads(op, source):
        pool = pooled(op, source, COUNT_MAX // most)
        if pool is None:
            return pack_weight(_half(op.weight), op, (samples, *source)), "bytes"
        sides, smaller = pool
        sums = (samples, source[0], source[1] // sides[0], source[2] // sides[1])
        return _after_pool(sides, pack_weight(_half(smaller.weight), smaller, sums)), "bytes of sums"
    if isinstance(op, ConvT) and halves and _tiles(op):
        return _tiled(op, (samples, *source)), "bytes"
    if isinstance(op, Dense):
        return _dense(op, source), "floats"
    return (lambda x: apply_operator(op, x.float())), "floats"


class _Faster:
    """The faster of several ways to the same sums, for spikes about as many as those that came first."""

    def __init__(self, key: Hashable, ways: tuple[Apply, ...]) -> None:
        self.key, self.ways = key, ways
        self.chosen: Apply | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.chosen is None:
            spikes = int(torch.count_nonzero(x))
            known = (self.key, len(x), (x.numel() // max(spikes, 1)).bit_length())  # octaves of the firing rate
            if known not in FASTEST:
                FASTEST[known] = min(range(len(self.ways)), key=lambda k: _seconds(self.ways[k], x))
            self.chosen = self.ways[FASTEST[known]]
        return self.chosen(x)


FASTEST: dict[Hashable, int] = {}  # which way, of those that were tried in this process


def _seconds(way: Apply, x: torch.Tensor) -> float:
    """The lesser of two calls: the first one prepares."""
    took = []
    for _ in range(2):
        start = time.perf_counter()
        way(x)
        took.append(time.perf_counter() - start)
    return min(took)


def _by_events(op: Conv | ConvT, source: Shape) -> Apply | None:
    """Adds up the weights of every spike; None where most taps of a pixel land nowhere, or channels are grouped."""
    # The kernels' order is (W, H, C): here it is (H, W, C), so both sides change their places.
    weight = np.ascontiguousarray(op.weight.swapaxes(2, 3))
    turned = dataclasses.replace(
        op, weight=weight, stride=op.stride[::-1], padding=op.padding[::-1], dilation=op.dilation[::-1]
    )
    if isinstance(turned, ConvT):
        turned = dataclasses.replace(turned, output_padding=turned.output_padding[::-1])
    c, h, w = output_shape(op, source)
    taps = make_taps(turned, (source[0], source[2], source[1]), (c, w, h))
    if not taps.whole:
        return None

    def scattered(x: torch.Tensor) -> torch.Tensor:
        frames = x.permute(0, 2, 3, 1).reshape(len(x), -1).numpy()
        y = np.empty((len(x), h * w * c), np.float32)
        with kernels.ALONE:
            event_kernels.scatter_frames(frames, taps.columns, taps.rows, taps.weight, c, w, y)
        return torch.from_numpy(y).view(len(x), h, w, c).permute(0, 3, 1, 2)

    return scattered


def _are_bytes(weight: np.ndarray) -> bool:
    if not weight.size or weight.min() < WEIGHT_MIN or weight.max() > WEIGHT_MAX:
        return False
    return not (weight % 2).any()


def _half(weight: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((weight // 2).astype(np.int8))


def _after_pool(sides: Pair, apply: Apply) -> Apply:
    def of_sums(x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        sums = torch.empty((n, h // sides[0], w // sides[1], c), dtype=torch.uint8)
        with kernels.ALONE:
            kernels.sum_pixels(x.permute(0, 2, 3, 1).numpy(), sides[0], sides[1], sums.numpy())
        return apply(sums.permute(0, 3, 1, 2))

    return of_sums


def _tiles(op: ConvT) -> bool:
    """Whether every source pixel has target pixels of its own."""
    alone = op.padding == op.output_padding == (0, 0) and op.dilation == (1, 1) and op.groups == 1
    return alone and op.stride == op.weight.shape[2:]


def _tiled(op: ConvT, shape: tuple[int, ...]) -> Apply:
    """A transposed convolution whose kernels lie side by side: one of 1 x 1, whose outputs are the target's pixels."""
    _, outputs, kh, kw = op.weight.shape
    weight = op.weight.transpose(2, 3, 1, 0).reshape(kh * kw * outputs, -1, 1, 1)
    apply = pack_weight(_half(np.ascontiguousarray(weight)), Conv(weight), shape)

    def spread(x: torch.Tensor) -> torch.Tensor:
        n, _, h, w = x.shape
        y = apply(x).permute(0, 2, 3, 1).reshape(n, h, w, kh, kw, outputs)
        return y.transpose(2, 3).reshape(n, h * kh, w * kw, outputs).permute(0, 3, 1, 2)

    return spread


def _dense(op: Dense, source: Shape) -> Apply:
    """All to all, of sources in the order of memory (H, W, C)."""
    weight = op.weight.reshape(-1, *source).transpose(0, 2, 3, 1).reshape(len(op.weight), -1)
    matrix = torch.from_numpy(np.ascontiguousarray(weight)).float()
    return lambda x: F.linear(x.permute(0, 2, 3, 1).reshape(len(x), -1).float(), matrix)[:, :, None, None]
