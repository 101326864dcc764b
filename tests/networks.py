"""Random U-shaped networks, as PyTorch modules and as integer graphs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from export.graph import Graph
from export.lower import export, integer_scales
from neuroseg.convert import convert
from neuroseg.spiking import SpikingNetwork


@dataclass(frozen=True)
class Case:
    """A drawn network and how it is driven."""

    size: tuple[int, int]
    widths: tuple[int, ...]
    kernel: int
    pooled: bool
    timesteps: int
    reset: str
    u0: float
    drive: str  # what the weights are like: balanced, excited (potentials clip high) or inhibited (low)
    samples: int
    rate: float
    seed: int


@st.composite
def cases(draw, max_side: int = 13) -> Case:
    depth = draw(st.integers(1, 3))
    pooled = draw(st.booleans())
    factor = 2**depth if pooled else 1
    low = -(-(2 ** (depth + 1)) // factor)
    side = st.integers(low, max(low, max_side // factor)).map(lambda n: n * factor)
    reset = draw(st.sampled_from(["subtract", "zero"]))
    return Case(
        size=(draw(side), draw(side)),
        widths=tuple(draw(st.lists(st.integers(1, 5), min_size=depth + 1, max_size=depth + 1))),
        kernel=draw(st.sampled_from([1, 3, 5])),
        pooled=pooled,
        timesteps=draw(st.integers(1, 12)),
        reset=reset,
        u0=draw(st.sampled_from([0.0, 0.5])) if reset == "subtract" else 0.0,
        drive=draw(st.sampled_from(["balanced", "excited", "inhibited"])),
        samples=draw(st.integers(1, 3)),
        rate=draw(st.sampled_from([0.1, 0.5, 1.0])),
        seed=draw(st.integers(0, 2**16)),
    )


class RandomUNet(nn.Module):
    """Encoder of convolutions, down by pooling or by a strided convolution, up by transposed ones, with skips."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        k, pad = case.kernel, case.kernel // 2
        self.pooled = case.pooled
        self.enc, self.down, self.up, self.dec = (nn.ModuleList() for _ in range(4))
        size, sizes, channels = case.size, [], 1
        for width in case.widths[:-1]:
            self.enc.append(nn.Conv2d(channels, width, k, padding=pad, bias=False))
            sizes.append(size)
            if case.pooled:
                self.down.append(nn.AvgPool2d(2))
                size = (size[0] // 2, size[1] // 2)
            else:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
                size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
            channels = width
        self.middle = nn.Conv2d(channels, case.widths[-1], k, padding=pad, bias=False)
        channels = case.widths[-1]
        for width, (h, w) in zip(case.widths[-2::-1], sizes[::-1], strict=True):
            extra = ((h + 1) % 2, (w + 1) % 2)
            self.up.append(
                nn.ConvTranspose2d(channels, width, 3, stride=2, padding=1, output_padding=extra, bias=False)
            )
            self.dec.append(nn.Conv2d(2 * width, width, k, padding=pad, bias=False))
            channels = width
        self.head = nn.Conv2d(channels, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for conv, down in zip(self.enc, self.down):
            x = torch.relu(conv(x))
            skips.append(x)
            x = down(x) if self.pooled else torch.relu(down(x))
        x = torch.relu(self.middle(x))
        for up, conv in zip(self.up, self.dec):
            x = torch.relu(up(x))
            x = torch.relu(conv(torch.cat([skips.pop(), x], dim=1)))
        return self.head(x)


def build(case: Case) -> tuple[SpikingNetwork, Graph, np.ndarray]:
    """The network with integer scales, its exported graph, and input spikes uint8 (samples, T, 1, H, W)."""
    torch.manual_seed(case.seed)
    model = RandomUNet(case)
    for parameter in model.parameters():
        if case.drive == "balanced":
            nn.init.normal_(parameter, std=0.8)
        else:
            sign = 1 if case.drive == "excited" else -1
            nn.init.uniform_(parameter, -5, 20)
            parameter.data.mul_(sign if parameter is not model.head.weight else 1)
            if case.drive == "inhibited":  # every other channel excites, so that something fires at all
                parameter.data[::2].mul_(-1)
    network = convert(model, (1, *case.size), timesteps=case.timesteps, reset=case.reset, u0=case.u0)
    network = network.with_scales(integer_scales(network))
    rng = np.random.default_rng(case.seed)
    shape = (case.samples, case.timesteps, 1, *case.size)
    spikes = (rng.random(shape) < case.rate).astype(np.uint8)
    return network, export(network), spikes
