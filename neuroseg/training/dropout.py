"""Dropout with cheap masks: PyTorch draws each number of one by itself on a CPU, two fifths of a training step."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

LEVELS = 2**16  # a number of 16 bits decides; four come with each draw


class Dropout(nn.Dropout):
    """`nn.Dropout`; where gradients flow on the CPU, its masks are drawn by numpy, seeded from torch's generator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        drawn_here = self.training and x.requires_grad and x.device.type == "cpu"
        return x * noise(x, self.p) if drawn_here and 0 < round(self.p * LEVELS) < LEVELS else super().forward(x)


def noise(x: torch.Tensor, p: float) -> torch.Tensor:
    """0 with probability p, else 1 / (1 - p), of x's shape, strides and dtype; p is rounded to a share of LEVELS.

    Srivastava et al., JMLR 15 (2014), scaled in training. The mean is 1, of what p was rounded to.
    """
    dropped = round(p * LEVELS)
    seed = int(torch.randint(2**62, ()))
    drawn = np.random.SFC64(seed).random_raw(-(-x.numel() // 4)).view(np.int16)[: x.numel()]  # -2**15 .. 2**15 - 1
    kept = torch.from_numpy(drawn >= dropped - LEVELS // 2)
    scaled = kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))
    channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return scaled.as_strided(x.shape, x.stride()) if channels_last else scaled.view(x.shape)
