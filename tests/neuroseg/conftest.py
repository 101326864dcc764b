"""Fixtures that tests of networks share."""

from __future__ import annotations

import pytest
import torch

from neuroseg.training.unet import UNet, UNetConfig

SHAPE = (1, 12, 8)


@pytest.fixture(scope="module")
def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig(channels=(4, 6, 8))).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))
