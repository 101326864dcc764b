"""What a network does while it runs: firing rates and synaptic operations, which stand for its energy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from neuroseg.encode import encode
from neuroseg.spec import SynapseSpec
from neuroseg.spiking import FRAMES, SpikingNetwork
from neuroseg.synapse import apply_synapse, weight_shape


@dataclass(frozen=True)
class ActivitySummary:
    """rates: spikes per neuron and step of each firing population; rate: over all of their neurons.

    operations: synaptic operations a slice, one for every synapse that a spike crosses.
    """

    rates: dict[str, float]
    rate: float
    operations: float


@torch.no_grad()
def measure(
    network: SpikingNetwork, images: torch.Tensor, *, quantized: bool = False, seed: int = 0
) -> ActivitySummary:
    """Run images (B, C, H, W) and count."""
    spec = network.spec
    totals: dict[str, float] = {}  # spikes
    operations = 0.0
    spikes = encode(images, timesteps=spec.timesteps, encoder=spec.encoder, seed=seed)
    for part in spikes.split(max(1, FRAMES // spec.timesteps), dim=1):
        values = network.propagate(part, quantized=quantized)
        for population in spec.populations:
            if population.fires:
                fired = float(values[population.name].sum(dtype=torch.float64))
                totals[population.name] = totals.get(population.name, 0.0) + fired
            operations += sum(_crossed(values[s.source].float().sum(0), s) for s in population.synapses)
    neurons = {p.name: math.prod(p.shape) for p in spec.populations if p.fires}
    steps = len(images) * spec.timesteps
    rates = {name: totals[name] / (neurons[name] * steps) for name in neurons}
    all_steps = max(1, sum(neurons.values())) * steps
    return ActivitySummary(rates, sum(totals.values()) / all_steps, operations / len(images))


def ann_operations(network: SpikingNetwork) -> float:
    """Multiply-accumulates a slice of the ANN that a network came from, zeros included."""
    spec = network.spec
    shapes = {layer.name: layer.shape for layer in spec.layers}
    return sum(_crossed(torch.ones(1, *shapes[s.source]), s) for p in spec.populations for s in p.synapses)


def _crossed(counts: torch.Tensor, s: SynapseSpec) -> float:
    """Synapses crossed by spike counts (B, C, H, W): the sum of a convolution with ones."""
    ones = torch.ones(weight_shape(s))
    return float(apply_synapse(counts, ones, s).sum(dtype=torch.float64))
