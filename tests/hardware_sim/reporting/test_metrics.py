"""NeuroBench's metrics against counting in plain loops, for transposed convolutions and groups too."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given

import hardware_sim
from export.graph import Conv, Dense, Edge, Graph, Input, Neuron, Population, levels
from export.inspect import synapse_count
from export.mapping.chips import LOIHI2
from export.mapping.place import Placement, place
from hardware_sim.record import Record
from hardware_sim.reporting.chip import draw_chip
from hardware_sim.reporting.metrics import active_steps, ann_metrics, as_json, spike_counts, trace_metrics
from hardware_sim.trace import Trace, TraceError
from neuroseg.conversion.lower import lower
from tests.examples import examples
from tests.export.test_graph import chain
from tests.graphs import graphs
from tests.hardware_sim.test_reference import reach
from tests.networks import build, cases


def run(graph: Graph, spikes: np.ndarray) -> Trace:
    return hardware_sim.run(graph, spikes, record=Record(potentials="all"))


def counted(edge: Edge, values: np.ndarray, target: tuple[int, ...]) -> float:
    """Nonzero values (frames, C, H, W) times the nonzero weights that each meets, one by one."""
    op = dataclasses.replace(edge.op, weight=(edge.op.weight != 0).astype(int))
    total = 0
    for frame in values:
        met = np.zeros(target, int)
        for spike in np.argwhere(frame):
            reach(op, met, spike, frame.shape)
        total += met.sum()
    return float(total)


@given(cases(max_side=8))
@examples(10)
def test_a_run_against_plain_loops(case):
    case = dataclasses.replace(case, widths=tuple(min(w, 3) for w in case.widths), timesteps=min(case.timesteps, 4))
    _, graph, spikes = build(case)
    assert_counted(graph, spikes)


@given(graphs(valued=True))
@examples(25)
def test_single_synapses_against_plain_loops(drawn):
    assume(any(edge.op.weight.size for population in drawn[0].populations for edge in population.edges))
    assert_counted(*drawn)


def assert_counted(graph: Graph, spikes: np.ndarray) -> None:
    trace = run(graph, spikes)
    found = trace_metrics(graph, trace)
    values = {**trace.spikes, graph.input.name: spikes}
    frames = {name: value.reshape(-1, *value.shape[2:]) for name, value in values.items()}
    for layer, population in zip(found.layers, graph.populations, strict=True):
        done = [0.0, 0.0]
        for edge in population.edges:  # a value is multiplied, a spike of 1 only added
            done[edge.source in levels(graph)] += counted(edge, frames[edge.source], population.shape)
        assert [layer.acs * len(spikes), layer.macs * len(spikes)] == pytest.approx(done)
        dense = sum(synapse_count(e.op, graph[e.source].shape, population.shape) for e in population.edges)
        assert layer.dense == dense * graph.meta.timesteps
        if population.neuron.threshold is not None:
            assert layer.activation_sparsity == pytest.approx(float((values[population.name] == 0).mean()))
    weights = np.concatenate([e.op.weight.ravel() for p in graph.populations for e in p.edges])
    assert found.connection_sparsity == pytest.approx(float((weights == 0).mean()))


def test_membrane_updates_by_definition():
    """Potentials before firing against those after the step before; the first step counts for every neuron."""
    rng = np.random.default_rng(0)
    for reset in ("subtract", "zero"):
        graph = chain(rng.choice([-16, 8, 0], (2, 1, 3, 3)), reset=reset)
        spikes = (rng.random((3, 4, 1, 4, 4)) < 0.15).astype(np.uint8)
        trace = run(graph, spikes)
        total = 0
        for sample in spikes.astype(int):
            after = np.zeros((2, 4, 4), int)
            for step, frame in enumerate(sample):
                arriving = np.zeros((2, 4, 4), int)
                for spike in np.argwhere(frame):
                    reach(graph["hidden"].edges[0].op, arriving, spike, frame.shape)
                before = after + arriving * 64
                total += after.size if step == 0 else int((before != after).sum())
                fired = before > 640
                after = np.where(fired, before - 640 if reset == "subtract" else 0, before)
        assert trace_metrics(graph, trace).layers[0].updates == total / 3
        assert 0 < active_steps(graph, trace)["hidden"] <= 3 * 4 * 32


def test_footprint_and_what_is_not_known():
    graph = chain(bias=np.full((2, 1, 1), 64, np.int32))
    trace = hardware_sim.run(graph, np.ones((1, 4, 1, 4, 4), np.uint8))
    found = trace_metrics(graph, trace)
    assert [layer.bytes for layer in found.layers] == [18 + 8 + 4, 2]
    assert found.updates is None and found.layers[1].activation_sparsity is None
    written = as_json(found)
    assert written["membrane_updates"] is None and written["footprint"] == 32
    assert written["synaptic_operations"]["acs"] == found.total("acs") > 0
    with pytest.raises(TraceError, match="no input spikes"):
        spike_counts(graph, dataclasses.replace(trace, stimulus=None))
    with pytest.raises(TraceError, match="4 steps a sample; the network 5"):
        spike_counts(dataclasses.replace(graph, meta=dataclasses.replace(graph.meta, timesteps=5)), trace)
    with pytest.raises(TraceError, match="hidden: the run kept no spikes of it; head reads them"):
        trace_metrics(graph, dataclasses.replace(trace, packed={}, shapes={}))


@given(cases(max_side=8))
@examples(6)
def test_an_ann_against_its_own_layers(case):
    """The ReLU network: MACs counted from its values; scaling of a layer changes nothing."""
    network, _, _ = build(dataclasses.replace(case, widths=tuple(min(w, 3) for w in case.widths), u0=0.0))
    graph = lower(network)
    images = np.random.default_rng(0).random((2, 1, *case.size))
    found = ann_metrics(graph, images)
    assert found.total("acs") >= 0 and 0 <= found.activation_sparsity <= 1 and found.updates is None
    first = next(p for p in graph.populations if any(e.source == graph.input.name for e in p.edges))
    edge = next(e for e in first.edges if e.source == graph.input.name)
    layer = next(layer for layer in found.layers if layer.name == first.name)
    if len(first.edges) == 1:
        assert layer.macs == pytest.approx(counted(edge, images, first.shape) / len(images))
    assert found.total("dense") == sum(
        synapse_count(e.op, graph[e.source].shape, p.shape) for p in graph.populations for e in p.edges
    )


def test_an_ann_by_hand():
    """2 x 2 image -> two channels, one of them always off -> dense."""
    conv = Population("c", (2, 2, 2), (Edge("input", Conv(np.array([[[[1.0]]], [[[-1.0]]]]))),), Neuron(1))
    head = Population("h", (1, 1, 1), (Edge("c", Dense(np.array([[1.0, 0, 1, 1, 1, 1, 1, 1]]))),), Neuron(None))
    graph = Graph((Input("input", (1, 2, 2)), conv, head))
    found = ann_metrics(graph, np.array([[[[0.5, 0.25], [0.0, 2.0]]]]))
    assert [layer.macs for layer in found.layers] == [6, 2]
    assert found.layers[0].activation_sparsity == 5 / 8 and found.connection_sparsity == 1 / 10
    assert found.footprint == 10 * 4


def test_a_picture_of_the_chip(tmp_path):
    placement = place(chain(), LOIHI2)
    many = dataclasses.replace(placement.layers[0], name="$a_b$", cores=placement.layers[0].cores * 130)
    cores = tuple(dataclasses.replace(core, number=k, layer=many.name) for k, core in enumerate(many.cores))
    for name, shown in (("a.png", placement), ("b.svg", Placement(LOIHI2, (dataclasses.replace(many, cores=cores),)))):
        draw_chip(shown, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (tmp_path / "b.svg").read_text()
    assert len(list(tmp_path.iterdir())) == 2
