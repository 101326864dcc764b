"""The graph: neuron populations joined by synapses, over numpy arrays. No torch, no HDF5.

A node is a population (or an input; before the passes also a pool, a concatenation or dropout), an edge is a
synapse. The graph is float (thresholds 1, any weights) until `quantize` makes it integer.

Time: an edge delivers at step t + 1 + delay what its source emitted at t, as a synapse in Lava does; so a
population at depth d emits at t + d what it emits at t in PyTorch. `depths` checks that this holds for all edges.
An edge from a population to itself is recurrent: what it emits at t arrives with the input of t + 1 + delay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from export.neurons import (  # noqa: F401 - and from here
    CURRENT_DECAY_NONE,
    SPIKE_SHIFT,
    STATE_SHIFT,
    VOLTAGE_DECAY_NONE,
    AnyNeuron,
    Decay,
    Neuron,
    SigmaDelta,
)
from export.operators import (  # noqa: F401 - the vocabulary of a graph comes from here
    Conv,
    ConvT,
    Dense,
    GraphError,
    Operator,
    Pair,
    Shape,
    Sparse,
    channels,
    output_shape,
)


@dataclass(frozen=True, eq=False)
class Edge:
    """A synapse from a named node into the population that holds it; delay in steps beyond the usual one.

    source: an earlier node, or the population itself.

    target_delay: further steps for each target neuron, int (C, H, W), or None: what lava-dl exports as axonal delay.
    They are no part of a population's depth.
    """

    source: str
    op: Operator
    delay: int = 0
    target_delay: np.ndarray | None = None


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
        """The edges from earlier nodes."""
        return tuple(edge for edge in self.edges if edge.source != self.name)

    @property
    def recurrent(self) -> tuple[Edge, ...]:
        """The edges from the population itself."""
        return tuple(edge for edge in self.edges if edge.source == self.name)


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

BINARY_ENCODERS = ("rate", "poisson")
ENCODERS = (*BINARY_ENCODERS, "graded")
LEVELS_MAX = 255  # of a graded spike that comes in: a byte
GRADED_LEVELS = 15  # four bits: nine weights of 8 bits each, times that, fit the 16 bits of a step's input
STEPS_UNKNOWN = "timesteps"  # the note of a network whose file does not say its time steps


@dataclass(frozen=True)
class Meta:
    """What a file says beside its network. logit_scale: logits per unit of output potential (<< 6)."""

    timesteps: int = 8
    encoder: str = "rate"
    logit_scale: float = 1.0
    class_names: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order. integer: whether weights and thresholds are Loihi's integers."""

    nodes: tuple[Node, ...]
    integer: bool = False
    meta: Meta = Meta()

    def __post_init__(self) -> None:
        seen: dict[str, Node] = {}
        for node in self.nodes:
            if node.name in seen:
                raise GraphError(f"{node.name}: the name is used twice; names must be unique")
            for source in sources(node):
                if source not in seen and not (source == node.name and isinstance(node, Population)):
                    raise GraphError(f"{node.name}: reads {source!r}, which is no earlier node")
            if isinstance(node, Population) and not node.forward:
                raise GraphError(f"{node.name}: no edge feeds it from outside; at least one is needed")
            seen[node.name] = node
        for node in self.nodes:
            _check_shape(node, seen)
            if isinstance(node, Input):
                _check_levels(node, self.meta.encoder)

    def __getitem__(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    @property
    def populations(self) -> tuple[Population, ...]:
        return tuple(node for node in self.nodes if isinstance(node, Population))

    @property
    def input(self) -> Input:
        return next(node for node in self.nodes if isinstance(node, Input))

    @property
    def outputs(self) -> tuple[Population, ...]:
        """The populations that only integrate."""
        return tuple(p for p in self.populations if p.neuron.threshold is None)

    @property
    def output(self) -> Population:
        """The first population that only integrates, or the last of all."""
        return self.outputs[0] if self.outputs else self.populations[-1]


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


def graded(graph: Graph) -> frozenset[str]:
    """Nodes whose spikes carry values: sigma-delta neurons, an input without neurons that feeds such, or of levels."""
    found = {node.name for node in graph.nodes if isinstance(node, Input | Population) and _sends_values(node.neuron)}
    found |= levels(graph).keys()
    for population in graph.populations:
        if isinstance(population.neuron, SigmaDelta):
            read = [graph[edge.source] for edge in population.edges]
            found.update(node.name for node in read if isinstance(node, Input) and node.neuron is None)
    return frozenset(found)


def levels(graph: Graph) -> dict[str, int]:
    """Nodes whose spikes carry values from 0 to a largest one, which is known: inputs of an encoder's graded spikes."""
    return {node.name: node.levels for node in graph.nodes if isinstance(node, Input) and node.levels > 1}


def _sends_values(neuron: AnyNeuron | None) -> bool:
    return isinstance(neuron, SigmaDelta) and neuron.threshold is not None


def has_sigma_delta(graph: Graph) -> bool:
    """Whether any neurons are sigma-delta: then all spikes may be values, however few are."""
    return any(isinstance(node, Input | Population) and isinstance(node.neuron, SigmaDelta) for node in graph.nodes)


def without_recurrence(graph: Graph, where: str) -> Graph:
    """The graph, for what knows none. Raises GraphError for a population that feeds itself."""
    for population in graph.populations:
        if population.recurrent:
            raise GraphError(f"{population.name}: feeds itself; networks without recurrence are what {where} takes")
    return graph


def with_timesteps(graph: Graph, timesteps: int) -> Graph:
    """The same network, run for another number of steps a sample."""
    notes = {key: note for key, note in graph.meta.notes.items() if key != STEPS_UNKNOWN}
    return replace(graph, meta=replace(graph.meta, timesteps=timesteps, notes=notes))


def with_encoder(graph: Graph, encoder: str, *, levels: int = GRADED_LEVELS) -> Graph:
    """The same network, its images turned into spikes by another code; levels: of `graded` ones.

    Weights are left as they are: those that read the input are per unit of what comes in.
    """
    levels = levels if encoder == "graded" else 1
    nodes = tuple(replace(node, levels=levels) if isinstance(node, Input) else node for node in graph.nodes)
    return replace(graph, nodes=nodes, meta=replace(graph.meta, encoder=encoder))


def with_neurons(graph: Graph, *, reset: str, u0: float) -> Graph:
    """The same network with another reset, and another start potential of the neurons that fire."""

    def changed(node: Node) -> Node:
        if not isinstance(node, Population):
            return node
        neuron = node.cuba
        return replace(node, neuron=replace(neuron, reset=reset, u0=0.0 if neuron.threshold is None else u0))

    return replace(graph, nodes=tuple(changed(node) for node in graph.nodes))


def depths(graph: Graph) -> dict[str, int]:
    """Depth of every node in steps. Raises GraphError where edges into a population are not aligned.

    Only for graphs without pools and concatenations.
    """
    depth: dict[str, int] = {}
    for node in graph.nodes:
        match node:
            case Input():
                depth[node.name] = 0
            case Population():
                arrivals = {e.source: depth[e.source] + 1 + e.delay for e in node.forward}
                if len(set(arrivals.values())) > 1:
                    raise GraphError(f"{node.name}: its edges arrive at steps {arrivals}; run align_delays first")
                depth[node.name] = next(iter(arrivals.values()))
            case _:
                raise GraphError(f"{node.name}: a {type(node).__name__} is left; run the passes first")
    return depth


def _check_levels(source: Input, encoder: str) -> None:
    if not 1 <= source.levels <= LEVELS_MAX:
        raise GraphError(f"{source.name}: {source.levels} levels; 1 to {LEVELS_MAX} are allowed")
    if (source.levels > 1) != (encoder == "graded"):
        raise GraphError(
            f"{source.name}: {source.levels} levels and the encoder {encoder!r}; 2 or more with 'graded', and 1 with "
            "any other, are allowed"
        )
    if source.levels > 1 and source.neuron is not None:
        raise GraphError(f"{source.name}: {source.levels} levels, and neurons of its own; one of the two is allowed")


def _check_shape(node: Node, nodes: Mapping[str, Node]) -> None:
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
        if edge.source == name and edge.target_delay is not None:
            raise GraphError(f"{name}: feeds itself with delays by target neuron; one delay for all is allowed")
        if edge.target_delay is not None and edge.target_delay.shape != shape:
            raise GraphError(f"{name}: target delays have shape {edge.target_delay.shape}; {shape} is needed")


def same(a: Graph, b: Graph) -> bool:
    """Whether two graphs are equal in every node, weight and field."""
    return _equal(a, b)


def _equal(a: object, b: object) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and bool((a == b).all())
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if hasattr(a, "__dataclass_fields__"):
        return all(_equal(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    return a == b
