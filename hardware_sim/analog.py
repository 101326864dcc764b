"""The ReLU network that a float graph stands for: what every node gives, and how far its inputs reach."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from export.graph import Concat, Graph, Input, Neuron, Pool, Population
from export.quantize import Reach
from hardware_sim.reference import edge_input


def analog(graph: Graph, images: np.ndarray) -> dict[str, torch.Tensor]:
    """What each node gives on images (B, C, H, W): float64 (B, C, H, W). Pools and concatenations may be left."""
    values: dict[str, torch.Tensor] = {}
    for node in graph.nodes:
        match node:
            case Input():
                values[node.name] = torch.from_numpy(images.astype(np.float64) * node.levels)
            case Pool():
                values[node.name] = F.avg_pool2d(values[node.source], node.kernel)
            case Concat():
                values[node.name] = torch.cat([values[name] for name in node.sources], dim=1)
            case Population():
                y = torch.stack(_arriving(node, values)).sum(0) + _bias(node)
                values[node.name] = y if _is_linear(node) else y.clamp(min=0)
            case _:  # dropout, of training alone
                values[node.name] = values[node.source]
    return values


def _is_linear(population: Population) -> bool:
    """Whether its neurons stand for no ReLU: an output's, or ternary ones."""
    neuron = population.neuron
    return neuron.threshold is None or (isinstance(neuron, Neuron) and neuron.ternary)


def peaks(graph: Graph, images: np.ndarray) -> dict[str, Reach]:
    """How far each population's inputs reach on images, and the input's. For a graph of populations alone."""
    values, found = analog(graph, images), {graph.input.name: Reach(float(np.abs(images).max()))}
    for population in graph.populations:
        arriving = _arriving(population, values)
        whole = torch.stack(arriving).sum(0)
        sums = (whole, whole + _bias(population))
        found[population.name] = Reach(max(map(_furthest, sums)), tuple(map(_furthest, arriving)))
    return found


def _furthest(values: torch.Tensor) -> float:
    return float(values.abs().max())


def _arriving(population: Population, values: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Of each synapse: (B, C, H, W)."""
    return [edge_input(edge, values[edge.source][None])[0] for edge in population.edges]


def _bias(population: Population) -> torch.Tensor:
    bias = population.neuron.bias
    return torch.zeros(()) if bias is None else torch.from_numpy(np.asarray(bias, np.float64))
