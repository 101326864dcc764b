"""What in a mask is hippocampus: which labels, and from which probability on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from neuroseg.data.scan import ScanError

PROBABILITY = 0.5  # of a probability map; a voxel is hippocampus from here on
WHOLE = 1e-3  # how near to a whole number a label may be, for files that scale their values
PARTS = 2  # labels that a mask may have by itself: right and left, or anterior and posterior
MOST = 0.5  # share of a volume; what fills more is the background
MAX_MM3 = 12_000  # both hippocampi, see `doubts.VOLUMES_MM3`
SHOWN = 8


@dataclass(frozen=True)
class Labelled:
    """What was taken for hippocampus. voxels: bool, the mask's shape. note: what was decided, None for a plain mask."""

    voxels: np.ndarray
    note: str | None = None


def hippocampus(mask: nib.Nifti1Image, labels: Collection[int] | None = None) -> Labelled:
    """Find the hippocampus in a mask.

    labels: the values that count. Without them whole numbers above 0 do where there are one or two of them, and a map
    of probabilities in [0, 1] is cut at PROBABILITY. Raises ScanError for an empty mask, for other values (all labels
    of an atlas, negative ones), and for what fills most of the volume (an inverted mask).
    """
    values = np.asanyarray(mask.dataobj)
    found, note = _chosen(values, labels) if labels else _judged(values)
    if not found.any():
        raise ScanError("mask is empty")
    if found.mean() > MOST:
        raise ScanError(f"mask fills {found.mean():.0%} of its volume, {MOST:.0%} at most are allowed; is it inverted?")
    return Labelled(found, note)


def check_size(voxels: np.ndarray, affine: np.ndarray) -> None:
    """Raise ScanError where a mask (bool) holds more than two hippocampi can."""
    size = float(np.count_nonzero(voxels) * abs(np.linalg.det(affine[:3, :3])))
    if size > MAX_MM3:
        raise ScanError(
            f"mask holds {size:,.0f} mm3; {MAX_MM3:,} mm3 at most are allowed, as two hippocampi have no more; "
            "--labels chooses among labels"
        )


def parse_labels(text: str | None) -> tuple[int, ...] | None:
    """Labels like 17,53; None for None. Raises ScanError for anything else."""
    if text is None:
        return None
    try:
        labels = tuple(int(part) for part in text.split(","))
    except ValueError:
        labels = ()
    if not labels or min(labels) < 1:
        raise ScanError(f"--labels is {text!r}; whole numbers above 0 with commas, like 17,53, are allowed")
    return labels


def _chosen(values: np.ndarray, labels: Collection[int]) -> tuple[np.ndarray, str | None]:
    whole = np.rint(values)
    found = np.isin(whole, list(labels)) & (np.abs(values - whole) < WHOLE)
    if not found.any():
        wanted = ", ".join(str(label) for label in labels)
        raise ScanError(f"mask holds no voxel of the label(s) {wanted}; it holds {_listed(np.unique(values))}")
    return found, None


def _judged(values: np.ndarray) -> tuple[np.ndarray, str | None]:
    distinct = np.unique(values)
    low, high = float(distinct[0]), float(distinct[-1])
    if low == high == 0:
        raise ScanError("mask is empty")
    if low < 0:
        raise ScanError(f"mask holds values from {low:g} to {high:g}; labels above 0 or probabilities are allowed")
    marks = np.unique(np.rint(distinct[distinct > 0]))
    if (np.abs(distinct - np.rint(distinct)) < WHOLE).all():
        if len(marks[marks > 0]) <= PARTS:
            return values > PROBABILITY, None
        raise ScanError(
            f"mask holds {len(marks)} labels ({_listed(distinct)}), as an atlas does; {PARTS} at most are allowed: "
            "choose the hippocampus with --labels (17,53 in FreeSurfer's aseg)"
        )
    if high <= 1 + WHOLE:
        if high < PROBABILITY:
            raise ScanError(f"mask holds probabilities up to {high:g}; none reaches {PROBABILITY:g}")
        return (
            values >= PROBABILITY,
            f"mask is a map of probabilities; hippocampus is where it is {PROBABILITY:g} or more",
        )
    raise ScanError(f"mask holds fractions from {low:g} to {high:g}; labels, or probabilities from 0 to 1, are allowed")


def _listed(values: np.ndarray) -> str:
    texts = [f"{value:g}" for value in values[:SHOWN].tolist()]
    return ", ".join(texts) + (f", ... {values[-1]:g}" if len(values) > SHOWN else "")
