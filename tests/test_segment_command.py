"""`neuroseg segment` on crops of the template: both engines, both sides, and what it refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuroseg.data import template
from neuroseg.metrics import dice
from tests.commands import call


@pytest.fixture
def crop(tmp_path: Path) -> Path:
    """The template around the right hippocampus, as the Decathlon's scans are cropped."""
    subject = template.subject()
    nib.save(nib.Nifti1Image((subject.image * 1000).astype(np.int16), subject.affine), tmp_path / "crop.nii.gz")
    return tmp_path / "crop.nii.gz"


def test_all_engines_give_the_same_mask(crop, tmp_path):
    outs = {backend: tmp_path / f"{backend}.nii.gz" for backend in ("fast", "reference", "lava")}
    for backend, out in outs.items():
        output = call("segment", "pretrained", crop, "-o", out, "--backend", backend)
        assert "right" in output and "left" not in output.replace("left 0:00", "")
    masks = {backend: nib.load(out) for backend, out in outs.items()}
    for mask in masks.values():
        assert np.array_equal(np.asanyarray(mask.dataobj), np.asanyarray(masks["reference"].dataobj))
    mask = np.asanyarray(masks["lava"].dataobj)
    assert mask.dtype == np.uint8 and np.array_equal(masks["lava"].affine, nib.load(crop).affine)
    assert dice(mask, template.subject().mask) > 0.8
    volume = call("segment", "pretrained", crop, "-o", tmp_path / "again.nii").split("│")[3].strip()
    assert int(volume.replace(",", "")) == int(mask.sum())  # voxels of 1 mm3


def test_a_left_hippocampus_is_the_mirrored_right_one(crop, tmp_path):
    scan = nib.load(crop)
    turned = nib.Nifti1Image(np.asanyarray(scan.dataobj)[::-1], scan.affine)
    nib.save(turned, tmp_path / "left.nii.gz")
    call("segment", "pretrained", crop, "-o", tmp_path / "r.nii.gz", "--probability", tmp_path / "p.nii.gz")
    call("segment", "pretrained", tmp_path / "left.nii.gz", "-o", tmp_path / "l.nii.gz", "--side", "left")
    right, left = (np.asanyarray(nib.load(tmp_path / name).dataobj) for name in ("r.nii.gz", "l.nii.gz"))
    assert set(np.unique(left)) == {0, 2} and dice(left[::-1] > 0, right > 0) > 0.95  # a crop has no exact middle
    probability = np.asanyarray(nib.load(tmp_path / "p.nii.gz").dataobj)
    assert probability.dtype == np.float32 and np.array_equal(probability > 0.5, right > 0)


def test_what_it_refuses(crop, tmp_path):
    cases = (
        (("pretrained", crop, "-o", tmp_path / "m.png"), "ends in .nii or .nii.gz"),
        (("pretrained", crop, "-o", tmp_path / "m.nii", "--at", "1,2"), "X,Y,Z in mm"),
        (("pretrained", crop, "-o", tmp_path / "m.nii", "--at", "900,0,0"), "outside the scan"),
        (("pretrained", crop, "-o", tmp_path / "m.nii", "--at", "1,2,3", "--mask", crop), "one of them is allowed"),
        (("pretrained", crop, "-o", crop), "named twice"),
        (("pretrained", crop), "one of --out"),
        (("pretrained", crop, crop, "-o", tmp_path / "m.nii"), "2 scans and one --out"),
        (("pretrained", crop, crop, "--out-dir", tmp_path / "m"), "would have one mask"),
        (("pretrained", crop, "--out-dir", tmp_path), "named twice"),
        (("pretrained", crop, "-o", tmp_path / ("m" * 260 + ".nii")), "255 at most"),
        (("pretrained", crop, "-o", "/proc/none/m.nii"), "cannot be written"),
        (("pretrained", crop, "-o", tmp_path / "m.nii", "--probability", tmp_path / "m.nii"), "named twice"),
        (("pretrained", tmp_path / "none.nii", "-o", tmp_path / "m.nii"), "no such file"),
        ((tmp_path, crop, "-o", tmp_path / "m.nii"), "neuroseg export"),
        (("pretrained", crop, "-o", tmp_path / "m.nii", "--backend", "loihi"), "Loihi"),
    )
    for arguments, message in cases:
        output = call("segment", *arguments, code=2)
        assert message in output and output.count("error:") == 1, output
    assert [file.name for file in tmp_path.iterdir()] == ["crop.nii.gz"]


def test_noise_is_no_head(tmp_path):
    """A scan that cannot be aligned gets an error, and no mask."""
    noise = np.random.default_rng(0).random((90, 100, 90)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.diag([2, 2, 2, 1.0])), tmp_path / "noise.nii.gz")
    output = call("segment", "pretrained", tmp_path / "noise.nii.gz", "-o", tmp_path / "m.nii.gz", code=2)
    assert "could not be aligned" in output and not (tmp_path / "m.nii.gz").exists()


def test_several_scans_have_a_table_and_one_that_fails_does_not_end_the_others(crop, tmp_path):
    broken, other = tmp_path / "broken.nii", tmp_path / "other.nii.gz"
    broken.write_bytes(b"\x1f\x8b")
    scan = nib.load(crop)
    nib.save(nib.Nifti1Image(np.sqrt(scan.get_fdata(dtype=np.float32)), scan.affine), other)
    output = call("segment", "pretrained", broken, crop, other, "--out-dir", tmp_path / "masks", code=2)
    assert "rename it to .nii.gz" in output and "3/3 scans" in output
    assert sorted(file.name for file in (tmp_path / "masks").iterdir()) == [
        "crop.nii.gz",
        "other.nii.gz",
        "volumes.csv",
    ]
    rows = {Path(row["scan"]).name: row for row in csv.DictReader((tmp_path / "masks" / "volumes.csv").open())}
    assert "gzip" in rows["broken.nii"]["error"] and not rows["broken.nii"]["mask"]
    for name in ("crop.nii.gz", "other.nii.gz"):
        mask = np.asanyarray(nib.load(tmp_path / "masks" / name).dataobj)
        assert float(rows[name]["right_mm3"]) == mask.sum() and rows[name]["left_mm3"] == ""
        assert dice(mask, template.subject().mask) > 0.8 and float(rows[name]["right_certainty"]) > 0.9
    call("segment", "pretrained", crop, "--out-dir", tmp_path / "again")


@pytest.mark.slow
def test_two_processes_make_the_masks_of_one_byte_by_byte(crop, tmp_path, monkeypatch):
    scans = [crop]
    for k in range(2):
        scans.append(tmp_path / f"scan{k}.nii")
        scan = nib.load(crop)
        nib.save(nib.Nifti1Image(scan.get_fdata(dtype=np.float32) ** (0.7 + 0.2 * k), scan.affine), scans[-1])
    monkeypatch.chdir(tmp_path)  # workers lie elsewhere
    call("segment", "pretrained", *(scan.name for scan in scans), "--out-dir", "one")
    output = call("segment", "pretrained", *(scan.name for scan in scans), "--out-dir", "two", "--jobs", "2")
    assert "3/3 scans" in output
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert len(files) == 4
    for name in files:
        ours, theirs = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert ours == theirs.replace(b"two/", b"one/"), name  # the table names the masks
    assert "--out is one scan" in call("segment", "pretrained", crop, "-o", tmp_path / "m.nii", "-j", "2", code=2)


def test_doubts_warn_and_with_strict_there_is_no_mask(crop, tmp_path):
    scan = nib.load(crop)
    thick = nib.Nifti1Image(np.asanyarray(scan.dataobj)[:, :, ::4], scan.affine @ np.diag([1, 1, 4, 1]))
    nib.save(thick, tmp_path / "thick.nii.gz")
    out = tmp_path / "m.nii.gz"
    output = call("segment", "pretrained", tmp_path / "thick.nii.gz", "-o", out, "--strict", code=2)
    assert "no mask was written" in output and "1 x 1 x 4 mm" in output and not out.exists()
    assert "warning: voxels of 1 x 1 x 4 mm" in call("segment", "pretrained", tmp_path / "thick.nii.gz", "-o", out)
    assert b"DOUBTFUL: voxels" in bytes(nib.load(out).header["descrip"])


def test_a_mask_is_never_empty(crop, tmp_path):
    scan = nib.load(crop)
    ramp = np.broadcast_to(np.arange(scan.shape[2], dtype=np.int16), scan.shape)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(ramp), scan.affine), tmp_path / "ramp.nii.gz")
    output = call("segment", "pretrained", tmp_path / "ramp.nii.gz", "-o", tmp_path / "m.nii.gz", "--strict", code=2)
    assert "error:" in output and not (tmp_path / "m.nii.gz").exists()


def test_labels_choose_in_a_mask_that_shows_the_place(crop, tmp_path):
    scan, subject = nib.load(crop), template.subject()
    atlas = subject.mask.astype(np.int16) * 53
    atlas[:, :4], atlas[:, 4:8], atlas[:, 8:12] = 2, 3, 41
    nib.save(nib.Nifti1Image(atlas, scan.affine), tmp_path / "aseg.nii.gz")
    how = (
        "segment",
        "pretrained",
        crop,
        "-o",
        tmp_path / "m.nii.gz",
        "--side",
        "right",
        "--mask",
        tmp_path / "aseg.nii.gz",
    )
    assert "as an atlas does" in call(*how, code=2)
    call(*how, "--labels", "17,53")
    assert dice(np.asanyarray(nib.load(tmp_path / "m.nii.gz").dataobj), subject.mask) > 0.75
