"""The paper's modified U-Net: average pooling, transposed convolutions, no bias, no batch norm, dropout.

Yue et al., "Hybrid Spiking Neural Networks Fine-tuning for Hippocampus Segmentation", arXiv 2302.07328.
Everything in it has a spiking counterpart: see `convert`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from neuroseg.training.dropout import Dropout


@dataclass(frozen=True)
class UNetConfig:
    """Widths per resolution, from fine to coarse; one 2x2 pooling between neighbours."""

    in_channels: int = 1
    out_channels: int = 1
    channels: tuple[int, ...] = (16, 32, 64)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels are {self.channels}; positive widths are needed")

    @property
    def context(self) -> int:
        """Neighbours on either side that come in with a slice. Raises ValueError for a number of channels without."""
        if self.in_channels % 2 == 0:
            raise ValueError(f"{self.in_channels} channels come in; a slice and its neighbours are an odd number")
        return self.in_channels // 2

    def check_slice(self, height: int, width: int) -> None:
        """Raise ValueError unless a slice can be pooled between all resolutions."""
        factor = 2 ** (len(self.channels) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"slices are {height} x {width}; {len(self.channels)} widths need sides that divide by {factor}"
            )


def channels_for(classes: Sequence[str]) -> int:
    """Output channels for masks of these classes: the background and each class; a single one for masks of 0 and 1."""
    return len(classes) + 1 if classes else 1


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with ReLU and dropout."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.relu1 = nn.ReLU()
        self.drop1 = Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.relu2 = nn.ReLU()
        self.drop2 = Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop1(self.relu1(self.conv1(x)))
        return self.drop2(self.relu2(self.conv2(x)))


class UNet(nn.Module):
    """Images (B, in_channels, H, W) to logits (B, out_channels, H, W).

    H and W must divide by 2 to the number of poolings (two by default, hence by 4).
    """

    def __init__(self, config: UNetConfig = UNetConfig()) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        inputs = (config.in_channels, *widths[:-1])
        self.enc = nn.ModuleList(DoubleConv(a, b, config.dropout) for a, b in zip(inputs, widths, strict=True))
        self.pool = nn.AvgPool2d(2)
        coarse_to_fine = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2, bias=False) for a, b in coarse_to_fine)
        self.up_relu = nn.ModuleList(nn.ReLU() for _ in coarse_to_fine)
        self.dec = nn.ModuleList(DoubleConv(2 * b, b, config.dropout) for _, b in coarse_to_fine)
        self.head = nn.Conv2d(widths[0], config.out_channels, 1, bias=False)
        for module in self.modules():  # without bias and norm, PyTorch's default init fades out with depth
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                transposed = isinstance(module, nn.ConvTranspose2d)
                nn.init.kaiming_normal_(module.weight, mode="fan_out" if transposed else "fan_in", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for depth, block in enumerate(self.enc):
            x = block(x if depth == 0 else self.pool(x))
            skips.append(x)
        skips.pop()
        for up, relu, block in zip(self.up, self.up_relu, self.dec, strict=True):
            x = block(torch.cat([skips.pop(), relu(up(x))], dim=1))
        return self.head(x)
