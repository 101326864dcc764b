"""Networks with ternary neurons, for the tests of every floor."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from export.graph import (
    Dense,
    Edge,
    Graph,
    Input,
    Meta,
    Neuron,
    Population,
)
from neuroseg.conversion.balance import balance
from neuroseg.conversion.convert import convert
from neuroseg.conversion.lower import integer_scales
from neuroseg.spiking.network import SpikingNetwork


class Bottleneck(nn.Module):
    """A linear layer between others that have a ReLU, which two layers read, as MobileNetV2's blocks have one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.narrow = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
        self.wide, self.back = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 3, 1)
        self.last = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.narrow(torch.relu(self.first(x)))
        return self.last(torch.relu(x + self.back(torch.relu(self.wide(x)))))


def model() -> Bottleneck:
    torch.manual_seed(1)
    return Bottleneck().eval()


def images(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network(*, reset: str = "subtract", u0: float = 0.0, timesteps: int = 8, method: str = "rate") -> SpikingNetwork:
    made = convert(model(), (1, 8, 8), ternary=True, reset=reset, u0=u0, timesteps=timesteps)
    made = balance(made, images(), method=method)
    return made.with_scales(integer_scales(made)).eval()


def one(neuron: Neuron, weight: int = 2, *, steps: int = 6) -> Graph:
    """A neuron that reads another's spikes, whose sign it shows."""
    first = Population("first", (1, 1, 1), (Edge("input", Dense(np.array([[weight]]))),), neuron)
    second = Population("second", (1, 1, 1), (Edge("first", Dense(np.array([[4]]))),), Neuron(None))
    return Graph((Input("input", (1, 1, 1)), first, second), integer=True, meta=Meta(timesteps=steps))
