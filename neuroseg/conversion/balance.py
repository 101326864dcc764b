"""Threshold balancing: scale the weights of a converted network so that every threshold is 1.

Methods: `threshold` is the paper's (the largest net input seen); `activation` scales each branch of a concatenation by
its own activations; `rate` builds on it and sets each population's firing rate; `best` tries what the last two try, and
keeps what decides most as the ANN does. `rate` is what the shipped network and its folds were measured with.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from export.graph import Input, Population
from export.limits import INPUT_MAX, WEIGHT_MAX
from neuroseg.conversion.lower import largest_inputs
from neuroseg.metrics import agreement
from neuroseg.spiking.channels import channel_values, per_input_channel
from neuroseg.spiking.device import device_of
from neuroseg.spiking.network import SpikingNetwork, bias_key
from neuroseg.spiking.neuron import integrate_fire
from neuroseg.spiking.trainable import fires, operator

log = logging.getLogger(__name__)

METHODS = ("rate", "activation", "threshold", "best")
PERCENTILES = (99.0, 95.0, 90.0)  # of the activations, to stand for rate 1; heavy tails want a lower one
BISECTIONS = 14
GAIN_RANGE = (2.0**-6, 2.0**10)
OF_ATTAINABLE = 0.5  # the rate where so few neurons fire that the one wanted is out of reach
HEAVIEST = 100.0  # thresholds; a weight above 254 thresholds would not fit 8 bits
STRONGEST = HEAVIEST / WEIGHT_MAX * INPUT_MAX  # thresholds in a step; as near to the 16 bits of an input


@dataclass(frozen=True)
class Rates:
    """Target firing rates, in spikes per neuron and step: `last` for the last populations before the output."""

    inner: float
    last: tuple[float, ...] = ()

    def targets(self, network: SpikingNetwork) -> dict[str, float]:
        firing = [population.name for population in network.populations if fires(population)]
        targets = dict.fromkeys(firing, self.inner)
        targets.update(zip(reversed(firing), reversed(self.last), strict=False))
        return targets


CANDIDATES = tuple(Rates(inner, last) for inner in (0.05, 0.1, 0.15, 0.2, 0.3) for last in ((), (0.2, 0.3)))


@torch.no_grad()
def balance(
    network: SpikingNetwork,
    images: torch.Tensor,
    *,
    method: str = "rate",
    seed: int = 0,
    percentiles: Sequence[float] = PERCENTILES,
    rates: Sequence[Rates] = CANDIDATES,
) -> SpikingNetwork:
    """Return a copy of a freshly converted network, its weights scaled on calibration images (B, C, H, W).

    It runs where the network's parameters are, and so does the copy. Use training images only. The simulation runs at
    the network's own T, reset, u0 and encoder; all images and steps are held in memory at once. Of several
    `percentiles` (method `activation`; `rate` takes the first) or `rates`, those are kept whose decisions agree best
    with the ANN's on these images (`metrics.agreement`). Raises ValueError for another method.
    """
    if method not in METHODS:
        raise ValueError(f"balancing {method!r} is unknown; {', '.join(METHODS)} are allowed")
    network = network.copy().eval()
    images = images.to(device_of(network))
    logits = network.analog(images)[network.output.name]
    spikes = network.encode(images, seed=seed)
    if method == "threshold":
        network = _by_population(network, spikes, _largest_input)
    elif method == "activation":
        network = _closest((_scale_by_activation(network, images, each) for each in percentiles), spikes, logits)
    else:
        scaled = _scale_by_activation(network, images, percentiles[0])
        most = {name: STRONGEST / bound if bound else 1.0 for name, bound in largest_inputs(scaled).items()}
        at_rates = (_by_population(scaled, spikes, _RateGain(scaled, each.targets(scaled), most)) for each in rates)
        others = percentiles if method == "best" else ()
        by_activation = (_scale_by_activation(network, images, each) for each in others)
        network = _closest(itertools.chain(by_activation, at_rates), spikes, logits)
    potential = network(spikes)
    spread = float(potential.std())
    network.logit_scale.fill_(float(logits.std()) / spread if spread > 0 else 1.0)
    return network


def _closest(candidates: Iterable[SpikingNetwork], spikes: torch.Tensor, logits: torch.Tensor) -> SpikingNetwork:
    """The candidate whose decisions agree best with those of the ANN's logits (B, C, H, W); the first of equals."""
    return max(candidates, key=lambda candidate: agreement(candidate(spikes).cpu().numpy(), logits.cpu().numpy()))


@torch.no_grad()
def agreement_over_time(
    network: SpikingNetwork, images: torch.Tensor, *, timesteps: int, ann: SpikingNetwork, seed: int = 0
) -> float:
    """`metrics.agreement` with the ANN on images (B, C, H, W) where the network runs for another number of steps."""
    longer = network.copy(timesteps=timesteps).eval()
    return agreement(longer.predict(images, seed=seed).numpy(), ann.analog(images)[ann.output.name].numpy())


def _largest_input(population: Population, currents: torch.Tensor) -> float:
    """The paper's threshold, the largest net input seen; dividing by it makes the threshold 1."""
    top = float((currents.abs() if population.cuba.ternary else currents).max())
    return 1 / top if top > 0 else 1.0


def _fire(population: Population, currents: torch.Tensor) -> torch.Tensor:
    """Spikes of its neurons, whose thresholds are 1."""
    neuron = population.cuba
    return integrate_fire(currents, reset=neuron.reset, u0=neuron.u0, ternary=neuron.ternary)


class _RateGain:
    """The gain at which a population reaches its target rate, by bisection on a logarithmic scale.

    most: the largest gain of a population, by name; where few neurons fire at all, none reaches the rate.
    """

    def __init__(self, network: SpikingNetwork, targets: dict[str, float], most: dict[str, float]) -> None:
        self.network, self.targets, self.most = network, targets, most

    def __call__(self, population: Population, currents: torch.Tensor) -> float:
        if not fires(population):
            return 1.0
        weights = [self.network.folded_weight(population, k) for k in range(len(population.edges))]
        heaviest = max(float(weight.abs().max()) for weight in weights) or 1.0
        low, high = np.log2(GAIN_RANGE[0]), np.log2(min(GAIN_RANGE[1], HEAVIEST / heaviest))

        def rate(power: float) -> float:
            return float(_fire(population, currents * 2**power).abs().mean())

        target, attainable = self.targets[population.name], rate(high)
        if not attainable:  # silent on these images; others may tell
            return min(1.0, self.most[population.name])
        if attainable < target:
            target = OF_ATTAINABLE * attainable
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if rate(middle) < target else (low, middle)
        gain = min(float(2**high), self.most[population.name])  # here, lest the bisection of all others move
        log.debug("%s: gain %.3f for rate %.2f", population.name, gain, target)
        return gain


def _by_population(
    network: SpikingNetwork,
    spikes: torch.Tensor,
    gain: Callable[[Population, torch.Tensor], float],
) -> SpikingNetwork:
    """A copy with the populations' weights scaled in topological order, each driven by the ones already scaled."""
    network = network.copy()

    def respond(population: Population, values: dict[str, torch.Tensor]) -> torch.Tensor:
        currents = network.currents(population, values)
        factor = gain(population, currents)
        for k in range(len(population.edges)):
            network.weights[f"{population.name}:{k}"].mul_(factor)
        if population.cuba.bias is not None:
            network.biases[bias_key(population.name)].mul_(factor)
        return _fire(population, currents * factor)

    network.walk(spikes, respond, keep_all=False)
    return network


def _scale_by_activation(network: SpikingNetwork, images: torch.Tensor, percentile: float) -> SpikingNetwork:
    """A copy with w' = w * lambda_in / lambda_out, with a lambda_in for every input channel of a synapse."""
    network = network.copy()
    activations = network.analog(images)

    def full_rate(layer: Input | Population) -> float:
        """The activation that stands for rate 1."""
        if isinstance(layer, Input):
            return 1.0
        size = activations[layer.name].abs().cpu().numpy()
        return float(np.percentile(size, percentile)) or float(size.max()) or 1.0

    lambdas = channel_values(network.graph, full_rate, lambda _: 1)
    for population in network.populations:
        out = float(lambdas[population.name][0])
        for k, edge in enumerate(population.edges):
            scale = per_input_channel(lambdas[edge.source], operator(edge), network.graph[edge.source].shape) / out
            weight = network.weights[f"{population.name}:{k}"]
            weight.mul_(scale.float().to(weight.device))
        if population.cuba.bias is not None:
            network.biases[bias_key(population.name)].div_(out)
    return network
