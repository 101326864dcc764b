"""The training loop: an objective minimised epoch by epoch, one-cycle, resumable, and for a team of processes."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from neuroseg import storage
from neuroseg.training.losses import Loss, balanced_bce_loss, distillation_loss
from neuroseg.training.memory import keep_freed_memory
from neuroseg.training.team import ALONE, Team

log = logging.getLogger(__name__)

WARM_SHARE, START = 0.3, 1 / 25  # of the one-cycle schedule

Forward = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Step:
    """Progress of a training loop, after a batch."""

    epoch: int  # from 1
    epochs: int
    batch: int  # from 1
    batches: int
    loss: float  # mean over the epoch so far
    dice: float  # validation 3D Dice of the epoch before; NaN in the first


@dataclass(frozen=True)
class Epoch:
    """What an epoch reached."""

    epoch: int
    loss: float
    validation_dice: float
    learning_rate: float


OnStep = Callable[[Step], None]


def minimise(
    network: nn.Module,
    *,
    forward: Forward,
    images: torch.Tensor,
    targets: torch.Tensor,
    objective: Loss,
    validate: Callable[[], float],
    truths: Sequence[np.ndarray],
    optimizer: torch.optim.Optimizer,
    epochs: int,
    batch: int,
    seed: int,
    identity: dict[str, Any],
    warm_up: int = 0,
    vary: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None,
    before_epoch: Callable[[], None] | None = None,
    teacher: Forward | None = None,
    distill: float = 1.0,
    clip: float = math.inf,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
    team: Team = ALONE,
) -> list[Epoch]:
    """Minimise an objective of logits and targets, epoch by epoch; leaves the best epoch's weights in `network`.

    The learning rate of `optimizer` is the peak of a one-cycle schedule.
    `forward` maps images (B, C, H, W) to logits; `validate` scores the network after an epoch, against `truths`.
    `before_epoch` runs before each epoch and before each validation. The first `warm_up` batches minimise balanced
    cross-entropy. `vary` changes images and targets of a batch. `teacher` maps images to logits, too; `distill` times
    the cross-entropy with its probabilities is added to the objective. `clip` is the largest norm of a batch's
    gradient, which is scaled down to it. `identity` describes the run: a checkpoint of another run is refused with
    ValueError.
    """
    keep_freed_memory()
    batches = -(-len(images) // batch)
    # Not torch's OneCycleLR: its state holds a function, which a safe checkpoint cannot.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step / (epochs * batches)))
    saved: dict[str, Any] = {"network": network, "optimizer": optimizer, "schedule": schedule}
    identity = _plain({**identity, **_fingerprints(network, images, targets, truths)})
    history, best = _resume(checkpoint, identity, saved)
    team.begin([identity, len(history)], network.parameters())
    for epoch in range(len(history) + 1, epochs + 1):
        epoch_seed = seed * 1_000_003 + epoch  # an epoch's randomness depends on nothing before it
        torch.manual_seed(epoch_seed)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch_seed))
        if before_epoch:
            before_epoch()
        network.train()
        total = 0.0
        for k, chosen in enumerate(order.split(batch), start=1):
            warming = (epoch - 1) * batches + k <= warm_up
            x, truth = images[chosen], targets[chosen]
            if team.size > 1:  # shares may differ in size, and so in what they draw; what all draw has to be the same
                torch.manual_seed(epoch_seed * batches + k)
            if vary:
                x, truth = vary(x, truth)
            optimizer.zero_grad(set_to_none=True)
            if team.size > 1:  # what a share draws (dropout) is its own
                torch.manual_seed((epoch_seed * batches + k) * team.size + team.rank)
            logits = team.gather(forward(team.share(x)), len(x))
            value = (balanced_bce_loss if warming else objective)(logits, truth.to(logits.device))
            if teacher and not warming:
                told = team.gather(_told(teacher, team.share(x)), len(x))
                value = value + distill * distillation_loss(logits, told.to(logits.device))
            value.backward()
            team.add_gradients(network.parameters(), len(x))
            nn.utils.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()
            schedule.step()
            total += float(value.detach())
            if on_step:
                dice = history[-1].validation_dice if history else float("nan")
                on_step(Step(epoch, epochs, k, batches, total / k, dice))
        if before_epoch:
            before_epoch()
        network.eval()
        score = team.told(validate)
        history.append(Epoch(epoch, total / batches, score, optimizer.param_groups[0]["lr"]))
        log.info("epoch %d: loss %.4f, validation score %.4f", epoch, total / batches, score)
        if score >= max(row.validation_dice for row in history):
            best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        if checkpoint and team.leads:
            _save(checkpoint, identity, history, best, saved)
    network.load_state_dict(best)
    _warn_of_nothing(history)
    return history


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate: up a cosine from 1/25 in the first 30 %, down to 0 (Smith & Topin 2019)."""
    if progress < WARM_SHARE:
        return START + (1 - START) * (1 - math.cos(math.pi * progress / WARM_SHARE)) / 2
    return (1 + math.cos(math.pi * min((progress - WARM_SHARE) / (1 - WARM_SHARE), 1))) / 2


def _warn_of_nothing(history: Sequence[Epoch]) -> None:
    if not any(row.validation_dice > 0 for row in history):
        log.warning("the validation score is 0 after every epoch: the network finds nothing; do not use it")


def _save(
    checkpoint: Path,
    identity: dict[str, Any],
    history: Sequence[Epoch],
    best: dict[str, torch.Tensor],
    saved: dict[str, Any],
) -> None:
    states = {name: part.state_dict() for name, part in saved.items()}
    rows = [asdict(row) for row in history]
    storage.save({"identity": identity, "history": rows, "best": best, **states}, checkpoint)


def _resume(
    checkpoint: Path | None, identity: dict[str, Any], saved: dict[str, Any]
) -> tuple[list[Epoch], dict[str, torch.Tensor]]:
    """Load a checkpoint into the parts that it holds; returns the history so far and the best weights."""
    if checkpoint is None or not checkpoint.exists():
        return [], {}
    try:
        content = storage.load(checkpoint)
        same = content["identity"] == identity
        history, best = [Epoch(**row) for row in content["history"]], content["best"]
        if same:
            for name, part in saved.items():
                part.load_state_dict(content[name])
    except (RuntimeError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{checkpoint} cannot be read ({error}); delete it to start again") from error
    if not same:
        raise ValueError(
            f"{checkpoint} belongs to a run with other settings or data; delete it or choose another folder"
        )
    log.info("resuming after epoch %d from %s", len(history), checkpoint)
    return history, best


def _fingerprints(
    network: nn.Module, images: torch.Tensor, masks: torch.Tensor, truths: Sequence[np.ndarray]
) -> dict[str, str]:
    """Hashes of where a training starts: its weights and its data."""

    data = [images.numpy(), masks.numpy()]
    return {"start": weights_digest(network), "training": _digest(data), "validation": _digest(truths)}


def weights_digest(network: nn.Module) -> str:
    """A hash of a network's weights."""
    return _digest([parameter.detach().cpu().numpy() for parameter in network.parameters()])


def _digest(arrays: Sequence[np.ndarray]) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


@torch.no_grad()
def _told(teacher: Forward, images: torch.Tensor) -> torch.Tensor:
    return teacher(images)


def _plain(value: Any) -> Any:
    """Tuples as lists, so that what was saved equals what is asked for."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
