"""Every LIF network that lava-dl ships in its own tests, with the spikes that it stores beside them.

Layers are simultaneous here and one step apart there: layer k of a recording lags by k steps.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

import hardware_sim
from export import netx
from export.graph import Graph, same, with_timesteps
from hardware_sim.comparison.compare import compare
from hardware_sim.neurons import neuron_spikes
from hardware_sim.reference import input_spikes

LAVA_DL = Path(importlib.util.find_spec("lava.lib.dl.netx").submodule_search_locations[0])
FILES = LAVA_DL.parents[3] / "tests" / "lava" / "lib" / "dl" / "netx"  # installed with lava-dl
PILOTNET_LAYERS = ("conv-0", "conv-1", "conv-2", "conv-3", "conv-4", "fc-0", "fc-1", "fc-2")


def load(name: str) -> np.ndarray:
    return np.load(FILES / "gts" / f"{name}.npy")


@dataclass(frozen=True)
class Recording:
    """A network, the input spikes (samples, T, C, H, W), and what lava-dl recorded: (C, H, W, steps), by population."""

    graph: Graph
    spikes: np.ndarray
    recorded: dict[str, tuple[np.ndarray, int]]  # with the steps by which it lags


def tiny() -> Recording:
    graph = with_timesteps(netx.read(FILES / "tiny.net"), 16)
    spikes = neuron_spikes(graph.input.neuron, load("tinynet/input_bias").T[None], timesteps=16)
    recorded = {"input": (load("tinynet/input")[0], 1)}
    recorded |= {"layer_1": (load("tinynet/layer1")[0], 1), "layer_2": (load("tinynet/output")[0], 1)}
    return Recording(graph, spikes, recorded)


def pilotnet() -> Recording:
    """The recording shows the same image again after 17 steps."""
    graph = with_timesteps(netx.read(FILES / "gts" / "pilotnet_lif" / "network.net"), 17)
    image = load("pilotnet_lif/image").T
    spikes = neuron_spikes(graph.input.neuron, np.stack([image, image]), timesteps=17)
    recorded = {"input": (load("pilotnet_lif/input").transpose(2, 1, 0, 3), 0)}
    for lag, (layer, population) in enumerate(zip(PILOTNET_LAYERS, graph.populations), start=1):
        found = load(f"pilotnet_lif/{layer}")
        whole = found.transpose(2, 1, 0, 3) if found.ndim == 4 else found[:, None, None]
        recorded[population.name] = (whole, lag)
    return Recording(graph, spikes, recorded)


def ntidigits() -> Recording:
    """With a delay for every neuron of two layers."""
    graph = netx.read(FILES / "gts" / "ntidigits" / "ntidigits.net")
    spikes = load("ntidigits/input").T.reshape(1, -1, *graph.input.shape)
    output = load("ntidigits/output")[:, None, None]
    assert graph.meta.timesteps == 3000 and graph.meta.notes == {"average": "11"}
    return Recording(graph, spikes.astype(np.uint8), {"layer_4": (output, 4)})


@pytest.mark.parametrize("recording", [tiny, pilotnet, ntidigits], ids=lambda make: make.__name__)
def test_no_spike_differs_from_what_lava_dl_recorded(recording):
    case = recording()
    trace = hardware_sim.run(case.graph, case.spikes)
    found = {**trace.spikes, "input": case.spikes}
    for name, (recorded, lag) in case.recorded.items():
        ours = np.moveaxis(found[name].reshape(-1, *found[name].shape[2:]), 0, -1)  # samples in a row
        steps = min(ours.shape[-1], recorded.shape[-1] - lag)
        assert recorded.any() and steps >= 15
        assert (ours[..., :steps] == recorded[..., lag : lag + steps]).all(), name


def mnist() -> Recording:
    """Its last layer has no neuron: NetX lets it integrate. Nothing is recorded beside it."""
    graph = netx.read(FILES / "mnist.net")
    images = np.random.default_rng(0).random((2, *graph.input.shape))
    return Recording(graph, input_spikes(graph, images), {})


@pytest.mark.parametrize("fidelity", ["fused", "stock"])
@pytest.mark.parametrize("recording", [tiny, pilotnet, ntidigits, mnist], ids=lambda make: make.__name__)
def test_lava_does_the_same(recording, fidelity, worker):
    case = recording()
    steps = min(case.graph.meta.timesteps, 300)  # of 3000: DelaySparse takes a minute for all
    graph, spikes = with_timesteps(case.graph, steps), case.spikes[:, :steps]
    ours = hardware_sim.run(graph, spikes)
    lavas = hardware_sim.run(graph, spikes, backend="lava", fidelity=fidelity, worker=worker)
    comparison = compare(ours, lavas)
    assert comparison.equal and comparison.total > 1000, comparison.cause
    assert (ours.output == lavas.output).all()


@pytest.mark.parametrize("recording", [tiny, ntidigits, mnist], ids=lambda make: make.__name__)
def test_they_are_written_as_they_were_read(recording, tmp_path):
    graph = recording().graph
    assert same(netx.read(netx.write(graph, tmp_path / "again.net")), graph)


def sigma_delta(name: str, steps: int) -> tuple[Graph, np.ndarray]:
    """PilotNet of sigma-delta neurons, and an image that stands still, as messages."""
    graph = with_timesteps(netx.read(FILES / "gts" / "pilotnet_sdnn" / f"{name}.net"), steps)
    messages = load("pilotnet_sdnn/act0").T[None, :steps].astype(np.int32)  # samples, T, C, H, W
    return graph, messages[..., : graph.input.shape[2]]


@pytest.mark.parametrize(("backend", "fidelity"), [("reference", "fused"), ("lava", "fused"), ("lava", "stock")])
def test_sigma_delta_networks_do_at_every_step_what_lava_dl_recorded(backend, fidelity, worker):
    """The network that nobody resets, from Lava's first step on."""
    lava = worker if backend == "lava" else None
    kept = hardware_sim.Record(potentials="all")
    graph, spikes = sigma_delta("network", 9)
    image = load("pilotnet_sdnn/input").T / graph.input.gain
    assert (input_spikes(graph, image) == spikes).all()
    trace = hardware_sim.run(graph, spikes, backend=backend, fidelity=fidelity, record=kept, worker=lava, stream=True)
    recorded = load("pilotnet_sdnn/output")[0]
    assert recorded.any() and (trace.potentials[graph.output.name].ravel() == recorded).all()
    graph, spikes = sigma_delta("square_network", 20)
    trace = hardware_sim.run(graph, spikes, backend=backend, fidelity=fidelity, record=kept, worker=lava, stream=True)
    for k, population in enumerate(graph.populations[:4], start=1):
        sigma = load(f"pilotnet_sdnn/sigma{k}_square").T[None]
        ours = trace.potentials[population.name]
        assert sigma.any() and (ours == np.maximum(sigma + population.neuron.bias, 0)).all(), population.name


@pytest.mark.parametrize("fidelity", ["fused", "stock"])
def test_lava_runs_samples_of_sigma_delta_networks_alike(fidelity, worker):
    graph, _ = sigma_delta("network", 5)
    spikes = input_spikes(graph, np.random.default_rng(0).integers(-50, 60, (2, 5, *graph.input.shape)) / 64)
    ours = hardware_sim.run(graph, spikes)
    comparison = compare(ours, hardware_sim.run(graph, spikes, backend="lava", fidelity=fidelity, worker=worker))
    assert comparison.equal and comparison.total > 10_000, comparison.cause


def test_sigma_delta_networks_are_written_as_they_were_read(tmp_path):
    graph, _ = sigma_delta("network", 5)
    assert same(netx.read(netx.write(graph, tmp_path / "again.net")), graph)
    with h5py.File(tmp_path / "again.net") as file:
        assert {file[f"layer/{k}/type"][0] for k in range(10)} == {b"input", b"conv", b"flatten", b"dense"}


def test_what_is_late_does_not_reach_the_next_sample():
    """Delays by neuron: fused layers keep samples apart, stock processes would not."""
    case = ntidigits()
    graph, spikes = with_timesteps(case.graph, 20), case.spikes[:, :40].reshape(2, 20, *case.graph.input.shape)
    ours = hardware_sim.run(graph, spikes)
    assert ours.samples == 2 and compare(ours, hardware_sim.run(graph, spikes, backend="lava")).equal
    with pytest.raises(hardware_sim.SimulationError, match="2 samples of a network with delays by target neuron"):
        hardware_sim.run(graph, spikes, backend="lava", fidelity="stock")
