"""Another device than the CPU. Its integers are tried on a GPU where there is one; else tensors of PyTorch's `meta`
device, which hold no numbers, show that nothing mixes devices."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hardware_sim.comparison.compare import compare
from neuroseg.calibration import balanced
from neuroseg.conversion.convert import convert
from neuroseg.spiking.device import choose, device_of, exact, place
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.training.losses import dice_loss
from neuroseg.training.unet import UNet, UNetConfig
from neuroseg.validation import software_trace
from tests.networks import PLAIN, build

META = torch.device("meta")
GPUS = [name for name in ("cuda", "mps") if getattr(torch, name).is_available()]
KINDS = [
    {},
    {"biased": True, "down": "max", "activation": "leaky"},
    {"up": "nearest", "norm": "after", "biased": True},
]


def test_the_device_is_chosen_by_what_is_there():
    assert choose("cpu") == torch.device("cpu")
    assert choose("auto").type == (GPUS[0] if GPUS else "cpu")
    with pytest.raises(ValueError, match="device 'tpu' is unknown; auto, cpu, cuda, mps are allowed"):
        choose("tpu")
    for name in {"cuda", "mps"} - set(GPUS):
        with pytest.raises(ValueError, match=f"device {name}: PyTorch finds none on this machine; cpu"):
            choose(name)


@pytest.mark.parametrize("kind", KINDS, ids=["plain", "rectified", "resized"])
@pytest.mark.parametrize("quantized", [False, True])
def test_a_step_of_fine_tuning_mixes_no_devices(kind, quantized, monkeypatch):
    monkeypatch.setattr(torch, "equal", lambda a, b: True)  # of numbers, which there are none
    monkeypatch.setattr("export.quantize.bias_step", lambda shifted: 2)
    network, _, _ = build(replace(PLAIN, **kind))
    place(network, META)
    assert device_of(network) == META
    optimizer = torch.optim.Adam(network.parameters())
    logits = network.train().predict(torch.rand(2, 1, 8, 8), quantized=quantized)
    assert logits.device == META
    loss = dice_loss(logits, torch.zeros(2, 1, 8, 8, device=META))
    loss.backward()
    assert all(parameter.grad.device == META for parameter in network.parameters() if parameter.grad is not None)
    optimizer.step()


def test_recording_and_the_ann_mix_no_devices(monkeypatch):
    monkeypatch.setattr(torch, "equal", lambda a, b: True)
    network, _, spikes = build(PLAIN)
    place(network, META)
    time_major = torch.from_numpy(spikes).transpose(0, 1).float().to(META)
    assert device_of(network.copy(timesteps=3)) == META
    activity = network.eval().record(time_major, quantized=True)
    assert activity.logits.device == META and all(x.device == META for x in activity.spikes.values())
    assert network.analog(time_major[0])[network.output.name].device == META
    ann = UNet(UNetConfig(channels=(2, 4)))
    place(ann, META)
    assert ann(torch.rand(1, 1, 8, 8, device=META)).device == META


def test_only_sums_of_a_gpu_are_rounded():
    assert exact(torch.tensor([2.5])).item() == 2.5
    assert exact(torch.tensor([2.5], device=META)).shape == (1,)


@pytest.mark.gpu
@pytest.mark.skipif(not GPUS, reason="no GPU")
@pytest.mark.parametrize("name", GPUS)
@pytest.mark.parametrize("kind", KINDS, ids=["plain", "rectified", "resized"])
def test_every_spike_of_a_gpu_is_the_cpus(name, kind):
    network, _, spikes = build(replace(PLAIN, **kind))
    time_major = torch.from_numpy(spikes).transpose(0, 1).float()
    ours = software_trace(network.eval(), time_major)
    place(network, choose(name))
    assert compare(ours, software_trace(network, time_major)).equal


@pytest.mark.gpu
@pytest.mark.skipif(not GPUS, reason="no GPU")
@pytest.mark.parametrize("name", GPUS)
def test_balancing_on_a_gpu_gives_a_network_on_the_cpu(name, monkeypatch):
    seen: set[str] = set()
    analog = SpikingNetwork.analog
    monkeypatch.setattr(SpikingNetwork, "analog", lambda net, x: seen.add(x.device.type) or analog(net, x))
    network = convert(UNet(UNetConfig(channels=(2, 4))).eval(), (1, 8, 8), timesteps=4)
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ours, theirs = (
        balanced(network, images, method="rate", seed=0, device=torch.device(where)) for where in ("cpu", name)
    )
    assert seen == {"cpu", name} and device_of(theirs) == device_of(network) == torch.device("cpu")
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
