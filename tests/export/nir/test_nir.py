"""NIR: what is written is read, what others write is read as they mean it, what does not fit is named."""

from __future__ import annotations

import dataclasses
import logging

import nir
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.graph import (
    Concat,
    Conv,
    ConvT,
    Dense,
    Edge,
    Graph,
    GraphError,
    Input,
    Meta,
    Neuron,
    Pool,
    Population,
    Sparse,
    output_shape,
    same,
)
from export.limits import check
from export.nir import read as read_nir
from export.nir import write as write_nir
from export.passes import align_delays
from export.quantize import quantize
from hardware_sim.engines import Record, run
from hardware_sim.reference import run_reference
from tests.examples import examples
from tests.export.test_graph import chain
from tests.graphs import single
from tests.networks import PLAIN, build

DT = 1e-4


@st.composite
def graphs(draw) -> Graph:
    """Integer graphs that NIR can express: skips, leaks, biases, both resets, dense layers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    side = draw(st.integers(4, 7))
    nodes: list = [Input("input", (draw(st.integers(1, 3)), side, side + draw(st.integers(0, 2))))]
    for k in range(draw(st.integers(1, 4))):
        groups = draw(st.sampled_from([1, 1, 2]))
        stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 1)])) if k == 0 else (1, 1)
        alike = [n for n in nodes if n.shape[1:] == nodes[-1].shape[1:]]
        sources = draw(st.lists(st.sampled_from(alike), min_size=1, max_size=3, unique_by=lambda n: n.name))
        kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 1)]))
        padding = (kernel[0] // 2, kernel[1] // 2)
        edges = []
        for source in sources:
            g = groups if source.shape[0] % groups == 0 else 1
            weight = rng.integers(-30, 50, (4, source.shape[0] // g, *kernel)) * 2
            edges.append(Edge(source.name, Conv(weight, stride, padding, groups=g)))
        shape = output_shape(edges[0].op, sources[0].shape)
        nodes.append(Population(f"p{k}", shape, tuple(edges), draw(neurons(4, rng))))
    for k in range(draw(st.integers(0, 2))):
        source = nodes[-1]
        weight = rng.integers(-30, 50, (5, int(np.prod(source.shape)))) * 2
        nodes.append(Population(f"d{k}", (5, 1, 1), (Edge(source.name, Dense(weight)),), draw(neurons(5, rng))))
    weight = rng.integers(-20, 20, (2, nodes[-1].shape[0], 1, 1)) * 2
    silent = dataclasses.replace(draw(neurons(2, rng)), threshold=None, reset="zero", u0=0)
    head = Population("head", (2, *nodes[-1].shape[1:]), (Edge(nodes[-1].name, Conv(weight)),), silent)
    meta = Meta(timesteps=draw(st.integers(1, 8)), logit_scale=0.03125, class_names=("no", "yes"))
    return check(align_delays(Graph((*nodes, head), integer=True, meta=meta)))


@st.composite
def neurons(draw, channels: int, rng: np.random.Generator) -> Neuron:
    reset = draw(st.sampled_from(["zero", "subtract"]))
    leak = draw(st.sampled_from([(4096, 0), (4096, 0), (4096, 2048), (4096, 411), (1000, 300), (4096, 4096)]))
    biased = leak[0] == 4096 and draw(st.booleans())
    return Neuron(
        threshold=draw(st.integers(20, 300)),
        reset=reset,
        u0=draw(st.sampled_from([0, 640])) if reset == "subtract" else 0,
        current_decay=leak[0],
        voltage_decay=leak[1],
        bias=(rng.integers(-5, 20, (channels, 1, 1)) * 64).astype(np.int32) if biased else None,
    )


def drive(graph: Graph, samples: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.random((samples, graph.meta.timesteps, *graph.input.shape)) < 0.5).astype(np.uint8)


def assert_same_spikes(a: Graph, b: Graph) -> None:
    first, second = (run(graph, drive(graph), record=Record(potentials="all")) for graph in (a, b))
    assert set(first.potentials) == set(second.potentials)
    for name in first.packed:
        np.testing.assert_array_equal(second.spikes[name], first.spikes[name], err_msg=name)
    for name in first.potentials:
        np.testing.assert_array_equal(second.potentials[name], first.potentials[name], err_msg=name)


@given(graph=graphs())
@examples(60)
def test_integer_graphs_come_back_as_they_were(graph, tmp_path_factory):
    path = write_nir(graph, tmp_path_factory.mktemp("nir") / "network.nir")
    assert [p.name for p in path.parent.iterdir()] == ["network.nir"]
    back = check(quantize(read_nir(path, timesteps=graph.meta.timesteps)))
    assert back.meta.class_names == graph.meta.class_names and back.meta.logit_scale == graph.meta.logit_scale
    assert_same_spikes(graph, back)


def float_graph() -> Graph:
    """Pools, a concatenation, a skip around two layers, thresholds of 1."""
    rng = np.random.default_rng(1)

    def conv(cout: int, cin: int) -> Conv:
        return Conv(rng.integers(-8, 24, (cout, cin, 3, 3)) / 64, padding=(1, 1))

    nodes = (
        Input("input", (1, 8, 8)),
        Population("a", (2, 8, 8), (Edge("input", conv(2, 1)),), Neuron(1.0, reset="zero")),
        Population("b", (3, 8, 8), (Edge("a", conv(3, 2)),), Neuron(1.0, reset="zero", bias=np.full((3, 1, 1), 0.125))),
        Concat("cat", (5, 8, 8), ("a", "b")),
        Pool("pool", (5, 4, 4), "cat", (2, 2)),
        Population("c", (4, 4, 4), (Edge("pool", conv(4, 5)),), Neuron(1.0, reset="zero"), scale=100.0),
        Population("out", (3, 1, 1), (Edge("c", Dense(rng.integers(-8, 9, (3, 64)) / 64)),), Neuron(None, "zero")),
    )
    return Graph(nodes, meta=Meta(timesteps=6, logit_scale=2.0))


def test_float_graphs_come_back_as_they_were(tmp_path):
    from export.passes import fold_pool, split_concat

    graph = align_delays(fold_pool(split_concat(float_graph())))
    for written in (float_graph(), graph):
        back = read_nir(write_nir(written, tmp_path / "f.nir"), timesteps=6)
        assert same(quantize(back), dataclasses.replace(quantize(graph), meta=quantize(back).meta))
        assert quantize(back).meta.logit_scale == quantize(graph).meta.logit_scale
        np.testing.assert_array_equal(run_reference(back, drive(back)).output, run_reference(graph, drive(back)).output)


def test_files_are_what_nir_itself_accepts(tmp_path, caplog):
    """nir.read checks types by default. No warning where everything could be said."""
    with caplog.at_level(logging.WARNING):
        path = write_nir(float_graph(), tmp_path / "f.nir")
    assert not caplog.records
    network = nir.read(path)
    kinds = {name: type(node).__name__ for name, node in network.nodes.items()}
    assert kinds == {
        "input": "Input", "a": "IF", "a:0": "Conv2d", "b": "IF", "b:0": "Conv2d", "c": "IF", "c:0": "Conv2d",
        "c:1": "Conv2d", "out": "I", "out:0": "Linear", "out:0:flat": "Flatten", "output": "Output",
    }  # fmt: skip
    assert network.nodes["c:0"].weight.dtype == np.float32


def test_soft_reset_and_start_potentials_are_said_aloud(tmp_path, caplog):
    graph = quantize(align_delays(dataclasses.replace(chain(u0=0.5), integer=False)))
    with caplog.at_level(logging.WARNING):
        path = write_nir(graph, tmp_path / "soft.nir")
    assert "NIR cannot say reset by subtraction or a start potential" in caplog.text and "hidden" in caplog.text
    said = nir.read(path).nodes["hidden"].metadata
    assert (said["reset"], said["u0"], said["scale"]) == ("subtract", graph["hidden"].neuron.u0 / 64, 1.0)


@pytest.mark.parametrize(
    "kind", ["a transposed convolution", "a delay", "a decaying bias", "a bias by neuron", "a name"]
)
def test_what_nir_cannot_say_is_refused(kind, tmp_path):
    graph = chain()
    hidden = graph["hidden"]
    edge = hidden.edges[0]
    changed = {
        "a transposed convolution": (
            dataclasses.replace(hidden, edges=(Edge("input", ConvT(np.full((1, 2, 3, 3), 2), padding=(1, 1))),)),
            "hidden: a transposed convolution from input, which NIR has not",
        ),
        "a delay": (
            dataclasses.replace(hidden, edges=(dataclasses.replace(edge, delay=2),)),
            r"hidden: delays \[2\]; \[0\], which align its layers, are allowed",
        ),
        "a decaying bias": (
            dataclasses.replace(hidden, neuron=Neuron(9, current_decay=9, voltage_decay=9, bias=np.ones((2, 1, 1)))),
            "hidden: a bias, and a current decay of 9",
        ),
        "a bias by neuron": (
            dataclasses.replace(hidden, neuron=Neuron(9, bias=np.arange(32).reshape(2, 4, 4))),
            "hidden: a bias for every neuron; one number a channel",
        ),
        "a name": (dataclasses.replace(hidden, name="a/b"), "a/b: a name with '/'"),
    }
    node, message = changed[kind]
    head = dataclasses.replace(graph["head"], edges=(dataclasses.replace(graph["head"].edges[0], source=node.name),))
    with pytest.raises(GraphError, match=message):
        write_nir(dataclasses.replace(graph, nodes=(graph["input"], node, head)), tmp_path / "a.nir")
    assert not list(tmp_path.iterdir())


def test_single_synapses_into_flat_neurons_are_dense_ones(tmp_path):
    rng = np.random.default_rng(0)
    first = Population("a", (2, 4, 4), (Edge("input", Conv(np.full((2, 1, 3, 3), 8), padding=(1, 1))),), Neuron(9))
    last = Population("b", (3, 1, 1), (Edge("a", single(rng, (2, 4, 4), (3, 1, 1))),), Neuron(None))
    graph = Graph((Input("input", (1, 4, 4)), first, last), integer=True, meta=Meta(timesteps=6))
    back = read_nir(write_nir(graph, tmp_path / "n.nir"), timesteps=6)
    spikes = (rng.random((2, 6, 1, 4, 4)) < 0.5).astype(np.uint8)
    found, wanted = (run_reference(g, spikes) for g in (back, graph))
    assert wanted.output.any()
    np.testing.assert_array_equal(found.output * 64, wanted.output)


@pytest.mark.parametrize(("source", "shape"), [((1, 4, 4), (1, 2, 2)), ((1, 2**12, 2**12), (2, 1, 1))])
def test_other_single_synapses_are_refused(source, shape, tmp_path):
    op = Sparse(np.array([4]), np.array([0]), np.array([5]), shape)
    graph = Graph((Input("input", source), Population("a", shape, (Edge("input", op),), Neuron(9))), integer=True)
    with pytest.raises(GraphError, match=r"a: single synapses from input into .* which NIR has not; into flat neurons"):
        write_nir(graph, tmp_path / "n.nir")
    assert not list(tmp_path.iterdir())


def test_u_shaped_networks_are_refused_by_their_first_way_up(tmp_path):
    for up in ("transposed", "nearest"):
        _, graph, _ = build(dataclasses.replace(PLAIN, up=up))
        with pytest.raises(GraphError, match="a transposed convolution from"):
            write_nir(graph, tmp_path / "u.nir")
