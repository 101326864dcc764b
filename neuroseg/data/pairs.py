"""Whole-brain T1 scans with hippocampus masks, as one gets from ADNI with HarP masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from neuroseg.data.volume import HIPPOCAMPUS_BOX, Box, Cohort, ScanError, read_pairs

IMAGES, MASKS = "images", "masks"
MIN_VOXELS = 50  # smaller specks are not a hippocampus


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
    """Find the right hippocampus in a RAS mask: the rightmost large piece, or the only one.

    mask: uint8 (X, Y, Z). Returns the middle of its bounding box and the mask of that piece alone.
    """
    pieces, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    large = [k + 1 for k, size in enumerate(sizes) if size >= MIN_VOXELS]
    if not large:
        raise ScanError(f"mask has no piece of at least {MIN_VOXELS} voxels")
    centres = ndimage.center_of_mass(mask, pieces, large)
    rightmost = large[int(np.argmax([centre[0] for centre in centres]))]  # x grows to the patient's right
    kept = (pieces == rightmost).astype(np.uint8)
    window = ndimage.find_objects(kept)[0]
    return tuple((axis.start + axis.stop) // 2 for axis in window), kept


def _scans(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.nii*") if not path.name.startswith("."))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
