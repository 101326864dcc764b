"""Loihi's limits: what `check` refuses, and the bounds on a population's input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export.bounds import edge_bound, input_bound, input_bound_in_place
from export.graph import (
    Conv,
    ConvT,
    Dense,
    Edge,
    Graph,
    GraphError,
    Input,
    Meta,
    Neuron,
    Population,
    Shape,
    output_shape,
)
from export.limits import GEOMETRY_MAX, check
from export.operators import to_dense
from export.passes import align_delays
from export.quantize import quantize
from hardware_sim.reference import sum_inputs
from tests.examples import examples
from tests.export.test_graph import chain
from tests.graphs import single


def as_matrix(population: Population, source: Shape) -> np.ndarray:
    """What each source neuron alone adds to each neuron (sources, C, H, W), of a population whose edges read `x`."""
    n = int(np.prod(source))
    return sum_inputs(population, {"x": torch.eye(n, dtype=torch.float64).reshape(1, n, *source)})[0].numpy()


@given(
    st.integers(0, 1000),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.booleans(),
)
@examples(40)
def test_bounds_hold_and_are_reached(seed, stride, dilation, transposed):
    """No input pattern exceeds the bound, and the worst pattern for some neuron reaches it."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(-9, 10, (2, 3, 3, 2)).astype(float)
    op = ConvT(weight, stride, dilation=dilation) if transposed else Conv(weight, stride, dilation=dilation)
    source = (2 if transposed else 3, 9, 9)
    shape = output_shape(op, source)
    population = Population("a", shape, (Edge("x", op),), Neuron(1.0))
    low, high = edge_bound(op)
    matrix = as_matrix(population, source).reshape(-1, shape[0], int(np.prod(shape[1:])))
    np.testing.assert_allclose(np.maximum(matrix, 0).sum(0).max(1), high)
    np.testing.assert_allclose(np.minimum(matrix, 0).sum(0).min(1), low)


@given(st.integers(0, 1000), st.floats(0, 1))
@examples(40)
def test_bounds_of_single_synapses_are_those_of_their_matrix(seed, share):
    rng = np.random.default_rng(seed)
    source, shape = (2, 3, 4), (3, 4, 2)
    edges = tuple(Edge("x", single(rng, source, shape, share)) for _ in range(2))
    low, high = np.zeros((2, *shape)), np.zeros((2, *shape))
    for k, edge in enumerate(edges):
        matrix = np.zeros((24, 24))
        for weight, into, out_of in zip(edge.op.weight, edge.op.target, edge.op.source):
            matrix[into, out_of] = weight
        np.testing.assert_array_equal(to_dense(edge.op, source), matrix)
        low[k], high[k] = (part.sum(1).reshape(shape) for part in (np.minimum(matrix, 0), np.maximum(matrix, 0)))
        np.testing.assert_array_equal(edge_bound(edge.op), (low[k].min((1, 2)), high[k].max((1, 2))))
    population = Population("a", shape, edges, Neuron(1))
    graph = Graph((Input("x", source), population), integer=True)
    assert input_bound_in_place(graph, population) == (low.sum(0).min(), high.sum(0).max())
    assert check(graph) is graph


def with_hidden(graph: Graph, **changes) -> Graph:
    nodes = tuple(dataclasses.replace(n, **changes) if n.name == "hidden" else n for n in graph.nodes)
    return dataclasses.replace(graph, nodes=nodes)


def hidden_neuron(**changes) -> Graph:
    graph = chain()
    return with_hidden(graph, neuron=dataclasses.replace(graph["hidden"].neuron, **changes))


def conv_edge(value: float = 8, delay: int = 0, **geometry) -> tuple[Edge, ...]:
    return (Edge("input", Conv(np.full((2, 1, 3, 3), value), padding=(1, 1), **geometry), delay),)


LIMITS = {
    "odd weight": (
        lambda: chain(np.resize([-8, 7], (2, 1, 3, 3))),
        "hidden: weight from input holds 7; even integers are allowed, or, where all have one sign, integers up to 255",
    ),
    "heavy weight": (
        lambda: chain(np.full((2, 1, 3, 3), 256)),
        "hidden: weight from input is 256; -256 to 254",
    ),
    "heavy odd weight": (lambda: chain(np.full((2, 1, 3, 3), 257)), "hidden: weight from input is 257; -255 to 255"),
    "light odd weight": (lambda: chain(np.full((2, 1, 3, 3), -257)), "hidden: weight from input is -257; -255 to 255"),
    "light weight": (lambda: chain(np.full((2, 1, 3, 3), -258)), "hidden: weight from input is -258"),
    "fraction": (lambda: chain(np.full((2, 1, 3, 3), 1.5)), "holds 1.5"),
    "NaN": (lambda: chain(np.full((2, 1, 3, 3), np.nan)), "holds NaN"),
    "threshold 0": (lambda: hidden_neuron(threshold=0), "hidden: threshold is 0; 1 to 131071"),
    "threshold": (lambda: hidden_neuron(threshold=131072), "hidden: threshold is 131072"),
    "delay": (
        lambda: with_hidden(chain(), edges=conv_edge(delay=63)),
        "hidden: delay from input is 63; 0 to 62",
    ),
    "reset": (lambda: hidden_neuron(reset="none"), "hidden: reset is 'none'"),
    "u0": (lambda: hidden_neuron(u0=2**23), "hidden: u0 is 8.38861e"),
    "u0 with zero": (lambda: hidden_neuron(u0=64, reset="zero"), "hidden: u0 is 64 with reset zero"),
    "current decay": (lambda: hidden_neuron(current_decay=4097), "hidden: current decay is 4097; 0 to 4096"),
    "voltage decay": (lambda: hidden_neuron(voltage_decay=-1), "hidden: voltage decay is -1"),
    "bias": (lambda: hidden_neuron(bias=np.array([2**20])), "hidden: bias is"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_every_limit_names_population_value_and_range(name):
    make, message = LIMITS[name]
    with pytest.raises(GraphError, match=message.replace("(", r"\(")):
        check(make())


def test_input_beyond_int16_is_refused():
    dense = Population("wide", (1, 1, 1), (Edge("input", Dense(np.full((1, 200), 254))),), Neuron(10))
    graph = Graph((Input("input", (200, 1, 1)), dense), integer=True)
    with pytest.raises(
        GraphError, match="wide: greatest input in a step may reach 50800, a bound from its weights; -32768 to 32767"
    ):
        check(graph)


def test_readout_that_could_fire_is_refused():
    dense = Population("head", (1, 1, 1), (Edge("input", Dense(np.full((1, 100), 254))),), Neuron(None))
    graph = Graph((Input("input", (100, 1, 1)), dense), integer=True, meta=Meta(timesteps=6))
    with pytest.raises(GraphError, match=r"head: potential after 6 steps, >> 6, may reach 152400"):
        check(graph)
    check(dataclasses.replace(graph, meta=Meta(timesteps=5)))


def test_float_graphs_are_not_checked_as_integers():
    with pytest.raises(GraphError, match="quantize it first"):
        check(dataclasses.replace(chain(), integer=False))


@pytest.mark.parametrize("seed", range(100))
def test_a_biased_output_is_scaled_to_what_the_check_allows(seed):
    """The bound counts the bias as it will be rounded."""
    rng = np.random.default_rng(seed)
    neuron = Neuron(None, bias=rng.uniform(-60, 60, (2, 1, 1)))
    population = Population("head", (2, 1, 1), (Edge("input", Dense(rng.normal(size=(2, 300)))),), neuron)
    check(align_delays(quantize(Graph((Input("input", (300, 1, 1)), population), meta=Meta(timesteps=8)))))


@given(
    st.integers(0, 1000), st.sampled_from([(1, 1), (2, 2), (2, 3)]), st.integers(0, 2), st.integers(1, 2), st.booleans()
)
@examples(40)
def test_bounds_in_place_are_the_sums_of_what_each_neuron_hears(seed, stride, padding, groups, transposed):
    """Against every synapse by itself; borders and all edges counted."""
    rng = np.random.default_rng(seed)
    weight = 2.0 * rng.integers(-9, 10, (4, 4 // groups, 3, 2))
    made = ConvT if transposed else Conv
    op = made(weight, stride, padding=(padding, padding), groups=groups)
    source = (4, 5, 6)
    shape = output_shape(op, source)
    further = Dense(2.0 * rng.integers(-9, 10, (int(np.prod(shape)), int(np.prod(source)))))
    flat = Population("flat", (int(np.prod(shape)), 1, 1), (Edge("x", further),), Neuron(1.0))
    for edges in ((Edge("x", op),), (Edge("x", op), Edge("x", op))):
        population = Population("a", shape, edges, Neuron(1.0))
        graph = Graph((Input("x", source), population, flat))
        matrix = as_matrix(population, source)  # edges are alike, so none cancels another
        wanted = np.minimum(matrix, 0).sum(0).min(), np.maximum(matrix, 0).sum(0).max()
        assert input_bound_in_place(graph, population) == wanted
        low, high = input_bound(population, {})
        assert low <= wanted[0] and wanted[1] <= high
    assert input_bound_in_place(graph, flat) == input_bound(flat, {})


def test_a_population_that_no_neuron_of_overflows_is_taken():
    """All 25 taps at once would exceed int16; no place of a 2 x 2 map hears more than 4 of them."""
    wide = Conv(np.full((1, 60, 5, 5), 100), padding=(2, 2))
    nodes = (Input("input", (60, 2, 2)), Population("a", (1, 2, 2), (Edge("input", wide),), Neuron(10)))
    graph = Graph(nodes, integer=True)
    assert input_bound(graph["a"], {})[1] == 150_000 and input_bound_in_place(graph, graph["a"])[1] == 24_000
    assert check(graph) is graph


def test_wide_kernels_are_refused_for_lavas_own_parts_alone():
    kernel = Conv(np.zeros((1, 1, 1, GEOMETRY_MAX + 2), int), padding=(0, 64))
    nodes = (Input("input", (1, 1, 9)), Population("a", (1, 1, 9), (Edge("input", kernel),), Neuron(10)))
    graph = Graph(nodes, integer=True)
    with pytest.raises(GraphError, match="a: kernel is 129; 1 to 127 is allowed"):
        check(graph)
    assert check(graph, stock=False) is graph
