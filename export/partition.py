"""A placement executed: every population becomes one population a core, joined by the synapses that its core holds.

The pieces give the spikes of the whole, every one, so what the cores would do can be run in every engine. A cut
convolution has to be one of whole tiles: what a tile must not read is skipped by zeros in its kernel, a zero
between two taps costing nothing where dilation can stand for it. The input stays whole, for a graph has one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from export.graph import (
    Conv,
    ConvT,
    Dense,
    Edge,
    Graph,
    GraphError,
    Input,
    Node,
    Operator,
    Population,
    Shape,
    Sparse,
    channels,
)
from export.limits import GEOMETRY_MAX
from export.mapping.geometry import Span, Tile, inside, taps, whole
from export.mapping.place import Placement

SEPARATOR = "@"  # name of a piece: population, this, number of its core in the population
FURTHER = 128  # paddings that are tried, to find the smallest kernel


def partition(graph: Graph, placement: Placement) -> Graph:
    """The graph with every population of a placement split into its tiles, in the order of the cores.

    Raises GraphError for a graph that is not the placement's.
    """
    tiles: dict[str, Sequence[Tile]] = {}
    for node in graph.nodes:
        if not isinstance(node, Input | Population):
            raise GraphError(f"{node.name}: a {type(node).__name__} is left; run the passes first")
        tiles[node.name] = (whole(node.shape),) if isinstance(node, Input) else _tiles(node, placement)
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Population):
            nodes += (_piece(graph, node, tiles, number) for number in range(len(tiles[node.name])))
        else:
            nodes.append(node)
    return dataclasses.replace(graph, nodes=tuple(nodes))


def piece_name(population: str, number: int) -> str:
    """Name of the piece of a population that its core `number` holds."""
    return f"{population}{SEPARATOR}{number}"


def assemble(placement: Placement, pieces: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays (..., C, H, W) of pieces, by name, to arrays of the populations all of whose pieces are there."""
    found: dict[str, np.ndarray] = {}
    for layer in placement.layers:
        names = [piece_name(layer.name, number) for number in range(len(layer.cores))]
        if not all(name in pieces for name in names):
            continue
        first = pieces[names[0]]
        found[layer.name] = np.zeros((*first.shape[:-3], *layer.shape), first.dtype)
        for name, core in zip(names, layer.cores, strict=True):
            found[layer.name][..., *core.tile.slices] = pieces[name]
    return found


def _tiles(population: Population, placement: Placement) -> tuple[Tile, ...]:
    try:
        layer = placement[population.name]
    except KeyError:
        raise GraphError(f"{population.name}: the placement has no such layer") from None
    if layer.shape != population.shape:
        raise GraphError(f"{population.name}: shape is {population.shape}; the placement's is {layer.shape}")
    return tuple(core.tile for core in layer.cores)


def _piece(graph: Graph, population: Population, tiles: Mapping[str, Sequence[Tile]], number: int) -> Population:
    tile = tiles[population.name][number]
    name = piece_name(population.name, number)
    edges = [piece for edge in population.forward for piece in _cut_edge(graph, edge, tiles[edge.source], tile)]
    if not edges:  # all that it reads is padding; it must hear something to have a depth
        edge = population.forward[0]
        first = tiles[edge.source][0]
        edges = [_named(graph, edge, 0, _silent(edge.op, first, tile), tile)]
    for edge in population.recurrent:
        back = _cut_edge(graph, edge, tiles[edge.source], tile)
        edges += (dataclasses.replace(piece, feedback=piece.source != name) for piece in back)
    neuron = population.cuba
    own = dataclasses.replace(
        neuron,
        current_decay=_at(neuron.current_decay, population.shape, tile),
        voltage_decay=_at(neuron.voltage_decay, population.shape, tile),
        bias=_at(neuron.bias, population.shape, tile),
        drop=_at(neuron.drop, population.shape, tile),
    )
    return dataclasses.replace(
        population,
        name=name,
        shape=tile.shape,
        edges=tuple(edges),
        neuron=own,
    )


def _at(value: Any, shape: Shape, tile: Tile) -> Any:
    """What a parameter of neurons is for those of a tile; one for all stays one."""
    return np.array(np.broadcast_to(value, shape)[tile.slices]) if isinstance(value, np.ndarray) else value


def _cut_edge(graph: Graph, edge: Edge, sources: Sequence[Tile], tile: Tile) -> Iterator[Edge]:
    for number, source in enumerate(sources):
        op = cut_operator(edge.op, graph[edge.source].shape, source, tile)
        if op is not None:
            yield _named(graph, edge, number, op, tile)


def _silent(op: Operator, source: Tile, target: Tile) -> Operator:
    """A synapse between two tiles that passes nothing."""
    if isinstance(op, Dense):
        return Dense(np.zeros((target.neurons, source.neurons), op.weight.dtype))
    if isinstance(op, Sparse):
        return Sparse(op.weight[:0], op.target[:0], op.source[:0], target.shape)
    into, out = source.shape[0], target.shape[0]
    weight = np.zeros((into, out, 1, 1) if isinstance(op, ConvT) else (out, into, 1, 1), op.weight.dtype)
    geometry = [(isinstance(op, ConvT), op.stride[k], op.padding[k], op.dilation[k], (0, 1)) for k in range(2)]
    rows, columns = _fit(*geometry[0], source.rows, target.rows), _fit(*geometry[1], source.columns, target.columns)
    return _with_axes(op, weight, 1, rows, columns)


def _named(graph: Graph, edge: Edge, number: int, op: Operator, tile: Tile) -> Edge:
    split = not isinstance(graph[edge.source], Input)
    further = edge.target_delay
    return dataclasses.replace(
        edge,
        source=piece_name(edge.source, number) if split else edge.source,
        op=op,
        target_delay=None if further is None else np.ascontiguousarray(further[tile.slices]),
    )


def cut_operator(op: Operator, shape: Shape, source: Tile, target: Tile) -> Operator | None:
    """The operator between a tile of its source (C, H, W) and a tile of its target; None where no tap joins them."""
    if isinstance(op, Dense):
        weight = op.weight[slice(*target.channels)].reshape(-1, *shape)[:, *source.slices]
        return Dense(np.ascontiguousarray(weight.reshape(len(weight), -1)))
    if isinstance(op, Sparse):
        return _cut_sparse(op, shape, source, target)
    rows = _cut_axis(op, 0, shape[1], source.rows, target.rows)
    columns = _cut_axis(op, 1, shape[2], source.columns, target.columns)
    if rows is None or columns is None:
        return None
    weight, groups = _cut_channels(op, source.channels, target.channels)
    weight = weight[:, :, slice(*rows.used), slice(*columns.used)]
    return _with_axes(op, weight, groups, rows, columns) if weight.any() else None


def _cut_sparse(op: Sparse, shape: Shape, source: Tile, target: Tile) -> Sparse | None:
    """The synapses between two tiles, whose neurons have numbers of their own there."""
    into, out_of = _numbers(op.shape, target), _numbers(shape, source)
    synapses = inside(op, target)
    synapses = synapses[out_of[op.source[synapses]] >= 0]
    if not op.weight[synapses].any():
        return None
    return Sparse(op.weight[synapses], into[op.target[synapses]], out_of[op.source[synapses]], target.shape)


def _numbers(shape: Shape, tile: Tile) -> np.ndarray:
    """The number that each neuron (C*H*W,) of a population has in a tile; -1 outside."""
    found = np.full(shape, -1)
    found[tile.slices] = np.arange(tile.neurons).reshape(tile.shape)
    return found.ravel()


def _cut_channels(op: Conv | ConvT, source: Span, target: Span) -> tuple[np.ndarray, int]:
    """Weights between spans of channels, and their groups: as they were, or one where a tile divides them."""
    cin, cout = channels(op)
    if (source, target) == ((0, cin), (0, cout)):
        return op.weight, op.groups
    if op.groups == 1:
        out, into = slice(*target), slice(*source)
        return (op.weight[into, out] if isinstance(op, ConvT) else op.weight[out, into]), 1
    full = np.zeros((cin, cout, *op.weight.shape[2:]), op.weight.dtype)
    for group in range(op.groups):
        into = slice(group * cin // op.groups, (group + 1) * cin // op.groups)
        out = slice(group * cout // op.groups, (group + 1) * cout // op.groups)
        full[into, out] = op.weight[into] if isinstance(op, ConvT) else op.weight[out].swapaxes(0, 1)
    some = full[slice(*source), slice(*target)]
    return (some if isinstance(op, ConvT) else some.swapaxes(0, 1)), 1


@dataclasses.dataclass(frozen=True)
class _Axis:
    """How a cut synapse lies along an axis: its taps `used` at `places` of a kernel of `size`, padding, dilation."""

    used: Span
    places: tuple[int, ...]
    size: int
    padding: int
    dilation: int
    output_padding: int = 0


def _cut_axis(op: Conv | ConvT, axis: int, size: int, source: Span, target: Span) -> _Axis | None:
    """How a span of a source of `size` places is joined to a span of the target; None where no tap joins them."""
    joined = np.flatnonzero(taps(op, axis, size, target)[slice(*source)].any(0))
    if not len(joined):
        return None
    used = (int(joined[0]), int(joined[-1]) + 1)
    return _fit(isinstance(op, ConvT), op.stride[axis], op.padding[axis], op.dilation[axis], used, source, target)


@lru_cache(maxsize=65536)
def _fit(transposed: bool, stride: int, padding: int, dilation: int, used: Span, source: Span, target: Span) -> _Axis:
    """The smallest kernel that joins two spans by the taps `used` and makes an output as long as the target's.

    In places of the tiles, tap j of a convolution reads t * stride + offset + j * dilation; of a transposed one, source
    s lands on s * stride + offset + j * dilation. Padding shifts the kernel so that no offset is negative, and zeros at
    its end make the output as long as the tile.
    """
    n, m = source[1] - source[0], target[1] - target[0]
    span = (used[1] - used[0] - 1) * dilation + 1
    first, last = (source[0], target[0]) if transposed else (target[0], source[0])
    offset = first * stride - padding - last + used[0] * dilation
    shrink = m - (n - 1) * stride if transposed else n - (m - 1) * stride  # reach at padding 0, by the output's length
    start = max(0, -offset, offset + span - shrink)
    tried: list[tuple[tuple[bool, int, int], _Axis]] = []
    for pad in range(start, start + FURTHER):
        place = offset + pad
        for rest in range(stride):
            reach = shrink + 2 * pad - rest
            if reach < place + span:
                break
            step = math.gcd(place, dilation if span > 1 else 0, reach - 1) or 1
            size = (reach - 1) // step + 1
            places = tuple(range(place // step, (place + span - 1) // step + 1, max(1, dilation // step)))
            found = _Axis(used, places, size, pad, step, rest if transposed else 0)
            tried.append(((max(size, pad, step) > GEOMETRY_MAX, size, pad), found))
    return min(tried, key=lambda candidate: candidate[0])[1]


def _with_axes(op: Conv | ConvT, weight: np.ndarray, groups: int, rows: _Axis, columns: _Axis) -> Conv | ConvT:
    kernel = np.zeros((*weight.shape[:2], rows.size, columns.size), weight.dtype)
    kernel[:, :, np.array(rows.places)[:, None], np.array(columns.places)] = weight
    changed = dataclasses.replace(
        op,
        weight=kernel,
        padding=(rows.padding, columns.padding),
        dilation=(rows.dilation, columns.dilation),
        groups=groups,
    )
    if isinstance(changed, ConvT):
        return dataclasses.replace(changed, output_padding=(rows.output_padding, columns.output_padding))
    return changed
