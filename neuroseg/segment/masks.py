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
from neuroseg.metrics import volume_mm3
from neuroseg.segment.doubts import Doubt, doubts
from neuroseg.segment.regions import Region, voxels

LABELS: dict[Side, int] = {"right": 1, "left": 2}
THRESHOLD = 0.5  # a voxel is hippocampus above it

Predict = Callable[[torch.Tensor], np.ndarray]
"""Slices float32 (N, 1, Y, Z) in [0, 1] to the probability of hippocampus, float (N, 1, Y, Z)."""


@dataclass(frozen=True)
class Segmentation:
    """What was found, in the grid of the scan (I, J, K).

    mask: uint8, see LABELS. probability: float32, the higher of both sides, 0 outside the boxes. volumes_mm3: mask
    voxels times the volume of a voxel, for every side asked for. scan: gives affine and header. certainty: the Dice a
    side would have if probabilities were true. doubts: why the mask may be wrong.
    """

    mask: np.ndarray
    probability: np.ndarray
    volumes_mm3: dict[Side, float]
    scan: nib.Nifti1Image
    certainty: dict[Side, float] = field(default_factory=dict)
    doubts: tuple[Doubt, ...] = ()


def segment(
    scan: nib.Nifti1Image, regions: Sequence[Region], predict: Predict, *, batch: int | None = None
) -> Segmentation:
    """Predict regions slice by slice and put the probabilities back into the scan's grid.

    Probabilities are interpolated, then held against THRESHOLD; where the scan has RAS axes and 1 mm the mask is the
    prediction, voxel by voxel. Where boxes of both sides overlap the likelier side wins. batch: slices at a time, None
    for all of a region. Raises ScanError without a region and where nothing was found, and ValueError for a prediction
    of another shape.
    """
    if not regions:
        raise ScanError("no region to segment")
    shape = scan.shape
    probability, mask = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    certainty: dict[Side, float] = {}
    for region in regions:
        predicted = _predict(region, predict, batch)
        certainty[region.side] = expected_dice(predicted)
        window, found = _back(region, predicted, scan)
        wins = found > probability[window]
        probability[window][wins] = found[wins]
        mask[window][wins] = np.where(found[wins] > THRESHOLD, LABELS[region.side], 0)
    volumes = {region.side: volume_mm3(mask == LABELS[region.side], scan.affine) for region in regions}
    if not any(volumes.values()):
        sides = " and the ".join(volumes)
        raise ScanError(f"the {sides} hippocampus was not found: no voxel is hippocampus with more than {THRESHOLD:g}")
    noise = max(region.noise for region in regions)
    return Segmentation(mask, probability, volumes, scan, certainty, doubts(scan, volumes, certainty, noise))


def expected_dice(probability: np.ndarray) -> float:
    """Dice that the mask above THRESHOLD has on average, if each voxel is hippocampus with its probability."""
    mask = probability > THRESHOLD
    total = float(probability.sum()) + np.count_nonzero(mask)
    return float(2 * probability[mask].sum() / total) if total else 0.0


def _predict(region: Region, predict: Predict, batch: int | None) -> np.ndarray:
    """Probabilities float32 (X, Y, Z) of a region."""
    slices = torch.from_numpy(np.ascontiguousarray(region.image[:, None]))
    parts = [np.asarray(predict(part)) for part in slices.split(batch or len(slices))]
    found = np.concatenate(parts)
    if found.shape != tuple(slices.shape):
        raise ValueError(f"the prediction has shape {found.shape}; slices of shape {tuple(slices.shape)} were given")
    return found[:, 0].astype(np.float32)


def _back(region: Region, found: np.ndarray, scan: nib.Nifti1Image) -> tuple[tuple[slice, ...], np.ndarray]:
    """Interpolate a region's probabilities at the scan's voxels: the window of the scan they fall into, and values."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(found.shape) - 1)
    reached = nib.affines.apply_affine(voxels(scan.affine, region.affine), corners)
    first = np.clip(np.floor(reached.min(axis=0)).astype(int), 0, scan.shape)
    last = np.clip(np.ceil(reached.max(axis=0)).astype(int) + 1, first, scan.shape)
    window = tuple(slice(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True))
    places = voxels(region.affine, scan.affine @ nib.affines.from_matvec(np.eye(3), first))
    values = ndimage.affine_transform(
        found, places[:3, :3], places[:3, 3], output_shape=tuple(last - first), order=1, mode="grid-constant"
    )
    return window, values
