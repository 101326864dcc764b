"""Networks of the zoo that no package has, written as their papers say; see `zoo_models`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


def conv_relu(widths: Sequence[int], *, kernel: int = 3, norm: bool = False) -> nn.Sequential:
    """Convolutions that keep the size, each with a ReLU, from widths[0] channels to widths[-1]."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers.append(nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=not norm))
        if norm:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def lenet5() -> nn.Module:
    """LeCun et al. 1998, with ReLU and max pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def all_cnn() -> nn.Module:
    """Springenberg et al. 2015, All-CNN-C."""
    return nn.Sequential(
        nn.Dropout(0.2),
        conv_relu((3, 96, 96)),
        nn.Conv2d(96, 96, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Dropout(0.5),
        conv_relu((96, 192, 192)),
        nn.Conv2d(192, 192, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(192, 192, 3),
        nn.ReLU(),
        conv_relu((192, 192, 10), kernel=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def network_in_network() -> nn.Module:
    """Lin et al. 2014, for CIFAR-10."""
    return nn.Sequential(
        conv_relu((3, 192), kernel=5),
        conv_relu((192, 160, 96), kernel=1),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.Dropout(0.5),
        conv_relu((96, 192), kernel=5),
        conv_relu((192, 192, 192), kernel=1),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.Dropout(0.5),
        conv_relu((192, 192), kernel=3),
        conv_relu((192, 192, 10), kernel=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def mobilenet(multiplier: float) -> nn.Module:
    """Howard et al. 2017."""
    widths = [int(width * multiplier) for width in (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)]
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False)]
    layers += [nn.BatchNorm2d(widths[0]), nn.ReLU()]
    for (before, after), stride in zip(pairwise(widths), strides, strict=True):
        layers.append(nn.Conv2d(before, before, 3, stride=stride, padding=1, groups=before, bias=False))
        layers += [nn.BatchNorm2d(before), nn.ReLU()]
        layers += [nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1000))


class Residual(nn.Module):
    """Two convolutions and a shortcut without weights: every second pixel, and channels of zeros."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride, self.missing = stride, after - before
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        if self.missing:
            half = self.missing // 2
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.missing - half))
        return F.relu(self.body(x) + shortcut)


def resnet20() -> nn.Module:
    """He et al. 2016, for CIFAR-10, shortcut A."""
    widths = (16, 16, 16, 16, 32, 32, 32, 64, 64, 64)
    blocks = [Residual(a, b, stride=1 if a == b else 2) for a, b in pairwise(widths)]
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(conv_relu((3, 16), norm=True), *blocks, *pooled)


class PaddedUNet(nn.Module):
    """Ronneberger et al. 2015, with padding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(conv_relu((a, b, b)) for a, b in zip((1, *widths[:3]), widths[:4], strict=True))
        self.bottom = nn.Sequential(conv_relu((widths[3], widths[4], widths[4])), nn.Dropout(0.5))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.joined = nn.ModuleList(conv_relu((a, b, b)) for a, b in pairs)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, block, skip in zip(self.up, self.joined, reversed(skips), strict=True):
            x = block(torch.cat([skip, up(x)], dim=1))
        return self.head(x)


class BilinearUNet(nn.Module):
    """The U-Net that is written most: batch norm, bilinear upsampling, padded to the skip's size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width, 8 * width, 8 * width)
        self.first = conv_relu((3, width, width), norm=True)
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), conv_relu((a, b, b), norm=True)) for a, b in pairwise(widths)
        )
        after = (4 * width, 2 * width, width, width)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.joined = nn.ModuleList(
            conv_relu((2 * skip, skip, b), norm=True) for skip, b in zip(widths[-2::-1], after, strict=True)
        )
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = [self.first(x)]
        for block in self.down:
            skips.append(block(skips[-1]))
        x = skips.pop()
        for block, skip in zip(self.joined, reversed(skips), strict=True):
            x = self.upsample(x)
            rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
            x = block(torch.cat([skip, x], dim=1))
        return self.head(x)


# Widths, in that of the first layer.
VGG16: tuple[tuple[int, ...], ...] = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


def segnet(width: int) -> nn.Module:
    """Badrinarayanan et al. 2017, with nearest upsampling instead of max unpooling."""
    layers: list[nn.Module] = []
    before = 3
    for stage in VGG16:
        layers += [conv_relu((before, *(width * factor for factor in stage)), norm=True), nn.MaxPool2d(2)]
        before = width * stage[-1]
    for stage, after in zip(VGG16[::-1], (8, 4, 2, 1, 1), strict=True):
        layers += [nn.Upsample(scale_factor=2, mode="nearest")]
        layers += [conv_relu((*(width * factor for factor in stage), width * after), norm=True)]
    return nn.Sequential(*layers, nn.Conv2d(width, 12, 3, padding=1))


class FCN8s(nn.Module):
    """Long et al. 2015, with padding."""

    def __init__(self, width: int, classes: int = 21) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        before = 3
        for stage in VGG16:
            convs = conv_relu((before, *(width * factor for factor in stage)))
            self.stages.append(nn.Sequential(convs, nn.MaxPool2d(2, ceil_mode=True)))
            before = width * stage[-1]
        self.fc6 = nn.Sequential(conv_relu((before, 64 * width), kernel=7), nn.Dropout2d(0.5))
        self.fc7 = nn.Sequential(conv_relu((64 * width, 64 * width), kernel=1), nn.Dropout2d(0.5))
        self.scores = nn.ModuleList(nn.Conv2d(n * width, classes, 1) for n in (64, 8, 4))
        self.up2 = nn.ModuleList(
            nn.ConvTranspose2d(classes, classes, 4, stride=2, padding=1, bias=False) for _ in range(2)
        )
        self.up8 = nn.ConvTranspose2d(classes, classes, 16, stride=8, padding=4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = []
        for stage in self.stages:
            x = stage(x)
            pooled.append(x)
        x = self.scores[0](self.fc7(self.fc6(x)))
        x = self.up2[0](x) + self.scores[1](pooled[3])
        x = self.up2[1](x) + self.scores[2](pooled[2])
        return self.up8(x)


class DnCNN(nn.Module):
    """Zhang et al. 2017, 17 layers: what is found is the noise."""

    def __init__(self) -> None:
        super().__init__()
        inner = conv_relu((64,) * 16, norm=True)
        self.noise = nn.Sequential(conv_relu((1, 64)), inner, nn.Conv2d(64, 1, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.noise(x)


class VDSR(nn.Module):
    """Kim et al. 2016, 20 layers: what is found is the detail."""

    def __init__(self) -> None:
        super().__init__()
        self.detail = nn.Sequential(conv_relu((1, *(64,) * 19)), nn.Conv2d(64, 1, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.detail(x)


def srcnn() -> nn.Module:
    """Dong et al. 2016, 9-1-5."""
    return nn.Sequential(conv_relu((1, 64), kernel=9), conv_relu((64, 32), kernel=1), nn.Conv2d(32, 1, 5, padding=2))


def espcn() -> nn.Module:
    """Shi et al. 2016, three times larger."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 5, padding=2),
        nn.Tanh(),
        nn.Conv2d(64, 32, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(32, 9, 3, padding=1),
        nn.PixelShuffle(3),
    )
