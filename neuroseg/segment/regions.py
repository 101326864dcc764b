"""Boxes around the hippocampi of a scan, as networks want them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from neuroseg.data.intensity import QUIET, as_trained, noise, smoothed, tissue
from neuroseg.data.locate import SIDES, Place, Side
from neuroseg.data.scan import ScanError
from neuroseg.data.volume import HIPPOCAMPUS_SLICE, SPACING_MM, Box, check_box

BOX: Box = (36, *HIPPOCAMPUS_SLICE)
"""Wider than what networks are trained on: the widest of 200 Decathlon hippocampi has 27 mm from side to side, and
a centre may be 4 mm off. Slices are predicted one by one, so width costs time alone."""
MIN_INSIDE = 0.3  # share of a box that must lie in the scan; Decathlon crops fill 0.31 to 1
RIM = 3  # voxels around what is read, which smoothing reaches
SAME_VOXEL = 1e-6  # grids whose voxels lie closer than this are one grid


@dataclass(frozen=True)
class Region:
    """The box around one hippocampus, as a network wants it: it always looks like a right one.

    side: of the patient. image: float32 (X, Y, Z) in [0, 1], 1 mm; y runs to anterior, z to superior, x away from
    the midline. affine: float64 (4, 4), voxel to world of the scan, mm. That x runs to the patient's left in a left
    region is in the affine, so nothing else has to know that it is mirrored. noise: its deviation before it was
    smoothed, in shares of the range.
    """

    side: Side
    image: np.ndarray
    affine: np.ndarray
    noise: float = 0.0


def cut(scan: nib.Nifti1Image, places: Mapping[Side, Place], *, box: Box = BOX) -> tuple[Region, ...]:
    """Cut a box of 1 mm voxels out of a scan around each place, as `data.volume.load_pair` cuts training data.

    Along the scan's own axes the box's voxels are the scan's where that has 1 mm; else they are interpolated.
    Intensities are brought to those of training data, see `data.intensity`; what lies outside the scan or is background
    is 0. box: sides in mm, X None for the whole width of the scan, which is a crop then. Raises ScanError where a box
    lies outside or holds one value.
    """
    check_box(box)
    data = np.asarray(scan.dataobj, np.float32)
    inside = tissue(data)
    return tuple(_cut(data, inside, scan, side, places[side], box) for side in SIDES if side in places)


def _ras_grid(scan: nib.Nifti1Image) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine of the grid that `data.volume.to_ras` brings a scan to; the scan's own where it is RAS, 1 mm."""
    turn = nib.orientations.io_orientation(scan.affine)
    shape = tuple(int(scan.shape[axis]) for axis in np.argsort(turn[:, 0]))
    affine = scan.affine @ nib.orientations.inv_ornt_aff(turn, scan.shape)
    if np.allclose(affine[:3, :3], np.eye(3) * SPACING_MM, atol=1e-3):
        return shape, affine
    return nib.spaces.vox2out_vox((shape, affine), (SPACING_MM,) * 3)


def _cut(data: np.ndarray, tissue: np.ndarray, scan: nib.Nifti1Image, side: Side, place: Place, box: Box) -> Region:
    boxed, sides = _grid(scan, side, place, box)
    spots = nib.affines.apply_affine(voxels(scan.affine, boxed), np.moveaxis(np.indices(sides), 0, -1))
    inside = ((spots >= 0) & (spots <= np.array(data.shape) - 1)).all(axis=-1)
    if inside.mean() < MIN_INSIDE:
        where = ", ".join(f"{x:.0f}" for x in place.centre)
        raise ScanError(
            f"{inside.mean():.0%} of the box of the {side} hippocampus around ({where}) mm lies in the scan; "
            f"{MIN_INSIDE:.0%} at least must"
        )
    window, start = _window(spots[inside], data.shape)
    part, tissue = data[window], tissue[window]
    grain = noise(part, tissue)
    if grain > QUIET:
        part = smoothed(part, tissue, nib.affines.voxel_sizes(scan.affine))
    image, kept = np.zeros(sides, np.float32), np.zeros(sides, bool)
    near = (spots[inside] - start).T
    image[inside] = ndimage.map_coordinates(part, near, order=1)
    # A voxel that mixes brain with the background is no tissue: on the template, Dice fell from 0.82 to 0.50 by a shift
    # of the grid alone.
    share = ndimage.map_coordinates(tissue.astype(np.float32), near, order=1)
    kept[inside] = share > 1 - SAME_VOXEL
    try:
        found = as_trained(image, kept, crop=box[0] is None)
    except ScanError as error:
        raise ScanError(f"the box of the {side} hippocampus: {error}") from error
    return Region(side=side, image=found, affine=boxed, noise=grain)


def _window(spots: np.ndarray, shape: tuple[int, ...]) -> tuple[tuple[slice, ...], np.ndarray]:
    """The part of a scan (I, J, K) that places (n, 3) in voxels need, with a rim for smoothing, and its first voxel."""
    first = np.clip(np.floor(spots.min(axis=0)).astype(int) - RIM, 0, None)
    last = np.minimum(np.ceil(spots.max(axis=0)).astype(int) + 1 + RIM, shape)
    return tuple(slice(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True)), first


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


def voxels(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The (4, 4) from voxels of `target` to those of `source`; exact integers where both are one grid."""
    matrix = np.linalg.inv(source) @ target
    whole = np.rint(matrix)
    return np.where(np.abs(matrix - whole) < SAME_VOXEL, whole, matrix)
