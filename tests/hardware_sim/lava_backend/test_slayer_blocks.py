"""Single blocks that SLAYER exports: pools, norms, affine outputs, thresholds; and what is refused."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest
import torch
from lava.lib.dl import slayer
from lava.lib.dl.slayer.block import cuba

import hardware_sim
from export import netx
from export.graph import Conv, GraphError, with_timesteps
from tests.hardware_sim.lava_backend.test_slayer import LEAKY, PLAIN, T, agree, drawn, export, forward, spikes_for

LARGEST_EXACT = 4095  # mantissa up to which SLAYER's float32 tells v > threshold from v >= threshold


@pytest.mark.parametrize(
    ("sides", "kernel"), [((8, 6), 2), ((7, 5), 2), ((9, 6), 3), ((8, 6), (4, 3)), ((5, 6), (2, 3))]
)
def test_pools_of_all_sides(sides, kernel, tmp_path):
    blocks = drawn(
        [cuba.Input(None, delay_shift=False), cuba.Pool(PLAIN, kernel, weight_scale=0.4), cuba.Unpool(PLAIN, kernel)]
    )
    graph = agree(blocks, spikes_for((3, *sides)), tmp_path / "pool.net")
    pool = graph.populations[0].edges[0].op
    assert isinstance(pool, Conv) and pool.groups == 3


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layer/1/stride", (1, 1), r"layer 1: stride is \(1, 1\); \(3, 3\), without which SLAYER mixes channels"),
        ("layer/1/padding", (1, 1), r"layer 1: padding is \(1, 1\)"),
        ("layer/1/dilation", (2, 1), r"layer 1: dilation is \(2, 1\)"),
        ("layer/0/shape", (2, 7, 6), r"layer 1: kernelSize is \(3, 3\) on \(7, 6\)"),  # a row more is not enough
    ],
)
def test_pools_that_would_mix_channels_are_refused(field, value, message, tmp_path):
    """SLAYER lays the channels below each other and convolves once."""
    blocks = drawn([cuba.Input(None, delay_shift=False), cuba.Pool(PLAIN, 3)])
    forward(blocks, spikes_for((2, 6, 6)))
    path = export(blocks, tmp_path / "pool.net")
    netx.read(path)
    with h5py.File(path, "r+") as file:
        file[field][:] = value
    with pytest.raises(GraphError, match=message):
        netx.read(path)


def test_a_norm_is_a_bias(tmp_path):
    neuron = {**LEAKY, "threshold": 6.0, "norm": slayer.neuron.norm.MeanOnlyBatchNorm}
    blocks = drawn(
        [
            cuba.Input(None, delay_shift=False),
            cuba.Conv(neuron, 2, 3, 3, delay_shift=False),
            cuba.Flatten(),
            cuba.Dense(neuron, 3 * 6 * 4, 4, delay_shift=False),
        ]
    )
    for block, features in ((blocks[1], 3), (blocks[3], 4)):
        block.neuron.norm.num_features = features
        block.neuron.norm.running_mean = torch.linspace(-0.2, 0.2, features)
    graph = agree(blocks, spikes_for((2, 8, 6)), tmp_path / "norm.net")
    assert all(population.neuron.bias is not None for population in graph.populations)


def test_a_norm_that_scales_is_refused(tmp_path):
    """Its weight_exp shifts the weights in SLAYER, which neither NetX nor anything here does."""
    neuron = {**LEAKY, "norm": slayer.neuron.norm.WgtScaleBatchNorm}
    blocks = drawn([cuba.Input(None, delay_shift=False), cuba.Conv(neuron, 2, 3, 3)])
    blocks[1].neuron.norm.num_features = 3
    blocks[1].neuron.norm.running_mean, blocks[1].neuron.norm.running_var = torch.zeros(3), torch.full((1,), 9.0)
    forward(blocks, spikes_for((2, 8, 6)))
    with pytest.raises(GraphError, match="layer 1: neuron: weight_exp is"):
        netx.read(export(blocks, tmp_path / "norm.net"))


def test_an_affine_block_is_an_output_that_only_integrates(tmp_path):
    blocks = drawn(
        [cuba.Input(None, delay_shift=False), cuba.Conv(PLAIN, 2, 3, 3), cuba.Flatten(), cuba.Affine(PLAIN, 72, 4)]
    )
    spikes = spikes_for((2, 8, 6))
    x = torch.from_numpy(spikes[0]).float().permute(1, 2, 3, 0)[None]
    with torch.no_grad():
        for block in blocks:
            x = block(x)
    graph = with_timesteps(netx.read(export(blocks, tmp_path / "affine.net")), T - 1)  # steps that got through
    trace = hardware_sim.run(graph, spikes[:, : T - 1])
    assert graph.output.neuron.threshold is None
    assert (trace.output.ravel() == (x[0, :, -1] * blocks[3].neuron.s_scale).numpy()).all()


@pytest.mark.parametrize("mantissa", [4094, 4096, 8192])
def test_at_the_threshold_slayer_fires_only_where_float32_loses_its_hundredth(mantissa, tmp_path):
    """A neuron driven to its threshold exactly, at one step. A threshold lower by one tells the same spikes there."""
    neuron = {**PLAIN, "threshold": mantissa / 64}
    blocks = drawn([cuba.Input(None, delay_shift=False), cuba.Dense(neuron, 65, 1)])
    weights = torch.full((65,), 128 / 64)
    weights[0] = (mantissa - 128 * (mantissa // 128)) / 64
    blocks[1].synapse.weight.data = weights.reshape(1, 65, 1, 1, 1)
    spikes = np.zeros((1, T, 65, 1, 1), np.uint8)
    chosen = [*([0] if mantissa % 128 else []), *range(1, 1 + mantissa // 128)]
    spikes[0, 0, chosen] = 1
    x = torch.from_numpy(spikes[0]).float().permute(1, 2, 3, 0)[None]
    with torch.no_grad():
        for block in blocks:
            x = block(x.reshape(1, 65, T) if isinstance(block, cuba.Dense) else x)
    graph = with_timesteps(netx.read(export(blocks, tmp_path / "edge.net")), T)
    fires = bool(x.sum())
    assert fires == (mantissa > LARGEST_EXACT)
    assert not hardware_sim.run(graph, spikes).total("layer_1")
    lower = dataclasses.replace(
        graph.populations[0], neuron=dataclasses.replace(graph.populations[0].neuron, threshold=mantissa - 1)
    )
    lowered = dataclasses.replace(graph, nodes=(graph.nodes[0], lower))
    assert hardware_sim.run(lowered, spikes).total("layer_1")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (cuba.KWTA({**LEAKY}, 96, 4, 2), "layer 2: field 'type' is missing"),
        (slayer.block.rf.Dense({"threshold": 1, "period": 9, "decay": 0.1}, 96, 4), "weight is a group; a dataset"),
    ],
    ids=["winners", "resonator"],
)
def test_what_cannot_run_is_refused(block, message, tmp_path):
    blocks = [cuba.Input(None, delay_shift=False), cuba.Flatten(), block]
    x = torch.from_numpy(spikes_for((2, 8, 6))[0]).float().permute(1, 2, 3, 0)[None]
    with torch.no_grad():
        for part in blocks:
            x = part(x)
    with pytest.raises(GraphError, match=message):
        netx.read(export(blocks, tmp_path / "other.net"))
