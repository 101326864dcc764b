"""The folds of a cross-validation, one after the other or in several processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from neuroseg import runs
from neuroseg.cluster import Cluster, each
from neuroseg.data.labels import Labels
from neuroseg.experiments.crossval import VARIANTS, Bar, Fold, Variant, run_fold
from neuroseg.spiking.device import choose
from neuroseg.training.finetune import FinetuneConfig
from neuroseg.training.team import CPU
from neuroseg.training.train import OnStep, TrainConfig
from neuroseg.training.unet import UNetConfig

ALONE = threading.Lock()  # PyTorch draws from one stream of random numbers, which folds on threads would mix up


@dataclass(frozen=True)
class FoldTask:
    """Everything that a process needs to run a fold, as `run_fold` has it. out: folder of all folds."""

    out: Path
    data: str
    labels: Labels | None
    config: TrainConfig
    device: torch.device = CPU
    variants: Sequence[Variant] = VARIANTS
    model: UNetConfig = field(default_factory=UNetConfig)
    tuning: FinetuneConfig = field(default_factory=FinetuneConfig)

    def run(self, fold: Fold, *, bar: Bar) -> dict[str, Any]:
        """`run_fold` in a folder of its own."""
        return run_fold(
            fold,
            self.out / f"fold{fold.number}-{self.config.loss}",
            data=self.data,
            bar=bar,
            model=self.model,
            labels=self.labels,
            config=self.config,
            tuning=self.tuning,
            variants=self.variants,
            device=self.device,
        )

    def __call__(self, fold: Fold) -> str | None:
        """Run it quietly; what went wrong, if something did."""
        try:
            with ALONE:
                choose(self.device.type)  # sets this process up for it
                self.run(fold, bar=_quiet)
        except (ValueError, OSError, RuntimeError) as error:
            return f"fold {fold.number}: {error}"
        return None


def run_folds(
    task: FoldTask, folds: Sequence[Fold], *, cluster: Cluster, on_done: Callable[[int, int], None] | None = None
) -> None:
    """Run folds in several processes; one that fails does not end the others. Raises RunError naming what failed.

    Where the processes have as many threads as one would, its results are theirs, bit by bit: PyTorch sums in another
    order with another number.
    """
    found = each(cluster, task, folds, failed=lambda fold, why: f"fold {fold.number}: {why}", on_done=on_done)
    failures = [text for text in found if text]
    if failures:
        raise runs.RunError("; ".join(failures))


@contextmanager
def _quiet(what: str) -> Iterator[OnStep]:
    yield lambda step: None
