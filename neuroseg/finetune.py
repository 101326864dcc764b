"""Spike-based fine-tuning: backpropagation through time with a surrogate gradient, quantisation-aware.

Yue et al., arXiv 2302.07328. The forward pass uses the very integers that are exported,
up to the gain of dropout while it trains.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from neuroseg.data.volume import Subject
from neuroseg.spiking import SpikingNetwork
from neuroseg.train import Epoch, OnStep, fit

log = logging.getLogger(__name__)

WARM_SHARE, START = 0.3, 1 / 25  # of the one-cycle schedule

Scales = Callable[[SpikingNetwork], dict[str, float]]


@dataclass(frozen=True)
class FinetuneConfig:
    """How the spiking network is fine-tuned."""

    epochs: int = 4
    batch: int = 26
    learning_rate: float = 2e-3  # peak of the one-cycle schedule
    loss: str = "dice"
    seed: int = 0
    quantized: bool = True


def finetune(
    network: SpikingNetwork,
    training: Sequence[Subject],
    validation: Sequence[Subject],
    *,
    choose_scales: Scales | None = None,
    config: FinetuneConfig = FinetuneConfig(),
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
) -> tuple[SpikingNetwork, list[Epoch]]:
    """Fine-tune a balanced network; returns a new one (best validation Dice) and the history.

    `choose_scales` maps a network to its integer scales (`export.lower.integer_scales`); it is asked before
    every epoch and before every validation, so that no weight of the validated network is ever clipped. It is
    needed unless config.quantized is False. Resumes from `checkpoint` as `train` does.
    """
    if config.quantized and choose_scales is None:
        raise ValueError("quantisation-aware fine-tuning needs choose_scales (export.lower.integer_scales)")
    torch.manual_seed(config.seed)
    tuned = network.copy()
    optimizer = torch.optim.Adam(tuned.parameters(), lr=config.learning_rate)
    slices = sum(len(subject.image) for subject in training)
    steps = config.epochs * -(-slices // config.batch)
    # Not torch's OneCycleLR: its state holds a function, which a safe checkpoint cannot.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step / steps))

    def rescale() -> None:
        if config.quantized and choose_scales is not None:
            tuned.scales.copy_(tuned.with_scales(choose_scales(tuned)).scales)

    def forward(images: torch.Tensor) -> torch.Tensor:
        return tuned.predict(images, quantized=config.quantized, seed=int(torch.randint(2**31, ())))

    history = fit(
        tuned,
        forward=forward,
        training=training,
        validation=validation,
        optimizer=optimizer,
        after_batch=schedule,
        before_epoch=rescale,
        epochs=config.epochs,
        batch=config.batch,
        loss=config.loss,
        seed=config.seed,
        identity={"spec": repr(network.spec), "config": asdict(config)},
        checkpoint=checkpoint,
        on_step=on_step,
    )
    return tuned.eval(), history


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate: up a cosine from 1/25 in the first 30 %, down to 0 (Smith & Topin 2019)."""
    if progress < WARM_SHARE:
        return START + (1 - START) * (1 - math.cos(math.pi * progress / WARM_SHARE)) / 2
    return (1 + math.cos(math.pi * min((progress - WARM_SHARE) / (1 - WARM_SHARE), 1))) / 2
