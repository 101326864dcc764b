"""Training slices, varied: rotated, scaled, shifted, brightened, each by itself."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

ROTATION = math.radians(10)
SCALE = 0.1
SHIFT = 0.04  # of the slice's side
GAMMA = 0.25  # in powers of e


def augment(images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and masks (B, 1, H, W), moved alike, intensities of images in [0, 1] to a random power.

    Random numbers come from torch's global generator. What lies outside a slice counts as black background.
    """
    n, _, height, width = images.shape
    angle, scale = _around(n) * ROTATION, 1 + _around(n) * SCALE
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    shift = _around(2 * n).view(n, 2) * 2 * SHIFT  # affine_grid measures from -1 to 1
    rows = (
        torch.stack([cosine, -sine * height / width, shift[:, 0]], dim=1),
        torch.stack([sine * width / height, cosine, shift[:, 1]], dim=1),
    )
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False).clamp(0, 1)
    gamma = (_around(n) * GAMMA).exp().view(n, 1, 1, 1)
    return moved**gamma, F.grid_sample(masks, grid, mode="nearest", align_corners=False)


def _around(n: int) -> torch.Tensor:
    """Uniform in [-1, 1]."""
    return 2 * torch.rand(n) - 1
