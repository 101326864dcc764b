"""The spiking network as a torch module: populations of integrate-and-fire neurons joined by synapses.

A float graph (`export.graph`, thresholds 1) says what the network is; `SpikingNetwork` runs it in three modes:

- spiking: float weights, thresholds 1 (what conversion and balancing produce);
- quantized: the very integers that are exported, in float32, which holds them exactly (below 2^24);
- analog: ReLU in place of neurons, the ANN it came from (for calibration); nothing in place of ternary ones.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from export.graph import Graph, Neuron, Population, with_encoder, with_neurons, with_timesteps
from export.limits import POTENTIAL_SHIFT
from hardware_sim.fast.bytes import COUNT_MAX
from neuroseg.spiking.channels import last_reads, levels_read, per_input_channel, pool_sizes, survival_rates
from neuroseg.spiking.device import device_of, exact, place, wide
from neuroseg.spiking.encode import encode
from neuroseg.spiking.integers import POTENTIAL_LIMIT, even_integers, loihi_bias
from neuroseg.spiking.neuron import NO_LIMIT, integrate_fire, scan
from neuroseg.spiking.population import Response, in_place, respond_to_counts
from neuroseg.spiking.structure import without_numbers
from neuroseg.spiking.synapse import apply_synapse, spike_dtype
from neuroseg.spiking.trainable import check_trainable, fires, operator, rectifies
from neuroseg.spiking.walk import Respond, walk

FRAMES = 128  # slices times time steps at once where no gradient is needed: what the caches hold


@dataclass(frozen=True)
class Activity:
    """What one run did. spikes: (T, B, C, H, W) per firing population; potentials: the same, after reset, for
    every population; logits: (B, C, H, W)."""

    spikes: dict[str, torch.Tensor]
    potentials: dict[str, torch.Tensor]
    logits: torch.Tensor


class SpikingNetwork(nn.Module):
    """Spikes (T, B, C, H, W) to logits (B, C, H, W) = logit_scale * output potential after T steps."""

    def __init__(self, graph: Graph, *, alpha: float = 1.0) -> None:
        """graph: float, with thresholds 1. alpha: height of the surrogate gradient. Raises ValueError for other graphs.

        The graph that is kept has the structure alone; its numbers are the parameters.
        """
        super().__init__()
        check_trainable(graph)
        self.graph, self.alpha = without_numbers(graph), alpha
        self.pooled, self.survival = pool_sizes(graph), survival_rates(graph)
        self.last_read, self.levels = last_reads(graph), levels_read(graph)
        self.weights, self.biases = nn.ParameterDict(), nn.ParameterDict()
        for population in graph.populations:
            for k, edge in enumerate(population.edges):
                levels = per_input_channel(self.levels[edge.source], operator(edge), graph[edge.source].shape)
                weight = torch.tensor(edge.op.weight, dtype=torch.float64) * levels
                self.weights[_key(population, k)] = nn.Parameter(weight.float())
            if population.cuba.bias is not None:
                bias = torch.tensor(population.cuba.bias, dtype=torch.float32)
                by_channel = bias.shape[-2:] == (1, 1)
                self.biases[bias_key(population.name)] = nn.Parameter(bias.reshape(-1) if by_channel else bias)
        # Threshold in integer weight units, per population; 0 until chosen (see export.quantize).
        self.scales: torch.Tensor
        scales = [population.scale or 0.0 for population in graph.populations]
        self.register_buffer("scales", torch.tensor(scales, dtype=torch.float64))
        self.logit_scale: torch.Tensor
        self.register_buffer("logit_scale", torch.tensor(graph.meta.logit_scale, dtype=torch.float64))

    @property
    def timesteps(self) -> int:
        return self.graph.meta.timesteps

    @property
    def encoder(self) -> str:
        return self.graph.meta.encoder

    @property
    def neuron(self) -> Neuron:
        """What all firing populations share: threshold, reset and start potential (in thresholds).

        Ternary ones start at 0 beside others that do not.
        """
        firing = [population.cuba for population in self.populations if fires(population)]
        return min(firing, key=lambda neuron: neuron.ternary) if firing else self.populations[0].cuba

    @property
    def populations(self) -> tuple[Population, ...]:
        return self.graph.populations

    @property
    def outputs(self) -> tuple[Population, ...]:
        return self.graph.outputs

    @property
    def output(self) -> Population:
        """The first output, whose potential is read as logits."""
        return self.graph.output

    def forward(self, spikes: torch.Tensor, *, quantized: bool = False) -> torch.Tensor:
        values = self.propagate(spikes, quantized=quantized, keep_all=False)
        return self._logits(values[self.output.name], quantized=quantized)

    def analog(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run as the ANN: images (B, C, H, W) to every layer's activation (B, C, H, W); outputs = logits."""

        def respond(population: Population, values: dict[str, torch.Tensor]) -> torch.Tensor:
            currents = self.currents(population, values)
            return F.relu(currents) if rectifies(population) else currents

        return {name: value[0] for name, value in self.walk(images[None] * self.graph.input.levels, respond).items()}

    @torch.no_grad()
    def record(
        self, spikes: torch.Tensor, *, quantized: bool, potentials_of: Collection[str] | None = None
    ) -> Activity:
        """Run and keep every spike and potential (in thresholds, or integer weight units when quantized).

        potentials_of: names of populations whose potentials are wanted, beside the output's; by default all are, which
        takes several times as long as the spikes.
        """
        values = self.propagate(spikes, quantized=quantized, keep_all=True)
        potentials, fired = {}, {}
        for population in self.populations:
            if fires(population):
                fired[population.name] = values[population.name].to(torch.promote_types(spikes.dtype, torch.float32))
            wanted = potentials_of is None or population.name in (self.output.name, *potentials_of)
            if not wanted:
                continue
            currents = self.currents(population, values, quantized=quantized)
            if fires(population):
                *_, potentials[population.name] = scan(currents, **self._neuron(population, quantized))
            else:
                potentials[population.name] = currents.cumsum(0)
        return Activity(fired, potentials, self._logits(values[self.output.name], quantized=quantized))

    def predict(self, images: torch.Tensor, *, quantized: bool = False, seed: int = 0) -> torch.Tensor:
        """Encode images (B, C, H, W) in [0, 1] and run; returns logits. A few slices at a time if without gradient."""
        # Encoded on the host: in float64, and a seed is one code wherever the network is.
        spikes = self.encode(images.cpu(), seed=seed).to(device_of(self))
        slices = len(images) if torch.is_grad_enabled() else max(1, FRAMES // self.timesteps)
        return torch.cat([self(part, quantized=quantized) for part in spikes.split(slices, dim=1)])

    def encode(self, images: torch.Tensor, *, seed: int = 0) -> torch.Tensor:
        """Spikes (T, B, C, H, W) of images (B, C, H, W) in [0, 1], as the network reads them."""
        levels = self.graph.input.levels
        return encode(images, timesteps=self.timesteps, encoder=self.encoder, levels=levels, seed=seed)

    def currents(
        self, population: Population, values: dict[str, torch.Tensor], *, quantized: bool = False
    ) -> torch.Tensor:
        """Input (T, B, C, H, W) of a population, given the values of the layers before it."""
        total = None
        for k, edge in enumerate(population.edges):
            x = values[edge.source]
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            weight = self.effective_weight(population, k, quantized=quantized).to(x)
            y = apply_synapse(x.flatten(0, 1), weight, operator(edge)).unflatten(0, x.shape[:2])
            y = exact(y) if quantized and not self.training else y
            total = y if total is None else total + y
        assert total is not None
        bias = self.bias(population, quantized=quantized)
        return total if bias is None else total + in_place(bias.to(total))

    def bias(self, population: Population, *, quantized: bool = False) -> torch.Tensor | None:
        """Constant current per channel (C,), or per neuron (C, H, W) where zero padding makes borders differ.

        In thresholds, or in integer weight units when quantized.
        """
        if population.cuba.bias is None:
            return None
        bias = wide(self.biases[bias_key(population.name)])
        if not quantized:
            return bias
        units = 2**POTENTIAL_SHIFT
        return loihi_bias(bias * (self._chosen_scale(population) * units)) / units

    def effective_weight(self, population: Population, k: int, *, quantized: bool) -> torch.Tensor:
        """The weight that a synapse runs with: integer or folded, with the gain of dropout in training."""
        weight = self.integer_weight(population, k) if quantized else self.folded_weight(population, k)
        if not self.training:
            return weight
        edge = population.edges[k]
        kept = per_input_channel(self.survival[edge.source], operator(edge), self.graph[edge.source].shape)
        return weight / kept.to(weight.device)

    def folded_weight(self, population: Population, k: int) -> torch.Tensor:
        """Weight of a synapse on a spike's levels and on pooled sums instead of means: w / levels / pool size.

        In float64 and in this order, as the graph's passes do.
        """
        edge = population.edges[k]
        weight = wide(self.weights[_key(population, k)])
        for divisors in (self.levels, self.pooled):
            divisor = per_input_channel(divisors[edge.source], operator(edge), self.graph[edge.source].shape)
            weight = weight / divisor.to(weight.device)
        return weight

    def integer_weight(self, population: Population, k: int) -> torch.Tensor:
        """Even integer weights in [-256, 254], with a straight-through gradient. Raises ValueError unscaled."""
        return even_integers(self.folded_weight(population, k) * (self._chosen_scale(population) / 2))

    def _chosen_scale(self, population: Population) -> float:
        scale = self.scale(population)
        if not scale > 0:
            raise ValueError(f"population {population.name} has no integer scale; choose scales first")
        return scale

    def scale(self, population: Population) -> float:
        """Integer weight units per threshold."""
        return float(self.scales[[p.name for p in self.populations].index(population.name)])

    def with_scales(self, scales: dict[str, float]) -> SpikingNetwork:
        """A copy with these integer scales, one for each population by name."""
        copy = self.copy()
        copy.scales.copy_(torch.tensor([scales[p.name] for p in self.populations], dtype=torch.float64))
        return copy

    def copy(
        self,
        graph: Graph | None = None,
        *,
        timesteps: int | None = None,
        reset: str | None = None,
        u0: float | None = None,
        encoder: str | None = None,
        alpha: float | None = None,
    ) -> SpikingNetwork:
        """A copy with the same parameters, where they are: of another graph of the same populations, or as given."""
        graph = graph or self.graph
        neuron = self.neuron
        if reset is not None or u0 is not None:
            graph = with_neurons(graph, reset=reset or neuron.reset, u0=neuron.u0 if u0 is None else u0)
        graph = with_timesteps(graph, timesteps) if timesteps else graph
        graph = with_encoder(graph, encoder) if encoder not in (None, graph.meta.encoder) else graph
        # Weights are per unit of intensity, whatever a spike's levels are.
        copy = SpikingNetwork(graph, alpha=self.alpha if alpha is None else alpha)
        place(copy, device_of(self))
        copy.load_state_dict(self.state_dict())
        if graph.input.levels != self.graph.input.levels:
            copy.scales.zero_()  # chosen for weights of other units
        return copy.train(self.training)

    def walk(self, x: torch.Tensor, respond: Respond, *, keep_all: bool = True) -> dict[str, torch.Tensor]:
        """Every layer's value, in order (`walk.walk`), with dropout while training.

        Without keep_all, values are dropped once nothing reads them any more; the output's is left.
        """
        return walk(self.graph, x, respond, dropping=self.training, last_read={} if keep_all else self.last_read)

    def propagate(self, x: torch.Tensor, *, quantized: bool = False, keep_all: bool = True) -> dict[str, torch.Tensor]:
        """Run on spikes (T, B, C, H, W); every layer's spikes, or sums of them, and the output's potential.

        Raises ValueError where x holds anything but 0 and 1, or integers up to the input's levels.
        """

        def respond(population: Population, values: dict[str, torch.Tensor]) -> torch.Tensor:
            if counts:
                return self._respond_to_counts(population, values, quantized=quantized)
            currents = self.currents(population, values, quantized=quantized)
            if not fires(population):
                return currents.sum(0, keepdim=True)
            return integrate_fire(currents, alpha=self.alpha, **self._neuron(population, quantized))

        most = self.graph.input.levels
        if not torch.equal(x, x.clamp(0, most).round()):
            allowed = "0 and 1" if most == 1 else f"integers from 0 to {most}"
            raise ValueError(f"spikes range from {float(x.min()):g} to {float(x.max()):g}; {allowed} are allowed")
        largest = max(float((size * self.levels[name]).max()) for name, size in self.pooled.items())
        signs = any(population.cuba.ternary for population in self.populations)  # a count has none
        counts = x.dtype == torch.float32 and largest <= COUNT_MAX and not signs
        return self.walk(x.to(spike_dtype(x.device)) if counts else x, respond, keep_all=keep_all)

    def _respond_to_counts(
        self, population: Population, values: dict[str, torch.Tensor], *, quantized: bool
    ) -> torch.Tensor:
        response = Response(
            ops=tuple(operator(edge) for edge in population.edges),
            whole=tuple(
                quantized and not (self.training and bool((self.survival[s.source] < 1).any()))
                for s in population.edges
            ),
            alpha=self.alpha if fires(population) else None,
            **self._neuron(population, quantized),
        )
        inputs = [values[edge.source] for edge in population.edges]
        weights = [
            self.effective_weight(population, k, quantized=quantized).to(inputs[k].device, torch.float32)
            for k in range(len(population.edges))
        ]
        bias = self.bias(population, quantized=quantized)
        return respond_to_counts(response, inputs, weights, None if bias is None else bias.to(weights[0]))

    def _neuron(self, population: Population, quantized: bool) -> dict[str, Any]:
        threshold = self.scale(population) if quantized else 1.0
        return {
            "threshold": threshold,
            "reset": population.cuba.reset,
            "u0": population.cuba.u0 * threshold,
            "limit": POTENTIAL_LIMIT if quantized else NO_LIMIT,
            "ternary": population.cuba.ternary,
        }

    def _logits(self, potential: torch.Tensor, *, quantized: bool) -> torch.Tensor:
        units = self.scale(self.output) if quantized else 1.0
        return potential[-1] * (float(self.logit_scale) / units)


def bias_key(name: str) -> str:
    """Of a population's bias among the parameters, where a bare name like `values` would not do."""
    return f"{name}:bias"


def _key(population: Population, k: int) -> str:
    return f"{population.name}:{k}"
