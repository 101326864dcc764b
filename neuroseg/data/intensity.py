"""Intensities of any T1-weighted scan as networks know them: the histogram that they were trained on."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from neuroseg.data.scan import ScanError

# Percentiles of intensity in the Decathlon's 200 crops, after `volume.normalise`: mean and deviation over the crops.
# `python -m benchmarks.heads --landmarks DIR` measures them. The method is that of Nyul, Udupa & Zhang, IEEE TMI 2000.
LANDMARKS = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
TRAINED = (0.0, 0.169, 0.293, 0.373, 0.456, 0.553, 0.653, 0.739, 0.813, 0.882, 1.0)
SPREAD = (0.0, 0.035, 0.027, 0.025, 0.029, 0.032, 0.03, 0.027, 0.024, 0.019, 0.0)
BAND = 0.5  # deviations that a landmark may stray; 0 takes 0.001 from the Decathlon, 1.5 as much from heads of 2 mm
CORE_MM = (36, 50, 36)  # the middle size of the crops, from which the percentiles are

SAMPLE = 2**19  # voxels that a background is looked for in
FILL = 0.1  # share of a scan's voxels that makes one value, or what is darkest, a background
DARK = 0.02  # of a scan's range; a background is no brighter
QUIET = 0.04  # noise, in shares of the range, that is left; the Decathlon's crops have up to 0.03
SMOOTH = 0.7  # deviation of the Gaussian that takes noise away: in mm, in voxels where those are larger
SECOND = np.array([1.0, -2.0, 1.0])  # differences of voxels, which anatomy hardly has


def tissue(data: np.ndarray) -> np.ndarray:
    """Which voxels (I, J, K) are no background; all where a scan has none.

    Background is the one value that fills much of a scan, whatever it is (0, -1024, the middle of z-scores), and what
    is as dark as it or darker, as far as noise goes.
    """
    some = data.reshape(-1)[:: max(1, data.size // SAMPLE) | 1]  # an odd step meets all columns
    values, counts = np.unique(some, return_counts=True)
    most = int(counts.argmax())
    filled = bool(counts[most] >= FILL * some.size)
    fill = values[most]
    if len(values) == 1 and (data == fill).all():
        raise ScanError("the scan is empty: all of its voxels have one value")
    inside = data != fill if filled else np.ones(data.shape, bool)
    low, high = np.percentile(some[some != fill] if filled and len(values) > 1 else some, (0.1, 99.5))
    middle = filled and fill > low + DARK * (high - low)  # z-scores of a brain alone: the dark is tissue
    floor = min(low, fill) if filled else low
    dark = data <= floor + DARK * (high - floor)
    if middle or dark.mean() < FILL:
        return inside
    return inside & ~dark


def as_trained(image: np.ndarray, inside: np.ndarray, *, crop: bool = False) -> np.ndarray:
    """Bring a box (X, Y, Z) of 1 mm voxels around a hippocampus to the intensities of training data.

    Scaled to [0, 1] between the first and last of LANDMARKS in the middle of the box; what strays from TRAINED by more
    than BAND times SPREAD is brought back to that, with straight lines between. So any gamma gives nearly the same
    image, and an image like those trained on stays as it is. inside: bool, what is tissue; the rest is 0. crop: the box
    is a whole crop, all of which counts as in training. Returns float32. Raises ScanError for a box of one value.
    """
    core = inside if crop else inside & _core(image.shape)
    if not core.any():
        raise ScanError("no tissue lies in the middle of the box")
    found = np.percentile(image[core], LANDMARKS)
    low, high = found[0], found[-1]
    if high <= low:
        raise ScanError(f"image is constant ({low:g}) between its 1st and 99th percentile")
    scaled = (found - low) / (high - low)
    room = BAND * np.asarray(SPREAD)
    wanted = np.clip(scaled, TRAINED - room, TRAINED + room)
    moved = np.clip((image - low) / (high - low), 0, 1)
    if not np.array_equal(wanted, scaled):
        moved = np.interp(moved, *_rising(scaled, wanted))
    return np.where(inside, moved, 0).astype(np.float32)


def noise(image: np.ndarray, core: np.ndarray) -> float:
    """Deviation of the noise of an image (I, J, K) where `core` (bool) holds, in shares of the range there.

    In the scan's own voxels, as interpolation hides noise. Source: Immerkaer, Fast noise variance estimation, CVIU
    1996: second differences along each axis in turn.
    """
    if not core.any():
        return 0.0
    low, high = np.percentile(image[core], (LANDMARKS[0], LANDMARKS[-1]))
    differences = image.astype(np.float64)
    for axis in range(image.ndim):
        differences = ndimage.convolve1d(differences, SECOND, axis=axis)
    deviation = 1.4826 * np.median(np.abs(differences[core])) / np.linalg.norm(SECOND) ** image.ndim
    return float(deviation / (high - low)) if high > low else 0.0


def _core(shape: tuple[int, ...]) -> np.ndarray:
    out = np.zeros(shape, bool)
    out[tuple(slice(max((n - c) // 2, 0), max((n - c) // 2, 0) + c) for n, c in zip(shape, CORE_MM, strict=True))] = (
        True
    )
    return out


def smoothed(image: np.ndarray, inside: np.ndarray, sizes_mm: np.ndarray) -> np.ndarray:
    """An image (I, J, K) of voxels of `sizes_mm` under a Gaussian, over tissue alone. Returns float32."""
    sigma = np.maximum(SMOOTH / np.asarray(sizes_mm), SMOOTH)
    weight = ndimage.gaussian_filter(inside.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(np.where(inside, image, 0).astype(np.float32), sigma)
    return np.where(inside, smooth / np.where(inside, weight, 1), image).astype(np.float32)


def _rising(scaled: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks for `np.interp`, which wants each above the one before; of equal ones the last counts."""
    kept = np.append(np.diff(scaled) > 0, True)
    return scaled[kept], wanted[kept]
