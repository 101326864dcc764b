"""A scan's file: read it within bounds, check it, and say what is wrong with it and what helps."""

from __future__ import annotations

import gzip
import logging
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

log = logging.getLogger(__name__)

SUFFIXES = (".nii.gz", ".nii", ".mgz", ".hdr", ".img", ".mgh")  # whatever their case
READ = "NIfTI (.nii, .nii.gz, .hdr with .img) and FreeSurfer's .mgz are read"
KINDS = (nib.Nifti1Pair, nib.Nifti2Pair, nib.AnalyzeImage, nib.freesurfer.MGHImage)
SPACING_RANGE_MM = (0.1, 10.0)
MAX_VOXELS = 2**27  # a head at 0.45 mm; each takes some 16 bytes while a scan is worked on
SLACK = 1 << 20  # bytes of a file beyond its voxels: header and extensions
LFS = b"version https://git-lfs"
GZIP = b"\x1f\x8b"
IN_MM = {"meter": 1000.0, "micron": 0.001}
SAME_SIZE = 0.01  # share by which voxel sizes of two affines may differ


class ScanError(ValueError):
    """A scan, a mask or a pair of both that cannot be used; the message names the file and the reason."""


def load_nifti(path: Path) -> nib.Nifti1Image:
    """Read a scan and check that it is a finite 3D volume with a sane grid.

    NIfTI, Analyze and FreeSurfer's .mgz are read; trailing axes of length 1 are dropped. The header is checked before
    voxels are read: neither a claim nor a compressed file takes more memory than MAX_VOXELS do. Raises ScanError
    naming the file, what was found, what is allowed, for whatever a file may hold.
    """
    try:
        _check_content(path)
        image: Any = nib.load(path)
        _check_header(path, image)
        if path.name.lower().endswith(".gz"):
            _check_gzip(path, image)
        image = nib.squeeze_image(image)  # in memory from here on: what was checked is what is used
        data = np.asanyarray(image.dataobj)
    except ScanError:
        raise
    except FileNotFoundError:
        raise ScanError(f"{path}: no such file") from None
    except Exception as error:  # nibabel raises whatever a damaged header leads it into
        raise ScanError(f"{path}: cannot be read as a scan ({type(error).__name__}: {error}); {READ}") from error
    if not np.isfinite(data).all():
        raise ScanError(f"{path}: {int((~np.isfinite(data)).sum())} voxels are NaN or infinite")
    return image


def stem(name: str) -> str:
    """A scan's file name without its ending, whatever its case."""
    ending = next((end for end in SUFFIXES if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def is_scan(path: Path) -> bool:
    """Whether a file's name is that of a scan; an .img counts through its .hdr, hidden files do not count."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".") and not name.endswith(".img")


def side_doubts(image: nib.Nifti1Image) -> tuple[str, ...]:
    """What a header leaves open about right and left, in sentences; empty where it is clear.

    Two affines that disagree, none that is valid, and Analyze, which has none.
    """
    header = image.header
    if not isinstance(header, nib.Nifti1Header):
        unknown = isinstance(image, nib.AnalyzeImage)
        return ("Analyze files do not say which side is which: right and left may be swapped",) if unknown else ()
    qform, sform = (
        getter(coded=True)[0] if isinstance(image, nib.Nifti1Pair) else None
        for getter in (image.get_qform, image.get_sform)
    )
    if qform is None and sform is None:
        return ("qform and sform codes are both 0, so nothing says which side is which: right and left may be swapped",)
    if qform is None or sform is None:
        return ()
    found = []
    hands = [np.linalg.det(affine[:3, :3]) > 0 for affine in (qform, sform)]
    if hands[0] != hands[1]:
        found.append("qform and sform disagree in handedness: right and left may be swapped (sform was taken)")
    sizes = [nib.affines.voxel_sizes(affine) for affine in (qform, sform)]
    if not np.allclose(sizes[0], sizes[1], rtol=SAME_SIZE):
        texts = [" x ".join(f"{size:.3g}" for size in each) for each in sizes]
        found.append(f"qform and sform disagree in size: voxels of {texts[0]} and {texts[1]} mm (sform was taken)")
    return tuple(found)


def _check_content(path: Path) -> None:
    """Name what a file's first bytes betray, with what to do."""
    if path.is_dir():
        raise ScanError(f"{path}: it is a folder; {READ}")
    with open(path, "rb") as file:
        first = file.read(len(LFS))
    name = path.name.lower()
    if first == LFS:
        raise ScanError(f"{path}: a Git LFS pointer, not the scan itself; `git lfs pull` fetches it")
    if not first:
        raise ScanError(f"{path}: the file is empty")
    if not name.endswith(SUFFIXES):
        raise ScanError(f"{path}: its name ends in {path.suffix or 'nothing'}; {READ}")
    zipped = first.startswith(GZIP)
    if name.endswith(".nii") and zipped:
        raise ScanError(f"{path}: is compressed with gzip, but its name says that it is not; rename it to .nii.gz")
    if name.endswith(".nii.gz") and not zipped:
        raise ScanError(
            f"{path}: cannot be read: not compressed with gzip, as its name says; a plain NIfTI ends in .nii"
        )


def _check_header(path: Path, image: nib.Nifti1Image) -> None:
    """Shape, kind of numbers and grid; nothing of the voxels is read yet."""
    if not isinstance(image, KINDS):
        raise ScanError(f"{path}: holds {type(image).__name__}; {READ}")
    shape = tuple(int(n) for n in image.shape)
    if any(n < 1 for n in shape):
        raise ScanError(f"{path}: its header says shape {shape}; sides of 1 at least are allowed")
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        raise ScanError(f"{path}: its header says shape {shape}; {MAX_VOXELS:,} voxels at most are allowed")
    if len(shape) < 3 or min(shape[:3]) < 2 or any(n > 1 for n in shape[3:]):
        axes = sum(n > 1 for n in shape)
        raise ScanError(f"{path}: {axes}D image of shape {shape}; a 3D volume is needed")
    dtype = image.get_data_dtype()
    if dtype.kind not in "uif":
        raise ScanError(f"{path}: voxels are {dtype}; real numbers are needed")
    _check_grid(path, image)


def _check_grid(path: Path, image: nib.Nifti1Image) -> None:
    affine = image.affine
    spacing = np.asarray(nib.affines.voxel_sizes(affine))
    low, high = SPACING_RANGE_MM
    unit = image.header.get_xyzt_units()[0] if isinstance(image.header, nib.Nifti1Header) else "mm"
    if not np.isfinite(affine).all() or ((spacing < low) | (spacing > high)).any():
        hint = ""
        if unit in IN_MM:
            hint = f"; its unit is {unit}, and affines in mm are needed: times {IN_MM[unit]:g}"
        raise ScanError(f"{path}: voxel size {np.round(spacing, 6).tolist()} mm; {low} to {high} mm is allowed{hint}")
    if unit in IN_MM:
        log.warning("%s: its header says %s, its sizes are those of mm and are taken for mm", path, unit)
    if np.isnan(nib.io_orientation(affine)).any() or np.linalg.matrix_rank(affine[:3, :3] / spacing) < 3:
        raise ScanError(f"{path}: axes {np.round(affine[:3, :3], 3).tolist()} do not span space")


def _check_gzip(path: Path, image: nib.Nifti1Image) -> None:
    """Read to the end, where the checksum is; nibabel stops before it and would not see damaged voxels."""
    start = getattr(image.dataobj, "offset", 0)
    allowed = int(np.prod(image.shape)) * image.get_data_dtype().itemsize + min(max(int(start), 0), SLACK) + SLACK
    read = 0
    try:
        with gzip.open(path) as file:
            while part := file.read(1 << 20):
                read += len(part)
                if read > allowed:
                    raise ScanError(f"{path}: unpacks to more than the {allowed:,} bytes that its header speaks of")
    except (OSError, EOFError, zlib.error) as error:
        raise ScanError(f"{path}: cannot be read: {error}") from error
