"""Graded spikes that come in: the same network by another code, and what refuses them."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

import hardware_sim
from export import netx, nir
from export.graph import Graph, GraphError, Meta, SigmaDelta, levels, same, with_encoder
from export.limits import beyond, check
from export.mapping.chips import LOIHI1, LOIHI2
from hardware_sim.comparison.compare import compare
from hardware_sim.record import SimulationError
from hardware_sim.reporting.deployment import deploy
from neuroseg.conversion.balance import METHODS, balance
from neuroseg.conversion.lower import export, integer_scales, to_graph
from neuroseg.conversion.sigma_delta import to_sigma_delta
from neuroseg.engine import Engine, image_spikes, read_spikes
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.validation import software_trace
from tests.export.test_graph import chain
from tests.networks import PLAIN, build

GRADED = replace(PLAIN, encoder="graded", biased=True)


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_weights_and_ann_do_not_change_with_the_code():
    network, _, _ = build(GRADED)
    other = network.copy(encoder="rate")
    assert network.graph.input.levels == 15 and other.graph.input.levels == 1
    for name, weight in network.weights.items():
        assert torch.equal(weight, other.weights[name])
    with pytest.raises(ValueError, match="no integer scale"):  # those of the other code would clip weights
        other.predict(images(), quantized=True)
    few = SpikingNetwork(with_encoder(to_graph(other), "graded", levels=3))
    assert few.copy(encoder="graded").graph.input.levels == 3
    ours, theirs = network.analog(images()), other.analog(images())
    for population in network.populations:
        torch.testing.assert_close(ours[population.name], theirs[population.name])


def test_a_graph_says_what_its_spikes_are_worth():
    """Per unit of what comes in, so that another reader of the graph needs to know of no levels."""
    network, _, spikes = build(GRADED)
    given = torch.from_numpy(spikes).transpose(0, 1).float()
    torch.testing.assert_close(SpikingNetwork(to_graph(network))(given), network(given))


@pytest.mark.parametrize("method", METHODS)
def test_a_balanced_network_does_the_same_on_every_engine(method):
    network, _, _ = build(replace(GRADED, timesteps=2))
    network = balance(network, images(), method=method)
    network = network.with_scales(integer_scales(network))
    graph = export(network)
    spikes = image_spikes(graph, images())
    assert torch.equal(spikes, network.encode(images())) and spikes.max() > 1
    software = software_trace(network, spikes)
    for backend in ("reference", "fast"):
        comparison = compare(software, Engine(backend).run(graph, spikes))
        assert comparison.equal and comparison.total, comparison.cause


def test_an_intensity_is_told_in_one_step():
    """To half a level, where a bit tells black or white."""
    x = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    network, _, _ = build(replace(GRADED, timesteps=1))
    assert float((network.encode(x)[0] / 15 - x).abs().max()) <= 0.5 / 15 + 1e-6


def test_sigma_delta_neurons_tell_the_image_themselves():
    network, _, _ = build(GRADED)
    assert same(to_sigma_delta(network, images()), to_sigma_delta(network.copy(encoder="rate"), images()))


def test_bounds_count_what_a_spike_carries():
    graph = with_encoder(chain(), "graded", levels=200)
    assert levels(graph) == {"input": 200} and not beyond(graph)
    first = graph.populations[0]
    edge = first.edges[0]
    heavy = replace(edge, op=replace(edge.op, weight=np.full_like(edge.op.weight, 254)))
    graph = replace(graph, nodes=(graph.nodes[0], replace(first, edges=(heavy,)), *graph.nodes[2:]))
    most = int(heavy.op.weight.sum((1, 2, 3)).max()) * 200
    assert most > 2**15 and beyond(graph) == (first.name,)
    with pytest.raises(GraphError, match=rf"{first.name}: greatest input in a step may reach {most:g}"):
        check(graph)
    spikes = np.full((1, graph.meta.timesteps, *graph.input.shape), 200, np.int32)
    for backend in ("fast", "lava"):
        with pytest.raises(SimulationError, match=rf"{first.name}: input is \d+ in sample 0, step 0"):
            hardware_sim.run(graph, spikes, backend=backend)
    traces = [hardware_sim.run(graph, spikes // 100, backend=backend) for backend in ("reference", "fast", "lava")]
    assert compare(traces[0], traces[1]).equal and compare(traces[0], traces[2]).equal  # what does not reach so far


def test_a_trace_gives_its_input_again(tmp_path):
    network, graph, spikes = build(GRADED)
    given = torch.from_numpy(spikes).transpose(0, 1)
    Engine().run(graph, given).save(tmp_path / "t.npz")
    assert torch.equal(read_spikes(tmp_path / "t.npz", graph), given)
    np.save(tmp_path / "s.npy", spikes)
    assert torch.equal(read_spikes(tmp_path / "s.npy", graph), given)
    with pytest.raises(SimulationError, match="as the network takes it"):
        read_spikes(tmp_path / "t.npz", export(network.copy(encoder="rate")))


def test_a_chip_counts_as_many_spikes_as_one_stands_for():
    graph = with_encoder(chain(), "graded", levels=3)

    def operations(graph: Graph, value: int) -> float:
        spikes = np.full((1, graph.meta.timesteps, *graph.input.shape), value)
        return deploy(graph, LOIHI2, hardware_sim.run(graph, spikes)).costs[0].layers[0].operations

    bits = operations(chain(), 1)
    assert bits > 0 and [operations(graph, value) for value in (1, 3)] == [bits, 3 * bits]
    with pytest.raises(GraphError, match="input: graded spikes of 3 levels; Loihi 1 knows spikes of 1"):
        deploy(graph, LOIHI1)


def test_what_is_no_such_input_is_named(tmp_path):
    graph = with_encoder(chain(), "graded")
    with pytest.raises(GraphError, match="15 levels and the encoder 'rate'; 2 or more with 'graded'"):
        replace(graph, meta=Meta())
    with pytest.raises(GraphError, match="1 levels and the encoder 'graded'"):
        with_encoder(graph, "graded", levels=1)
    with pytest.raises(GraphError, match="256 levels; 1 to 255"):
        with_encoder(graph, "graded", levels=256)
    with pytest.raises(GraphError, match="15 levels, and neurons of its own"):
        replace(graph, nodes=(replace(graph.input, neuron=SigmaDelta(0)), *graph.nodes[1:]))
    spikes = np.full((1, graph.meta.timesteps, *graph.input.shape), 16, np.int32)
    with pytest.raises(SimulationError, match="range from 16 to 16; integers from 0 to 15 are allowed"):
        hardware_sim.run(graph, spikes)
    with pytest.raises(SimulationError, match="integers from 0 to 15"):
        hardware_sim.run(graph, spikes - 17)
    network, _, _ = build(GRADED)
    with pytest.raises(ValueError, match="integers from 0 to 15 are allowed"):
        network(torch.full((4, 1, 1, 8, 8), 16.0))
    with pytest.raises(GraphError, match="graded spikes of 15 levels, which NIR does not tell"):
        nir.write(graph, tmp_path / "n.nir")
    with pytest.raises(GraphError, match="encoder 'graded'"):
        nir.read(tmp_path / "n.nir", timesteps=4, encoder="graded")


def test_a_file_that_contradicts_itself_is_refused(tmp_path):
    file = netx.write(with_encoder(chain(), "graded"), tmp_path / "n.net", sealed=False)
    with h5py.File(file, "r+") as content:
        content["meta"].attrs["encoder"] = "rate"
    with pytest.raises(GraphError, match="15 levels and the encoder 'rate'"):
        netx.read(file)
    with h5py.File(file, "r+") as content:
        content["layer/0/levels"][()] = 300
    with pytest.raises(GraphError, match=r"layer 0: levels is \[300\]; integers from 1 to 255"):
        netx.read(file)
