"""Segmentation losses on logits: cross-entropy (paper eq. 6), Dice (eq. 7), and their mixture.

Logits are (B, C, H, W). With one channel its sigmoid is the probability of 1, and targets (B, 1, H, W) are 0 and 1, as
in the paper. With several their softmax holds the probabilities of classes, the first of them the background, and
targets are the numbers of classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

EPSILON = 1e-5
BCE_SHARE, DICE_SHARE = 0.3, 0.7

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def bce_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, mean over voxels: binary (paper eq. 6), or of classes."""
    if logits.shape[1] > 1:
        return F.cross_entropy(logits, target[:, 0].long())
    return F.binary_cross_entropy_with_logits(logits, target)


def dice_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice over all voxels of the batch, epsilon 1e-5 (paper eq. 7, as a loss to minimise).

    Of classes the mean over all but the background.
    """
    if logits.shape[1] > 1:
        probability, target = logits.softmax(dim=1)[:, 1:], _one_hot(target, logits.shape[1])[:, 1:]
    else:
        probability = torch.sigmoid(logits)
    voxels = (0, 2, 3)
    overlap = (probability * target).sum(voxels)  # C
    return (1 - (2 * overlap + EPSILON) / (probability.sum(voxels) + target.sum(voxels) + EPSILON)).mean()


def bce_dice_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """0.3 cross-entropy + 0.7 Dice, the paper's mixture."""
    return BCE_SHARE * bce_loss(logits, target) + DICE_SHARE * dice_loss(logits, target)


def balanced_bce_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in which foreground and background, or all classes, of the batch weigh the same. For warming up."""
    if logits.shape[1] > 1:
        voxels = _one_hot(target, logits.shape[1]).sum((0, 2, 3)).clamp(min=1)  # C
        return F.cross_entropy(logits, target[:, 0].long(), weight=(target.numel() / voxels).to(logits.dtype))
    foreground = target.sum().clamp(min=1)
    return F.binary_cross_entropy_with_logits(logits, target, pos_weight=(target.numel() - foreground) / foreground)


def distillation_loss(logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with a teacher's probabilities, mean over voxels (Hinton et al., arXiv 1503.02531; temperature 1).

    Logits of both (B, C, H, W); one channel is binary.
    """
    if logits.shape[1] > 1:
        return F.cross_entropy(logits, teacher.softmax(dim=1))
    return F.binary_cross_entropy_with_logits(logits, torch.sigmoid(teacher))


def check_classes(channels: int, targets: torch.Tensor) -> None:
    """Raise ValueError for targets that an output of so many channels has no class for."""
    most, known = int(targets.max()), max(channels - 1, 1)
    if most > known:
        raise ValueError(f"masks hold class {most}; an output of {channels} channel(s) knows classes up to {known}")


def _one_hot(target: torch.Tensor, classes: int) -> torch.Tensor:
    """Numbers of classes (B, 1, H, W) as 0 and 1 (B, C, H, W)."""
    return F.one_hot(target[:, 0].long(), classes).movedim(-1, 1).to(torch.float32)


LOSSES: dict[str, Loss] = {"dice": dice_loss, "bce": bce_loss, "bce-dice": bce_dice_loss}
