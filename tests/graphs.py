"""Random integer graphs of every kind of synapse, single ones among them, beyond what a module can say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from hypothesis import strategies as st

from export.graph import (
    Conv,
    ConvT,
    Decay,
    Dense,
    Edge,
    Graph,
    Input,
    Meta,
    Neuron,
    Node,
    Operator,
    Population,
    Shape,
    SigmaDelta,
    Sparse,
    depths,
    with_encoder,
)
from export.limits import beyond
from export.passes import align_delays

SHAPES = st.one_of(
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    st.integers(1, 6).map(lambda n: (n, 1, 1)),
)


def tiny(name: str = "a", notes: Mapping[str, str] = MappingProxyType({})) -> Graph:
    """Two populations in a row, of 16 neurons each."""
    one = np.full((1, 1, 1, 1), 8)
    hidden = Population(name, (1, 4, 4), (Edge("input", Conv(one)),), Neuron(2))
    end = Population("end", (1, 4, 4), (Edge(name, Conv(one)),), Neuron(None))
    return Graph((Input("input", (1, 4, 4)), hidden, end), integer=True, meta=Meta(timesteps=4, notes=notes))


def weights(rng: np.random.Generator, halves: tuple[int, int], shape: tuple[int, ...], *, odd: bool) -> np.ndarray:
    """Even ones of both signs; or odd ones, too, and up to 255, which a synapse may have where all are of one sign."""
    if not odd:
        return 2 * rng.integers(*halves, shape)
    return rng.choice([-1, 1, 1]) * rng.integers(0, rng.choice([2 * halves[1], 256]), shape)


def single(rng: np.random.Generator, source: Shape, target: Shape, share: float = 0.3, *, odd: bool = False) -> Sparse:
    """Single synapses between a share of all pairs of neurons, in any order; some of weight 0."""
    pairs = math.prod(source) * math.prod(target)
    chosen = rng.choice(pairs, int(share * pairs), replace=False)
    return Sparse(weights(rng, (-12, 20), (len(chosen),), odd=odd), *np.divmod(chosen, math.prod(source)), target)


def _operator(rng: np.random.Generator, kind: str, source: Shape, target: Shape) -> Operator:
    """One of the kind where it fits the shapes, else single synapses."""
    odd = rng.random() < 0.2
    if kind == "dense" and target[1:] == (1, 1):
        return Dense(weights(rng, (-6, 9), (target[0], math.prod(source)), odd=odd))
    if kind == "conv" and source[1:] == target[1:]:
        return Conv(weights(rng, (-6, 9), (target[0], source[0], 3, 3), odd=odd), padding=(1, 1))
    if kind == "convT" and source[1:] == target[1:]:
        return ConvT(weights(rng, (-6, 9), (source[0], target[0], 3, 3), odd=odd), padding=(1, 1))
    return single(rng, source, target, float(rng.choice([0.0, 0.1, 0.5, 1.0])), odd=odd)


def _each(draw, rng: np.random.Generator, shape: Shape, most: int) -> Decay:
    """One for all, one a channel, or one a neuron, as a file would have it."""
    each = draw(st.sampled_from([None, (shape[0], 1, 1), shape]))
    drawn = rng.integers(0, most + 1, each or (1, 1, 1), dtype=np.int32)
    return drawn if (drawn != drawn.flat[0]).any() else int(drawn.flat[0])


def _neuron(draw, rng: np.random.Generator, shape: Shape, *, driven: bool, signed: bool = False) -> Neuron:
    """driven: whether it may fire without input. signed: whether its spikes may have a sign."""
    reset = draw(st.sampled_from(["subtract", "zero"]))
    leaky = draw(st.booleans())
    each = draw(st.sampled_from([None, (shape[0], 1, 1), shape])) if driven else None
    return Neuron(
        threshold=draw(st.integers(5, 60)),
        reset=reset,
        u0=64 * draw(st.integers(0, 9)) if reset == "subtract" and driven else 0,
        current_decay=_each(draw, rng, shape, 4096) if leaky else 4096,
        voltage_decay=_each(draw, rng, shape, 4096) if leaky else 0,
        bias=None if each is None else 64 * rng.integers(-5, 9, each, np.int32),
        drop=_each(draw, rng, shape, 6000) if leaky and reset == "subtract" and draw(st.booleans()) else None,
        ternary=signed and draw(st.booleans()),
    )


def _feedback(draw, rng: np.random.Generator, name: str, shape: Shape) -> Edge:
    """What a population sends itself, a few steps late."""
    op = _operator(rng, draw(st.sampled_from(["sparse", "conv", "convT", "dense"])), shape, shape)
    return Edge(name, op, draw(st.integers(0, 3)))


def _looped(draw, rng: np.random.Generator, graph: Graph) -> Graph:
    """The graph with late edges between any populations, as soon as layers of a step each allow, or later."""
    depth = depths(graph)
    fire = [p for p in graph.populations if p.neuron.threshold is not None]
    nodes = {node.name: node for node in graph.nodes}
    pairs = [(p, q) for p in fire for q in fire if p is not q]
    for p, q in draw(st.lists(st.sampled_from(pairs), max_size=2)) if pairs else []:
        op = _operator(rng, draw(st.sampled_from(["sparse", "conv", "convT", "dense"])), q.shape, p.shape)
        soonest = depth[q.name] - depth[p.name]
        back = Edge(q.name, op, max(0, soonest) + draw(st.integers(0, 2)), feedback=True)
        nodes[p.name] = replace(nodes[p.name], edges=(*nodes[p.name].edges, back))
    return replace(graph, nodes=tuple(nodes.values()))


@st.composite
def graded_graphs(draw, recurrent: bool = False, late: bool = False) -> tuple[Graph, np.ndarray]:
    """Sigma-delta neurons, and values int32 (samples, T, C, H, W). late: delays by channel, too."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    source = SigmaDelta(draw(st.integers(0, 2)) << 12) if draw(st.booleans()) else None
    nodes: list[Node] = [Input("input", draw(SHAPES), source)]
    count = draw(st.integers(2, 4))
    for k in range(count):
        shape = draw(st.one_of(SHAPES, st.just(nodes[-1].shape)))
        edges = []
        for read in [nodes[-1], *draw(st.lists(st.sampled_from(nodes), max_size=1))]:
            kind = draw(st.sampled_from(["sparse", "conv", "convT", "dense"]))
            waits = (
                np.broadcast_to(rng.integers(0, 4, (shape[0], 1, 1)), shape) if late and draw(st.booleans()) else None
            )
            edges.append(Edge(read.name, _operator(rng, kind, read.shape, shape), target_delay=waits))
        if recurrent and k < count - 1 and draw(st.booleans()):
            edges.append(_feedback(draw, rng, f"p{k}", shape))
        nodes.append(Population(f"p{k}", shape, tuple(edges), _sigma_delta(draw, rng, shape, last=k == count - 1)))
    graph = align_delays(Graph(tuple(nodes), integer=True, meta=Meta(timesteps=draw(st.integers(1, 6)))))
    graph = _looped(draw, rng, graph) if recurrent else graph
    samples = 1 if recurrent else draw(st.integers(1, 3))
    values = rng.integers(-40, 41, (samples, graph.meta.timesteps, *graph.input.shape), np.int32)
    return graph, values * (rng.random(values.shape) < 0.7)


def _sigma_delta(draw, rng: np.random.Generator, shape: Shape, *, last: bool) -> SigmaDelta:
    if last and draw(st.booleans()):
        return SigmaDelta(None)
    each = draw(st.sampled_from([None, (shape[0], 1, 1), shape]))
    stock = draw(st.booleans())  # as NetX knows them
    unit, shift = (4096, 6) if stock else (1, draw(st.integers(2, 9)))
    return SigmaDelta(
        threshold=unit * draw(st.integers(0, 3 if stock else 500)),
        bias=None if each is None else unit * rng.integers(-2, 3 if stock else 300, each, np.int32),
        shift=shift,
    )


def values_of(spikes: np.ndarray, graph: Graph, rng: np.random.Generator) -> np.ndarray:
    """Graded spikes int32 of a graph's input, where there are spikes uint8."""
    return spikes.astype(np.int32) * rng.integers(1, graph.input.levels + 1, spikes.shape, np.int32)


@st.composite
def graphs(
    draw, most: int = 4, stock: bool = False, recurrent: bool = False, valued: bool = False
) -> tuple[Graph, np.ndarray]:
    """A graph whose populations read any nodes before them, aligned, and input spikes (samples, T, C, H, W).

    stock: only what stock processes of Lava run. recurrent: populations may feed themselves, too. valued: what comes in
    may be an encoder's graded spikes, int32, else uint8; and neurons may be ternary.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    nodes: list[Node] = [Input("input", draw(SHAPES))]
    count = draw(st.integers(2, most))
    late = recurrent or draw(st.sampled_from([False, False, True]))  # delays by channel, and what feeds itself
    for k in range(count):
        shape = draw(st.one_of(SHAPES, st.just(nodes[-1].shape)))
        read = [nodes[-1], *draw(st.lists(st.sampled_from(nodes), max_size=2))]
        edges = []
        for source in read:
            kind = draw(st.sampled_from(["sparse", "sparse", "conv", "convT", "dense"]))
            waits = (
                np.broadcast_to(rng.integers(0, 4, (shape[0], 1, 1)), shape) if late and draw(st.booleans()) else None
            )
            edges.append(Edge(source.name, _operator(rng, kind, source.shape, shape), target_delay=waits))
        if recurrent and k < count - 1 and draw(st.booleans()):
            edges += [_feedback(draw, rng, f"p{k}", shape)]
        driven, last = not (late and stock), k == count - 1
        neuron = Neuron(None) if last else _neuron(draw, rng, shape, driven=driven, signed=valued)
        nodes.append(Population(f"p{k}", shape, tuple(edges), neuron))
    meta = Meta(timesteps=draw(st.integers(1, 8)))
    graph = align_delays(Graph(tuple(nodes), integer=True, meta=meta))
    graph = _looped(draw, rng, graph) if recurrent else graph
    samples = 1 if late and stock else draw(st.integers(1, 3))
    there = rng.random((samples, meta.timesteps, *graph.input.shape)) < draw(st.floats(0.1, 1))
    spikes = there.astype(np.uint8)
    levels = draw(st.sampled_from([1, 1, 2, 15, 127, 255])) if valued else 1
    graded = with_encoder(graph, "graded", levels=levels) if levels > 1 else graph
    if levels == 1 or beyond(graded):  # what reads it might exceed 16 bits
        return graph, spikes
    return graded, values_of(spikes, graded, rng)
