"""Volumes: orient, resample, normalise, fit into a box, pair with a mask, cut into sagittal slices."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import nibabel.processing
import numpy as np
import torch

from neuroseg.data.labels import Labels, check_size, hippocampus
from neuroseg.data.scan import ScanError, load_nifti

log = logging.getLogger(__name__)

Box = tuple[int | None, int, int]

SPACING_MM = 1.0
SAME_GRID_MM = 0.1  # between the places of a voxel on one grid; headers round
PERCENTILES = (1.0, 99.0)
SLICE_MULTIPLE = 4  # two 2x2 poolings
HIPPOCAMPUS_SLICE = (56, 48)  # anterior-posterior, inferior-superior, the paper's box
HIPPOCAMPUS_BOX: Box = (24, *HIPPOCAMPUS_SLICE)


@dataclass(frozen=True)
class Subject:
    """One hippocampus. Axes are R, A, S at 1 mm.

    id: unique name. image: float32 (X, Y, Z) in [0, 1]. mask: uint8 (X, Y, Z) of 0 and 1,
    or of classes their number, from 1. affine: float64 (4, 4), voxel to world in mm.
    """

    id: str
    image: np.ndarray
    mask: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class Reject:
    """A pair that was left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Cohort:
    """What a source found: usable subjects, and the pairs it left out."""

    subjects: tuple[Subject, ...]
    rejects: tuple[Reject, ...] = ()


def to_ras(image: nib.Nifti1Image, *, order: int) -> nib.Nifti1Image:
    """Bring a volume to RAS axes and 1 mm voxels. `order` is the spline order (0 for masks, 1 for images)."""
    canonical = nib.as_closest_canonical(image)
    aligned = np.allclose(canonical.affine[:3, :3], np.eye(3) * SPACING_MM, atol=1e-3)
    if aligned:
        return canonical
    return nib.processing.resample_to_output(canonical, (SPACING_MM,) * 3, order=order)


def normalise(image: np.ndarray, *, stripped: bool | None = None) -> np.ndarray:
    """Scale intensities to [0, 1] between the 1st and 99th percentile. Returns float32.

    stripped: whether the zeros are what skull stripping left around a brain, which does not count; by default where
    they reach the lower percentile.
    """
    tissue = image[image != 0]
    if stripped is None:
        stripped = 0 < tissue.size < image.size * (1 - PERCENTILES[0] / 100)
    low, high = np.percentile(tissue if stripped else image, PERCENTILES)
    if high <= low:
        raise ScanError(f"image is constant ({low:g}) between its 1st and 99th percentile")
    return np.clip((image - low) / (high - low), 0, 1).astype(np.float32)


def check_box(box: Box) -> Box:
    """Return `box` if its slice sides can be pooled twice, else raise ScanError."""
    if any(side is not None and side < 1 for side in box):
        raise ScanError(f"box {box}: sides must be positive")
    if any(side is None or side % SLICE_MULTIPLE for side in box[1:]):
        raise ScanError(f"box {box}: slice sides (the last two) must divide by {SLICE_MULTIPLE}")
    return box


def fit_box(
    volume: np.ndarray, affine: np.ndarray, box: Box, centre: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Crop or zero-pad a volume to `box` around `centre` (default: its middle). None keeps an axis.

    Returns the box and its affine, so that every voxel keeps its place in the world.
    """
    middle = [n // 2 for n in volume.shape] if centre is None else centre
    sides = [n if side is None else side for n, side in zip(volume.shape, box, strict=True)]
    starts = [0 if side is None else c - s // 2 for side, c, s in zip(box, middle, sides, strict=True)]
    out = np.zeros(sides, volume.dtype)
    source = tuple(slice(max(a, 0), max(min(a + s, n), 0)) for a, s, n in zip(starts, sides, volume.shape, strict=True))
    target = tuple(
        slice(window.start - a, window.start - a + max(window.stop - window.start, 0))
        for window, a in zip(source, starts, strict=True)
    )
    out[target] = volume[source]
    shifted = affine.copy()
    shifted[:3, 3] = affine[:3, :3] @ np.asarray(starts, float) + affine[:3, 3]
    return out, shifted


Locate = Callable[[np.ndarray], tuple[Sequence[int], np.ndarray]]
"""The whole mask uint8 (X, Y, Z) to the centre of the box and the part of the mask to keep."""


def load_pair(
    subject_id: str,
    image_path: Path,
    mask_path: Path,
    *,
    box: Box,
    locate: Locate | None = None,
    labels: Labels | None = None,
) -> Subject:
    """Read an image with its mask, both brought to RAS at 1 mm and into `box`.

    Without `locate` the box sits in the middle and the whole mask is kept. labels: the mask's values that are
    hippocampus, or classes of it, see `labels.hippocampus`. Raises ScanError when the pair cannot be used.
    """
    check_box(box)
    image, mask = load_nifti(image_path), load_nifti(mask_path)
    found = hippocampus(mask, labels)
    if found.note:
        log.warning("%s: %s", subject_id, found.note)
    marked = onto_grid(nib.Nifti1Image(found.voxels, mask.affine), image)
    image, marked = to_ras(image, order=1), to_ras(marked, order=0)
    voxels_of_mask = np.asarray(marked.dataobj).astype(np.uint8)
    centre, kept = (None, voxels_of_mask) if locate is None else locate(voxels_of_mask)
    check_size(kept > 0, marked.affine)
    voxels, affine = fit_box(np.asarray(image.dataobj, np.float32), image.affine, box, centre)
    inside, _ = fit_box(np.ones(image.shape, bool), image.affine, box, centre)
    boxed, _ = fit_box(kept, image.affine, box, centre)
    if not boxed.any():
        raise ScanError(f"mask lies outside the box {box}")
    size = int(np.count_nonzero(kept))
    lost = size - int(np.count_nonzero(boxed))
    if lost:
        log.warning("%s: %d of %d mask voxels lie outside the box %s", subject_id, lost, size, box)
    scaled = np.zeros_like(voxels)
    scaled[inside] = normalise(voxels[inside])
    return Subject(id=subject_id, image=scaled, mask=boxed, affine=affine)


def onto_grid(mask: nib.Nifti1Image, image: nib.Nifti1Image) -> nib.Nifti1Image:
    """A mask with the axes of its image, which must have the same grid, in whatever order and direction of its axes.

    Raises ScanError saying by how much the grids differ.
    """
    turn = nib.orientations.ornt_transform(nib.io_orientation(mask.affine), nib.io_orientation(image.affine))
    turned = mask.as_reoriented(turn)
    if turned.shape != image.shape:
        sizes = [np.round(nib.affines.voxel_sizes(each.affine), 3).tolist() for each in (image, turned)]
        raise ScanError(
            f"image has shape {image.shape}, mask {turned.shape}, of voxels of {sizes[0]} and {sizes[1]} mm; they must "
            "lie on the same grid"
        )
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(image.shape) - 1)
    places = [nib.affines.apply_affine(each.affine, corners) for each in (image, turned)]
    apart = float(np.linalg.norm(places[0] - places[1], axis=1).max())
    if apart > SAME_GRID_MM:
        raise ScanError(
            f"image and mask have different affines: a corner of the mask lies {apart:.3g} mm from the image's, "
            f"{SAME_GRID_MM:g} mm at most are allowed"
        )
    return turned


Pair = tuple[str, Path, Path | None]
"""A name, an image and its mask."""


def read_pairs(
    pairs: Iterable[Pair],
    *,
    box: Box,
    locate: Locate | None = None,
    labels: Labels | None = None,
) -> Cohort:
    """Read pairs into a Cohort; one that cannot be used becomes a Reject."""
    check_box(box)
    subjects: list[Subject] = []
    rejects: list[Reject] = []
    seen: set[str] = set()
    for subject_id, image_path, mask_path in pairs:
        if subject_id in seen:
            rejects.append(Reject(subject_id, f"the name is used twice ({image_path.name})"))
            continue
        seen.add(subject_id)
        if mask_path is None:
            rejects.append(Reject(subject_id, "no label"))
            continue
        try:
            subjects.append(load_pair(subject_id, image_path, mask_path, box=box, locate=locate, labels=labels))
        except ScanError as error:
            rejects.append(Reject(subject_id, str(error)))
        except Exception as error:  # one bad file does not end the others
            log.debug("%s", subject_id, exc_info=True)
            rejects.append(Reject(subject_id, f"cannot be used ({type(error).__name__}: {error})"))
    return Cohort(tuple(subjects), tuple(rejects))


def stack_slices(subjects: Sequence[Subject], *, context: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut subjects into sagittal slices. Returns images (N, 2 * context + 1, Y, Z) and masks (labels) (N, 1, Y, Z).

    Both are float32. context: neighbours on either side that come with a slice, as `with_neighbours` has them.
    """
    if not subjects:
        raise ScanError("no subject to cut into slices")
    images = np.concatenate([with_neighbours(subject.image, context) for subject in subjects])
    masks = np.concatenate([subject.mask for subject in subjects])[:, None]
    return torch.from_numpy(images), torch.from_numpy(masks.astype(np.float32))


def with_neighbours(image: np.ndarray, context: int) -> np.ndarray:
    """The slices of an image (X, Y, Z) as (X, 2 * context + 1, Y, Z): each in the middle of its neighbours along X.

    Beyond the ends of the image all is black.
    """
    padded = np.pad(image, ((context, context), (0, 0), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * context + 1, axis=0)  # X, Y, Z, 2 * context + 1
    return np.moveaxis(windows, -1, 1).copy()  # windows are read-only
