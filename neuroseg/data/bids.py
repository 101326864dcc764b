"""The Brain Imaging Data Structure: sub-X/[ses-Y/]anat/*_T1w, with masks in derivatives/ or beside."""

from __future__ import annotations

from pathlib import Path

from neuroseg.data.labels import Labels
from neuroseg.data.pairs import locate_right
from neuroseg.data.scan import is_scan, stem
from neuroseg.data.volume import HIPPOCAMPUS_BOX, Box, Cohort, Pair, Reject, read_pairs

T1 = "_T1w"
WORDS = ("hippocamp", "label-hc", "label-hip")  # in the name of a mask of the hippocampus, whatever its case
PARTS = ("_dseg", "_aseg", "_mask")  # ends of a mask of another name, taken where it is the only one


def is_bids(directory: Path) -> bool:
    """Whether a folder holds subjects with anatomical scans."""
    return any(directory.glob("sub-*/anat")) or any(directory.glob("sub-*/ses-*/anat"))


def read(directory: Path, *, box: Box = HIPPOCAMPUS_BOX, labels: Labels | None = None) -> Cohort:
    """Read the T1-weighted scans of a BIDS folder and the masks of their hippocampi; the right one is cropped.

    A mask is a file of the same subject and session, beside the scan or anywhere in derivatives/, whose name speaks of
    the hippocampus, or else the only segmentation there is (see PARTS). What has none or several becomes a reject.
    """
    images = [path for pattern in ("sub-*/anat/*", "sub-*/ses-*/anat/*") for path in directory.glob(pattern)]
    scans = sorted(path for path in images if is_scan(path) and stem(path.name).endswith(T1))
    pairs: list[Pair] = []
    refused: list[Reject] = []
    for path in scans:
        name = stem(path.name).removesuffix(T1)
        masks = _masks(directory, path)
        if len(masks) == 1:
            pairs.append((name, path, masks[0]))
        elif masks:
            refused.append(Reject(name, f"{len(masks)} masks, one is needed: {', '.join(m.name for m in masks[:4])}"))
        else:
            refused.append(Reject(name, "no label: no mask of the hippocampus in derivatives/ or beside the scan"))
    cohort = read_pairs(pairs, box=box, locate=locate_right, labels=labels)
    return Cohort(cohort.subjects, cohort.rejects + tuple(refused))


def _masks(directory: Path, scan: Path) -> list[Path]:
    """The masks of a scan's hippocampi, or its only segmentation."""
    inside = scan.parent.relative_to(directory)  # sub-X/[ses-Y/]anat
    folders = [
        scan.parent,
        *(directory / "derivatives").glob(str(inside)),
        *(directory / "derivatives").glob(f"*/{inside}"),
    ]
    found = sorted(path for folder in folders for path in folder.iterdir() if is_scan(path) and path != scan)
    named = [path for path in found if any(word in path.name.lower() for word in WORDS)]
    return named or [path for path in found if stem(path.name).endswith(PARTS)]
