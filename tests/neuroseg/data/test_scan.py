"""Files of scans: whatever they hold, a scan or one error that says what was found and what helps."""

from __future__ import annotations

import gzip
import logging
import os
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuroseg.data.scan import MAX_VOXELS, ScanError, is_scan, load_nifti, side_doubts, stem

IMAGE = np.random.default_rng(0).random((12, 14, 16)).astype(np.float32)
TURN = nib.affines.from_matvec(np.diag([-1, 1, 1]))


def changed(path: Path, offset: int, kind: str, *values: float) -> Path:
    """A file with numbers put at an offset of its header, compressed or not."""
    raw = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    put = struct.pack(f"<{len(values)}{kind}", *values)
    raw = raw[:offset] + put + raw[offset + len(put) :]
    path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") else raw)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ", "a.NII", "a.mgz", "a.hdr", "a.img"])
def test_formats_are_read_whatever_the_case_of_their_names(name, tmp_path):
    if name.endswith("mgz"):
        nib.save(nib.MGHImage(IMAGE, TURN), tmp_path / name)
    elif name.endswith(("hdr", "img")):
        nib.save(nib.Nifti1Pair(IMAGE, TURN), tmp_path / "a.img")
    else:
        nib.save(nib.Nifti1Image(IMAGE, TURN), tmp_path / "plain.nii.gz")
        packed = (tmp_path / "plain.nii.gz").read_bytes()
        (tmp_path / name).write_bytes(packed if name.lower().endswith("gz") else gzip.decompress(packed))
    scan = load_nifti(tmp_path / name)
    np.testing.assert_array_equal(np.asarray(scan.dataobj), IMAGE)
    assert stem(name) == name[:1] and is_scan(Path(name)) == (not name.endswith("img"))


def test_remedies_are_named(write_nifti, tmp_path):
    plain, packed = write_nifti("plain.nii", IMAGE), write_nifti("packed.nii.gz", IMAGE)
    cases = {
        "zipped.nii": (packed.read_bytes(), r"zipped\.nii: is compressed with gzip.*rename it to \.nii\.gz"),
        "bare.nii.gz": (plain.read_bytes(), r"not compressed with gzip.*a plain NIfTI ends in \.nii"),
        "pointer.nii.gz": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        "empty.nii": (b"", "the file is empty"),
        "surface.gii": (b"<?xml version='1.0'?><GIFTI/>", r"ends in \.gii; NIfTI .* are read"),
        "picture.png": (b"\x89PNG", r"ends in \.png"),
        "noise.nii": (bytes(range(256)) * 9, "cannot be read as a scan"),
        "noise.mgz": (gzip.compress(bytes(900)), r"noise\.mgz: "),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ScanError, match=reason):
            load_nifti(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(
    ("dims", "reason"),
    [
        ((3, -5, 14, 16), "sides of 1 at least|cannot be read"),
        ((3, 12, 0, 16), "sides of 1 at least|cannot be read"),
        ((3, 32767, 32767, 32767), f"{MAX_VOXELS:,} voxels at most are allowed"),
        ((9, 12, 14, 16), r"a\.nii"),
        ((-1, 12, 14, 16), r"a\.nii"),
        ((3, 200, 200, 200), "cannot be read"),  # more than there is
        ((4, 12, 14, 8, 2), "4D image"),
    ],
)
def test_dimensions_that_lie_are_refused(dims, reason, name, write_nifti):
    path = changed(write_nifti(name, IMAGE), 40, "h", *dims)
    with pytest.raises(ScanError, match=reason):
        load_nifti(path)


def test_a_small_file_that_unpacks_to_much_is_refused_before_it_is(write_nifti):
    path = write_nifti("bomb.nii.gz", IMAGE)
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw + bytes(64 << 20)))
    with pytest.raises(ScanError, match=r"unpacks to more than the [\d,]+ bytes that its header speaks of"):
        load_nifti(path)
    changed(path, 40, "h", 3, 1700, 1000, 700)  # 4.7 GB of float32, by its header
    with pytest.raises(ScanError, match="voxels at most are allowed"):
        load_nifti(path)


def test_a_unit_that_is_not_mm_is_named(write_nifti, caplog):
    path = write_nifti("metres.nii", IMAGE, np.diag([0.001, 0.001, 0.001, 1]))
    changed(path, 123, "B", 1)
    with pytest.raises(ScanError, match=r"0\.1 to 10\.0 mm is allowed; its unit is meter.* times 1000"):
        load_nifti(path)
    with caplog.at_level(logging.WARNING):
        load_nifti(changed(write_nifti("mm.nii", IMAGE), 123, "B", 3))
    assert "header says micron" in caplog.text


def test_links_that_lead_nowhere_or_in_a_circle_are_refused(tmp_path):
    os.symlink(tmp_path / "b.nii", tmp_path / "a.nii")
    os.symlink(tmp_path / "a.nii", tmp_path / "b.nii")
    os.symlink(tmp_path / "none", tmp_path / "c.nii")
    (tmp_path / "folder.nii").mkdir()
    for name, reason in (("a.nii", r"a\.nii"), ("c.nii", "no such file"), ("folder.nii", "it is a folder")):
        with pytest.raises(ScanError, match=reason):
            load_nifti(tmp_path / name)


def headed(qform=None, sform=None, codes=(1, 1)) -> nib.Nifti1Image:
    image = nib.Nifti1Image(IMAGE, np.eye(4))
    image.set_qform(qform, code=codes[0])
    image.set_sform(sform, code=codes[1])
    return image


def test_doubtful_sides_are_named():
    assert side_doubts(headed(np.eye(4), np.eye(4))) == ()
    assert side_doubts(headed(None, TURN, (0, 2))) == side_doubts(headed(TURN, None, (1, 0))) == ()
    (hands,) = side_doubts(headed(np.eye(4), TURN))
    assert "disagree in handedness" in hands
    (sizes,) = side_doubts(headed(np.eye(4), np.diag([1.2, 1, 1, 1])))
    assert "voxels of 1 x 1 x 1 and 1.2 x 1 x 1 mm" in sizes
    (none,) = side_doubts(headed(np.eye(4), np.eye(4), (0, 0)))
    assert "codes are both 0" in none
    (analyze,) = side_doubts(nib.AnalyzeImage(IMAGE, np.eye(4)))
    assert "Analyze" in analyze
    assert side_doubts(nib.MGHImage(IMAGE, TURN)) == ()


def test_doubts_survive_a_file(tmp_path):
    nib.save(headed(np.eye(4), TURN), tmp_path / "a.nii.gz")
    assert len(side_doubts(load_nifti(tmp_path / "a.nii.gz"))) == 1
    nib.save(nib.AnalyzeImage(IMAGE, np.eye(4)), tmp_path / "a.img")
    assert "Analyze" in side_doubts(load_nifti(tmp_path / "a.img"))[0]
