"""Volumes: read and check a NIfTI, orient, resample, normalise, fit into a box, cut into sagittal slices."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import nibabel.processing
import numpy as np
import torch
from nibabel.spatialimages import HeaderDataError

log = logging.getLogger(__name__)

Box = tuple[int | None, int, int]

SPACING_MM = 1.0
SPACING_RANGE_MM = (0.1, 10.0)
PERCENTILES = (1.0, 99.0)
SLICE_MULTIPLE = 4  # two 2x2 poolings
HIPPOCAMPUS_SLICE = (56, 48)  # anterior-posterior, inferior-superior, the paper's box
HIPPOCAMPUS_BOX: Box = (24, *HIPPOCAMPUS_SLICE)


class ScanError(ValueError):
    """A scan, a mask or a pair of both that cannot be used; the message names the file and the reason."""


@dataclass(frozen=True)
class Subject:
    """One hippocampus. Axes are R, A, S at 1 mm.

    id: unique name. image: float32 (X, Y, Z) in [0, 1]. mask: uint8 (X, Y, Z) of 0 and 1.
    affine: float64 (4, 4), voxel to world in mm.
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


def load_nifti(path: Path) -> nib.Nifti1Image:
    """Read a NIfTI and check that it is a finite 3D volume with a sane grid.

    Trailing axes of length 1 are dropped. Raises ScanError naming the file, what was found, what is allowed.
    """
    try:
        if path.suffix == ".gz":
            _check_gzip(path)
        image = nib.squeeze_image(nib.load(path))
        data = np.asanyarray(image.dataobj)
    except FileNotFoundError:
        raise ScanError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError, HeaderDataError) as error:
        raise ScanError(f"{path}: cannot be read as NIfTI ({error})") from error
    if data.ndim != 3 or min(data.shape) < 2:
        axes = sum(n > 1 for n in data.shape)
        raise ScanError(f"{path}: {axes}D image of shape {data.shape}; a 3D volume is needed")
    if data.dtype.kind not in "uif":
        raise ScanError(f"{path}: voxels are {data.dtype}; real numbers are needed")
    if not np.isfinite(data).all():
        raise ScanError(f"{path}: {int((~np.isfinite(data)).sum())} voxels are NaN or infinite")
    spacing = np.asarray(nib.affines.voxel_sizes(image.affine))
    low, high = SPACING_RANGE_MM
    if not np.isfinite(image.affine).all() or ((spacing < low) | (spacing > high)).any():
        raise ScanError(f"{path}: voxel size {np.round(spacing, 4).tolist()} mm; {low} to {high} mm is allowed")
    if np.isnan(nib.io_orientation(image.affine)).any() or np.linalg.matrix_rank(image.affine[:3, :3] / spacing) < 3:
        raise ScanError(f"{path}: axes {np.round(image.affine[:3, :3], 3).tolist()} do not span space")
    return image


def _check_gzip(path: Path) -> None:
    """Read to the end, where the checksum is; nibabel stops before it and would not see damaged voxels."""
    with gzip.open(path) as file:
        while file.read(1 << 20):
            continue


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


def load_pair(
    subject_id: str,
    image_path: Path,
    mask_path: Path,
    *,
    box: Box,
    locate: Callable[[np.ndarray], tuple[Sequence[int], np.ndarray]] | None = None,
) -> Subject:
    """Read an image with its mask, both brought to RAS at 1 mm and into `box`.

    `locate` maps the whole mask (X, Y, Z) to the centre of the box and the part of the mask to keep; without
    it the box sits in the middle and the whole mask is kept. Raises ScanError when the pair cannot be used.
    """
    check_box(box)
    image, mask = load_nifti(image_path), load_nifti(mask_path)
    if image.shape != mask.shape:
        raise ScanError(f"image has shape {image.shape}, mask {mask.shape}; they must be equal")
    if not np.allclose(image.affine, mask.affine, atol=1e-2):
        raise ScanError("image and mask have different affines; they must lie on the same grid")
    if not (np.asanyarray(mask.dataobj) > 0).any():
        raise ScanError("mask is empty")
    binary = nib.Nifti1Image((np.asanyarray(mask.dataobj) > 0).astype(np.uint8), mask.affine)
    image, binary = to_ras(image, order=1), to_ras(binary, order=0)
    labels = np.asarray(binary.dataobj).astype(np.uint8)
    centre, kept = (None, labels) if locate is None else locate(labels)
    voxels, affine = fit_box(np.asarray(image.dataobj, np.float32), image.affine, box, centre)
    inside, _ = fit_box(np.ones(image.shape, bool), image.affine, box, centre)
    boxed, _ = fit_box(kept, image.affine, box, centre)
    if not boxed.any():
        raise ScanError(f"mask lies outside the box {box}")
    lost = int(kept.sum()) - int(boxed.sum())
    if lost:
        log.warning("%s: %d of %d mask voxels lie outside the box %s", subject_id, lost, kept.sum(), box)
    scaled = np.zeros_like(voxels)
    scaled[inside] = normalise(voxels[inside])
    return Subject(id=subject_id, image=scaled, mask=boxed, affine=affine)


def read_pairs(
    pairs: Iterable[tuple[str, Path, Path | None]],
    *,
    box: Box,
    locate: Callable[[np.ndarray], tuple[Sequence[int], np.ndarray]] | None = None,
) -> Cohort:
    """Read (id, image, mask) triples into a Cohort; a pair that cannot be used becomes a Reject."""
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
            subjects.append(load_pair(subject_id, image_path, mask_path, box=box, locate=locate))
        except ScanError as error:
            rejects.append(Reject(subject_id, str(error)))
    return Cohort(tuple(subjects), tuple(rejects))


def stack_slices(subjects: Sequence[Subject]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut subjects into sagittal slices. Returns images and masks, both float32 (N, 1, Y, Z)."""
    if not subjects:
        raise ScanError("no subject to cut into slices")
    images = np.concatenate([subject.image for subject in subjects])[:, None]
    masks = np.concatenate([subject.mask for subject in subjects])[:, None]
    return torch.from_numpy(images), torch.from_numpy(masks.astype(np.float32))
