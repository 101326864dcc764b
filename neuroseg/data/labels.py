"""What in a mask is hippocampus: which labels, as one or as classes, and from which probability on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
CLASSES = 127  # most, so that the labels of both sides' fit 8 bits
BACKGROUND = "background"
TAKEN = (BACKGROUND, "mean")  # what tables call something else
VALUE_MAX, DIGITS = 2**31 - 1, 10
LABELS_ALLOWED = "whole numbers above 0 like 17,53, or classes like head=1,body=2 or by the data set's names for them,"

Labels = Collection[int] | Mapping[str, int]
"""Values of a mask that are hippocampus; or classes, each by its name with its value."""


@dataclass(frozen=True)
class Labelled:
    """What was taken for hippocampus.

    voxels: uint8, the mask's shape: 1 there, or of classes their number, from 1. note: what was decided, None for a
    plain mask.
    """

    voxels: np.ndarray
    note: str | None = None


def hippocampus(mask: nib.Nifti1Image, labels: Labels | None = None) -> Labelled:
    """Find the hippocampus in a mask.

    labels: the values that count, or classes. Without them whole numbers above 0 do where there are one or two of
    them, and a map of probabilities in [0, 1] is cut at PROBABILITY. Raises ScanError for an empty mask, for other
    values (all labels of an atlas, negative ones), and for what fills most of the volume (an inverted mask).
    """
    values = np.asanyarray(mask.dataobj)
    found, note = _chosen(values, labels) if labels else _judged(values)
    if not found.any():
        raise ScanError("mask is empty")
    if (found > 0).mean() > MOST:
        raise ScanError(
            f"mask fills {(found > 0).mean():.0%} of its volume, {MOST:.0%} at most are allowed; is it inverted?"
        )
    return Labelled(found.astype(np.uint8), note)


def check_size(voxels: np.ndarray, affine: np.ndarray) -> None:
    """Raise ScanError where a mask (bool) holds more than two hippocampi can."""
    size = float(np.count_nonzero(voxels) * abs(np.linalg.det(affine[:3, :3])))
    if size > MAX_MM3:
        raise ScanError(
            f"mask holds {size:,.0f} mm3; {MAX_MM3:,} mm3 at most are allowed, as two hippocampi have no more; "
            "--labels chooses among labels"
        )


def values_and_classes(labels: Labels | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Labels as files keep them: values, and the names of classes."""
    if isinstance(labels, Mapping):
        return tuple(labels.values()), tuple(labels)
    return tuple(labels or ()), ()


def parse_labels(text: str | None, known: Mapping[str, int] | None = None) -> Labels | None:
    """Labels like 17,53; or classes like head=1,body=2; None for None.

    known: labels that a data set names, which may stand without a value, in whatever case. Raises ScanError for
    anything else.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if all(part.isdecimal() for part in parts):
        values = [_value(part, text) for part in parts]
        labels: Labels = tuple(values)
    else:
        named = [_class(part, known, text) for part in parts]
        labels, values = dict(named), [value for _, value in named]
        if len(parts) > CLASSES:
            raise ScanError(f"--labels has {len(parts)} classes; {CLASSES} at most are allowed")
        if len({name.lower() for name in labels}) < len(parts):
            raise ScanError(f"--labels is {text!r}; classes of different names are allowed, whatever their case")
    if len(set(values)) < len(values):
        raise ScanError(f"--labels is {text!r}; each value once is allowed")
    return labels


def _value(part: str, text: str) -> int:
    value = int(part) if part.isdecimal() and len(part) <= DIGITS else 0
    if not 0 < value <= VALUE_MAX:
        raise ScanError(f"--labels is {text!r}; {part[:DIGITS]!r} is found where {LABELS_ALLOWED} are allowed")
    return value


def _class(part: str, known: Mapping[str, int] | None, text: str) -> tuple[str, int]:
    """Name and value of a class."""
    name, given, value = (piece.strip() for piece in part.partition("="))
    plain = name and all(character.isalnum() or character in " _-." for character in name)
    if not plain or name.isdecimal() or name.lower() in TAKEN:
        raise ScanError(
            f"--labels is {text!r}; {part!r} is found where {LABELS_ALLOWED} are allowed; {' and '.join(TAKEN)} are no "
            "classes, and names are of letters, digits, spaces and _-."
        )
    if given:
        return name, _value(value, text)
    named = {key.lower(): number for key, number in (known or {}).items()}
    if name.lower() not in named:
        names = f"names {', '.join(known)}" if known else "names no labels"
        raise ScanError(f"--labels is {text!r}; the data set {names}: {name}=VALUE is allowed")
    return name, named[name.lower()]


def _chosen(values: np.ndarray, labels: Labels) -> tuple[np.ndarray, str | None]:
    values = values.astype(np.float64)
    rounded = np.rint(values)
    whole = np.abs(values - rounded) < WHOLE
    names = {value: name for name, value in labels.items()} if isinstance(labels, Mapping) else {}
    found = np.zeros(values.shape, np.uint8)
    for k, value in enumerate(names or labels, start=1):
        found[whole & (rounded == value)] = k if names else 1
    if not found.any():
        wanted = ", ".join(f"{value} ({names[value]})" if names else str(value) for value in names or labels)
        raise ScanError(f"mask holds no voxel of the label(s) {wanted}; it holds {_listed(np.unique(values))}")
    lacking = [f"{name} ({value})" for k, (value, name) in enumerate(names.items(), start=1) if not (found == k).any()]
    return found, f"mask holds no {', '.join(lacking)}; it holds {_listed(np.unique(values))}" if lacking else None


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
