"""Segmentation losses on logits: binary cross-entropy (paper eq. 6), Dice (eq. 7), and their mixture."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

EPSILON = 1e-5
BCE_SHARE, DICE_SHARE = 0.3, 0.7

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def bce_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, mean over voxels (paper eq. 6). Any equal shapes; target in {0, 1}."""
    return F.binary_cross_entropy_with_logits(logits, target)


def dice_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice over all voxels of the batch, epsilon 1e-5 (paper eq. 7, as a loss to minimise)."""
    probability = torch.sigmoid(logits)
    overlap = (probability * target).sum()
    return 1 - (2 * overlap + EPSILON) / (probability.sum() + target.sum() + EPSILON)


def bce_dice_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """0.3 BCE + 0.7 Dice, the paper's mixture."""
    return BCE_SHARE * bce_loss(logits, target) + DICE_SHARE * dice_loss(logits, target)


def balanced_bce_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in which foreground and background of the batch weigh the same. For warming up."""
    foreground = target.sum().clamp(min=1)
    return F.binary_cross_entropy_with_logits(logits, target, pos_weight=(target.numel() - foreground) / foreground)


LOSSES: dict[str, Loss] = {"dice": dice_loss, "bce": bce_loss, "bce-dice": bce_dice_loss}
