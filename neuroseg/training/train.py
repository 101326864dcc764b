"""Training the ANN: its settings (Adam and batch 26, as in the paper), and any network on slices of subjects."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from neuroseg.data.augment import augment
from neuroseg.data.volume import Subject, stack_slices
from neuroseg.metrics import decide, goal
from neuroseg.spiking.device import multiplies_bfloat16, place
from neuroseg.training.loop import Epoch, Forward, OnStep, minimise
from neuroseg.training.losses import LOSSES, check_classes
from neuroseg.training.team import ALONE, CPU, Team
from neuroseg.training.unet import UNet, UNetConfig

log = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CLIP = 0.5  # largest norm of a batch's gradient, of classes: without, a fold's network became all background
STAND_INS = 16  # training subjects that stand in for a validation set


@dataclass(frozen=True)
class TrainConfig:
    """How the ANN is trained.

    precision: of what is multiplied in training, one of PRECISIONS. Weights, loss, gradients' sums and all that is made
    of the ANN are float32 either way, so no integer of a spiking network depends on it but by what was learnt.
    """

    epochs: int = 20
    batch: int = 26
    learning_rate: float = 2e-3  # peak of the one-cycle schedule
    augment: bool = True
    warm_up: int = 80  # batches on balanced cross-entropy; an all-background start has no Dice gradient to leave
    loss: str = "dice"
    seed: int = 0
    precision: str = "float32"


def split(subjects: Sequence[Subject], *, validation: float = 0.2, seed: int = 0) -> tuple[list, list]:
    """Split by subject, seeded, into training and validation (at least one each).

    With validation 0 all are trained on, and some of them stand in for a validation set: their Dice says how far
    training is, not how good the network is.
    """
    if len(subjects) < 2:
        raise ValueError(f"{len(subjects)} subjects; at least 2 are needed, one to train and one to validate")
    order = np.random.default_rng(seed).permutation(len(subjects))
    if validation == 0:
        return list(subjects), [subjects[k] for k in order[:STAND_INS]]
    held_out = min(max(round(len(subjects) * validation), 1), len(subjects) - 1)
    chosen = set(order[:held_out].tolist())
    return (
        [s for k, s in enumerate(subjects) if k not in chosen],
        [s for k, s in enumerate(subjects) if k in chosen],
    )


def train(
    training: Sequence[Subject],
    validation: Sequence[Subject],
    *,
    model: UNetConfig = UNetConfig(),
    config: TrainConfig = TrainConfig(),
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
    team: Team = ALONE,
) -> tuple[UNet, list[Epoch]]:
    """Train the ANN; returns the network of the best validation Dice, on the CPU, and the history.

    team: the processes that share each batch; all get the same. With `checkpoint`, state is saved after every epoch and
    a killed training goes on from there, with the same result as one that was never killed.
    """
    model.check_slice(*training[0].image.shape[1:])
    torch.manual_seed(config.seed)
    network = UNet(model)
    place(network, team.device)
    if team.device == CPU:  # as oneDNN multiplies them; else each convolution turns its tensors about
        network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)

    history = fit(
        network,
        forward=_mixed(network, team.device, config.precision),
        team=team,
        training=training,
        validation=validation,
        context=model.context,
        channels=model.out_channels,
        optimizer=optimizer,
        epochs=config.epochs,
        batch=config.batch,
        loss=config.loss,
        warm_up=config.warm_up,
        augmented=config.augment,
        clip=CLIP if model.out_channels > 1 else math.inf,
        seed=config.seed,
        identity={"model": asdict(model), "config": asdict(config)},
        checkpoint=checkpoint,
        on_step=on_step,
    )
    place(network, CPU)
    return network.to(memory_format=torch.contiguous_format).eval(), history


def _mixed(network: nn.Module, device: torch.device, precision: str) -> Forward:
    """The network on a device; while it trains, in that precision where autocast allows it."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown; {', '.join(PRECISIONS)} are allowed")
    lower = precision != "float32"
    if lower and device.type == "cpu" and not multiplies_bfloat16():
        log.warning("this processor has no instructions for bfloat16; float32 trains several times faster on it")

    def forward(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, dtype=PRECISIONS[precision], enabled=lower and network.training):
            logits = network(images.to(device))
        return logits.float()

    return forward


def fit(
    network: nn.Module,
    *,
    forward: Forward,
    training: Sequence[Subject],
    validation: Sequence[Subject],
    context: int,
    channels: int,
    loss: str,
    augmented: bool = False,
    **how: Any,
) -> list[Epoch]:
    """`minimise` one of LOSSES over the slices of subjects; the score is the mean 3D Dice of validation subjects.

    context: neighbours on either side that come in with a slice. channels: of the output; several are classes, whose
    Dice is the mean then.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss {loss!r} is unknown; {', '.join(LOSSES)} are allowed")
    images, masks = stack_slices(training, context=context)
    check_classes(channels, masks)
    truths = [subject.mask for subject in validation]
    return minimise(
        network,
        forward=forward,
        images=images,
        targets=masks,
        objective=LOSSES[loss],
        validate=lambda: goal(predict(forward, validation, context=context), truths, channels),
        truths=truths,
        vary=augment if augmented else None,
        **how,
    )


@torch.no_grad()
def predict(forward: Forward, subjects: Sequence[Subject], *, context: int = 0, batch: int = 64) -> list[np.ndarray]:
    """Segment subjects slice by slice, as `metrics.decide` does: uint8 (X, Y, Z) each.

    context: neighbours on either side that come in with a slice.
    """
    masks = []
    for subject in subjects:
        images, _ = stack_slices([subject], context=context)
        logits = torch.cat([forward(part) for part in images.split(batch)])
        masks.append(decide(logits.cpu().numpy()).astype(np.uint8))
    return masks
