"""Spikes on their way between cores: who sends how many to whom, and the synapses that they cross there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from export.graph import Dense, Edge, Graph, GraphError, Input, Shape, channels
from export.inspect import KINDS
from export.mapping.geometry import Tile, grid, read_axis, taps, whole
from export.mapping.place import Placement

HOST = -1  # in place of a core: an input without neurons, whose spikes come from outside


@dataclass(frozen=True)
class Flow:
    """One edge into one core: spikes by source core (numbers, HOST among them), and synapses crossed."""

    layer: str
    source: str
    kind: str
    core: int
    sources: tuple[int, ...]
    spikes: np.ndarray
    operations: float


def flows(graph: Graph, placement: Placement, counts: Mapping[str, np.ndarray]) -> Iterator[Flow]:
    """What arrives at every core, edge by edge. counts: spikes (C, H, W) of each node, over whatever time.

    A spike is one message for each core that reads its neuron. Raises GraphError for a node without counts.
    """
    for population in graph.populations:
        for edge in population.edges:
            source = graph[edge.source]
            if edge.source not in counts:
                raise GraphError(f"{edge.source}: no spikes are known of it; {population.name} reads it")
            own, numbers = _senders(placement, source.name, source.shape, isinstance(source, Input))
            for core in placement[population.name].cores:
                spikes, operations = _arriving(edge, counts[edge.source], own, core.tile)
                yield Flow(population.name, edge.source, KINDS[type(edge.op)], core.number, numbers, spikes, operations)


def matrix(graph: Graph, placement: Placement, counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Spikes from core to core, (cores, cores); what comes from outside is left out."""
    total = np.zeros((len(placement.cores),) * 2)
    for flow in flows(graph, placement, counts):
        for number, spikes in zip(flow.sources, flow.spikes, strict=True):
            if number != HOST:
                total[number, flow.core] += spikes
    return total


def _senders(placement: Placement, name: str, shape: Shape, is_input: bool) -> tuple[Sequence[Tile], tuple[int, ...]]:
    if is_input and name not in (layer.name for layer in placement.layers):
        return (whole(shape),), (HOST,)
    cores = placement[name].cores
    return [core.tile for core in cores], tuple(core.number for core in cores)


def _arriving(edge: Edge, counts: np.ndarray, own: Sequence[Tile], tile: Tile) -> tuple[np.ndarray, float]:
    """Spikes (own tiles,) that a tile hears through an edge, and the synapses that they cross, zeros included."""
    heard = counts.astype(np.float64)
    for axis, span in enumerate(tile.spans):
        mask = read_axis(edge, counts.shape, axis, span)
        heard = heard * mask.reshape([-1 if k == axis else 1 for k in range(3)])
    operations = float((heard * _fan_out(edge, counts.shape, tile)).sum())
    for axis, spans in enumerate(grid(own)):
        heard = np.add.reduceat(heard, [start for start, _ in spans], axis=axis)
    return heard.ravel(), operations


def _fan_out(edge: Edge, source: Shape, tile: Tile) -> np.ndarray:
    """Synapses of each source neuron that reads the tile, into it: broadcasts to (C, H, W)."""
    op = edge.op
    if isinstance(op, Dense):
        return np.full((1, 1, 1), float(tile.neurons))
    rows = taps(op, 0, source[1], tile.rows).sum(1)
    columns = taps(op, 1, source[2], tile.columns).sum(1)
    cin, cout = channels(op)
    group = np.arange(*tile.channels) // (cout // op.groups)
    outputs = (np.arange(cin)[:, None] // (cin // op.groups) == group).sum(1)
    return outputs[:, None, None] * rows[:, None] * columns
