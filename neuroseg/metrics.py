"""What a network decides, and how good that is: Dice in 3D and 2D, accuracy, a mask's volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WHOLE, MEAN = "3d", "3d mean"


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


def class_dice(prediction: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """3D Dice of each class of masks (X, Y, Z) that hold their numbers, from 1, and the mean; nothing of no classes."""
    scores = {f"3d {name}": dice(prediction == k, truth == k) for k, name in enumerate(classes, start=1)}
    return {**scores, MEAN: float(np.mean(list(scores.values())))} if scores else {}


def subject_dice(prediction: np.ndarray, truth: np.ndarray, classes: Sequence[str] = ()) -> dict[str, float]:
    """3D and 2D Dice of a subject, as files have them: of all classes together, and in 3D of each."""
    return {WHOLE: dice(prediction, truth), "2d": dice_2d(prediction, truth), **class_dice(prediction, truth, classes)}


def mean_dice(
    predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray], classes: Sequence[str] = ()
) -> dict[str, float]:
    """Means over subjects of `subject_dice`, as report.json has them."""
    found = [subject_dice(p, t, classes) for p, t in zip(predictions, truths, strict=True)]
    return {name: float(np.mean([scores[name] for scores in found])) for name in found[0]}


def goal(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray], channels: int) -> float:
    """What training maximises: the 3D Dice, mean over subjects and, of several channels, classes."""
    classes = [str(k) for k in range(1, channels)]
    return mean_dice(predictions, truths, classes)[MEAN if classes else WHOLE]


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
