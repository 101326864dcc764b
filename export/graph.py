"""The graph: neuron populations joined by synapses, over numpy arrays. No torch, no HDF5.

A node is a population (or an input; before the passes also a pool, a concatenation or dropout), an edge is a
synapse. The graph is float (thresholds 1, any weights) until `quantize` makes it integer.

Time: an edge delivers at step t + 1 + delay what its source emitted at t, as a synapse in Lava does; so a
population at depth d emits at t + d what it emits at t in PyTorch. `depths` checks that this holds for all edges.
An edge from a population to itself, or with `feedback` from any other, is recurrent: what is emitted at t arrives with
the input of t + 1 + delay, and it counts for no depth. Since Lava runs a population as many steps later as it is deep,
such a delay is at least as many as its source is deeper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from export.nodes import (  # noqa: F401
    LEVELS_MAX,
    Concat,
    Dropout,
    Edge,
    Input,
    Node,
    Pool,
    Population,
    check_input,
    check_shape,
    sources,
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

BINARY_ENCODERS = ("rate", "poisson")
ENCODERS = (*BINARY_ENCODERS, "graded")
GRADED_LEVELS = 15  # four bits: a step's input has 16, and positive weights may add up to 2,184 beside that
SPIKE_SPAN, TERNARY_SPAN = (0, 1), (-1, 1)  # least and greatest value of a spike
STEPS_UNKNOWN = "timesteps"  # the note of a network whose file does not say its time steps

Span = tuple[int, int]


@dataclass(frozen=True)
class Meta:
    """What a file says beside its network. logit_scale: logits per unit of output potential (<< 6).

    context: neighbours on either side that come in with a slice of a scan, as channels before and after its own.
    """

    timesteps: int = 8
    encoder: str = "rate"
    logit_scale: float = 1.0
    class_names: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    context: int = 0


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
            read = [edge.source for edge in node.forward] if isinstance(node, Population) else sources(node)
            for source in read:
                if source not in seen:
                    raise GraphError(f"{node.name}: reads {source!r}, which is no earlier node")
            if isinstance(node, Population) and not node.forward:
                raise GraphError(f"{node.name}: no edge feeds it from outside; at least one is needed")
            seen[node.name] = node
        for node in self.nodes:
            if isinstance(node, Population):
                _check_feedback(node, seen)
            check_shape(node, seen)
            if isinstance(node, Input):
                check_input(node, self.meta.encoder)
                _check_context(node, self.meta.context)

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


def _check_context(node: Input, context: int) -> None:
    expected = 2 * context + 1
    if context and node.shape[0] != expected:
        raise GraphError(
            f"{node.name}: {node.shape[0]} channels; slices with {context} neighbours on either side have {expected}"
        )


def _check_feedback(population: Population, nodes: Mapping[str, Node]) -> None:
    for edge in population.edges:
        if edge.feedback and (edge.source == population.name or not isinstance(nodes.get(edge.source), Population)):
            raise GraphError(f"{population.name}: is fed back by {edge.source!r}, which is no other population")


def graded(graph: Graph) -> frozenset[str]:
    """Nodes whose spikes carry values: sigma-delta neurons, an input without neurons that feeds such, or `spans`."""
    found = {node.name for node in graph.nodes if isinstance(node, Input | Population) and _sends_values(node.neuron)}
    found |= spans(graph).keys()
    for population in graph.populations:
        if isinstance(population.neuron, SigmaDelta):
            read = [graph[edge.source] for edge in population.edges]
            found.update(node.name for node in read if isinstance(node, Input) and node.neuron is None)
    return frozenset(found)


def levels(graph: Graph) -> dict[str, int]:
    """Nodes whose spikes carry values from 0 to a largest one, which is known: inputs of an encoder's graded spikes."""
    return {node.name: node.levels for node in graph.nodes if isinstance(node, Input) and node.levels > 1}


def spans(graph: Graph) -> dict[str, Span]:
    """Nodes whose spikes carry values that are known: from 0 to an input's levels, from -1 to 1 of ternary neurons."""
    found: dict[str, Span] = {name: (0, most) for name, most in levels(graph).items()}
    return found | dict.fromkeys(ternary(graph), TERNARY_SPAN)


def ternary(graph: Graph) -> tuple[str, ...]:
    """Populations whose spikes are -1, 0 and 1."""
    return tuple(p.name for p in graph.populations if isinstance(p.neuron, Neuron) and p.neuron.ternary)


def _sends_values(neuron: AnyNeuron | None) -> bool:
    return isinstance(neuron, SigmaDelta) and neuron.threshold is not None


def has_sigma_delta(graph: Graph) -> bool:
    """Whether any neurons are sigma-delta: then all spikes may be values, however few are."""
    return any(isinstance(node, Input | Population) and isinstance(node.neuron, SigmaDelta) for node in graph.nodes)


def without_recurrence(graph: Graph, where: str) -> Graph:
    """The graph, for what knows none. Raises GraphError for a population that feeds itself or an earlier one."""
    for population in graph.populations:
        for edge in population.recurrent:
            what = "feeds itself" if edge.source == population.name else f"is fed back by {edge.source}"
            raise GraphError(f"{population.name}: {what}; networks without recurrence are what {where} takes")
    return graph


def stretches(graph: Graph) -> tuple[tuple[Node, ...], ...]:
    """The nodes in their order, those between which something comes back together; any other by itself."""
    place = {node.name: k for k, node in enumerate(graph.nodes)}
    found: list[list[Node]] = []
    end = -1
    for k, node in enumerate(graph.nodes):
        if k > end:
            found.append([])
        found[-1].append(node)
        back = node.recurrent if isinstance(node, Population) else ()
        end = max(k, end, *(place[edge.source] for edge in back))
    return tuple(tuple(nodes) for nodes in found)


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
    """The same network with another reset, and another start potential of the neurons that fire.

    Ternary neurons start at 0, halfway between their thresholds.
    """

    def changed(node: Node) -> Node:
        if not isinstance(node, Population):
            return node
        neuron = node.cuba
        still = neuron.threshold is None or neuron.ternary
        return replace(node, neuron=replace(neuron, reset=reset, u0=0.0 if still else u0))

    return replace(graph, nodes=tuple(changed(node) for node in graph.nodes))


def depths(graph: Graph) -> dict[str, int]:
    """Depth of every node in steps. Raises GraphError where edges into a population are not aligned, or bring back
    something sooner than layers of a step each can.

    Only for graphs without pools and concatenations.
    """
    depth = _forward_depths(graph)
    for population in graph.populations:
        for edge in population.recurrent:
            layers = 1 + depth[edge.source] - depth[population.name]
            if edge.delay + 1 < layers:
                raise GraphError(
                    f"{population.name}: is fed back by {edge.source} {edge.delay + 1} "
                    f"step{'s' if edge.delay else ''} late; {layers} or more are allowed, as a layer takes a step"
                )
    return depth


def _forward_depths(graph: Graph) -> dict[str, int]:
    depth: dict[str, int] = {}
    for node in graph.nodes:
        match node:
            case Input():
                depth[node.name] = 0
            case Population():
                arrivals = {(e.source, depth[e.source] + 1 + e.delay) for e in node.forward}
                if len({step for _, step in arrivals}) > 1:
                    found = ", ".join(f"from {source} at {step}" for source, step in sorted(arrivals)[:8])
                    raise GraphError(f"{node.name}: its edges arrive at other steps, {found}; run align_delays first")
                depth[node.name] = next(iter(arrivals))[1]
            case _:
                raise GraphError(f"{node.name}: a {type(node).__name__} is left; run the passes first")
    return depth


def pipelined(graph: Graph) -> Graph:
    """The network whose layers take a step each: what would come back too soon for that comes as soon as it can."""
    depth = _forward_depths(graph)
    return _with_recurrent_delays(graph, lambda edge, to: max(edge.delay, depth[edge.source] - depth[to.name]))


def in_lava_steps(graph: Graph) -> Graph:
    """The graph with delays of what comes back as they are where a population runs as many steps later as it is deep.

    Two populations of other depths are not at the same step of a sample, of which all other delays are.
    """
    depth = depths(graph)
    return _with_recurrent_delays(graph, lambda edge, to: edge.delay - depth[edge.source] + depth[to.name])


def _with_recurrent_delays(graph: Graph, delay: Callable[[Edge, Population], int]) -> Graph:
    def changed(node: Node) -> Node:
        if not isinstance(node, Population):
            return node
        edges = (replace(edge, delay=delay(edge, node)) if node.hears_late(edge) else edge for edge in node.edges)
        return replace(node, edges=tuple(edges))

    return replace(graph, nodes=tuple(changed(node) for node in graph.nodes))


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
