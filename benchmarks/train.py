"""A step of training the ANN, three ways in turns: as PyTorch has it, as `train` does it, and in bfloat16.

The default U-Net (16-32-64), batch 26, slices of the template: forward, loss, backward, Adam. As PyTorch has it: with
its own dropout, and tensors that lie channel by channel. bfloat16 (`train --precision bfloat16`) is what
`torch.autocast` makes of it; what that is worth depends on whether the processor multiplies it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.common import machine
from neuroseg.data import template
from neuroseg.data.volume import stack_slices
from neuroseg.training.losses import dice_loss
from neuroseg.training.memory import keep_freed_memory
from neuroseg.training.train import TrainConfig
from neuroseg.training.unet import DoubleConv, UNet

STEPS, ROUNDS = 10, 8


def run() -> dict[str, Any]:
    """Milliseconds a step, the least of some turns, and their ratios."""
    keep_freed_memory()
    turns = {
        "pytorch": _steps(_plain(UNet()), torch.float32),
        "float32": _steps(UNet().to(memory_format=torch.channels_last), torch.float32),
        "bfloat16": _steps(UNet().to(memory_format=torch.channels_last), torch.bfloat16),
    }
    best = dict.fromkeys(turns, float("inf"))
    for _ in range(ROUNDS):
        for name, steps in turns.items():
            best[name] = min(best[name], steps())
    return {
        "step_ms": best,
        "pytorch_over_float32": best["pytorch"] / best["float32"],
        "float32_over_bfloat16": best["float32"] / best["bfloat16"],
        "machine": machine(),
    }


def _plain(network: UNet) -> UNet:
    for block in network.modules():
        if isinstance(block, DoubleConv):
            block.drop1, block.drop2 = nn.Dropout(block.drop1.p), nn.Dropout(block.drop2.p)
    return network


def _steps(network: UNet, dtype: torch.dtype) -> Callable[[], float]:
    """What takes some steps of training and returns the milliseconds of one."""
    config = TrainConfig()
    images, masks = (part[: config.batch] for part in stack_slices([template.subject()] * 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)

    def steps() -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                logits = network(images)
            dice_loss(logits.float(), masks).backward()
            optimizer.step()
        return (time.perf_counter() - start) / STEPS * 1e3

    return steps
