"""The network and the spikes that the benchmarks share, and how they are timed."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from export.graph import Graph
from neuroseg.conversion.balance import Rates, balance
from neuroseg.conversion.convert import convert
from neuroseg.conversion.lower import export, integer_scales
from neuroseg.data import stack_slices, template
from neuroseg.spiking.encode import encode
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.training.unet import UNet, UNetConfig

TIMESTEPS = 8
SHAPE = (1, 56, 48)
RATE = 0.15  # spikes per neuron and step in every population


def network(*, timesteps: int = TIMESTEPS, rate: float = RATE) -> SpikingNetwork:
    """The default U-Net (16-32-64), untrained, all populations balanced to one firing rate; integer scales chosen."""
    torch.manual_seed(0)
    converted = convert(UNet(UNetConfig(dropout=0.0)), SHAPE, timesteps=timesteps)
    balanced = balance(converted, images(12), rates=[Rates(rate)])
    return balanced.with_scales(integer_scales(balanced))


def images(n: int) -> torch.Tensor:
    """n slices of the template, over and over."""
    slices, _ = stack_slices([template.subject()])
    return slices.repeat(-(-n // len(slices)), 1, 1, 1)[:n]


def graph_and_spikes(n: int, *, timesteps: int = TIMESTEPS, rate: float = RATE) -> tuple[Graph, np.ndarray]:
    """The exported network and input spikes uint8 (n, T, 1, 56, 48)."""
    graph = export(network(timesteps=timesteps, rate=rate))
    return graph, encode(images(n), timesteps=timesteps).transpose(0, 1).numpy().astype(np.uint8)


def best_of(action: Callable[[], Any], repeats: int) -> float:
    """The least seconds of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def machine() -> str:
    """The machine, in words."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}, torch {torch.__version__}"
