"""The graph, its rewrites, its integers, its limits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

from export.graph import (
    Concat,
    Conv,
    ConvT,
    Dense,
    Dropout,
    Edge,
    Graph,
    GraphError,
    Input,
    Meta,
    Neuron,
    Pool,
    Population,
    Sparse,
    depths,
    output_shape,
    same,
)
from export.limits import INPUT_MAX, check
from export.passes import align_delays, flatten_convolutions, fold_pool, remove_dropout, split_concat
from export.quantize import largest_scale, quantize
from hardware_sim.engines import Record
from hardware_sim.reference import run_reference
from neuroseg.conversion.lower import integer_scales, lower, to_graph
from tests.examples import examples
from tests.graphs import single
from tests.networks import PLAIN, build, cases

RNG = np.random.default_rng(0)


def chain(weight: np.ndarray | None = None, **neuron) -> Graph:
    """input 1x4x4 -> hidden 2x4x4 -> head 1x4x4, integer."""
    first = np.full((2, 1, 3, 3), 8) if weight is None else weight
    hidden = Population("hidden", (2, 4, 4), (Edge("input", Conv(first, padding=(1, 1))),), Neuron(10, **neuron))
    head = Population("head", (1, 4, 4), (Edge("hidden", Conv(np.full((1, 2, 1, 1), 4))),), Neuron(None))
    return Graph((Input("input", (1, 4, 4)), hidden, head), integer=True, meta=Meta(timesteps=4))


def test_graph_errors_name_the_node():
    with pytest.raises(GraphError, match="input: the name is used twice"):
        Graph((Input("input", (1, 4, 4)), Input("input", (1, 4, 4))))
    with pytest.raises(GraphError, match="a: reads 'nowhere'"):
        Graph((Population("a", (1, 1, 1), (Edge("nowhere", Dense(np.ones((1, 1)))),), Neuron(1)),))
    with pytest.raises(GraphError, match=r"a: edge from x: weight \(1, 3, 1, 1\) .* does not fit"):
        edge = Edge("x", Conv(np.ones((1, 3, 1, 1))))
        Graph((Input("x", (2, 4, 4)), Population("a", (1, 4, 4), (edge,), Neuron(1))))
    with pytest.raises(GraphError, match=r"a: edge from x makes \(1, 4, 4\); shape is \(1, 3, 3\)"):
        edge = Edge("x", Conv(np.ones((1, 2, 1, 1))))
        Graph((Input("x", (2, 4, 4)), Population("a", (1, 3, 3), (edge,), Neuron(1))))


def test_shapes_are_those_of_torch():
    import torch
    import torch.nn.functional as F

    x = torch.zeros(1, 4, 9, 7)
    conv = Conv(np.zeros((6, 2, 3, 2)), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)
    y = F.conv2d(x, torch.zeros(6, 2, 3, 2), None, (2, 1), (1, 0), (1, 2), 2)
    assert output_shape(conv, (4, 9, 7)) == tuple(y.shape[1:])
    transposed = ConvT(np.zeros((4, 3, 3, 2)), (2, 3), (1, 0), (1, 2), (1, 2), 2)
    y = F.conv_transpose2d(x, torch.zeros(4, 3, 3, 2), None, (2, 3), (1, 0), (1, 2), 2, (1, 2))
    assert output_shape(transposed, (4, 9, 7)) == tuple(y.shape[1:])


def spikes_of(graph: Graph, spikes: np.ndarray):
    trace = run_reference(graph, spikes, record=Record(potentials="all"))
    return trace


def dyadic(graph: Graph) -> Graph:
    """Weights rounded to multiples of 1/16, so that float64 sums them exactly in any order."""

    def rounded(node):
        if not isinstance(node, Population):
            return node
        edges = tuple(
            dataclasses.replace(e, op=dataclasses.replace(e.op, weight=np.round(e.op.weight * 16) / 16))
            for e in node.edges
        )
        return dataclasses.replace(node, edges=edges)

    return dataclasses.replace(graph, nodes=tuple(rounded(node) for node in graph.nodes))


def with_dropout(graph: Graph) -> Graph:
    """A dropout behind every population, two behind the first, read by all that read it."""
    names: dict[str, str] = {}
    nodes: list = []
    for node in graph.nodes:
        match node:
            case Population():
                edges = tuple(dataclasses.replace(e, source=names.get(e.source, e.source)) for e in node.edges)
                node = dataclasses.replace(node, edges=edges)
            case Concat():
                node = dataclasses.replace(node, sources=tuple(names.get(s, s) for s in node.sources))
            case Pool():
                node = dataclasses.replace(node, source=names.get(node.source, node.source))
        nodes.append(node)
        if isinstance(node, Population) and node.neuron.threshold is not None:
            last = node.name
            for k in range(1 if names else 2):
                nodes.append(Dropout(f"{node.name}-{k}", node.shape, last, 0.5))
                last = f"{node.name}-{k}"
            names[node.name] = last
    return dataclasses.replace(graph, nodes=tuple(nodes))


@given(cases())
@examples(40)
def test_rewrites_change_no_spike(case):
    network, _, spikes = build(case)
    graph = with_dropout(dyadic(to_graph(network)))
    before = spikes_of(graph, spikes)
    for rewrite in (remove_dropout, flatten_convolutions, split_concat, fold_pool, align_delays):
        graph = rewrite(graph)
        after = spikes_of(graph, spikes)
        for name in before.packed:
            np.testing.assert_array_equal(after.spikes[name], before.spikes[name], err_msg=rewrite.__name__)
            np.testing.assert_array_equal(after.potentials[name], before.potentials[name])
        np.testing.assert_array_equal(after.output, before.output)
    assert all(isinstance(node, Input | Population) for node in graph.nodes)


def test_nested_pools_and_concats_are_rewritten():
    """mean(cat(mean(a), b)) into a dilated convolution and into dense synapses."""
    weight = RNG.integers(-8, 9, (3, 3, 2, 2)).astype(float)
    first = RNG.integers(-8, 9, (2, 1, 3, 3)).astype(float)
    nodes = (
        Input("input", (1, 24, 16)),
        Population("a", (2, 24, 16), (Edge("input", Conv(first, padding=(1, 1))),), Neuron(4.0)),
        Population("b", (1, 12, 8), (Edge("input", Conv(first[:1], (2, 2), (1, 1))),), Neuron(4.0)),
        Pool("pool", (2, 12, 8), "a", (2, 2)),
        Concat("cat", (3, 12, 8), ("pool", "b")),
        Pool("pool2", (3, 4, 4), "cat", (3, 2)),
        Population("c", (3, 4, 4), (Edge("pool2", Conv(weight, padding=(1, 1), dilation=(2, 2))),), Neuron(1.0)),
        Population("d", (5, 1, 1), (Edge("pool2", Dense(RNG.integers(-8, 9, (5, 48)).astype(float))),), Neuron(1.0)),
        Population("e", (1, 1, 1), (Edge("d", Dense(np.ones((1, 5)))),), Neuron(None)),
    )
    graph = Graph(nodes, meta=Meta(timesteps=6))
    spikes = (RNG.random((2, 6, 1, 24, 16)) < 0.5).astype(np.uint8)
    before = run_reference(graph, spikes)
    rewritten = fold_pool(split_concat(graph))
    after = run_reference(rewritten, spikes)
    assert before.total("c") and before.total("d")
    for name in before.packed:
        np.testing.assert_array_equal(after.spikes[name], before.spikes[name])
    assert {type(node) for node in rewritten.nodes} == {Input, Population}


@pytest.mark.parametrize("seed", range(10))
def test_rewrites_of_single_synapses_change_no_spike(seed):
    """They read a pool of a concatenation of a pool, a dropout and a part that none of them joins."""
    rng = np.random.default_rng(seed)
    first = rng.integers(-4, 9, (2, 1, 3, 3)).astype(float)
    into = dataclasses.replace(single(rng, (4, 4, 4), (2, 3, 5)), shape=(2, 3, 5))
    few = dataclasses.replace(into, **{k: getattr(into, k)[into.source < 48] for k in ("weight", "target", "source")})
    nodes = (
        Input("input", (1, 24, 16)),
        Population("a", (2, 24, 16), (Edge("input", Conv(first, padding=(1, 1))),), Neuron(4.0)),
        Population("b", (1, 12, 8), (Edge("input", Conv(first[:1], (2, 2), (1, 1))),), Neuron(4.0)),
        Pool("pool", (2, 12, 8), "a", (2, 2)),
        Dropout("drop", (1, 12, 8), "b", 0.5),
        Concat("cat", (4, 12, 8), ("pool", "drop", "b")),
        Pool("pool2", (4, 4, 4), "cat", (3, 2)),
        Population("c", (2, 3, 5), (Edge("pool2", into), Edge("pool2", few)), Neuron(6.0)),
        Population("d", (3, 1, 1), (Edge("c", single(rng, (2, 3, 5), (3, 1, 1))),), Neuron(None)),
    )
    graph = Graph(nodes, meta=Meta(timesteps=6))
    spikes = (rng.random((2, 6, 1, 24, 16)) < 0.5).astype(np.uint8)
    before = run_reference(graph, spikes)
    assert before.total("c")
    for rewrite in (remove_dropout, flatten_convolutions, split_concat, fold_pool, align_delays):
        graph = rewrite(graph)
        after = run_reference(graph, spikes)
        for name in before.packed:
            np.testing.assert_array_equal(after.spikes[name], before.spikes[name], err_msg=rewrite.__name__)
        np.testing.assert_allclose(after.output, before.output)
    assert {type(node) for node in graph.nodes} == {Input, Population}
    assert [edge.op.weight.size for edge in graph["c"].edges][-1] == 0  # what reads the last part: no synapse
    integers = check(quantize(graph))
    assert run_reference(integers, spikes).total("c")


def test_synapses_that_cannot_be_are_named():
    def graph(weight: int, target: list[int], source: list[int]) -> None:
        op = Sparse(np.ones(weight), np.array(target, int), np.array(source, int), (1, 1, 3))
        assert output_shape(op, (2, 1, 1)) == (1, 1, 3)
        Graph((Input("x", (2, 1, 1)), Population("a", (1, 1, 3), (Edge("x", op),), Neuron(1))))

    graph(0, [], [])
    graph(3, [0, 2, 2], [1, 0, 1])
    for given_, message in (
        ((3, [0, 1], [0, 1]), "one number a synapse is needed"),
        ((2, [0, 3], [0, 1]), "sparse targets reach from 0 to 3; 0 to 2 is allowed"),
        ((2, [0, -1], [0, 1]), "sparse targets reach from -1 to 0"),
        ((2, [0, 2], [0, 2]), "sparse sources reach from 0 to 2; 0 to 1 is allowed"),
        ((3, [2, 0, 2], [1, 0, 1]), "sparse synapses join the same two neurons twice"),
    ):
        with pytest.raises(GraphError, match=message):
            graph(*given_)


def test_pool_before_a_transposed_convolution_is_refused():
    nodes = (
        Input("input", (1, 4, 4)),
        Pool("pool", (1, 2, 2), "input", (2, 2)),
        Population("up", (1, 4, 4), (Edge("pool", ConvT(np.ones((1, 1, 2, 2)), (2, 2))),), Neuron(1.0)),
    )
    with pytest.raises(GraphError, match="up: average pooling pool straight into a transposed convolution"):
        fold_pool(Graph(nodes))


@pytest.mark.parametrize("transposed", [False, True])
def test_a_grouped_convolution_of_a_concat_loses_its_groups(transposed):
    """Its groups straddle the parts. Against PyTorch's own convolution of the joined channels."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (1, 6, 4, 4))
    weight = rng.integers(-9, 9, (6, 2, 3, 3) if transposed else (4, 3, 3, 3))  # two groups
    op = (ConvT if transposed else Conv)(weight, padding=(1, 1), groups=2)
    nodes = (
        Input("input", (4, 4, 4)),
        Population("more", (2, 4, 4), (Edge("input", Conv(np.ones((2, 4, 1, 1)))),), Neuron(1.0)),
        Concat("cat", (6, 4, 4), ("input", "more")),
        Population("a", (4, 4, 4), (Edge("cat", op),), Neuron(None)),
    )
    edges = split_concat(Graph(nodes)).populations[-1].edges
    function = F.conv_transpose2d if transposed else F.conv2d
    expected = function(torch.from_numpy(x).double(), torch.from_numpy(weight).double(), padding=1, groups=2)
    parts = torch.from_numpy(x).double().split([4, 2], dim=1)
    found = [
        function(part, torch.from_numpy(edge.op.weight).double(), padding=1)
        for part, edge in zip(parts, edges, strict=True)
    ]
    assert torch.equal(sum(found), expected) and all(edge.op.groups == 1 for edge in edges)


def test_delays_make_paths_meet():
    network, graph, _ = build(PLAIN)
    depth = depths(graph)
    for population in graph.populations:
        for edge in population.edges:
            assert depth[edge.source] + 1 + edge.delay == depth[population.name]
    skips = [e.delay for p in graph.populations for e in p.edges if e.delay]
    assert skips
    unaligned = fold_pool(split_concat(lower(network)))
    with pytest.raises(GraphError, match="run align_delays first"):
        depths(unaligned)
    first = graph.populations[0]
    late = dataclasses.replace(first.edges[0], delay=1)
    twice = dataclasses.replace(first, edges=(*first.edges, late))
    with pytest.raises(GraphError, match=f"{first.name}: its edges arrive at other steps, from input at 1, from input"):
        depths(dataclasses.replace(graph, nodes=(graph.input, twice, *graph.nodes[2:])))


@given(cases())
@examples(60)
def test_integers_are_those_that_pytorch_trained_with(case):
    network, graph, _ = build(case)
    for spec in network.populations:
        population = graph[spec.name]
        assert population.scale == network.scale(spec)
        if spec.neuron.threshold is not None:
            assert population.neuron.threshold == network.scale(spec)
    assert check(graph) is graph
    scales = integer_scales(network)
    assert scales == {p.name: p.scale for p in graph.populations}


@given(cases())
@examples(40)
def test_rounding_is_to_the_nearest_even_integer(case):
    network, _, _ = build(case)
    floats = fold_pool(split_concat(lower(network)))
    for before, after in zip(floats.populations, quantize(floats).populations, strict=True):
        for a, b in zip(before.edges, after.edges, strict=True):
            assert (np.abs(a.op.weight * after.scale - b.op.weight) <= 1 + 1e-9).all()
            assert (b.op.weight % 2 == 0).all()


def test_quantize_never_clips():
    graph = chain()
    heavy = dataclasses.replace(
        graph,
        integer=False,
        nodes=tuple(
            dataclasses.replace(
                n, scale=100.0, neuron=dataclasses.replace(n.neuron, threshold=n.neuron.threshold and 1.0)
            )
            if isinstance(n, Population)
            else n
            for n in graph.nodes
        ),
    )
    with pytest.raises(GraphError, match=r"hidden: scale 100 makes weights from input reach 800"):
        quantize(heavy)


def test_scale_yields_to_the_input_bound():
    """1000 synapses at the largest weight would exceed int16: the scale is lowered, not the input clipped."""
    dense = Population("a", (1, 1, 1), (Edge("x", Dense(np.ones((1, 1000)))),), Neuron(1.0))
    scale = largest_scale(dense, timesteps=8, values={})
    assert scale == int(scale) and 1000 * scale <= INPUT_MAX < 1000 * (scale + 2)
    crowded = Population("a", (1, 1, 1), (Edge("x", Dense(np.full((1, 1000), 300.0))),), Neuron(1.0))
    with pytest.raises(GraphError, match=r"a: weight 300, input in a step up to 300000 beside threshold 1.0"):
        largest_scale(crowded, timesteps=8, values={})


def test_equality_sees_every_field():
    graph = chain()
    assert same(graph, chain())
    assert not same(graph, chain(u0=64))
    assert not same(graph, chain(np.full((2, 1, 3, 3), 10)))
    assert not same(graph, dataclasses.replace(graph, meta=Meta(timesteps=5)))


def test_a_bias_beyond_loihi_is_named():
    neuron = Neuron(1.0, bias=np.full((1, 1, 1), 1e4))
    population = Population("a", (1, 1, 1), (Edge("input", Dense(np.ones((1, 1)))),), neuron)
    with pytest.raises(GraphError, match="a: weight 1, input in a step up to 1, bias 10000 beside threshold 1"):
        quantize(Graph((Input("input", (1, 1, 1)), population)))
