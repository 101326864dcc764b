"""Input and output axons of a core.

Loihi 1: an input axon for each neuron that a tile reads, an output axon for each pair of a neuron and a core that
reads it (nengo-loihi). Loihi 2: a convolution comes in through population axons, 1 or 2 in Intel's logs, and goes out
through 1 or 2 for each pixel of the tile, whatever its channels and however many cores listen; 2 are counted here. A
dense layer has one input axon a source neuron and one output axon a neuron, which is what the logs have; so have single
synapses, of the neurons that they join.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from export.graph import Conv, ConvT, Dense, Edge, Graph, Operator, Population, Shape, Sparse
from export.mapping.chips import Chip
from export.mapping.geometry import Tile, grid, neurons_read, numbering, read_axis

POPULATION_AXONS = 2  # of a convolution on Loihi 2: 1 or 2 in the columns AxonIn and AxonMap of Intel's logs


def axons_in(chip: Chip, edge: Edge, source: Shape, tile: Tile) -> int:
    """Input axons that an edge from a source (C, H, W) takes on the core of a tile."""
    if chip.synapses == "loihi1" or isinstance(edge.op, Dense | Sparse):
        return neurons_read(edge.op, source, tile)
    return POPULATION_AXONS


def axons_out(chip: Chip, graph: Graph, tiles: Mapping[str, Sequence[Tile]]) -> dict[str, list[int]]:
    """Output axons of every tile, by name of its population or input. What nobody reads goes to the host."""
    read_by: dict[str, list[tuple[Population, Edge]]] = {name: [] for name in tiles}
    for population in graph.populations:
        for edge in population.edges:
            if edge.source in read_by:
                read_by[edge.source].append((population, edge))
    counted: dict[str, list[int]] = {}
    for name, own in tiles.items():
        totals = np.zeros(len(own), np.int64)
        for population, edge in read_by[name]:
            if chip.synapses == "loihi1":
                totals += _listeners(edge.op, graph[name].shape, own, tiles[population.name])
            elif isinstance(edge.op, Conv | ConvT):
                totals += [POPULATION_AXONS * math.prod(tile.shape[1:]) for tile in own]
            else:
                totals += _heard(edge.op, graph[name].shape, own)
        if not read_by[name]:
            totals += [tile.neurons for tile in own]
        counted[name] = totals.tolist()
    return counted


def _heard(op: Dense | Sparse, source: Shape, own: Sequence[Tile]) -> np.ndarray:
    """Neurons of each tile of a source (C, H, W) that have a synapse: int64 (tiles,)."""
    if isinstance(op, Dense):
        return np.array([tile.neurons for tile in own])
    return np.bincount(numbering(source, own)[np.unique(op.source)], minlength=len(own))


def _listeners(op: Operator, source: Shape, own: Sequence[Tile], others: Sequence[Tile]) -> np.ndarray:
    """Pairs of a neuron of each tile of a source (C, H, W) and a core that reads it: int64 (tiles,)."""
    if isinstance(op, Sparse):
        pairs = np.unique(op.source * len(others) + numbering(op.shape, others)[op.target])
        return np.bincount(numbering(source, own)[pairs // len(others)], minlength=len(own))
    heard = []  # by axis: how many spans of the target read each place. Tiles are a grid, so their numbers multiply
    for axis, spans in enumerate(grid(others)):
        heard.append(sum(read_axis(op, source, axis, span).astype(np.int64) for span in spans))
    sums = [np.concatenate([[0], np.cumsum(count)]) for count in heard]
    return np.array([math.prod(int(s[b] - s[a]) for s, (a, b) in zip(sums, tile.spans, strict=True)) for tile in own])
