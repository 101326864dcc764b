"""Where scans come from. Every source yields the same `Cohort` of `Subject`s; see `volume`."""

from pathlib import Path

from neuroseg.data import msd, pairs, template
from neuroseg.data.volume import Cohort, Reject, ScanError, Subject, stack_slices

__all__ = ["Cohort", "Reject", "ScanError", "Subject", "open_cohort", "stack_slices"]

TEMPLATE, TEMPLATE_COHORT = "mni152", "template"
DEFAULT_SIMULATED = 20


def open_cohort(name: str, *, seed: int = 0) -> Cohort:
    """Subjects by name: a folder (Decathlon layout, or images/ and masks/), `template[:N]`, or `mni152`.

    `template:N` are N simulated subjects, `mni152` is the untouched template. Raises ScanError for anything else.
    """
    if name == TEMPLATE:
        return Cohort((template.subject(),))
    kind, _, number = name.partition(":")
    if kind == TEMPLATE_COHORT:
        if number and not (number.isdigit() and int(number)):
            raise ScanError(f"{name!r}: {TEMPLATE_COHORT}:N needs a positive number N")
        return template.cohort(int(number or DEFAULT_SIMULATED), seed=seed)
    directory = Path(name)
    if msd.is_msd(directory):
        return msd.read(directory)
    if pairs.is_pairs(directory):
        return pairs.read(directory)
    if not directory.is_dir():
        raise ScanError(f"{name}: no such folder (and neither {TEMPLATE_COHORT!r} nor {TEMPLATE!r})")
    raise ScanError(f"{name}: neither a Decathlon folder (dataset.json, imagesTr) nor one of pairs (images, masks)")
