"""Where scans come from. Every source yields the same `Cohort` of `Subject`s; see `volume`."""

from pathlib import Path

from neuroseg.data import msd, pairs, template
from neuroseg.data.volume import HIPPOCAMPUS_BOX, Box, Cohort, Reject, ScanError, Subject, stack_slices

__all__ = ["Cohort", "Reject", "ScanError", "Subject", "open_cohort", "stack_slices"]

TEMPLATE, TEMPLATE_COHORT = "mni152", "template"
DEFAULT_SIMULATED = 20


def open_cohort(name: str, *, seed: int = 0, box: Box | None = None) -> Cohort:
    """Subjects by name: a folder (Decathlon layout, or images/ and masks/), `template[:N]`, or `mni152`.

    `template:N` are N simulated subjects, `mni152` is the untouched template. box: another box than the source's own,
    (X, Y, Z) with X None to keep all sagittal slices. Raises ScanError for anything else.
    """
    if name == TEMPLATE:
        return Cohort((template.subject(box=box or HIPPOCAMPUS_BOX),))
    kind, _, number = name.partition(":")
    if kind == TEMPLATE_COHORT:
        if number and not (number.isdigit() and int(number)):
            raise ScanError(f"{name!r}: {TEMPLATE_COHORT}:N needs a positive number N")
        return template.cohort(int(number or DEFAULT_SIMULATED), seed=seed, box=box or HIPPOCAMPUS_BOX)
    directory = Path(name)
    if msd.is_msd(directory):
        return msd.read(directory, box=box or msd.BOX)
    if pairs.is_pairs(directory):
        return pairs.read(directory, box=box or HIPPOCAMPUS_BOX)
    if not directory.is_dir():
        raise ScanError(f"{name}: no such folder (and neither {TEMPLATE_COHORT!r} nor {TEMPLATE!r})")
    raise ScanError(f"{name}: neither a Decathlon folder (dataset.json, imagesTr) nor one of pairs (images, masks)")
