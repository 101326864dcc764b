"""A spiking network under construction: what operations yield, and the layers made of it so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from neuroseg.spec import LayerSpec, PopulationSpec, Shape, SynapseSpec


@dataclass(frozen=True, eq=False)
class Current:
    """The membrane current that linear operations produce, waiting for a ReLU (or for the output).

    bias: (C,). rectified: a sum of spikes alone, which a ReLU leaves as it is.
    """

    name: str
    shape: Shape
    synapses: tuple[tuple[SynapseSpec, torch.Tensor], ...]
    bias: torch.Tensor | None = None
    rectified: bool = False


@dataclass(frozen=True)
class Enlarged:
    """Spikes of layers joined by their channels, each pixel repeated `factor` times in both directions."""

    parts: tuple[tuple[str, int], ...]  # layer, factor


@dataclass(frozen=True)
class Mask:
    """What dropout multiplies with: kept with this probability."""

    keep: float


Value = Current | Enlarged | Mask | str | None  # a string: the name of a layer that emits spikes


class Draft:
    """Layers in the order in which they are made, with their weights and biases."""

    def __init__(self) -> None:
        self.layers: list[LayerSpec] = []
        self.shapes: dict[str, Shape] = {}
        self.weights: dict[str, torch.Tensor] = {}
        self.biases: dict[str, torch.Tensor] = {}

    def add(self, layer: LayerSpec) -> str:
        self.layers.append(layer)
        self.shapes[layer.name] = layer.shape
        return layer.name

    def population(self, current: Current, *, fires: bool) -> str:
        """Neurons that a current drives."""
        name = self.unique(current.name)
        synapses = tuple(synapse for synapse, _ in current.synapses)
        for k, (_, weight) in enumerate(current.synapses):
            self.weights[f"{name}:{k}"] = weight
        if current.bias is not None:
            self.biases[name] = current.bias
        return self.add(PopulationSpec(name, current.shape, synapses, fires, biased=current.bias is not None))

    def unique(self, name: str) -> str:
        """The name, numbered where it is taken."""
        candidate, k = name, 1
        while candidate in self.shapes:
            candidate, k = f"{name}_{k}", k + 1
        return candidate
