"""Whole-brain T1 scans with hippocampus masks, as one gets from ADNI with HarP masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from neuroseg.data.volume import HIPPOCAMPUS_BOX, Box, Cohort, ScanError, read_pairs

IMAGES, MASKS = "images", "masks"
MIN_VOXELS = 100  # less is not a hippocampus
MIN_GAP = 8  # mm of empty planes between the two hippocampi
OFF_CENTRE = 10  # mm that the right hippocampus may lie left of the volume's middle, in a head off its centre


def is_pairs(directory: Path) -> bool:
    """Whether a folder holds `images/` and `masks/`."""
    return (directory / IMAGES).is_dir() and (directory / MASKS).is_dir()


def read(directory: Path, *, box: Box = HIPPOCAMPUS_BOX) -> Cohort:
    """Read `images/NAME.nii[.gz]` with `masks/NAME.nii[.gz]`; crop the right hippocampus around its mask.

    Raises ScanError when the folder has not got that layout; broken pairs become rejects.
    """
    if not is_pairs(directory):
        raise ScanError(f"{directory}: needs the folders {IMAGES}/ and {MASKS}/ with files of the same names")
    masks = {_stem(path): path for path in _scans(directory / MASKS)}
    triples = [(_stem(path), path, masks.get(_stem(path))) for path in _scans(directory / IMAGES)]
    return read_pairs(triples, box=box, locate=locate_right)


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
    window = ndimage.find_objects(kept)[0]
    return tuple((axis.start + axis.stop) // 2 for axis in window), kept


def _scans(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.nii*") if not path.name.startswith("."))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
