"""A graph under construction: what operations yield, and the nodes made of it so far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.graph import Edge, Neuron, Node, Population, Shape


@dataclass(frozen=True, eq=False)
class Current:
    """The membrane current that linear operations produce, waiting for a ReLU (or for the output).

    bias: (C,). rectified: a sum of spikes alone, which a ReLU leaves as it is.
    """

    name: str
    shape: Shape
    edges: tuple[Edge, ...]
    bias: np.ndarray | None = None
    rectified: bool = False


@dataclass(frozen=True)
class Enlarged:
    """Spikes of layers joined by their channels, each pixel repeated `factor` times in both directions."""

    parts: tuple[tuple[str, int], ...]  # layer, factor


@dataclass(frozen=True)
class Mask:
    """What dropout multiplies with: kept with this probability."""

    keep: float


Value = Current | Enlarged | Mask | str | None  # a string: the name of a layer that emits spikes


class Draft:
    """Nodes in the order in which they are made."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {}

    def add(self, node: Node) -> str:
        self.nodes.append(node)
        self.shapes[node.name] = node.shape
        return node.name

    def population(self, current: Current, *, fires: bool) -> str:
        """Neurons that a current drives."""
        bias = None if current.bias is None else current.bias.reshape(-1, 1, 1)
        neuron = Neuron(threshold=1.0 if fires else None, bias=bias)
        return self.add(Population(self.unique(current.name), current.shape, current.edges, neuron))

    def unique(self, name: str) -> str:
        """The name, numbered where it is taken."""
        candidate, k = name, 1
        while candidate in self.shapes:
            candidate, k = f"{name}_{k}", k + 1
        return candidate
