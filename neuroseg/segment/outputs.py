"""The files of a segmentation: tried before the work, written both or none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from export import files
from neuroseg.data.scan import ScanError
from neuroseg.segment.masks import Segmentation

SUFFIXES = (".nii.gz", ".nii")
NAME_MAX = 255  # bytes of a file's name, on every usual file system
DESCRIPTION_MAX = 79  # bytes of a NIfTI header's


def check_name(path: Path) -> Path:
    """Return a path that can be written as NIfTI, else raise ScanError."""
    if not path.name.endswith(SUFFIXES) or path.name in SUFFIXES:
        raise ScanError(f"{path}: a name that ends in {' or '.join(reversed(SUFFIXES))} is allowed")
    return path


def check_different(made: Sequence[Path], read: Sequence[Path]) -> None:
    """Raise ScanError where a file to make is one that is read, or two are one file."""
    taken = {os.path.realpath(path) for path in read}
    for path in made:
        place = os.path.realpath(path)
        if place in taken:
            raise ScanError(f"{path} is named twice; what is made must not replace the scan or another file")
        taken.add(place)


def try_places(paths: Sequence[Path]) -> None:
    """Find out whether files can be written, and leave nothing. Raises ScanError or OSError naming one that cannot.

    A missing folder is made when the file is written; here its nearest folder above is tried.
    """
    for path in paths:
        if len(os.fsencode(path.name)) > NAME_MAX:
            raise ScanError(f"{path}: the name has {len(os.fsencode(path.name))} bytes; {NAME_MAX} at most are allowed")
        folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
        if not folder.is_dir():
            raise ScanError(f"{path}: cannot be written: {folder} is no folder")
        place = path if folder == path.absolute().parent else folder / path.name
        try:
            with files.replacing(place):
                raise _TriedError
        except _TriedError:
            continue


class _TriedError(Exception):
    """Ends a trial of writing, so that nothing is put in place."""


def save(segmentation: Segmentation, mask: Path, probability: Path | None = None) -> None:
    """Write the mask (uint8 NIfTI with the scan's affine, qform and sform) and its probability (float32): both or none.

    Raises ScanError for a name that is no NIfTI's, OSError where there is no place to write.
    """
    labels = ", ".join(f"{value} {name}" for name, value in segmentation.labels.items())
    labels = labels if segmentation.classes else f"hippocampus: {labels}"
    images = [_image(segmentation, segmentation.mask, intent="label", description=labels)]
    if probability:
        described = {"intent": "estimate", "description": "probability of hippocampus"}
        images.append(_image(segmentation, segmentation.probability, **described))
    paths = [check_name(path) for path in (mask, probability) if path]
    with files.replacing(*paths) as scratch:
        for image, path in zip(images, scratch, strict=True):
            nib.save(image, path)


def _image(segmentation: Segmentation, data: np.ndarray, *, intent: str, description: str) -> nib.Nifti1Image:
    """The header is the scan's, less what spoke of its intensities; doubts are in its description, and in a comment."""
    scan = segmentation.scan
    header = scan.header.copy() if isinstance(scan.header, nib.Nifti1Header) else nib.Nifti1Header()
    header.set_data_dtype(data.dtype)
    header.set_slope_inter(1, 0)
    header.set_intent(intent, name="hippocampus")
    header["cal_min"], header["cal_max"] = 0, 0
    header.extensions.clear()  # may name the patient, and speaks of the scan
    if segmentation.doubts:
        kinds = list(dict.fromkeys(doubt.kind for doubt in segmentation.doubts))
        description = f"DOUBTFUL: {', '.join(kinds)}; {description}"  # first, as a header has little room
        text = "DOUBTFUL: " + "; ".join(doubt.text for doubt in segmentation.doubts)
        header.extensions.append(nib.nifti1.Nifti1Extension("comment", text.encode()))
    header["descrip"], header["aux_file"] = description.encode()[:DESCRIPTION_MAX], b""
    return nib.Nifti1Image(data, scan.affine, header)
