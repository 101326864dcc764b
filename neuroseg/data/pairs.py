"""Whole-brain T1 scans with hippocampus masks, as one gets from ADNI with HarP masks, in two folders or in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from neuroseg.data.folder import name_form, scans_in
from neuroseg.data.labels import Labels
from neuroseg.data.scan import ScanError, stem
from neuroseg.data.volume import HIPPOCAMPUS_BOX, Box, Cohort, Pair, read_pairs

IMAGES, MASKS = "images", ("masks", "labels")
ENDINGS = ("_mask", "_label", "_labels", "_seg", "_hippocampus")  # of a mask that lies beside its image
MIN_VOXELS = 100  # less is not a hippocampus
MIN_GAP = 8  # mm of empty planes between the two hippocampi
OFF_CENTRE = 10  # mm that the right hippocampus may lie left of the volume's middle, in a head off its centre


def is_pairs(directory: Path) -> bool:
    """Whether a folder holds `images/` and `masks/` (or `labels/`)."""
    return (directory / IMAGES).is_dir() and any((directory / name).is_dir() for name in MASKS)


def is_beside(directory: Path) -> bool:
    """Whether a folder holds masks beside their images: NAME.nii.gz and NAME_mask.nii.gz."""
    return any(_ending(path) for path in scans_in(directory))


def read(directory: Path, *, box: Box = HIPPOCAMPUS_BOX, labels: Labels | None = None) -> Cohort:
    """Read `images/NAME.nii[.gz]` with `masks/NAME.nii[.gz]`; crop the right hippocampus around its mask.

    Instead of a folder of masks they may lie beside the images, see ENDINGS. labels: of the masks, as in
    `labels.hippocampus`. Raises ScanError when the folder has not got that layout; broken pairs become rejects.
    """
    if is_pairs(directory):
        folder = next(directory / name for name in MASKS if (directory / name).is_dir())
        images, masks = scans_in(directory / IMAGES), scans_in(folder)
    elif is_beside(directory):
        images = [path for path in scans_in(directory) if not _ending(path)]
        masks = [path for path in scans_in(directory) if _ending(path)]
    else:
        raise ScanError(f"{directory}: needs the folders {IMAGES}/ and {MASKS[0]}/ with files of the same names")
    named = {_case(path): path for path in masks}
    pairs: list[Pair] = [(stem(path.name), path, named.get(_case(path))) for path in images]
    return read_pairs(pairs, box=box, locate=locate_right, labels=labels)


def locate_right(mask: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    """Find the right hippocampus in a RAS mask at 1 mm of a whole head.

    A mask of both sides is split at the gap between them; x grows to the patient's right. mask: uint8 (X, Y, Z).
    Returns the middle of the bounding box and the mask of the right side. Raises ScanError for the left alone.
    """
    planes = np.nonzero(mask.any(axis=(1, 2)))[0]
    gaps = np.diff(planes)
    kept = mask.copy()
    if len(gaps) and gaps.max() >= MIN_GAP:
        widest = int(gaps.argmax())
        kept[: planes[widest] + 1] = 0
        if np.count_nonzero(kept) < MIN_VOXELS or np.count_nonzero(mask) - np.count_nonzero(kept) < MIN_VOXELS:
            kept = mask.copy()  # a speck, not the other side
    centre = np.argwhere(kept).mean(axis=0)
    if centre[0] < mask.shape[0] / 2 - OFF_CENTRE:
        raise ScanError(f"mask holds the left hippocampus alone (centre at x = {centre[0]:.0f} of {mask.shape[0]})")
    window = ndimage.find_objects((kept > 0).astype(np.uint8))[0]
    return tuple((axis.start + axis.stop) // 2 for axis in window), kept


def _ending(path: Path) -> str:
    """How a mask that lies beside its image ends; empty for an image."""
    return next((ending for ending in ENDINGS if stem(path.name).lower().endswith(ending)), "")


def _case(path: Path) -> str:
    """What an image and its mask have in common."""
    ending = _ending(path)
    name = stem(path.name)
    return name_form(name[: len(name) - len(ending)])
