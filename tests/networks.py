"""Random U-shaped networks, as PyTorch modules and as integer graphs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from export.graph import Graph
from neuroseg.conversion.convert import convert
from neuroseg.conversion.lower import export, integer_scales
from neuroseg.spiking.network import SpikingNetwork
from tests.graphs import values_of

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "prelu": nn.PReLU,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "hardsigmoid": nn.Hardsigmoid,
    "none": nn.Identity,
}
DOWN = {
    "average": lambda: nn.AvgPool2d(2),
    "max": lambda: nn.MaxPool2d(2),
    "overlapping average": lambda: nn.AvgPool2d(3, 2, 1),
    "overlapping max": lambda: nn.MaxPool2d(3, 2, 1),
    "strided": None,
}
UP = ("transposed", "transposed current", "nearest", "bilinear")
NORMS = ("none", "after", "before")
BORDERS = ("zeros", "replicate")


@dataclass(frozen=True)
class Case:
    """A drawn network and how it is driven."""

    size: tuple[int, int]
    widths: tuple[int, ...]
    kernel: tuple[int, int]
    dilation: int
    down: str  # DOWN
    up: str  # UP; strided convolutions go up by transposed ones
    biased: bool
    norm: str  # NORMS: where the batch norms are, seen from the convolutions
    activation: str  # ACTIVATIONS, of the innermost block
    border: str  # BORDERS: padding of the innermost block
    residual: bool
    classifier: bool  # a second output: pooled, flattened, dense
    timesteps: int
    reset: str
    u0: float
    encoder: str  # rate, or graded: spikes carry values
    ternary: bool  # what linear layers yield
    drive: str  # what the weights are like: balanced, excited (potentials clip high) or inhibited (low)
    samples: int
    rate: float
    seed: int


PLAIN = Case(
    size=(8, 8),
    widths=(2, 3, 4),
    kernel=(3, 3),
    dilation=1,
    down="average",
    up="transposed",
    biased=False,
    norm="none",
    activation="relu",
    border="zeros",
    residual=False,
    classifier=False,
    timesteps=4,
    reset="subtract",
    u0=0.0,
    encoder="rate",
    ternary=False,
    drive="balanced",
    samples=1,
    rate=0.5,
    seed=0,
)


@st.composite
def cases(draw, max_side: int = 13, max_depth: int = 3) -> Case:
    depth = draw(st.integers(1, max_depth))
    down = draw(st.sampled_from(sorted(DOWN)))
    factor = 1 if down == "strided" else 2**depth
    low = -(-(2 ** (depth + 1)) // factor)
    side = st.integers(low, max(low, max_side // factor)).map(lambda n: n * factor)
    reset = draw(st.sampled_from(["subtract", "zero"]))
    return Case(
        size=(draw(side), draw(side)),
        widths=tuple(draw(st.lists(st.integers(1, 5), min_size=depth + 1, max_size=depth + 1))),
        kernel=draw(st.sampled_from([(1, 1), (3, 3), (5, 5), (3, 1), (1, 5)])),
        dilation=draw(st.sampled_from([1, 1, 2])),
        down=down,
        up="transposed" if down == "strided" else draw(st.sampled_from(UP)),
        biased=draw(st.booleans()),
        norm=draw(st.sampled_from(NORMS)),
        activation=draw(st.sampled_from(sorted(ACTIVATIONS))),
        border=draw(st.sampled_from(BORDERS)),
        residual=draw(st.booleans()),
        classifier=draw(st.booleans()),
        timesteps=draw(st.integers(1, 12)),
        reset=reset,
        u0=draw(st.sampled_from([0.0, 0.5])) if reset == "subtract" else 0.0,
        encoder=draw(st.sampled_from(["rate", "rate", "graded"])),
        ternary=draw(st.booleans()),
        drive=draw(st.sampled_from(["balanced", "excited", "inhibited"])),
        samples=draw(st.integers(1, 3)),
        rate=draw(st.sampled_from([0.1, 0.5, 1.0])),
        seed=draw(st.integers(0, 2**16)),
    )


class RandomUNet(nn.Module):
    """Encoder of convolutions, down by pooling or by a strided convolution, up again, with skips."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.enc, self.down, self.up, self.dec, self.extra = (nn.ModuleList() for _ in range(5))
        size, sizes, channels = case.size, [], 1
        for width in case.widths[:-1]:
            self.enc.append(self.block(channels, width))
            sizes.append(size)
            pool = DOWN[case.down]
            strided = nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width, bias=case.biased)
            self.down.append(nn.Sequential(strided, nn.ReLU()) if pool is None else pool())
            size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
            channels = width
        self.middle = nn.Sequential(
            self.block(channels, case.widths[-1], border=case.border), ACTIVATIONS[case.activation]()
        )
        channels = case.widths[-1]
        for width, side in zip(case.widths[-2::-1], sizes[::-1], strict=True):
            resized = case.up in ("nearest", "bilinear")
            self.up.append(nn.Upsample(size=side, mode=case.up) if resized else self.transposed(channels, width, side))
            self.dec.append(self.block(width + (channels if resized else width), width))
            self.extra.append(self.block(width, width))
            channels = width
        self.head = nn.Conv2d(channels, 1, 1, bias=case.biased)
        self.classify = nn.Linear(case.widths[-1], 3, bias=case.biased)

    def block(self, channels: int, width: int, *, border: str = "zeros") -> nn.Module:
        """A convolution that keeps the sides, and its norm."""
        dilation = self.case.dilation
        pad = tuple(dilation * (k // 2) for k in self.case.kernel)
        conv = nn.Conv2d(channels, width, self.case.kernel, 1, pad, dilation, 1, self.case.biased, border)
        if self.case.norm == "before":
            return nn.Sequential(nn.BatchNorm2d(channels), conv)
        return nn.Sequential(conv, nn.BatchNorm2d(width)) if self.case.norm == "after" else conv

    def transposed(self, channels: int, width: int, size: tuple[int, int]) -> nn.Module:
        outside = ((size[0] + 1) % 2, (size[1] + 1) % 2)
        up = nn.ConvTranspose2d(channels, width, 3, 2, 1, outside, bias=self.case.biased)
        return up if self.case.up == "transposed current" else nn.Sequential(up, nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        skips = []
        for conv, down in zip(self.enc, self.down):
            x = torch.relu(conv(x))
            skips.append(x)
            x = down(x)
        x = coarse = self.middle(x)
        for up, conv, extra in zip(self.up, self.dec, self.extra):
            x = torch.relu(conv(torch.cat([skips.pop(), up(x)], dim=1)))
            if self.case.residual:
                x = torch.relu(extra(x) + x)
        if not self.case.classifier:
            return self.head(x)
        return self.head(x), self.classify(coarse.mean((2, 3)))


def build(case: Case) -> tuple[SpikingNetwork, Graph, np.ndarray]:
    """The network with integer scales, its exported graph, and input spikes (samples, T, 1, H, W).

    uint8 of 0 and 1, or int32 of values.
    """
    torch.manual_seed(case.seed)
    model = RandomUNet(case)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    norms = [p for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    for parameter in model.parameters():
        if any(parameter is one for one in norms):
            nn.init.uniform_(parameter, 0.3, 1.2)
        elif case.drive == "balanced":
            nn.init.normal_(parameter, std=0.8)
        else:
            sign = 1 if case.drive == "excited" else -1
            nn.init.uniform_(parameter, -1, 4)
            parameter.data.mul_(sign if parameter is not model.head.weight else 1)
            if case.drive == "inhibited":  # every other channel excites, so that something fires at all
                parameter.data[::2].mul_(-1)
    settings = {"timesteps": case.timesteps, "reset": case.reset, "u0": case.u0, "encoder": case.encoder}
    network = convert(model, (1, *case.size), ternary=case.ternary, **settings)
    network = network.with_scales(integer_scales(network))
    rng = np.random.default_rng(case.seed)
    shape = (case.samples, case.timesteps, 1, *case.size)
    spikes = (rng.random(shape) < case.rate).astype(np.uint8)
    return network, export(network), spikes if case.encoder == "rate" else values_of(spikes, network.graph, rng)
