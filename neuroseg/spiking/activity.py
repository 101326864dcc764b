"""What a network does while it runs: firing rates and synaptic operations, which stand for its energy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from export.graph import ternary
from neuroseg.spiking.network import FRAMES, SpikingNetwork
from neuroseg.spiking.synapse import apply_synapse
from neuroseg.spiking.trainable import Trainable, fires, operator


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
    totals: dict[str, float] = {}  # spikes
    operations = 0.0
    spikes = network.encode(images, seed=seed)
    for part in spikes.split(max(1, FRAMES // network.timesteps), dim=1):
        values = network.propagate(part, quantized=quantized)
        for population in network.populations:
            if fires(population):
                fired = float(values[population.name].abs().sum(dtype=torch.float64))
                totals[population.name] = totals.get(population.name, 0.0) + fired
        sent = _without_signs(network, values)
        operations += sum(
            _crossed(sent[e.source].float().sum(0), operator(e)) for p in network.populations for e in p.edges
        )
    neurons = {p.name: math.prod(p.shape) for p in network.populations if fires(p)}
    steps = len(images) * network.timesteps
    rates = {name: totals[name] / (neurons[name] * steps) for name in neurons}
    all_steps = max(1, sum(neurons.values())) * steps
    return ActivitySummary(rates, sum(totals.values()) / all_steps, operations / len(images))


def _without_signs(network: SpikingNetwork, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What nodes pass on where every spike counts: in the sums of a pool -1 and 1 are two."""
    if not ternary(network.graph):
        return values
    return network.walk(values[network.graph.input.name], lambda population, _: values[population.name].abs())


def ann_operations(network: SpikingNetwork) -> float:
    """Multiply-accumulates a slice of the ANN that a network came from, zeros included."""
    shapes = {node.name: node.shape for node in network.graph.nodes}
    return sum(_crossed(torch.ones(1, *shapes[e.source]), operator(e)) for p in network.populations for e in p.edges)


def _crossed(counts: torch.Tensor, op: Trainable) -> float:
    """Synapses crossed by spike counts (B, C, H, W): the sum of the same map with ones."""
    ones = torch.ones(op.weight.shape)
    return float(apply_synapse(counts, ones, op).sum(dtype=torch.float64))
