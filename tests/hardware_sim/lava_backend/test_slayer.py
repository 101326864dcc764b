"""Networks that SLAYER itself exports, against SLAYER's own forward pass.

What is the same: weights on its 8-bit grid, decays that round towards zero, reset to zero. What has to be known:

- Every block of SLAYER with neurons shifts its spikes by a step: the k-th lags by k. (An input block without neurons
  must be told not to: it fails otherwise.)
- SLAYER fires where v >= threshold + 0.01 of the last bit, which for integers is Lava's v > threshold. But it compares
  in float32, where that hundredth is gone from a mantissa of 4096 on: there it fires at the threshold, Lava does not.
- So a bias acts from SLAYER's step 0 on, k - 1 steps before the k-th block's sample begins here. Blocks with
  `delay_shift=False` are simultaneous, as everything is here, and then the same.
- A delay of a block moves what a channel emits; lava-dl's NetX moves all that reaches it. Neurons that start empty and
  have no bias do the same either way.
- Nothing in SLAYER wraps or clips at 24 bits; these networks stay below.
"""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from lava.lib.dl.slayer.block import cuba, sigma_delta

import hardware_sim
from export import netx
from export.graph import Graph, GraphError, same, with_timesteps
from hardware_sim.comparison.compare import compare
from hardware_sim.reference import input_spikes
from tests.hardware_sim.lava_backend.test_lava import run_stock

LEAKY = {"threshold": 2.0, "current_decay": 0.25, "voltage_decay": 0.05}


PLAIN = {"threshold": 1.0, "current_decay": 1.0, "voltage_decay": 0.0}


T = 32


def drawn(blocks: list[torch.nn.Module], seed: int = 0) -> list[torch.nn.Module]:
    """With weights that let some neurons fire, and delays that differ."""
    torch.manual_seed(seed)
    channels = 0
    for block in blocks:
        synapse = getattr(block, "synapse", None)
        if synapse is not None and synapse.weight.requires_grad:  # a pool's are fixed
            fan = synapse.weight.numel() / synapse.out_channels
            synapse.weight.data.uniform_(-1.0, 1.6).mul_(2.5 / math.sqrt(fan))
            channels = synapse.out_channels
        if getattr(block, "delay", None) is not None:
            block.delay.delay.data = torch.rand(channels) * 4
            block.delay.init = True
    return blocks


def export(blocks: list[torch.nn.Module], path: Path) -> Path:
    """As lava-dl's tutorials do it."""
    with h5py.File(path, "w") as file:
        layer = file.create_group("layer")
        for k, block in enumerate(blocks):
            block.export_hdf5(layer.create_group(str(k)))
    return path


def forward(blocks: list[torch.nn.Module], spikes: np.ndarray) -> list[np.ndarray]:
    """What every block with neurons emits: (T, C, H, W), its lag taken off."""
    lag = 0
    x = torch.from_numpy(spikes[0]).float().permute(1, 2, 3, 0)[None]  # N, C, H, W, T
    found: list[np.ndarray] = []
    with torch.no_grad():
        for block in blocks:
            x = block.eval()(x)
            if getattr(block, "neuron", None) is not None:
                lag += block.delay_shift
                y = x[0].reshape(x.shape[1], *(x.shape[2:-1] or (1, 1)), -1)
                found.append(np.moveaxis(y.numpy(), -1, 0)[lag:])
    return found


def spikes_for(shape: tuple[int, ...], rate: float = 0.35) -> np.ndarray:
    return (np.random.default_rng(0).random((1, T, *shape)) < rate).astype(np.uint8)


def agree(blocks: list[torch.nn.Module], spikes: np.ndarray, path: Path) -> Graph:
    """Assert that all populations of the exported file fire as SLAYER does; returns the graph."""
    theirs = forward(blocks, spikes)
    graph = with_timesteps(netx.read(export(blocks, path)), T)
    trace = hardware_sim.run(graph, spikes)
    assert len(theirs) == len(graph.populations)
    for population, expected in zip(graph.populations, theirs, strict=True):
        ours = trace.spikes[population.name][0, : len(expected)]
        assert 0 < expected.mean() < 0.95, f"{population.name} says nothing"
        assert (ours == expected).all(), population.name
    return graph


def unet(neuron: dict[str, float], *, delay: bool = False) -> list[torch.nn.Module]:
    """Convolution, pool, convolution in groups, transposed convolution, dense."""
    torch.manual_seed(0)  # weight_norm's weights are those that the block is made with
    return drawn(
        [
            cuba.Input(None, delay_shift=False),
            cuba.Conv(neuron, 2, 4, 3, padding=1, delay=delay),
            cuba.Pool(neuron, 2, weight_scale=0.6, delay=delay),
            cuba.Conv(neuron, 4, 4, (3, 1), padding=(1, 0), groups=2, weight_norm=True),
            cuba.ConvT(neuron, 4, 2, 2, stride=2, delay=delay),
            cuba.Flatten(),
            cuba.Dense(neuron, 2 * 8 * 6, 5, delay=delay),
        ]
    )


@pytest.mark.parametrize("neuron", [LEAKY, PLAIN], ids=["leaky", "plain"])
@pytest.mark.parametrize("delay", [False, True], ids=["prompt", "delayed"])
def test_conv_pool_transposed_and_dense_fire_as_slayer_does(neuron, delay, tmp_path):
    spikes = spikes_for((2, 8, 6))
    graph = agree(unet(neuron, delay=delay), spikes, tmp_path / "slayer.net")
    assert same(netx.read(netx.write(graph, tmp_path / "again.net")), graph)
    assert any(edge.target_delay is not None for p in graph.populations for edge in p.edges) == delay


def test_a_file_without_an_input_layer_says_what_comes_in(tmp_path):
    """As lava-dl's tutorials export networks that are fed from outside: dense, or a convolution of stride 1."""
    dense = drawn([cuba.Dense(LEAKY, 30, 12), cuba.Dense(LEAKY, 12, 5)])
    graph = agree(dense, spikes_for((30, 1, 1)), tmp_path / "dense.net")
    assert graph.input.shape == (30, 1, 1) and same(netx.read(netx.write(graph, tmp_path / "again.net")), graph)
    convolution = drawn([cuba.Conv(LEAKY, 2, 4, (3, 5), padding=(1, 0))])
    assert agree(convolution, spikes_for((2, 8, 8)), tmp_path / "conv.net").input.shape == (2, 8, 8)
    strided = drawn([cuba.Conv(LEAKY, 2, 4, 3, stride=2), cuba.Flatten(), cuba.Dense(LEAKY, 4 * 3 * 3, 5)])
    forward(strided, spikes_for((2, 8, 8)))
    file = export(strided, tmp_path / "strided.net")
    with pytest.raises(GraphError, match=r"layer 0: .*no input layer.*\(conv\).*netx.read\(path, input_shape"):
        netx.read(file)
    assert netx.read(file, input_shape=(2, 8, 8)).input.shape == (2, 8, 8)
    with pytest.raises(GraphError, match=r"weight"):
        netx.read(file, input_shape=(3, 8, 8))


def test_decays_of_channels(tmp_path, worker):
    """SLAYER's shared_param=False, drawn for each channel; and where they are written out and equal."""
    own = {**LEAKY, "current_decay": (0.1, 0.6), "voltage_decay": (0.02, 0.3), "shared_param": False}
    flat = [cuba.Input(None, delay_shift=False), cuba.Flatten()]  # without, SLAYER lays the decays along another axis
    blocks, path = drawn([*flat, cuba.Dense(own, 30, 12), cuba.Dense(own, 12, 6)]), tmp_path / "own.net"
    spikes = spikes_for((5, 3, 2))
    graph = agree(blocks, spikes, path)
    assert all(len(np.unique(population.neuron.current_decay)) > 3 for population in graph.populations)
    assert same(netx.read(netx.write(graph, tmp_path / "again.net")), graph)
    for fidelity in ("fused", "stock"):
        lavas = hardware_sim.run(graph, spikes, backend="lava", fidelity=fidelity, worker=worker)
        assert compare(hardware_sim.run(graph, spikes), lavas).equal
    whole = agree(drawn([cuba.Dense(LEAKY, 20, 8)]), spikes_for((20, 1, 1)), path)
    with h5py.File(path, "r+") as file:
        neuron = file["layer/0/neuron"]
        for field in ("iDecay", "vDecay"):
            one = neuron[field][()]
            del neuron[field]
            neuron[field] = np.full(8, one)
    assert same(with_timesteps(netx.read(path), T), whole)


def test_recurrent_layers_fire_as_in_slayer_and_in_stock_netx(tmp_path, worker):
    torch.manual_seed(0)
    first = cuba.Recurrent(dict(LEAKY), 20, 12)
    for synapse, most, fan in ((first.input_synapse, 1.5, 20), (first.recurrent_synapse, 0.6, 12)):
        synapse.weight.data.uniform_(-1.0, most).mul_(2.5 / math.sqrt(fan))
    blocks = [cuba.Input(None, delay_shift=False), cuba.Flatten(), first, *drawn([cuba.Dense(LEAKY, 12, 5)])]
    spikes, path = spikes_for((20, 1, 1)), tmp_path / "loop.net"
    graph = agree(blocks, spikes, path)
    assert [edge.source for edge in graph["layer_2"].edges] == ["input", "layer_2"]
    ours = hardware_sim.run(graph, spikes)
    for fidelity in ("fused", "stock"):
        lavas = hardware_sim.run(graph, spikes, backend="lava", fidelity=fidelity, worker=worker)
        assert compare(ours, lavas).equal
    again = netx.write(graph, tmp_path / "again.net")
    assert same(netx.read(again), graph)
    for options in ([], ["fast"]):
        done = run_stock(again, spikes, tmp_path, *options)
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "out.npz") as found:
            for k, population in enumerate(graph.populations):
                theirs = found[str(k)][k + 1 :][:T].reshape(-1, *population.shape)
                np.testing.assert_array_equal(theirs, ours.spikes[population.name][0], err_msg=population.name)
    with h5py.File(path, "r+") as file:
        file["layer/2/delay"] = np.ones(12)
    with pytest.raises(GraphError, match="layer 2: delay is of a recurrent layer; none is allowed"):
        netx.read(path)


def test_sigma_delta_layers_tell_what_slayer_tells(tmp_path, worker):
    """Of even inputs, which SLAYER's input block rounds to, and thresholds that NetX's mantissa holds."""
    neuron = {"threshold": 6 / 64, "activation": torch.nn.functional.relu}
    torch.manual_seed(0)
    blocks = [
        sigma_delta.Input(neuron),
        sigma_delta.Conv(neuron, 2, 4, 3, padding=1, weight_scale=2),
        sigma_delta.Flatten(),
        sigma_delta.Dense(neuron, 4 * 8 * 6, 10),
        sigma_delta.Output(neuron, 10, 3),
    ]
    frames = np.random.default_rng(0).integers(0, 33, (1, T, 2, 8, 6)) / 32
    x, told = torch.from_numpy(np.moveaxis(frames, 1, -1)).float(), []
    with torch.no_grad():
        for block in blocks:
            x = block.eval()(x)
            told.append(np.moveaxis(x.numpy(), -1, 1))
    graph = with_timesteps(netx.read(export(blocks, tmp_path / "sigma.net")), T)
    spikes = input_spikes(graph, frames)
    np.testing.assert_array_equal(spikes, told[0] * 64 * 64)
    for fidelity in (None, "fused", "stock"):
        backend = "lava" if fidelity else "reference"
        trace = hardware_sim.run(graph, spikes, backend=backend, fidelity=fidelity or "fused", worker=worker)
        for name, theirs in (("layer_1", told[1]), ("layer_3", told[3][..., None, None])):
            np.testing.assert_array_equal(trace.spikes[name], theirs * 64 * 64, err_msg=name)
            assert trace.total(name) > 50
        np.testing.assert_array_equal(trace.output[0, :, 0, 0], told[4][0, -1] * 64 * 64 * 64)


@pytest.mark.parametrize("by", ["input", "weight"])
def test_delays_of_inputs_and_of_weights(by, tmp_path, worker):
    """As NetX takes them: against sums written out here."""
    rng = np.random.default_rng(3)
    blocks = drawn([cuba.Dense({**PLAIN, "threshold": 2.0}, 20, 8)])
    spikes, path = spikes_for((20, 1, 1)), tmp_path / "late.net"
    forward(blocks, spikes)
    export(blocks, path)
    delays = rng.integers(0, 5, 20 if by == "input" else (8, 20))
    with h5py.File(path, "r+") as file:
        file["layer/0/delay"] = delays
        weight = file["layer/0/weight"][()].reshape(8, 20)
        threshold = int(file["layer/0/neuron/vThMant"][()])
    graph = with_timesteps(netx.read(path), T)
    ours = hardware_sim.run(graph, spikes, backend="reference")
    v, late = np.zeros(8), np.broadcast_to(delays, weight.shape)
    for t in range(T):
        for i, j in np.ndindex(weight.shape):
            v[i] += weight[i, j] * spikes[0, t - late[i, j], j, 0, 0] if t >= late[i, j] else 0
        fired = v > threshold
        np.testing.assert_array_equal(ours.spikes["layer_0"][0, t, :, 0, 0], fired)
        v[fired] = 0
    assert ours.total("layer_0") > 20
    with h5py.File(path, "r+") as file:
        file["layer/0/weight"][...] = weight.reshape(file["layer/0/weight"].shape) + 1  # odd, and of both signs
    with pytest.raises(GraphError, match="layer 0: weight is odd in places, and of both signs"):
        netx.read(path)
    assert compare(ours, hardware_sim.run(graph, spikes)).equal
    for fidelity in ("fused", "stock"):
        assert compare(ours, hardware_sim.run(graph, spikes, backend="lava", fidelity=fidelity, worker=worker)).equal
    again = netx.read(netx.write(graph, tmp_path / "again.net"))
    assert compare(ours, hardware_sim.run(again, spikes)).equal


@pytest.mark.parametrize("fidelity", ["fused", "stock"])
@pytest.mark.parametrize("delay", [False, True], ids=["prompt", "delayed"])
def test_lava_runs_them_alike(delay, fidelity, tmp_path, worker):
    blocks, spikes = unet(LEAKY, delay=delay), spikes_for((2, 8, 6))
    forward(blocks, spikes)  # which is where SLAYER learns its shapes
    graph = with_timesteps(netx.read(export(blocks, tmp_path / "slayer.net")), T)
    comparison = compare(
        hardware_sim.run(graph, spikes),
        hardware_sim.run(graph, spikes, backend="lava", fidelity=fidelity, worker=worker),
    )
    assert comparison.equal and comparison.total > 500, comparison.cause
