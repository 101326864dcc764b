"""The nodes of a graph and the edges that join them, and what shapes must be like to fit. Frozen data over numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from export.neurons import AnyNeuron, Neuron
from export.operators import GraphError, Operator, Pair, Shape, output_shape

LEVELS_MAX = 255  # of a graded spike that comes in: a byte


@dataclass(frozen=True, eq=False)
class Edge:
    """A synapse from a named node into the population that holds it; delay in steps beyond the usual one.

    source: an earlier node, or the population itself; with `feedback` any other population, of whose spikes it takes in
    those of steps before.

    target_delay: further steps for each target neuron, int (C, H, W), or None: what lava-dl exports as axonal delay.
    They are no part of a population's depth.
    """

    source: str
    op: Operator
    delay: int = 0
    target_delay: np.ndarray | None = None
    feedback: bool = False


@dataclass(frozen=True, eq=False)
class Input:
    """Where spikes (C, H, W) come in.

    neuron: None, or the neurons that turn an image into those spikes, driven at every step by
    gain * intensity + offset, in weight units (lava-dl's input block); see `hardware_sim.input_spikes`.
    levels: the largest value that a spike carries, where the encoder makes graded ones; 1: spikes are 0 and 1.
    """

    name: str
    shape: Shape
    neuron: AnyNeuron | None = None
    gain: float = 1.0
    offset: float = 0.0
    levels: int = 1


@dataclass(frozen=True, eq=False)
class Population:
    """Neurons (C, H, W) driven by the sum of their edges.

    scale: integer weight units per unit of the float graph; in a float graph a wish, in an integer one a fact.
    """

    name: str
    shape: Shape
    edges: tuple[Edge, ...]
    neuron: AnyNeuron
    scale: float | None = None

    @property
    def cuba(self) -> Neuron:
        """Its CUBA neuron, for what knows no other. Raises GraphError for sigma-delta neurons."""
        if not isinstance(self.neuron, Neuron):
            raise GraphError(f"{self.name}: has sigma-delta neurons; integrate-and-fire neurons are needed here")
        return self.neuron

    @property
    def forward(self) -> tuple[Edge, ...]:
        """The edges from earlier nodes, at whose step it is."""
        return tuple(edge for edge in self.edges if not self.hears_late(edge))

    @property
    def recurrent(self) -> tuple[Edge, ...]:
        """The edges that bring spikes of steps before."""
        return tuple(edge for edge in self.edges if self.hears_late(edge))

    def hears_late(self, edge: Edge) -> bool:
        """Whether one of its edges is recurrent."""
        return edge.feedback or edge.source == self.name


@dataclass(frozen=True)
class Pool:
    """Mean over kernel x kernel with stride = kernel. `passes.fold_pool` removes it."""

    name: str
    shape: Shape
    source: str
    kernel: Pair


@dataclass(frozen=True)
class Concat:
    """Channels of several nodes, one after the other. `passes.split_concat` removes it."""

    name: str
    shape: Shape
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Dropout:
    """Spikes that training leaves out with probability p, by one mask for all steps. `passes.remove_dropout` does."""

    name: str
    shape: Shape
    source: str
    p: float


Node = Input | Population | Pool | Concat | Dropout


def sources(node: Node) -> tuple[str, ...]:
    """Names of the nodes that feed a node."""
    match node:
        case Population():
            return tuple(edge.source for edge in node.edges)
        case Concat():
            return node.sources
        case Pool() | Dropout():
            return (node.source,)
    return ()


def check_input(source: Input, encoder: str) -> None:
    if not 1 <= source.levels <= LEVELS_MAX:
        raise GraphError(f"{source.name}: {source.levels} levels; 1 to {LEVELS_MAX} are allowed")
    if (source.levels > 1) != (encoder == "graded"):
        raise GraphError(
            f"{source.name}: {source.levels} levels and the encoder {encoder!r}; 2 or more with 'graded', and 1 with "
            "any other, are allowed"
        )
    if source.levels > 1 and source.neuron is not None:
        raise GraphError(f"{source.name}: {source.levels} levels, and neurons of its own; one of the two is allowed")
    if isinstance(source.neuron, Neuron) and source.neuron.ternary:
        raise GraphError(f"{source.name}: ternary neurons turn images into spikes; others are allowed there")


def check_shape(node: Node, nodes: Mapping[str, Node]) -> None:
    match node:
        case Population():
            _check_edges(node, nodes)
        case Dropout():
            if nodes[node.source].shape != node.shape:
                raise GraphError(f"{node.name}: reads {nodes[node.source].shape}; shape is {node.shape}")
        case Concat():
            parts = [nodes[name].shape for name in node.sources]
            joined = (sum(p[0] for p in parts), *parts[0][1:])
            if len({p[1:] for p in parts}) > 1 or joined != node.shape:
                raise GraphError(f"{node.name}: concatenates {parts}; shape is {node.shape}")
        case Pool():
            c, h, w = nodes[node.source].shape
            if h % node.kernel[0] or w % node.kernel[1]:
                raise GraphError(f"{node.name}: pooling {node.kernel} does not divide its input {(h, w)}")
            if (c, h // node.kernel[0], w // node.kernel[1]) != node.shape:
                raise GraphError(f"{node.name}: pooling {node.kernel} of {(c, h, w)}; shape is {node.shape}")


def _check_edges(population: Population, nodes: Mapping[str, Node]) -> None:
    name, shape = population.name, population.shape
    for edge in population.edges:
        try:
            made = output_shape(edge.op, nodes[edge.source].shape)
        except GraphError as error:
            raise GraphError(f"{name}: edge from {edge.source}: {error}") from None
        if made != shape:
            raise GraphError(f"{name}: edge from {edge.source} makes {made}; shape is {shape}")
        if edge.target_delay is not None and population.hears_late(edge):
            what = "feeds itself" if edge.source == name else f"is fed back by {edge.source}"
            raise GraphError(f"{name}: {what} with delays by target neuron; one delay for all is allowed")
        if edge.target_delay is not None and edge.target_delay.shape != shape:
            raise GraphError(f"{name}: target delays have shape {edge.target_delay.shape}; {shape} is needed")
