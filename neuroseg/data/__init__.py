"""Where scans come from. Every source yields the same `Cohort` of `Subject`s; see `volume`."""

from collections.abc import Mapping
from pathlib import Path

from neuroseg.data import bids, msd, pairs, template
from neuroseg.data.folder import seen
from neuroseg.data.labels import Labels, parse_labels
from neuroseg.data.scan import ScanError
from neuroseg.data.volume import HIPPOCAMPUS_BOX, Box, Cohort, Reject, Subject, stack_slices

__all__ = ["Cohort", "Reject", "ScanError", "Subject", "labels_of", "open_cohort", "stack_slices"]

TEMPLATE, TEMPLATE_COHORT = "mni152", "template"
DEFAULT_SIMULATED, MOST_SIMULATED = 20, 1000
LAYOUTS = (
    "Decathlon and nnU-Net (dataset.json, imagesTr, labelsTr), BIDS (sub-*/anat, derivatives), images/ with masks/, "
    "and NAME.nii.gz beside NAME_mask.nii.gz"
)


def open_cohort(name: str, *, seed: int = 0, box: Box | None = None, labels: Labels | None = None) -> Cohort:
    """Subjects by name: a folder in one of LAYOUTS, `template[:N]`, or `mni152`.

    `template:N` are N simulated subjects, `mni152` is the untouched template. box: another box than the source's own,
    (X, Y, Z) with X None to keep all sagittal slices. labels: the values of a folder's masks that are hippocampus, or
    classes of it, see `labels.hippocampus`. Raises ScanError for anything else, and for a folder without a scan.
    """
    if isinstance(labels, Mapping) and _made_here(name):
        raise ScanError(f"{name}: its masks have one label; classes are for a folder of scans")
    if name == TEMPLATE:
        return Cohort((template.subject(box=box or HIPPOCAMPUS_BOX),))
    kind, _, number = name.partition(":")
    if kind == TEMPLATE_COHORT:
        return template.cohort(_simulated(name, number), seed=seed, box=box or HIPPOCAMPUS_BOX)
    directory = Path(name)
    try:
        cohort = _read(directory, box, labels)
    except OSError as error:
        raise ScanError(f"{name}: cannot be read: {error.strerror or error}") from error
    if not cohort.subjects and not cohort.rejects:
        raise ScanError(f"{name}: holds no scan where scans are looked for; {LAYOUTS} are read")
    return cohort


def _read(directory: Path, box: Box | None, labels: Labels | None) -> Cohort:
    if msd.is_msd(directory):
        return msd.read(directory, box=box or msd.BOX, labels=labels)
    if pairs.is_pairs(directory) or (directory.is_dir() and pairs.is_beside(directory)):
        return pairs.read(directory, box=box or HIPPOCAMPUS_BOX, labels=labels)
    if bids.is_bids(directory):
        return bids.read(directory, box=box or HIPPOCAMPUS_BOX, labels=labels)
    if not directory.is_dir():
        raise ScanError(f"{directory}: no such folder (and neither {TEMPLATE_COHORT!r} nor {TEMPLATE!r})")
    raise ScanError(
        f"{directory}: neither a Decathlon folder nor another that is read; it holds {seen(directory)}. "
        f"{LAYOUTS} are read"
    )


def labels_of(name: str, text: str | None) -> Labels | None:
    """`labels.parse_labels`, with the names that the data set of a name gives its labels (dataset.json)."""
    directory = Path(name)
    known = msd.named_labels(msd.listed(directory)) if text and msd.is_msd(directory) else None
    return parse_labels(text, known)


def _made_here(name: str) -> bool:
    return name == TEMPLATE or name.partition(":")[0] == TEMPLATE_COHORT


def _simulated(name: str, number: str) -> int:
    wanted = int(number) if number.isdecimal() and len(number) < 10 else 0
    if number and not 0 < wanted <= MOST_SIMULATED:
        raise ScanError(f"{name!r}: {TEMPLATE_COHORT}:N needs a positive number N, {MOST_SIMULATED} at most")
    return wanted or DEFAULT_SIMULATED
