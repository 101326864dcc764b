"""How far the input of a population may reach in one step, by its weights alone: at worst, and neuron by neuron."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from export.graph import SPIKE_SPAN, Conv, ConvT, Dense, Graph, Operator, Population, Shape, Span, Sparse, spans


def input_bound(population: Population, values: Mapping[str, Span]) -> tuple[float, float]:
    """Least and greatest input any neuron of the population can get in one step, from its weights alone.

    values: the least and the greatest of a source's spikes, where these are not 0 and 1 (`graph.spans`).
    """
    each = [_spanned(np.stack(edge_bound(e.op)), values.get(e.source, SPIKE_SPAN)) for e in population.edges]
    bounds = np.stack(each).sum(0)  # 2, Cout
    return float(bounds[0].min()), float(bounds[1].max())


def _spanned(bounds: np.ndarray, span: Span) -> np.ndarray:
    """Least and greatest inputs (2, ...) by spikes of a span, from the sums of negative and of positive weights."""
    (negative, positive), (least, most) = bounds, span
    return np.stack([most * negative + least * positive, most * positive + least * negative])


def input_bound_in_place(graph: Graph, population: Population) -> tuple[float, float]:
    """`input_bound` by what reaches each neuron at its place: less at borders, and of a synapse cut in pieces."""
    values = spans(graph)
    bounds = [
        _spanned(
            _bound_in_place(edge.op, graph[edge.source].shape, population.shape), values.get(edge.source, SPIKE_SPAN)
        )
        for edge in population.edges
    ]
    low, high = np.stack(bounds).sum(0)  # (C, H, W)
    return float(low.min()), float(high.max())


def _bound_in_place(op: Operator, source: Shape, target: Shape) -> np.ndarray:
    """Least and greatest input of every target neuron: (2, C, H, W)."""
    if isinstance(op, Dense):
        return np.stack(edge_bound(op)).reshape(2, *target)
    if isinstance(op, Sparse):
        return np.stack([_by_target(op, negative=True), _by_target(op, negative=False)])
    negative, positive = np.minimum(op.weight, 0), np.maximum(op.weight, 0)
    taps = [_by_output(op, weight) for weight in (negative, positive)]  # (Cout, kh, kw)
    rows, columns = (_hits(op, axis, source[1 + axis], target[1 + axis]) for axis in range(2))
    return np.einsum("bcij,yi,xj->bcyx", np.stack(taps), rows, columns)


def _by_target(op: Sparse, *, negative: bool) -> np.ndarray:
    """Sum of the negative or of the positive weights into each target neuron: (C, H, W)."""
    weight = np.minimum(op.weight, 0) if negative else np.maximum(op.weight, 0)
    return np.bincount(op.target, weight, minlength=math.prod(op.shape)).reshape(op.shape)


def _hits(op: Conv | ConvT, axis: int, source: int, target: int) -> np.ndarray:
    """Whether each tap brings anything to each target place along an axis (0 rows, 1 columns): (target, taps)."""
    stride, padding = op.stride[axis], op.padding[axis]
    tap = np.arange(op.weight.shape[2 + axis]) * op.dilation[axis]
    place = np.arange(target)[:, None]
    if isinstance(op, ConvT):
        read, rest = np.divmod(place + padding - tap, stride)
        return (rest == 0) & (read >= 0) & (read < source)
    read = place * stride - padding + tap
    return (read >= 0) & (read < source)


def _by_output(op: Conv | ConvT, weight: np.ndarray) -> np.ndarray:
    """Weights summed over the inputs of each output channel: (Cout, kh, kw)."""
    if isinstance(op, Conv):
        return weight.sum(1)
    cin, per_group, kh, kw = weight.shape
    return weight.reshape(op.groups, cin // op.groups, per_group, kh, kw).sum(1).reshape(-1, kh, kw)


def edge_bound(op: Operator) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest input per output channel (Cout,): all negative or all positive synapses active.

    A transposed convolution is bounded by phase: an output pixel is reached only by the kernel taps that its
    place modulo the stride allows. Single synapses are bounded neuron by neuron.
    """
    if isinstance(op, Sparse):
        return _by_target(op, negative=True).min((1, 2)), _by_target(op, negative=False).max((1, 2))
    negative, positive = np.minimum(op.weight, 0), np.maximum(op.weight, 0)
    if isinstance(op, Dense):
        return negative.sum(1), positive.sum(1)
    if isinstance(op, Conv):
        return negative.sum((1, 2, 3)), positive.sum((1, 2, 3))
    return _transposed_bound(op, negative, np.min), _transposed_bound(op, positive, np.max)


def _transposed_bound(op: ConvT, weight: np.ndarray, worst: Callable) -> np.ndarray:
    taps = _by_output(op, weight)
    _, kh, kw = taps.shape
    phases: dict[tuple[int, int], np.ndarray] = {}
    for i in range(kh):
        for j in range(kw):
            phase = (i * op.dilation[0] % op.stride[0], j * op.dilation[1] % op.stride[1])
            phases[phase] = phases.get(phase, 0) + taps[:, i, j]
    return worst(np.stack(list(phases.values())), axis=0)
