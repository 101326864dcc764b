"""Networks that are not ours down the same road: converted, exported, run in the reference and in Lava, spikes equal.

MONAI's BasicUNet, segmentation_models_pytorch's Unet on a ResNet-18, and torchvision's ResNet-18 as a classifier, with
random weights. What has to be changed so that each can spike is shown where it is built: average pooling instead of max
pooling, batch norm, and a ReLU after every transposed convolution. Such changes come before training.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import hardware_sim
from benchmarks.common import machine
from benchmarks.peers import FOLDER as PEERS_FOLDER
from hardware_sim.comparison.compare import compare
from neuroseg.conversion.balance import balance
from neuroseg.conversion.convert import convert
from neuroseg.conversion.lower import export, integer_scales
from neuroseg.spiking.encode import encode

TIMESTEPS, SAMPLES = 4, 2


def average_pooling(model: nn.Module) -> nn.Module:
    """Max pooling has no spiking counterpart; average pooling folds into the next convolution."""
    for name, child in model.named_children():
        if isinstance(child, nn.MaxPool2d):
            setattr(model, name, nn.AvgPool2d(2))
        else:
            average_pooling(child)
    return model


def monai_unet() -> tuple[nn.Module, tuple[int, ...]]:
    from monai.networks.nets import BasicUNet

    widths = (8, 8, 16, 32, 32, 8)
    model = BasicUNet(2, in_channels=1, out_channels=2, features=widths, act="relu", norm="batch", upsample="deconv")
    for name in ("upcat_4", "upcat_3", "upcat_2", "upcat_1"):  # what is joined must be spikes
        block = getattr(model, name)
        block.upsample = nn.Sequential(block.upsample, nn.ReLU())
    return average_pooling(model), (1, 32, 32)


def smp_unet() -> tuple[nn.Module, tuple[int, ...]]:
    import segmentation_models_pytorch as smp

    model = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=1, decoder_channels=(32, 16, 16, 8, 8))
    return average_pooling(model), (1, 64, 64)


def resnet_classifier() -> tuple[nn.Module, tuple[int, ...]]:
    import torchvision

    return average_pooling(torchvision.models.resnet18(num_classes=5)), (3, 32, 32)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "MONAI BasicUNet": monai_unet,
    "segmentation_models_pytorch Unet, ResNet-18": smp_unet,
    "torchvision ResNet-18": resnet_classifier,
}


def run() -> dict[str, Any]:
    """What each network became, and whether its spikes are equal. Raises FileNotFoundError without the packages."""
    sys.path.append(str(PEERS_FOLDER))
    packages = ("monai", "segmentation_models_pytorch", "torchvision")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise FileNotFoundError(f"{' and '.join(missing)} not found; `make bench` installs them into {PEERS_FOLDER}")
    return {**{name: _road(*make()) for name, make in NETWORKS.items()}, "machine": machine()}


def _road(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    torch.manual_seed(0)
    images = torch.rand(SAMPLES, *shape)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as if trained
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.2)
    start = time.perf_counter()
    network = balance(convert(model.eval(), shape, timesteps=TIMESTEPS), images, method="activation")
    network = network.with_scales(integer_scales(network))
    spikes = encode(images, timesteps=TIMESTEPS)
    activity = network.record(spikes, quantized=True)
    graph = export(network)
    bits = spikes.transpose(0, 1).numpy().astype(np.uint8)
    ours = hardware_sim.run(graph, bits)
    lavas = hardware_sim.run(graph, bits, backend="lava")
    return {
        "populations": len(graph.populations),
        "neurons": sum(int(np.prod(population.shape)) for population in graph.populations),
        "spikes": sum(ours.total(name) for name in ours.packed),
        "pytorch_equals_reference": all(
            bool((ours.spikes[name] == fired.transpose(0, 1).numpy()).all()) for name, fired in activity.spikes.items()
        ),
        "reference_equals_lava": compare(ours, lavas).equal,
        "seconds": time.perf_counter() - start,
    }
