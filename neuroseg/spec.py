"""What a spiking network is: layers in topological order, as frozen dataclasses. `spiking` runs it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

Shape = tuple[int, ...]


@dataclass(frozen=True)
class InputSpec:
    name: str
    shape: Shape  # C, H, W


@dataclass(frozen=True)
class SynapseSpec:
    """A Conv2d or ConvTranspose2d without bias, as PyTorch defines it. kind: conv or convT."""

    source: str
    kind: str
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    output_padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class PopulationSpec:
    """Neurons driven by the sum of their synapses, and by a constant current per channel if biased.

    fires=False: an output, which only integrates.
    """

    name: str
    shape: Shape
    synapses: tuple[SynapseSpec, ...]
    fires: bool = True
    biased: bool = False


@dataclass(frozen=True)
class PoolSpec:
    """Average pooling with stride = kernel, no padding."""

    name: str
    shape: Shape
    source: str
    kernel: tuple[int, int]


@dataclass(frozen=True)
class ConcatSpec:
    """Concatenation of channels."""

    name: str
    shape: Shape
    sources: tuple[str, ...]


@dataclass(frozen=True)
class DropoutSpec:
    """Dropout whose mask is fixed over time."""

    name: str
    shape: Shape
    source: str
    p: float


LayerSpec = InputSpec | PopulationSpec | PoolSpec | ConcatSpec | DropoutSpec
LAYER_KINDS = {c.__name__: c for c in (InputSpec, PopulationSpec, PoolSpec, ConcatSpec, DropoutSpec)}


@dataclass(frozen=True)
class NetworkSpec:
    """Layers in topological order, and how they run.

    u0: start potential in thresholds (0 or up to 1). alpha: height of the surrogate gradient.
    """

    layers: tuple[LayerSpec, ...]
    timesteps: int = 8
    reset: str = "subtract"
    u0: float = 0.0
    encoder: str = "rate"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        names = [layer.name for layer in self.layers]
        if len(set(names)) < len(names):
            raise ValueError(f"layer names {sorted({n for n in names if names.count(n) > 1})} are used twice")

    @property
    def populations(self) -> tuple[PopulationSpec, ...]:
        return tuple(layer for layer in self.layers if isinstance(layer, PopulationSpec))

    @property
    def outputs(self) -> tuple[PopulationSpec, ...]:
        return tuple(p for p in self.populations if not p.fires)

    @property
    def output(self) -> PopulationSpec:
        """The first output, whose potential is read as logits."""
        return self.outputs[0]


def per_input_channel(vector: torch.Tensor, synapse: SynapseSpec) -> torch.Tensor:
    """Shape a value per input channel (Cin,) so that it broadcasts against the synapse's weight."""
    if synapse.kind == "convT":
        return vector.view(-1, 1, 1, 1)
    grouped = vector.view(synapse.groups, 1, -1)  # groups, 1, Cin/groups
    rows = grouped.expand(-1, synapse.out_channels // synapse.groups, -1)
    return rows.reshape(synapse.out_channels, -1, 1, 1)


def per_output_channel(vector: torch.Tensor, s: SynapseSpec) -> torch.Tensor:
    """Shape a value per output channel (Cout,) so that it broadcasts against the synapse's weight."""
    if s.kind == "conv":
        return vector.view(-1, 1, 1, 1)
    grouped = vector.view(s.groups, 1, -1).expand(-1, s.in_channels // s.groups, -1)
    return grouped.reshape(s.in_channels, -1, 1, 1)


def channel_values(
    spec: NetworkSpec,
    source: Callable[[InputSpec | PopulationSpec], float],
    through: Callable[[PoolSpec | DropoutSpec], float],
) -> dict[str, torch.Tensor]:
    """Carry a value per channel from inputs and populations through the layers between: float64 (C,).

    source: the value that a layer starts with; through: the factor that a pool or a dropout applies.
    """
    values: dict[str, torch.Tensor] = {}
    for layer in spec.layers:
        match layer:
            case PoolSpec() | DropoutSpec():
                values[layer.name] = values[layer.source] * through(layer)
            case ConcatSpec():
                values[layer.name] = torch.cat([values[name] for name in layer.sources])
            case _:
                values[layer.name] = torch.full((layer.shape[0],), source(layer), dtype=torch.float64)
    return values


def pool_sizes(spec: NetworkSpec) -> dict[str, torch.Tensor]:
    """For each layer and channel, how many spikes a pooled value sums: float64 (C,)."""
    return channel_values(
        spec, lambda _: 1.0, lambda layer: math.prod(layer.kernel) if isinstance(layer, PoolSpec) else 1
    )


def survival_rates(spec: NetworkSpec) -> dict[str, torch.Tensor]:
    """For each layer and channel, the share of spikes that dropout lets pass in training: float64 (C,)."""
    return channel_values(spec, lambda _: 1.0, lambda layer: 1 - layer.p if isinstance(layer, DropoutSpec) else 1)


def sources(layer: LayerSpec) -> tuple[str, ...]:
    """Names of the layers that a layer reads."""
    match layer:
        case PopulationSpec():
            return tuple(synapse.source for synapse in layer.synapses)
        case ConcatSpec():
            return layer.sources
        case PoolSpec() | DropoutSpec():
            return (layer.source,)
    return ()


def last_reads(spec: NetworkSpec) -> dict[str, tuple[str, ...]]:
    """For each layer, the layers that nothing reads after it."""
    reader = {name: layer.name for layer in spec.layers for name in sources(layer)}
    return {layer.name: tuple(n for n, last in reader.items() if last == layer.name) for layer in spec.layers}
