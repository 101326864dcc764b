"""Ternary spikes in every engine, and in what reads their traces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import hardware_sim
from export import netx
from export.graph import (
    Conv,
    Edge,
    Graph,
    Input,
    Meta,
    Neuron,
    Population,
    graded,
)
from export.mapping.chips import LOIHI2
from hardware_sim.comparison.compare import compare
from hardware_sim.comparison.diagnose import diagnose
from hardware_sim.neurons import scan
from hardware_sim.reference import edge_input
from hardware_sim.reporting.deployment import deploy
from hardware_sim.reporting.metrics import trace_metrics
from hardware_sim.reporting.page import count_cells, rasters
from hardware_sim.trace import pack
from neuroseg.conversion.balance import METHODS
from neuroseg.conversion.lower import export
from neuroseg.engine import Engine, image_spikes
from neuroseg.spiking.activity import measure
from neuroseg.spiking.neuron import integrate_fire
from neuroseg.validation import software_trace
from tests.ternary import images, network, one


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_a_neuron_fires_at_both_thresholds(reset):
    """By hand, of threshold 5: below -5 it fires -1; a spike takes 5 back, or leaves 0."""
    currents = torch.tensor([4.0, 2, -3, -9, -1, -4, 0])
    spikes, potentials = scan(currents, Neuron(5, reset, ternary=True))
    after = {"subtract": [4, 1, -2, -6, -2, -1, -1], "zero": [4, 0, -3, 0, -1, -5, -5]}[reset]
    wanted = {"subtract": [0, 1, 0, -1, -1, -1, 0], "zero": [0, 1, 0, -1, 0, 0, 0]}[reset]
    assert spikes.tolist() == wanted and (potentials / 64).tolist() == after
    ours = integrate_fire(currents, threshold=5.0, reset=reset, ternary=True)
    assert ours.tolist() == wanted


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_pytorch_and_every_engine_spike_alike(reset, method, tmp_path):
    made = network(reset=reset, u0=0.5 if reset == "subtract" else 0.0, method=method)
    graph = netx.read(netx.write(export(made), tmp_path / "net.net"))
    spikes = image_spikes(graph, images())
    software = software_trace(made, spikes)
    assert software.graded["narrow"].min() == -1
    for engine in (Engine("reference"), Engine("fast"), Engine("lava", "fused"), Engine("lava", "stock")):
        comparison = compare(software, engine.run(graph, spikes))
        assert comparison.equal and comparison.total, (engine, comparison.cause)


def test_a_spike_of_minus_one_counts_as_one():
    made = network()
    graph = export(made)
    trace = Engine("fast").run(graph, image_spikes(graph, images()))
    told = np.abs(trace.spikes["narrow"]).sum()
    assert graded(graph) == {"narrow"} and trace.total("narrow") == told == trace.counts["narrow"].sum()
    assert measure(made, images(), quantized=True).rates["narrow"] == told / trace.spikes["narrow"].size
    layers = {layer.name: layer for layer in trace_metrics(graph, trace).layers}
    assert layers["wide"].macs == 0 < layers["wide"].acs  # a sign adds or subtracts
    assert deploy(graph, LOIHI2, trace).costs[0].total("spikes") == sum(map(trace.total, trace.spikes)) / len(images())
    with pytest.raises(hardware_sim.SimulationError, match="0 and 1 are allowed"):  # what comes in has none
        Engine("fast").run(graph, -image_spikes(graph, images()))


def test_a_report_shows_the_sign():
    made = network()
    graph = export(made)
    trace = Engine("fast").run(graph, image_spikes(graph, images()))
    wrong = replace(trace, graded={"narrow": -trace.graded["narrow"]})
    first = next(raster for raster in rasters(trace, wrong) if raster.label.startswith("narrow"))
    assert first.software and first.software == tuple((t, -value) for t, value in first.hardware)
    cells = count_cells(trace, wrong)
    assert "narrow" not in cells and any(cell.software != cell.hardware for cell in cells["narrow, spikes of 1"])
    for sign in (1, -1):
        total = sum(cell.software * cell.neurons for cell in cells[f"narrow, spikes of {sign}"])
        assert total == (trace.spikes["narrow"] == sign).sum()


def test_signs_that_a_synapse_loses_are_a_cause():
    made = network()
    graph = export(made)
    spikes = image_spikes(graph, images())
    right = Engine("reference").run(graph, spikes)
    wide = graph["wide"]
    given = torch.from_numpy(right.spikes["narrow"]).transpose(0, 1).float()
    for lost, words in ((given.abs(), "are read as 1"), (given.clamp(min=0), "are not read")):
        fired, _ = scan(edge_input(wide.edges[0], lost), wide.neuron)
        bits = pack(fired.transpose(0, 1).numpy().astype(np.uint8))
        found = diagnose(graph, right, replace(right, packed={**right.packed, "wide": bits}))
        assert found.population == "wide" and f"spikes of -1 of narrow {words}" in found.verdict
        assert all(arrival.spikes[0] > 0 for arrival in found.arrivals)


@pytest.mark.parametrize("state", [{"bias": np.full((1, 1, 1), -6 * 64, np.int32)}, {"u0": -6 * 64}])
def test_what_fires_below_before_a_sample_begins_is_refused_with_late_spikes(state):
    """As what fires above: in stock processes those would reach the sample."""
    graph = one(Neuron(5, "subtract" if "u0" in state else "zero", ternary=True, **state))
    second = graph["second"]
    late = replace(second, edges=(replace(second.edges[0], target_delay=np.full((1, 1, 1), 2)),))
    graph = replace(graph, nodes=(*graph.nodes[:2], late))
    with pytest.raises(hardware_sim.SimulationError, match="fires before a sample begins"):
        Engine("lava", "stock").run(graph, torch.zeros(6, 1, 1, 1, 1))


def test_convolutions_and_pools_take_signs():
    """Padding has no spike, though bytes say 1 where there is none."""
    rng = np.random.default_rng(0)
    weights = [2 * rng.integers(-9, 10, shape) for shape in ((4, 1, 3, 3), (3, 4, 3, 3), (2, 3, 2, 2))]
    convs = [Conv(w, padding=(1, 1)) for w in weights[:2]] + [
        Conv(np.repeat(weights[2][:, :, :1, :1], 2, 2).repeat(2, 3), (2, 2))
    ]
    shapes = [(4, 8, 8), (3, 8, 8), (2, 4, 4)]
    nodes = [Input("input", (1, 8, 8))]
    for k, (op, shape) in enumerate(zip(convs, shapes, strict=True)):
        neuron = Neuron(12, ternary=True) if k < 2 else Neuron(None)
        nodes.append(Population(f"p{k}", shape, (Edge(nodes[-1].name, op),), neuron))
    graph = Graph(tuple(nodes), integer=True, meta=Meta(timesteps=5))
    spikes = (rng.random((3, 5, 1, 8, 8)) < 0.5).astype(np.uint8)
    ours, theirs = (hardware_sim.run(graph, spikes, backend=name) for name in ("fast", "reference"))
    assert compare(theirs, ours).equal and theirs.spikes["p1"].min() == -1
