"""The spiking network as a torch module: populations of integrate-and-fire neurons joined by synapses.

A `NetworkSpec` says what the network is; `SpikingNetwork` runs it in three modes:

- spiking: float weights, thresholds 1 (what conversion and balancing produce);
- quantized: the very integers that are exported, in float32, which holds them exactly (below 2^24);
- analog: ReLU in place of neurons, the ANN it came from (for calibration).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from neuroseg.encode import encode
from neuroseg.integers import POTENTIAL_LIMIT, POTENTIAL_SHIFT, even_integers, loihi_bias
from neuroseg.neuron import NO_LIMIT, check_neuron, integrate_fire, scan
from neuroseg.population import Response, respond_to_counts
from neuroseg.spec import (
    ConcatSpec,
    DropoutSpec,
    InputSpec,
    NetworkSpec,
    PoolSpec,
    PopulationSpec,
    last_reads,
    per_input_channel,
    pool_sizes,
    survival_rates,
)
from neuroseg.synapse import COUNT_MAX, apply_synapse, spike_dtype, weight_shape

FRAMES = 128  # slices times time steps at once where no gradient is needed: what the caches hold

Respond = Callable[[PopulationSpec, dict[str, torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class Activity:
    """What one run did. spikes: (T, B, C, H, W) per firing population; potentials: the same, after reset, for
    every population; logits: (B, C, H, W)."""

    spikes: dict[str, torch.Tensor]
    potentials: dict[str, torch.Tensor]
    logits: torch.Tensor


class SpikingNetwork(nn.Module):
    """Spikes (T, B, C, H, W) to logits (B, C, H, W) = logit_scale * output potential after T steps."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        check_neuron(threshold=1.0, reset=spec.reset)
        if spec.reset == "zero" and spec.u0:
            raise ValueError(f"u0 is {spec.u0} with reset 'zero'; stock Lava neurons start from 0")
        self.spec = spec
        self.pooled, self.survival = pool_sizes(spec), survival_rates(spec)
        self.last_read = last_reads(spec)
        self.weights = nn.ParameterDict()
        for population in spec.populations:
            for k, synapse in enumerate(population.synapses):
                self.weights[_key(population, k)] = nn.Parameter(torch.zeros(weight_shape(synapse)))
        self.biases = nn.ParameterDict(
            {bias_key(p.name): nn.Parameter(torch.zeros(p.shape[0])) for p in spec.populations if p.biased}
        )
        # Threshold in integer weight units, per population; 0 until chosen (see export.quantize).
        self.scales: torch.Tensor
        self.register_buffer("scales", torch.zeros(len(spec.populations), dtype=torch.float64))
        self.logit_scale: torch.Tensor
        self.register_buffer("logit_scale", torch.ones((), dtype=torch.float64))

    def forward(self, spikes: torch.Tensor, *, quantized: bool = False) -> torch.Tensor:
        values = self.propagate(spikes, quantized=quantized, keep_all=False)
        return self._logits(values[self.spec.output.name], quantized=quantized)

    def analog(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run as the ANN: images (B, C, H, W) to every layer's activation (B, C, H, W); outputs = logits."""

        def respond(population: PopulationSpec, values: dict[str, torch.Tensor]) -> torch.Tensor:
            currents = self.currents(population, values)
            return F.relu(currents) if population.fires else currents

        return {name: value[0] for name, value in self.walk(images[None], respond).items()}

    @torch.no_grad()
    def record(self, spikes: torch.Tensor, *, quantized: bool) -> Activity:
        """Run and keep every spike and potential (in thresholds, or integer weight units when quantized)."""
        values = self.propagate(spikes, quantized=quantized, keep_all=True)
        potentials, fired = {}, {}
        for population in self.spec.populations:
            currents = self.currents(population, values, quantized=quantized)
            if population.fires:
                fired[population.name] = values[population.name].to(currents.dtype)
                *_, potentials[population.name] = scan(currents, **self._neuron(population, quantized))
            else:
                potentials[population.name] = currents.cumsum(0)
        return Activity(fired, potentials, self._logits(values[self.spec.output.name], quantized=quantized))

    def predict(self, images: torch.Tensor, *, quantized: bool = False, seed: int = 0) -> torch.Tensor:
        """Encode images (B, C, H, W) in [0, 1] and run; returns logits. A few slices at a time if without gradient."""
        spikes = encode(images, timesteps=self.spec.timesteps, encoder=self.spec.encoder, seed=seed)
        slices = len(images) if torch.is_grad_enabled() else max(1, FRAMES // self.spec.timesteps)
        return torch.cat([self(part, quantized=quantized) for part in spikes.split(slices, dim=1)])

    def currents(
        self, population: PopulationSpec, values: dict[str, torch.Tensor], *, quantized: bool = False
    ) -> torch.Tensor:
        """Input (T, B, C, H, W) of a population, given the values of the layers before it."""
        total = None
        for k, synapse in enumerate(population.synapses):
            x = values[synapse.source]
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            weight = self.effective_weight(population, k, quantized=quantized).to(x.dtype)
            y = apply_synapse(x.flatten(0, 1), weight, synapse).unflatten(0, x.shape[:2])
            total = y if total is None else total + y
        assert total is not None
        bias = self.bias(population, quantized=quantized)
        return total if bias is None else total + bias.to(total.dtype).view(-1, 1, 1)

    def bias(self, population: PopulationSpec, *, quantized: bool = False) -> torch.Tensor | None:
        """Constant current per channel (C,), in thresholds, or in integer weight units when quantized."""
        if not population.biased:
            return None
        bias = self.biases[bias_key(population.name)].double()
        if not quantized:
            return bias
        units = 2**POTENTIAL_SHIFT
        return loihi_bias(bias * (self._chosen_scale(population) * units)) / units

    def effective_weight(self, population: PopulationSpec, k: int, *, quantized: bool) -> torch.Tensor:
        """The weight that a synapse runs with: integer or folded, with the gain of dropout in training."""
        weight = self.integer_weight(population, k) if quantized else self.folded_weight(population, k)
        if not self.training:
            return weight
        synapse = population.synapses[k]
        return weight / per_input_channel(self.survival[synapse.source], synapse)

    def folded_weight(self, population: PopulationSpec, k: int) -> torch.Tensor:
        """Weight of a synapse on pooled sums instead of pooled means: w / pool size, in float64."""
        divisor = per_input_channel(self.pooled[population.synapses[k].source], population.synapses[k])
        return self.weights[_key(population, k)].double() / divisor.to(self.logit_scale.device)

    def integer_weight(self, population: PopulationSpec, k: int) -> torch.Tensor:
        """Even integer weights in [-256, 254], with a straight-through gradient. Raises ValueError unscaled."""
        return even_integers(self.folded_weight(population, k) * (self._chosen_scale(population) / 2))

    def _chosen_scale(self, population: PopulationSpec) -> float:
        scale = self.scale(population)
        if not scale > 0:
            raise ValueError(f"population {population.name} has no integer scale; choose scales first")
        return scale

    def scale(self, population: PopulationSpec) -> float:
        """Integer weight units per threshold."""
        return float(self.scales[self.spec.populations.index(population)])

    def with_scales(self, scales: dict[str, float]) -> SpikingNetwork:
        """A copy with these integer scales, one for each population by name."""
        copy = self.copy()
        copy.scales.copy_(torch.tensor([scales[p.name] for p in self.spec.populations], dtype=torch.float64))
        return copy

    def copy(self, **changes: Any) -> SpikingNetwork:
        """A copy of the network, with fields of its spec replaced (timesteps, reset, u0, encoder, alpha)."""
        copy = SpikingNetwork(dataclasses.replace(self.spec, **changes))
        copy.load_state_dict(self.state_dict())
        return copy.train(self.training)

    def walk(
        self,
        x: torch.Tensor,
        respond: Respond,
        *,
        keep_all: bool = True,
    ) -> dict[str, torch.Tensor]:
        """Evaluate every layer in order; `respond` turns a population and the values before it into its value.

        Without keep_all, values are dropped once nothing reads them any more; the output's is left.
        """
        values: dict[str, torch.Tensor] = {}  # T, B, C, H, W (T = 1 for the ANN and for output potentials)
        for layer in self.spec.layers:
            match layer:
                case InputSpec():
                    value = x
                case PopulationSpec():
                    value = respond(layer, values)
                case PoolSpec():  # sums; the mean's divisor is folded into the weights that read it
                    source = values[layer.source]
                    pooled = F.avg_pool2d(source.flatten(0, 1), layer.kernel, divisor_override=1)
                    value = pooled.unflatten(0, source.shape[:2])
                case ConcatSpec():
                    parts = [values[name] for name in layer.sources]
                    joined = torch.cat([part.flatten(0, 1) for part in parts], dim=1)  # 4-D keeps channels last
                    value = joined.unflatten(0, parts[0].shape[:2])
                case DropoutSpec():  # the survivors' gain 1/(1-p) is in the weights that read them
                    value = values[layer.source]
                    if self.training and layer.p:
                        value = value * torch.empty_like(value[:1]).bernoulli_(1 - layer.p)  # one mask for all t
            values[layer.name] = value
            if not keep_all:
                for name in self.last_read.get(layer.name, ()):
                    del values[name]
        return values

    def propagate(self, x: torch.Tensor, *, quantized: bool = False, keep_all: bool = True) -> dict[str, torch.Tensor]:
        """Run on spikes (T, B, C, H, W); every layer's spikes, or sums of them, and the output's potential.

        Raises ValueError where x holds anything but 0 and 1.
        """

        def respond(population: PopulationSpec, values: dict[str, torch.Tensor]) -> torch.Tensor:
            if counts:
                return self._respond_to_counts(population, values, quantized=quantized)
            currents = self.currents(population, values, quantized=quantized)
            if not population.fires:
                return currents.sum(0, keepdim=True)
            return integrate_fire(currents, alpha=self.spec.alpha, **self._neuron(population, quantized))

        if not torch.equal(x, x.clamp(0, 1).round()):
            raise ValueError(f"spikes range from {float(x.min()):g} to {float(x.max()):g}; 0 and 1 are allowed")
        counts = x.dtype == torch.float32 and max(float(sizes.max()) for sizes in self.pooled.values()) <= COUNT_MAX
        return self.walk(x.to(spike_dtype(x.device)) if counts else x, respond, keep_all=keep_all)

    def _respond_to_counts(
        self, population: PopulationSpec, values: dict[str, torch.Tensor], *, quantized: bool
    ) -> torch.Tensor:
        response = Response(
            synapses=population.synapses,
            whole=tuple(
                quantized and not (self.training and bool((self.survival[s.source] < 1).any()))
                for s in population.synapses
            ),
            alpha=self.spec.alpha if population.fires else None,
            **self._neuron(population, quantized),
        )
        inputs = [values[synapse.source] for synapse in population.synapses]
        weights = [
            self.effective_weight(population, k, quantized=quantized).float() for k in range(len(population.synapses))
        ]
        bias = self.bias(population, quantized=quantized)
        return respond_to_counts(response, inputs, weights, None if bias is None else bias.float())

    def _neuron(self, population: PopulationSpec, quantized: bool) -> dict[str, Any]:
        threshold = self.scale(population) if quantized else 1.0
        return {
            "threshold": threshold,
            "reset": self.spec.reset,
            "u0": self.spec.u0 * threshold,
            "limit": POTENTIAL_LIMIT if quantized else NO_LIMIT,
        }

    def _logits(self, potential: torch.Tensor, *, quantized: bool) -> torch.Tensor:
        units = self.scale(self.spec.output) if quantized else 1.0
        return potential[-1] * (float(self.logit_scale) / units)


def bias_key(name: str) -> str:
    """Of a population's bias among the parameters, where a bare name like `values` would not do."""
    return f"{name}:bias"


def _key(population: PopulationSpec, k: int) -> str:
    return f"{population.name}:{k}"
