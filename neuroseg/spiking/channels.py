"""What channels carry through the layers between populations: sums of pools, survivors of dropout, lifetimes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from export.graph import Concat, Conv, ConvT, Dropout, Graph, Input, Pool, Population, Shape, Sparse, channels, sources


def per_input_channel(vector: torch.Tensor, op: Conv | ConvT | Sparse, source: Shape) -> torch.Tensor:
    """Shape a value per input channel (Cin,) of a source (Cin, H, W) so that it broadcasts against the weight."""
    if isinstance(op, Sparse):
        return vector[torch.from_numpy(op.source // math.prod(source[1:]))]
    if isinstance(op, ConvT):
        return vector.view(-1, 1, 1, 1)
    grouped = vector.view(op.groups, 1, -1)  # groups, 1, Cin/groups
    outputs = channels(op)[1]
    rows = grouped.expand(-1, outputs // op.groups, -1)
    return rows.reshape(outputs, -1, 1, 1)


def per_output_channel(vector: torch.Tensor, op: Conv | ConvT) -> torch.Tensor:
    """Shape a value per output channel (Cout,) so that it broadcasts against the synapse's weight."""
    if isinstance(op, Conv):
        return vector.view(-1, 1, 1, 1)
    inputs = channels(op)[0]
    grouped = vector.view(op.groups, 1, -1).expand(-1, inputs // op.groups, -1)
    return grouped.reshape(inputs, -1, 1, 1)


def channel_values(
    graph: Graph,
    source: Callable[[Input | Population], float],
    through: Callable[[Pool | Dropout], float],
) -> dict[str, torch.Tensor]:
    """Carry a value per channel from inputs and populations through the nodes between: float64 (C,).

    source: the value that a node starts with; through: the factor that a pool or a dropout applies.
    """
    values: dict[str, torch.Tensor] = {}
    for node in graph.nodes:
        match node:
            case Pool() | Dropout():
                values[node.name] = values[node.source] * through(node)
            case Concat():
                values[node.name] = torch.cat([values[name] for name in node.sources])
            case _:
                values[node.name] = torch.full((node.shape[0],), source(node), dtype=torch.float64)
    return values


def pool_sizes(graph: Graph) -> dict[str, torch.Tensor]:
    """For each node and channel, how many spikes a pooled value sums: float64 (C,)."""
    return channel_values(graph, lambda _: 1.0, lambda node: math.prod(node.kernel) if isinstance(node, Pool) else 1)


def levels_read(graph: Graph) -> dict[str, torch.Tensor]:
    """For each node and channel, the levels of the input's spikes that it passes on, or 1: float64 (C,)."""
    return channel_values(graph, lambda node: node.levels if isinstance(node, Input) else 1, lambda _: 1)


def survival_rates(graph: Graph) -> dict[str, torch.Tensor]:
    """For each node and channel, the share of spikes that dropout lets pass in training: float64 (C,)."""
    return channel_values(graph, lambda _: 1.0, lambda node: 1 - node.p if isinstance(node, Dropout) else 1)


def last_reads(graph: Graph) -> dict[str, tuple[str, ...]]:
    """For each node, the nodes that nothing reads after it."""
    reader = {name: node.name for node in graph.nodes for name in sources(node)}
    return {node.name: tuple(n for n, last in reader.items() if last == node.name) for node in graph.nodes}
