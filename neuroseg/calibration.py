"""An ANN and some slices to calibrate on, to a balanced spiking network, or to one of sigma-delta neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from export.graph import Graph
from hardware_sim.record import Record
from neuroseg.conversion.balance import balance
from neuroseg.conversion.convert import convert
from neuroseg.conversion.sigma_delta import to_sigma_delta
from neuroseg.data.volume import Subject, stack_slices
from neuroseg.engine import Engine, image_spikes, logits
from neuroseg.metrics import agreement
from neuroseg.spiking.device import place
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.training.team import CPU
from neuroseg.training.unet import UNet

CALIBRATION_SLICES = 25


@dataclass(frozen=True)
class Conversion:
    """How an ANN becomes spiking. u0: start potential in thresholds; method: of balancing; slices: to calibrate on.

    ternary: whether what linear layers yield travels as spikes of -1, 0 and 1.
    """

    timesteps: int = 8
    reset: str = "subtract"
    u0: float = 0.0
    encoder: str = "rate"
    method: str = "rate"
    slices: int = CALIBRATION_SLICES
    ternary: bool = False


def calibrated(
    network: UNet,
    training: Sequence[Subject],
    conversion: Conversion,
    *,
    seed: int,
    device: torch.device = CPU,
) -> SpikingNetwork:
    """Convert an ANN and balance its thresholds on a few training slices; the network returned is on the CPU."""
    context = network.config.context
    images, _ = stack_slices(training, context=context)
    spiking = convert(
        network,
        tuple(images.shape[1:]),
        timesteps=conversion.timesteps,
        reset=conversion.reset,
        u0=conversion.u0,
        encoder=conversion.encoder,
        ternary=conversion.ternary,
        context=context,
    )
    chosen = sample(images, conversion.slices, seed=seed)
    return balanced(spiking, chosen, method=conversion.method, seed=seed, device=device)


def balanced(
    network: SpikingNetwork, images: torch.Tensor, *, method: str, seed: int, device: torch.device
) -> SpikingNetwork:
    """`balance` on a device; the network returned is on the CPU, as the one given is before and after."""
    place(network, device)
    made = balance(network, images, method=method, seed=seed)
    place(network, CPU)
    place(made, CPU)
    return made


def sample(images: torch.Tensor, slices: int, *, seed: int) -> torch.Tensor:
    """Some of the slices (N, C, H, W), drawn by seed."""
    return images[np.random.default_rng(seed).permutation(len(images))[:slices]]


@dataclass(frozen=True, eq=False)
class SigmaDeltaConversion:
    """An integer graph, how far it decides as the ANN on the calibration images (`metrics.agreement`), and messages.

    messages: spikes that carry a value, an image, of all layers.
    """

    graph: Graph
    agreement: float
    messages: float


def explain_sigma_delta(
    network: SpikingNetwork, images: torch.Tensor, *, threshold: float = 0.0, class_names: tuple[str, ...] = ()
) -> SigmaDeltaConversion:
    """`to_sigma_delta`, and what it does on the calibration images."""
    graph = to_sigma_delta(network, images, threshold=threshold, class_names=class_names)
    trace = Engine().run(graph, image_spikes(graph, images), record=Record(spikes=(), counts="all"))
    with torch.no_grad():
        expected = network.eval().analog(images)[graph.output.name].numpy()
    told = sum(int(counts.sum(dtype="int64")) for counts in trace.tallied.values())
    return SigmaDeltaConversion(graph, agreement(logits(graph, trace), expected), told / len(images))
