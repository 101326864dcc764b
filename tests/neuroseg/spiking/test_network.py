"""The spiking module: synapses on counts, fused populations, dropout, integer weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from export.graph import Conv, ConvT, Dropout
from neuroseg.conversion.balance import balance
from neuroseg.conversion.convert import convert
from neuroseg.conversion.lower import integer_scales
from neuroseg.spiking import network as network_module
from neuroseg.spiking import synapse
from neuroseg.spiking.encode import encode
from neuroseg.training.unet import UNet, UNetConfig
from tests.neuroseg.conftest import SHAPE


def test_dropout_has_one_mask_for_all_steps(unet):
    network = convert(unet, SHAPE).train()
    values = network.walk(
        torch.ones(8, 2, *SHAPE), lambda population, values: torch.ones_like(network.currents(population, values))
    )
    masks = [values[layer.name] for layer in network.graph.nodes if isinstance(layer, Dropout)]
    assert masks and all((mask == mask[:1]).all() for mask in masks)
    assert any((mask == 0).any() for mask in masks)


SYNAPSES = {
    "conv": Conv(np.zeros((6, 2, 3, 2)), (2, 1), (1, 0), dilation=(1, 2), groups=2),
    "convT": ConvT(np.zeros((4, 3, 3, 2)), (2, 1), (1, 0), (1, 0), groups=2),
}


def _plain(x, weight, s):
    if isinstance(s, Conv):
        return F.conv2d(x, weight, None, s.stride, s.padding, s.dilation, s.groups)
    return F.conv_transpose2d(x, weight, None, s.stride, s.padding, s.output_padding, s.groups, s.dilation)


@pytest.mark.parametrize("bytes_are_fast", sorted({False, synapse.bytes_are_fast()}))
@pytest.mark.parametrize("kind", SYNAPSES)
def test_synapse_on_counts_is_exact_and_has_the_gradient_of_torchs(kind, bytes_are_fast, monkeypatch):
    monkeypatch.setattr(synapse, "bytes_are_fast", lambda: bytes_are_fast)
    generator = torch.Generator().manual_seed(0)
    s = SYNAPSES[kind]
    x = torch.randint(0, 128, (3, 4, 7, 6), generator=generator).float().requires_grad_()
    weight = 2.0 * torch.randint(-128, 128, s.weight.shape, generator=generator)
    weight.requires_grad_()
    plain = _plain(x, weight, s)
    kept = synapse.to_bytes(x.detach())
    assert torch.equal(synapse.apply_to_counts(kept, weight.detach(), s, whole=True), plain)
    up = torch.randn(plain.shape, generator=generator)
    expected = torch.autograd.grad(plain, (x, weight), up)
    ours = synapse.gradients(up, kept, weight.detach(), s, wanted=(True, True))
    torch.testing.assert_close(ours, expected)
    low = synapse.gradients(up.bfloat16(), kept, weight.detach(), s, wanted=(True, True))
    assert low[0].dtype == torch.bfloat16 and low[1].dtype == torch.float32
    for coarse, fine in zip(low, expected, strict=True):
        assert float((coarse - fine).norm() / fine.norm()) < 0.01


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_fused_populations_spike_as_currents_and_neurons_apart(unet, images, quantized, precision, mode, monkeypatch):
    """The byte-wise step against plain float64 autograd of the same network: same potentials, nearly same gradient."""
    monkeypatch.setattr(network_module, "spike_dtype", lambda device: precision)
    network = balance(convert(unet, SHAPE), images)
    network = network.with_scales(integer_scales(network)).train(mode == "train")
    spikes = encode(images, timesteps=8)

    def run(x):
        torch.manual_seed(0)  # dropout masks
        network.zero_grad()
        out = network(x, quantized=quantized)
        out.square().mean().backward()
        return out.detach(), torch.cat([w.grad.flatten() for w in network.weights.values()])

    (fused, gradient), (plain, expected) = run(spikes), run(spikes.double())
    if mode == "eval" and quantized:
        torch.testing.assert_close(fused, plain.float())  # integer potentials, and one rounding of their scale
    assert float((fused - plain).norm() / plain.norm()) < 0.2  # rounding may move a spike
    similarity = F.cosine_similarity(gradient.double(), expected.double(), dim=0)
    assert float(similarity) > 0.98


def test_dropout_keeps_the_mean_current(unet):
    """Survivors gain 1/(1-p), as in torch, though the gain is in the weights."""
    torch.manual_seed(0)
    network = convert(UNet(UNetConfig(channels=(4, 6), dropout=0.5)), SHAPE)
    for weight in network.weights.values():
        weight.data.abs_()  # else the mean is near 0, and its error is not
    population = network.populations[1]
    source = population.edges[0].source
    ones = torch.ones(1, 500, 4, 12, 8)
    full = network.eval().currents(population, {source: ones}).mean()
    halved = network.train().currents(population, {source: ones * (torch.rand(1, 500, 4, 1, 1) < 0.5)}).mean()
    assert float(halved) == pytest.approx(float(full), rel=0.15)


def test_spikes_must_be_spikes(unet):
    with pytest.raises(ValueError, match=r"range from 0 to 0\.5; 0 and 1 are allowed"):
        convert(unet, SHAPE)(torch.tensor([0.0, 0.5]).view(1, 2, 1, 1, 1).expand(8, 2, *SHAPE))


def test_integer_weights_are_even_and_need_scales(unet):
    network = convert(unet, SHAPE)
    population = network.populations[0]
    with pytest.raises(ValueError, match="no integer scale"):
        network.integer_weight(population, 0)
    scaled = network.with_scales(integer_scales(network))
    for p in scaled.populations:
        for k in range(len(p.edges)):
            weight = scaled.integer_weight(p, k)
            assert (weight % 2 == 0).all() and weight.min() >= -256 and weight.max() <= 254


def test_zero_reset_has_no_start_potential(unet):
    with pytest.raises(ValueError, match="stock Lava neurons start from 0"):
        convert(unet, SHAPE, reset="zero", u0=0.5)
