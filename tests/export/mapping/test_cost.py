"""Traffic and operations against counting them synapse by synapse in the partitioned graph; energies; time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given

from export.graph import Dense, Edge, Graph, GraphError, Input, Meta, Neuron, Population
from export.mapping.chips import LOIHI1, LOIHI2
from export.mapping.cost import cost, router
from export.mapping.energies import DAVIES_2018, SANA_FE, TABLES
from export.mapping.place import place
from export.mapping.summary import summary
from export.mapping.traffic import HOST, flows, matrix
from export.partition import partition
from hardware_sim.lava_backend.synapses import to_sparse
from tests.examples import examples
from tests.graphs import graphs
from tests.networks import build, cases


def ones(graph: Graph) -> Graph:
    """The same synapses, none of weight 0."""

    def full(population: Population) -> Population:
        edges = (
            dataclasses.replace(e, op=dataclasses.replace(e.op, weight=np.full_like(e.op.weight, 2)))
            for e in population.edges
        )
        return dataclasses.replace(population, edges=tuple(edges))

    return dataclasses.replace(graph, nodes=tuple(full(n) if isinstance(n, Population) else n for n in graph.nodes))


@given(cases(max_side=8))
@examples(12)
def test_traffic_is_what_crosses_the_cut_edges(case):
    _, graph, _ = build(case)
    assert_crosses(graph)


@given(graphs(recurrent=True))
@examples(25)
def test_so_is_that_of_single_synapses(drawn):
    assert_crosses(drawn[0])


def assert_crosses(graph: Graph) -> None:
    graph, rng = ones(graph), np.random.default_rng(0)
    placement = place(graph, dataclasses.replace(LOIHI2, neurons=20))
    counts = {node.name: rng.integers(0, 9, node.shape) for node in graph.nodes}
    numbers = {f"{layer.name}@{k}": core.number for layer in placement.layers for k, core in enumerate(layer.cores)}
    pieces = {
        f"{layer.name}@{k}": counts[layer.name][core.tile.slices]
        for layer in placement.layers
        for k, core in enumerate(layer.cores)
    }
    expected, operations = np.zeros((len(placement.cores),) * 2), 0.0
    cut = partition(graph, placement)
    for population in cut.populations:
        for edge in population.edges:
            fired = pieces.get(edge.source, counts[graph.input.name])
            synapses = to_sparse(edge.op, fired.shape, population.shape)
            joined = np.diff(synapses.tocsc().indptr)  # of each source neuron, in (W, H, C) order
            operations += float((joined * fired.T.reshape(-1)).sum())
            if edge.source in numbers:
                heard = fired.T.reshape(-1)[joined > 0].sum()
                expected[numbers[edge.source], numbers[population.name]] += heard
    np.testing.assert_array_equal(matrix(graph, placement, counts), expected)
    assert sum(flow.operations for flow in flows(graph, placement, counts)) == operations
    found = cost(graph, placement, counts, SANA_FE)
    assert found.total("operations") == operations and found.total("messages") == expected.sum()


def two_cores() -> tuple[Graph, dict[str, np.ndarray]]:
    """input 4 -> a 4 (one core) -> b 2 (another), 10 steps."""
    a = Population("a", (4, 1, 1), (Edge("input", Dense(np.full((4, 4), 2))),), Neuron(1, reset="zero"))
    b = Population("b", (2, 1, 1), (Edge("a", Dense(np.full((2, 4), 2))),), Neuron(1, reset="zero"))
    graph = Graph((Input("input", (4, 1, 1)), a, b), integer=True, meta=Meta(timesteps=10))
    spikes = {"input": np.full((4, 1, 1), 6), "a": np.full((4, 1, 1), 2), "b": np.zeros((2, 1, 1))}
    return graph, spikes


def test_a_cost_by_hand():
    """Two samples: a slice has 12 input spikes and 4 of a; 48 and 8 synapses crossed; 6 neurons, 10 steps."""
    graph, spikes = two_cores()
    found = cost(graph, place(graph, LOIHI1), spikes, SANA_FE, samples=2)
    assert (found.total("spikes"), found.total("operations"), found.total("updates")) == (4, 56, 60)
    assert found.total("messages") == 4  # to one core; what comes from outside is none of the cores' messages
    assert found.energy["synapses"] == pytest.approx(56 * 35.5e-12)
    assert found.energy["neurons"] == pytest.approx(60 * (51.2e-12 + 21.6e-12) + 4 * 69.3e-12)
    assert found.energy["network"] == pytest.approx(4 * 111e-12)  # one router: no hop
    slowest = 40 * 9.7e-9 + 4 * 30e-9 + 48 * 3.8e-9 + 12 * 16e-9 + 4 * 5.1e-9
    assert found.step == pytest.approx(slowest / 10 + 0.6e-6)
    assert found.static is None and not found.borrowed and found.seconds == pytest.approx(10 * found.step)
    half = cost(graph, place(graph, LOIHI1), spikes, SANA_FE, samples=2, active={"a": 40, "b": 20})
    assert half.energy["neurons"] == pytest.approx(60 * 51.2e-12 + 30 * 21.6e-12 + 4 * 69.3e-12)


def test_davies_and_loihi_2():
    graph, spikes = two_cores()
    found = cost(graph, place(graph, LOIHI2), spikes, DAVIES_2018, samples=2)
    assert found.energy["synapses"] == pytest.approx(56 * 23.6e-12)
    assert found.energy["neurons"] == pytest.approx(60 * 81e-12)
    assert found.borrowed and found.static == pytest.approx(0.232 * found.seconds)
    written = summary(place(graph, LOIHI2), [found])["costs"][0]
    assert written["estimate"] and written["borrowed from Loihi 1"] and "Davies" in written["source"]
    assert written["a slice"]["joules, total"] == pytest.approx(found.dynamic + found.static)
    assert sum(sum(layer["joules"].values()) for layer in written["layers"]) == pytest.approx(found.dynamic)


def test_hops_and_chips():
    assert [router(n, 128) for n in (0, 3, 4, 16, 127, 128)] == [
        (0, 0, 0), (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 7, 3), (1, 0, 0),
    ]  # fmt: skip
    graph, spikes = two_cores()
    near, far = (dataclasses.replace(LOIHI1, cores=cores) for cores in (128, 1))
    costs = [cost(graph, place(graph, chip), spikes, SANA_FE, samples=2) for chip in (near, far)]
    assert [found.between_chips for found in costs] == [0, 4]


def test_barriers_grow_with_the_routers():
    assert [SANA_FE.barrier_of(n) for n in (0, 1, 2, 3, 28, 29, 32)] == [6e-7, 6e-7, 1e-6, 1e-6, 1.4e-6, 1.8e-6, 1.8e-6]
    assert all(table.source and table.synapse.keys() == {"conv", "convT", "dense", "sparse"} for table in TABLES)


def test_spikes_of_another_graph_are_refused():
    graph, spikes = two_cores()
    placement = place(graph, LOIHI2)
    with pytest.raises(GraphError, match="a: no spikes are known of it; b reads it"):
        cost(graph, placement, {"input": spikes["input"]}, SANA_FE)
    with pytest.raises(GraphError, match=r"a: spikes have shape \(1, 1, 1\); \(4, 1, 1\) is needed"):
        cost(graph, placement, {**spikes, "a": np.ones((1, 1, 1))}, SANA_FE)
    assert {number for flow in flows(graph, placement, spikes) for number in flow.sources} == {HOST, 0}
