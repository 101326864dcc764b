"""Spikes on their way between cores: who sends how many to whom, and the synapses that they cross there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from export.graph import Edge, Graph, GraphError, Input, Shape
from export.inspect import KINDS
from export.mapping.geometry import Tile, fan_out, grid, whole
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
    joined = fan_out(edge.op, counts.shape, tile)
    operations = float((counts * joined).sum(dtype=np.float64))
    heard = counts.astype(np.float64) * (joined > 0)
    for axis, spans in enumerate(grid(own)):
        heard = np.add.reduceat(heard, [start for start, _ in spans], axis=axis)
    return heard.ravel(), operations
