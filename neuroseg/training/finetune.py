"""Spike-based fine-tuning: backpropagation through time with a surrogate gradient, quantisation-aware.

Yue et al., arXiv 2302.07328. The forward pass uses the very integers that are exported,
up to the gain of dropout while it trains.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from export.graph import Dropout
from neuroseg.conversion.lower import integer_scales
from neuroseg.data.volume import Subject
from neuroseg.metrics import decide, label_scores
from neuroseg.spiking import structure
from neuroseg.spiking.device import place
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.training.loop import Epoch, Forward, OnStep, minimise, weights_digest
from neuroseg.training.losses import LOSSES, Loss
from neuroseg.training.team import ALONE, CPU, Team
from neuroseg.training.train import fit

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
    distill: float = 1.0  # weight of what a teacher says, where there is one, beside the masks


def finetune(
    network: SpikingNetwork,
    training: Sequence[Subject],
    validation: Sequence[Subject],
    *,
    config: FinetuneConfig = FinetuneConfig(),
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
    team: Team = ALONE,
) -> tuple[SpikingNetwork, list[Epoch]]:
    """Fine-tune a balanced network; returns a new one (best validation Dice), on the CPU, and the history.

    teacher: the ANN, whose logits the network learns beside the masks (`config.distill`): a module that maps images
    (B, C, H, W) to them, or a `SpikingNetwork` as it was before it was balanced.
    Integer scales are chosen before every epoch and before every validation, so that no weight of the validated network
    is ever clipped; the network that is returned has them. Resumes from `checkpoint`, and is shared by a team, as
    `train` is.
    """

    def on_subjects(tuned: SpikingNetwork, **how: Any) -> list[Epoch]:
        return fit(
            tuned,
            training=training,
            validation=validation,
            context=network.graph.meta.context,
            channels=network.output.shape[0],
            loss=config.loss,
            augmented=config.augment,
            **how,
        )

    return _tune(network, on_subjects, config, teacher, checkpoint, on_step, team)


def finetune_images(
    network: SpikingNetwork,
    images: torch.Tensor,
    labels: np.ndarray,
    *,
    config: FinetuneConfig = FinetuneConfig(),
    teacher: nn.Module | None = None,
    validation: float = 0.2,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
    team: Team = ALONE,
) -> tuple[SpikingNetwork, list[Epoch]]:
    """`finetune` on images (N, C, H, W) and labels, int64 (N, H, W) or, of a classifier, (N,).

    Several output channels are classes and learn by cross-entropy, whatever `config.loss` is; one learns by that. A
    share of the images, drawn by seed, is kept for validation: the score is their accuracy, or of maps the mean Dice of
    the classes. Raises ValueError where that leaves none to train on, or for `config.augment`.
    """
    if config.augment:
        raise ValueError("slices of scans can be varied, images cannot")
    held_out = max(round(len(images) * validation), 1)
    if len(images) - held_out < 1:
        raise ValueError(f"{len(images)} images; at least 2 are needed, one to train on and one to validate")
    order = np.random.default_rng(config.seed).permutation(len(images))
    kept, chosen = order[:held_out], order[held_out:]
    classes = network.output.shape[0]
    targets = torch.from_numpy(labels.reshape(len(labels), *network.output.shape[1:]))

    def on_images(tuned: SpikingNetwork, *, forward: Callable[[torch.Tensor], torch.Tensor], **how: Any) -> list[Epoch]:
        return minimise(
            tuned,
            forward=forward,
            images=images[chosen],
            targets=targets[chosen] if classes > 1 else targets[chosen][:, None].float(),
            objective=image_loss(classes, config.loss),
            validate=lambda: image_score(forward(images[kept]), labels[kept]),
            truths=[images[kept].numpy(), labels[kept]],
            **how,
        )

    return _tune(network, on_images, config, teacher, checkpoint, on_step, team)


def image_loss(classes: int, loss: str) -> Loss:
    """Cross-entropy of several classes; of one channel a loss by name. Raises ValueError."""
    if classes > 1:
        return F.cross_entropy
    if loss not in LOSSES:
        raise ValueError(f"loss {loss!r} is unknown; {', '.join(LOSSES)} are allowed")
    return LOSSES[loss]


@torch.no_grad()
def image_score(logits: torch.Tensor, truth: np.ndarray) -> float:
    """Accuracy of logits (N, C, 1, 1); of maps the mean Dice of the classes."""
    scores = label_scores(decide(logits.detach().cpu().numpy()), truth, logits.shape[1])
    dice = [value for name, value in scores.items() if name != "accuracy"]
    return float(np.mean(dice)) if dice else scores["accuracy"]


def _tune(
    network: SpikingNetwork,
    fitted: Callable[..., list[Epoch]],
    config: FinetuneConfig,
    teacher: nn.Module | None,
    checkpoint: Path | None,
    on_step: OnStep | None,
    team: Team,
) -> tuple[SpikingNetwork, list[Epoch]]:
    teacher = teacher if config.distill else None
    identity = {"graph": structure.describe(network.graph), "alpha": network.alpha, "config": asdict(config)}
    if teacher is not None:
        identity["teacher"] = weights_digest(teacher)
    torch.manual_seed(config.seed)
    tuned = network.copy() if config.dropout else without_dropout(network)
    place(tuned, team.device)
    optimizer = torch.optim.Adam(tuned.parameters(), lr=config.learning_rate)

    def rescale() -> None:
        if config.quantized:
            tuned.scales.copy_(tuned.with_scales(integer_scales(tuned)).scales)

    def forward(images: torch.Tensor) -> torch.Tensor:
        return tuned.predict(images, quantized=config.quantized, seed=int(torch.randint(2**31, ())))

    history = fitted(
        tuned,
        forward=forward,
        optimizer=optimizer,
        before_epoch=rescale,
        teacher=None if teacher is None else logits_of(teacher, team.device),
        distill=config.distill,
        epochs=config.epochs,
        batch=config.batch,
        seed=config.seed,
        identity=identity,
        checkpoint=checkpoint,
        on_step=on_step,
        team=team,
    )
    place(tuned, CPU)
    tuned = tuned if config.quantized else tuned.with_scales(integer_scales(tuned))
    return tuned.eval(), history


def logits_of(ann: nn.Module, device: torch.device) -> Forward:
    """Images (B, C, H, W) to an ANN's logits, on a device; a `SpikingNetwork` is run as the ANN."""
    place(ann.eval(), device)
    if isinstance(ann, SpikingNetwork):
        return lambda images: ann.analog(images.to(device))[ann.output.name]
    return lambda images: ann(images.to(device))


def without_dropout(network: SpikingNetwork) -> SpikingNetwork:
    """A copy whose dropout layers let everything pass."""
    nodes = (replace(node, p=0.0) if isinstance(node, Dropout) else node for node in network.graph.nodes)
    return network.copy(replace(network.graph, nodes=tuple(nodes)))
