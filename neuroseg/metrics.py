"""What a network decides, and how good that is: Dice in 3D and 2D, accuracy, a mask's volume."""

from __future__ import annotations

import numpy as np


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two binary arrays of equal shape: 2|A∩B| / (|A| + |B|); 1 when both are empty.

    On whole volumes (X, Y, Z) this is the 3D Dice of one subject.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, truth {truth.shape}; they must be equal")
    total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth))
    overlap = int(np.count_nonzero(np.logical_and(prediction, truth)))
    return 2 * overlap / total if total else 1.0


def dice_2d(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Mean Dice over the slices (first axis) that hold mask or prediction; empty ones say nothing.

    Both binary (X, Y, Z). 1 when every slice of both is empty.
    """
    scores = [dice(p, t) for p, t in zip(prediction, truth, strict=True) if p.any() or t.any()]
    return float(np.mean(scores)) if scores else 1.0


def volume_mm3(mask: np.ndarray, affine: np.ndarray) -> float:
    """Volume of a binary mask (X, Y, Z) whose voxels have the affine's size, in cubic millimetres."""
    return float(np.count_nonzero(mask) * abs(np.linalg.det(affine[:3, :3])))


def mean_dice(predictions: list[np.ndarray], truths: list[np.ndarray]) -> dict[str, float]:
    """Mean over subjects of the 3D and the 2D Dice, as report.json has them."""
    pairs = list(zip(predictions, truths, strict=True))
    return {
        "3d": float(np.mean([dice(p, t) for p, t in pairs])),
        "2d": float(np.mean([dice_2d(p, t) for p, t in pairs])),
    }


def decide(logits: np.ndarray) -> np.ndarray:
    """Logits (N, C, H, W) to labels, int64 (N, H, W), or (N,) where an output has no pixels.

    One channel: 1 where its logit is above 0. Several: the channel of the largest, the first of equals.
    """
    labels = logits.argmax(axis=1) if logits.shape[1] > 1 else (logits[:, 0] > 0).astype(np.int64)
    return labels[:, 0, 0] if labels.shape[1:] == (1, 1) else labels


def agreement(found: np.ndarray, expected: np.ndarray) -> float:
    """How far logits (N, C, H, W) decide alike, 0 to 1: Dice of the masks of one channel, equal labels of several."""
    labels, truth = decide(found), decide(expected)
    return dice(labels == 1, truth == 1) if found.shape[1] == 1 else float(np.mean(labels == truth))


def label_scores(labels: np.ndarray, truth: np.ndarray, classes: int) -> dict[str, float]:
    """Accuracy of labels of any equal shapes; of maps (N, H, W) the Dice of each class that occurs, too.

    classes: channels of the output; where it is 1, label 1 is the one that counts.
    """
    scores = {"accuracy": float(np.mean(labels == truth))}
    if labels.ndim > 1:
        for k in range(classes) if classes > 1 else (1,):
            if (labels == k).any() or (truth == k).any():
                scores[f"dice {k}"] = dice(labels == k, truth == k)
    return scores
