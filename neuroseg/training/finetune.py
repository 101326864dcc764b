"""Spike-based fine-tuning: backpropagation through time with a surrogate gradient, quantisation-aware.

Yue et al., arXiv 2302.07328. The forward pass uses the very integers that are exported,
up to the gain of dropout while it trains.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from export.graph import Dropout
from neuroseg.conversion.lower import integer_scales
from neuroseg.data.volume import Subject
from neuroseg.spiking import structure
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.training.train import Epoch, OnStep, fit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneConfig:
    """How the spiking network is fine-tuned."""

    epochs: int = 6
    batch: int = 26
    learning_rate: float = 2e-3  # peak of the one-cycle schedule
    loss: str = "dice"
    seed: int = 0
    quantized: bool = True
    dropout: bool = False  # the ANN's, fixed over time; in few epochs it gains nothing
    augment: bool = False  # as the ANN's training does; for scans of other contrast


def finetune(
    network: SpikingNetwork,
    training: Sequence[Subject],
    validation: Sequence[Subject],
    *,
    config: FinetuneConfig = FinetuneConfig(),
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
) -> tuple[SpikingNetwork, list[Epoch]]:
    """Fine-tune a balanced network; returns a new one (best validation Dice) and the history.

    Integer scales are chosen before every epoch and before every validation, so that no weight of the validated network
    is ever clipped; the network that is returned has them. Resumes from `checkpoint` as `train` does.
    """
    torch.manual_seed(config.seed)
    tuned = network.copy() if config.dropout else without_dropout(network)
    optimizer = torch.optim.Adam(tuned.parameters(), lr=config.learning_rate)

    def rescale() -> None:
        if config.quantized:
            tuned.scales.copy_(tuned.with_scales(integer_scales(tuned)).scales)

    def forward(images: torch.Tensor) -> torch.Tensor:
        return tuned.predict(images, quantized=config.quantized, seed=int(torch.randint(2**31, ())))

    history = fit(
        tuned,
        forward=forward,
        training=training,
        validation=validation,
        optimizer=optimizer,
        before_epoch=rescale,
        epochs=config.epochs,
        batch=config.batch,
        loss=config.loss,
        augmented=config.augment,
        seed=config.seed,
        identity={"graph": structure.describe(network.graph), "alpha": network.alpha, "config": asdict(config)},
        checkpoint=checkpoint,
        on_step=on_step,
    )
    tuned = tuned if config.quantized else tuned.with_scales(integer_scales(tuned))
    return tuned.eval(), history


def without_dropout(network: SpikingNetwork) -> SpikingNetwork:
    """A copy whose dropout layers let everything pass."""
    nodes = (replace(node, p=0.0) if isinstance(node, Dropout) else node for node in network.graph.nodes)
    return network.copy(replace(network.graph, nodes=tuple(nodes)))
