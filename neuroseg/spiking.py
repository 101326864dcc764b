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
from neuroseg.neuron import NO_LIMIT, STEPS, check_neuron, integrate_fire, scan, scan_backward, scan_forward
from neuroseg.spec import (
    ConcatSpec,
    DropoutSpec,
    InputSpec,
    NetworkSpec,
    PoolSpec,
    PopulationSpec,
    SynapseSpec,
    last_reads,
    per_input_channel,
    pool_sizes,
    survival_rates,
)
from neuroseg.synapse import (
    COUNT_MAX,
    apply_synapse,
    apply_to_counts,
    gradients,
    spike_dtype,
    to_bytes,
    weight_shape,
)

WEIGHT_MIN, WEIGHT_MAX = -256, 254  # Loihi's signed 8-bit mantissa in mixed mode: even integers
POTENTIAL_SHIFT = 6  # Loihi compares and stores potentials times 2^6
FRAMES = 128  # slices times time steps at once where no gradient is needed: what the caches hold
POTENTIAL_LIMIT = (2**23 - 1) / 2**POTENTIAL_SHIFT  # 24-bit potentials, in the units of weights

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
        # Threshold in integer weight units, per population; 0 until chosen (see export.quantize).
        self.scales: torch.Tensor
        self.register_buffer("scales", torch.zeros(len(spec.populations), dtype=torch.float64))
        self.logit_scale: torch.Tensor
        self.register_buffer("logit_scale", torch.ones((), dtype=torch.float64))

    def forward(self, spikes: torch.Tensor, *, quantized: bool = False) -> torch.Tensor:
        values = self.propagate(spikes, quantized=quantized, keep_all=False)
        return self._logits(values[self.spec.output.name], quantized=quantized)

    def analog(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run as the ANN: images (B, C, H, W) to every layer's activation (B, C, H, W); output = logits."""

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
        return total

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
        scale = self.scale(population)
        if not scale > 0:
            raise ValueError(f"population {population.name} has no integer scale; choose scales first")
        return _EvenInteger.apply(self.folded_weight(population, k) * (scale / 2))

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
        settings = _Settings(
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
        return _Population.apply(settings, *inputs, *weights)

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


@dataclass(frozen=True)
class _Settings:
    """How a population responds to counts. whole: whose weights are even integers; alpha: None for an output."""

    synapses: tuple[SynapseSpec, ...]
    whole: tuple[bool, ...]
    alpha: float | None
    threshold: float
    reset: str
    u0: float
    limit: float


class _Population(torch.autograd.Function):
    """A population's synapses and neurons in one: the float32 currents between them are never kept.

    Inputs are whole numbers up to 127, kept as bytes; spikes and all gradients have the inputs' dtype.
    """

    @staticmethod
    def forward(ctx: Any, settings: _Settings, *tensors: torch.Tensor) -> torch.Tensor:
        n = len(settings.synapses)
        counts, weights = [to_bytes(x.flatten(0, 1)) for x in tensors[:n]], tensors[n:]
        currents = None
        for x, weight, synapse, whole in zip(counts, weights, settings.synapses, settings.whole, strict=True):
            y = apply_to_counts(x, weight, synapse, whole=whole)
            currents = y if currents is None else currents.add_(y)
        assert currents is not None
        ctx.settings, ctx.steps, ctx.dtype = settings, len(tensors[0]), tensors[0].dtype
        currents = currents.unflatten(0, tensors[0].shape[:2])
        if settings.alpha is None:
            ctx.save_for_backward(*counts, *weights)
            return currents.sum(0, keepdim=True)
        spikes, trace = scan_forward(
            currents,
            threshold=settings.threshold,
            reset=settings.reset,
            u0=settings.u0,
            limit=settings.limit,
            dtype=ctx.dtype,
        )
        ctx.save_for_backward(*counts, *weights, trace)
        return spikes

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        settings: _Settings = ctx.settings
        n = len(settings.synapses)
        counts, weights = ctx.saved_tensors[:n], ctx.saved_tensors[n : 2 * n]
        if settings.alpha is None:
            grad = grad.to(ctx.dtype).expand(ctx.steps, *grad.shape[1:])
        else:
            height = settings.alpha / settings.threshold / STEPS
            grad = scan_backward(grad, ctx.saved_tensors[-1], reset=settings.reset, height=height)
        wanted = ctx.needs_input_grad[1:]
        grads = [
            gradients(
                grad.flatten(0, 1), counts[k], weights[k], settings.synapses[k], wanted=(wanted[k], wanted[n + k])
            )
            for k in range(n)
        ]
        inputs = (None if x is None else x.unflatten(0, grad.shape[:2]) for x, _ in grads)
        return None, *inputs, *(weight for _, weight in grads)


class _EvenInteger(torch.autograd.Function):
    """Half weights to even integers within Loihi's range; the gradient passes where nothing is clipped."""

    @staticmethod
    def forward(ctx: Any, half: torch.Tensor) -> torch.Tensor:
        rounded = half.round() * 2
        ctx.save_for_backward((rounded >= WEIGHT_MIN) & (rounded <= WEIGHT_MAX))
        return rounded.clamp(WEIGHT_MIN, WEIGHT_MAX)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (inside,) = ctx.saved_tensors
        return 2 * grad * inside


def _key(population: PopulationSpec, k: int) -> str:
    return f"{population.name}:{k}"
