"""An epoch of the ANN in bfloat16 (`train --precision bfloat16`) beside one in float32, in turns.

The default U-Net (16-32-64), batch 26, augmented slices of the template. bfloat16 is what `torch.autocast` makes of it;
what that is worth depends on whether the processor multiplies it.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.common import machine
from neuroseg.data import template
from neuroseg.training.train import PRECISIONS, TrainConfig, train

EPOCHS, ROUNDS = 3, 3


def run() -> dict[str, Any]:
    """Seconds an epoch, the least of some turns, and their ratio."""
    subjects = [template.subject()] * 12
    took: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for _ in range(ROUNDS):
        for name, seconds in took.items():
            start = time.perf_counter()
            train(subjects, subjects[:1], config=TrainConfig(epochs=EPOCHS, precision=name))
            seconds.append((time.perf_counter() - start) / EPOCHS)
    best = {name: min(seconds) for name, seconds in took.items()}
    return {
        "epoch_seconds": best,
        "float32_over_bfloat16": best["float32"] / best["bfloat16"],
        "machine": machine(),
    }
