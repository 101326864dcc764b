"""Segment a scan: cut a box around each hippocampus, predict it, put the answer back into the scan's own grid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

from export import files
from neuroseg.data.locate import SIDES, Place, Side
from neuroseg.data.volume import HIPPOCAMPUS_SLICE, PERCENTILES, SPACING_MM, Box, ScanError, check_box, normalise
from neuroseg.metrics import volume_mm3

log = logging.getLogger(__name__)

BOX: Box = (36, *HIPPOCAMPUS_SLICE)
"""Wider than what networks are trained on: the widest of 200 Decathlon hippocampi has 27 mm from side to side, and
a centre may be 4 mm off. Slices are predicted one by one, so width costs time alone."""
LABELS: dict[Side, int] = {"right": 1, "left": 2}
THRESHOLD = 0.5  # a voxel is hippocampus above it
MIN_INSIDE = 0.3  # share of a box that must lie in the scan; Decathlon crops fill 0.31 to 1
SAME_VOXEL = 1e-6  # grids whose voxels lie closer than this are one grid
SUFFIXES = (".nii.gz", ".nii")

Predict = Callable[[torch.Tensor], np.ndarray]
"""Slices float32 (N, 1, Y, Z) in [0, 1] to the probability of hippocampus, float (N, 1, Y, Z)."""


@dataclass(frozen=True)
class Region:
    """The box around one hippocampus, as a network wants it: it always looks like a right one.

    side: of the patient. image: float32 (X, Y, Z) in [0, 1], 1 mm; y runs to anterior, z to superior, x away from
    the midline. affine: float64 (4, 4), voxel to world of the scan, mm. That x runs to the patient's left in a left
    region is in the affine, so nothing else has to know that it is mirrored.
    """

    side: Side
    image: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class Segmentation:
    """What was found, in the grid of the scan (I, J, K).

    mask: uint8, see LABELS. probability: float32, the higher of both sides, 0 outside the boxes. volumes_mm3: mask
    voxels times the volume of a voxel, for every side asked for. scan: gives affine and header.
    """

    mask: np.ndarray
    probability: np.ndarray
    volumes_mm3: dict[Side, float]
    scan: nib.Nifti1Image


def cut(scan: nib.Nifti1Image, places: Mapping[Side, Place], *, box: Box = BOX) -> tuple[Region, ...]:
    """Cut a box of 1 mm voxels out of a scan around each place, as `data.volume.load_pair` cuts training data.

    Along the scan's own axes the box's voxels are the scan's where that has 1 mm; else they are interpolated.
    Intensities are normalised over the part of the box that lies in the scan; the rest is 0. box: sides in mm, X None
    for the whole width of the scan. Raises ScanError where a box lies outside or holds one value.
    """
    check_box(box)
    data = np.asarray(scan.dataobj, np.float32)
    return tuple(_cut(data, scan, side, places[side], box) for side in SIDES if side in places)


def segment(
    scan: nib.Nifti1Image, regions: Sequence[Region], predict: Predict, *, batch: int | None = None
) -> Segmentation:
    """Predict regions slice by slice and put the probabilities back into the scan's grid.

    Probabilities are interpolated, then held against THRESHOLD; where the scan has RAS axes and 1 mm the mask is the
    prediction, voxel by voxel. Where boxes of both sides overlap the likelier side wins. batch: slices at a time, None
    for all of a region. Raises ScanError without a region and ValueError for a prediction of another shape.
    """
    if not regions:
        raise ScanError("no region to segment")
    shape = scan.shape
    probability, mask = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    for region in regions:
        window, found = _back(region, _predict(region, predict, batch), scan)
        wins = found > probability[window]
        probability[window][wins] = found[wins]
        mask[window][wins] = np.where(found[wins] > THRESHOLD, LABELS[region.side], 0)
    volumes = {region.side: volume_mm3(mask == LABELS[region.side], scan.affine) for region in regions}
    for side, volume in volumes.items():
        if not volume:
            log.warning("the %s hippocampus was not found: no voxel of its box is above %g", side, THRESHOLD)
    return Segmentation(mask, probability, volumes, scan)


def check_name(path: Path) -> Path:
    """Return a path that can be written as NIfTI, else raise ScanError."""
    if not path.name.endswith(SUFFIXES) or path.name in SUFFIXES:
        raise ScanError(f"{path}: a name that ends in {' or '.join(reversed(SUFFIXES))} is allowed")
    return path


def save(segmentation: Segmentation, mask: Path, probability: Path | None = None) -> None:
    """Write the mask (uint8 NIfTI with the scan's affine, qform and sform) and its probability (float32): both or none.

    Raises ScanError for a name that is no NIfTI's, OSError where there is no place to write.
    """
    labels = ", ".join(f"{LABELS[side]} {side}" for side in segmentation.volumes_mm3)
    images = [_image(segmentation.mask, segmentation.scan, intent="label", description=f"hippocampus: {labels}")]
    if probability:
        described = {"intent": "estimate", "description": "probability of hippocampus"}
        images.append(_image(segmentation.probability, segmentation.scan, **described))
    paths = [check_name(path) for path in (mask, probability) if path]
    with files.replacing(*paths) as scratch:
        for image, path in zip(images, scratch, strict=True):
            nib.save(image, path)


def _ras_grid(scan: nib.Nifti1Image) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine of the grid that `data.volume.to_ras` brings a scan to; the scan's own where it is RAS, 1 mm."""
    turn = nib.orientations.io_orientation(scan.affine)
    shape = tuple(int(scan.shape[axis]) for axis in np.argsort(turn[:, 0]))
    affine = scan.affine @ nib.orientations.inv_ornt_aff(turn, scan.shape)
    if np.allclose(affine[:3, :3], np.eye(3) * SPACING_MM, atol=1e-3):
        return shape, affine
    return nib.spaces.vox2out_vox((shape, affine), (SPACING_MM,) * 3)


def _cut(data: np.ndarray, scan: nib.Nifti1Image, side: Side, place: Place, box: Box) -> Region:
    boxed, sides = _grid(scan, side, place, box)
    spots = nib.affines.apply_affine(_voxels(scan.affine, boxed), np.moveaxis(np.indices(sides), 0, -1))
    inside = ((spots >= 0) & (spots <= np.array(data.shape) - 1)).all(axis=-1)
    if inside.mean() < MIN_INSIDE:
        where = ", ".join(f"{x:.0f}" for x in place.centre)
        raise ScanError(
            f"{inside.mean():.0%} of the box of the {side} hippocampus around ({where}) mm lies in the scan; "
            f"{MIN_INSIDE:.0%} at least must"
        )
    image = np.zeros(sides, np.float32)
    image[inside] = _sample(data, spots[inside].T)
    return Region(side=side, image=image, affine=boxed)


def _grid(scan: nib.Nifti1Image, side: Side, place: Place, box: Box) -> tuple[np.ndarray, list[int]]:
    """Affine and shape of a box around a place. Along the scan's axes its voxels are those of `_ras_grid`."""
    shape, grid = _ras_grid(scan)
    sides = [n if side is None else side for n, side in zip(shape, box, strict=True)]
    before = [n // 2 for n in sides]  # voxels of the box before its centre
    linear, centre = place.axes * SPACING_MM, np.asarray(place.centre, float)
    if np.array_equal(place.axes, np.eye(3)):
        middle = np.rint(nib.affines.apply_affine(np.linalg.inv(grid), centre))
        linear, centre = grid[:3, :3], nib.affines.apply_affine(grid, middle)
        if box[0] is None:
            before[0] = int(middle[0]) if side == "right" else sides[0] - 1 - int(middle[0])
    if side == "left":
        linear = linear @ np.diag([-1, 1, 1])
    return nib.affines.from_matvec(linear, centre - linear @ before), sides


def _sample(data: np.ndarray, spots: np.ndarray) -> np.ndarray:
    """Interpolate at places (3, n) and normalise.

    In a stripped scan voxels that mix brain with the zeros around it become 0: they are no tissue, and would spoil the
    lower percentile (on the template, Dice fell from 0.82 to 0.50 by a shift of the grid alone).
    """
    values = ndimage.map_coordinates(data, spots, order=1)
    tissue = ndimage.map_coordinates((data != 0).astype(np.float32), spots, order=1) > 1 - SAME_VOXEL
    stripped = bool(tissue.mean() < 1 - PERCENTILES[0] / 100 and tissue.any())
    if stripped:
        values = np.where(tissue, values, 0)
    return normalise(values, stripped=stripped)


def _voxels(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The (4, 4) from voxels of `target` to those of `source`; exact integers where both are one grid."""
    matrix = np.linalg.inv(source) @ target
    whole = np.rint(matrix)
    return np.where(np.abs(matrix - whole) < SAME_VOXEL, whole, matrix)


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
    reached = nib.affines.apply_affine(_voxels(scan.affine, region.affine), corners)
    first = np.clip(np.floor(reached.min(axis=0)).astype(int), 0, scan.shape)
    last = np.clip(np.ceil(reached.max(axis=0)).astype(int) + 1, first, scan.shape)
    window = tuple(slice(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True))
    places = _voxels(region.affine, scan.affine @ nib.affines.from_matvec(np.eye(3), first))
    values = ndimage.affine_transform(
        found, places[:3, :3], places[:3, 3], output_shape=tuple(last - first), order=1, mode="grid-constant"
    )
    return window, values


def _image(data: np.ndarray, scan: nib.Nifti1Image, *, intent: str, description: str) -> nib.Nifti1Image:
    """The header is the scan's, less what spoke of its intensities."""
    header = scan.header.copy() if isinstance(scan.header, nib.Nifti1Header) else nib.Nifti1Header()
    header.set_data_dtype(data.dtype)
    header.set_slope_inter(1, 0)
    header.set_intent(intent, name="hippocampus")
    header["cal_min"], header["cal_max"] = 0, 0
    header["descrip"], header["aux_file"] = description.encode(), b""
    header.extensions.clear()  # may name the patient, and speaks of the scan
    return nib.Nifti1Image(data, scan.affine, header)
