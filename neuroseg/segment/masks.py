"""Regions predicted and put back into the scan's own grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

from neuroseg.data.locate import Side
from neuroseg.data.scan import ScanError
from neuroseg.data.volume import with_neighbours
from neuroseg.metrics import volume_mm3
from neuroseg.segment.doubts import Doubt, doubts
from neuroseg.segment.regions import Region, voxels

LABELS: dict[Side, int] = {"right": 1, "left": 2}
THRESHOLD = 0.5  # a voxel is hippocampus above it

Predict = Callable[[torch.Tensor], np.ndarray]
"""Slices float32 (N, 1, Y, Z) in [0, 1] to the probability of hippocampus, float (N, 1, Y, Z); or to those of classes,
float (N, C, Y, Z), the first of them the background, with a sum of 1."""


@dataclass(frozen=True)
class Segmentation:
    """What was found, in the grid of the scan (I, J, K).

    mask: uint8, see `label`. probability: float32, the higher of both sides, 0 outside the boxes. volumes_mm3: mask
    voxels times the volume of a voxel, for every side asked for. scan: gives affine and header. certainty: the Dice a
    side would have if probabilities were true. doubts: why the mask may be wrong. classes: into which a side is parted,
    none for a side as a whole.
    """

    mask: np.ndarray
    probability: np.ndarray
    volumes_mm3: dict[Side, float]
    scan: nib.Nifti1Image
    certainty: dict[Side, float] = field(default_factory=dict)
    doubts: tuple[Doubt, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def labels(self) -> dict[str, int]:
        """What each label of the mask is: a side, or a class of it."""
        return {
            f"{side} {name}".rstrip(): label(side, k, len(self.classes))
            for side in self.volumes_mm3
            for k, name in enumerate(self.classes or ("",), start=1)
        }

    @property
    def class_volumes_mm3(self) -> dict[str, float]:
        """Of each class of each side, by the names of `labels`; nothing without classes."""
        labels = self.labels if self.classes else {}
        return {name: volume_mm3(self.mask == value, self.scan.affine) for name, value in labels.items()}


def label(side: Side, part: int = 1, parts: int = 0) -> int:
    """A mask's label: 1 right, 2 left; of parts (classes, from 1) first those of the right, then those of the left."""
    return (LABELS[side] - 1) * max(parts, 1) + part


def segment(
    scan: nib.Nifti1Image,
    regions: Sequence[Region],
    predict: Predict,
    *,
    batch: int | None = None,
    classes: Sequence[str] = (),
    context: int = 0,
) -> Segmentation:
    """Predict regions slice by slice and put the probabilities back into the scan's grid.

    Probabilities are interpolated, then held against THRESHOLD, or those of classes against each other; where the scan
    has RAS axes and 1 mm the mask is the prediction, voxel by voxel. Where boxes of both sides overlap the likelier
    side wins. batch: slices at a time, None for all of a region. classes: names of the prediction's, but for the
    background. context: neighbours on either side that come in with a slice. Raises ScanError without a region and
    where nothing was found, and ValueError for a prediction of another shape.
    """
    if not regions:
        raise ScanError("no region to segment")
    shape = scan.shape
    probability, mask = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    certainty: dict[Side, float] = {}
    parts = range(1, len(classes or ("",)) + 1)
    for region in regions:
        predicted = _predict(region, predict, batch, len(classes) + 1 if classes else 1, context)
        certainty[region.side] = expected_dice(_hippocampus(predicted), _parts(predicted) > 0)
        window, channels = _back(region, predicted, scan)
        found, part = _hippocampus(channels), _parts(channels)
        wins = found > probability[window]
        probability[window][wins] = found[wins]
        labels = np.array([0, *(label(region.side, k, len(classes)) for k in parts)], np.uint8)
        mask[window][wins] = labels[part[wins]]
    volumes: dict[Side, float] = {
        region.side: volume_mm3(np.isin(mask, [label(region.side, k, len(classes)) for k in parts]), scan.affine)
        for region in regions
    }
    if not any(volumes.values()):
        sides = " and the ".join(volumes)
        why = "in no voxel a class is likelier than the background"
        why = why if classes else f"no voxel is hippocampus with more than {THRESHOLD:g}"
        raise ScanError(f"the {sides} hippocampus was not found: {why}")
    noise = max(region.noise for region in regions)
    found_doubts = doubts(scan, volumes, certainty, noise)
    return Segmentation(mask, probability, volumes, scan, certainty, found_doubts, tuple(classes))


def _hippocampus(channels: np.ndarray) -> np.ndarray:
    """Probability of hippocampus, float32, of channels (C, ...): the only one, or the sum of all but the background."""
    return (channels[1:].sum(axis=0) if len(channels) > 1 else channels[0]).astype(np.float32)


def _parts(channels: np.ndarray) -> np.ndarray:
    """0 for background, or which class, from 1, of channels (C, ...)."""
    return channels.argmax(axis=0) if len(channels) > 1 else (channels[0] > THRESHOLD).astype(np.int64)


def expected_dice(probability: np.ndarray, mask: np.ndarray) -> float:
    """Dice that a mask (bool) has on average, if each voxel is hippocampus with its probability."""
    total = float(probability.sum()) + np.count_nonzero(mask)
    return float(2 * probability[mask].sum() / total) if total else 0.0


def _predict(region: Region, predict: Predict, batch: int | None, channels: int, context: int) -> np.ndarray:
    """Probabilities (C, X, Y, Z) of a region."""
    slices = torch.from_numpy(with_neighbours(region.image, context))
    parts = [np.asarray(predict(part)) for part in slices.split(batch or len(slices))]
    found = np.concatenate(parts)
    n, _, height, width = slices.shape
    if found.shape != (n, channels, height, width):
        raise ValueError(
            f"the prediction has shape {found.shape}; slices of shape {tuple(slices.shape)} were given, "
            f"and {channels} channel(s) are expected"
        )
    return found.swapaxes(0, 1).astype(np.float32 if channels == 1 else np.float64)


def _back(region: Region, found: np.ndarray, scan: nib.Nifti1Image) -> tuple[tuple[slice, ...], np.ndarray]:
    """Interpolate a region's channels at the scan's voxels: the window of the scan they fall into, and values."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(found.shape[1:]) - 1)
    reached = nib.affines.apply_affine(voxels(scan.affine, region.affine), corners)
    first = np.clip(np.floor(reached.min(axis=0)).astype(int), 0, scan.shape)
    last = np.clip(np.ceil(reached.max(axis=0)).astype(int) + 1, first, scan.shape)
    window = tuple(slice(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True))
    places = voxels(region.affine, scan.affine @ nib.affines.from_matvec(np.eye(3), first))
    matrix, start, size = places[:3, :3], places[:3, 3], tuple(last - first)
    values = [
        ndimage.affine_transform(channel, matrix, start, output_shape=size, order=1, mode="grid-constant")
        for channel in found
    ]
    return window, np.stack(values)
