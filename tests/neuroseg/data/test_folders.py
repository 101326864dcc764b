"""Folders of scans: each usual layout is read, anything else is refused with what was seen."""

from __future__ import annotations

import json
import os
import struct
import unicodedata

import nibabel as nib
import numpy as np
import pytest

from neuroseg.data import ScanError, labels_of, msd, open_cohort
from neuroseg.data.volume import load_pair
from tests.commands import call

IMAGE = np.random.default_rng(0).random((30, 40, 36)).astype(np.float32)
MASK = np.zeros(IMAGE.shape, np.uint8)
MASK[14:24, 12:28, 14:22] = 1
NNUNET = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "hippocampus": 1}, "file_ending": ".nii.gz"}


def reasons(folder, labels=None) -> dict[str, str]:
    return {reject.id: reject.reason for reject in open_cohort(str(folder), labels=labels).rejects}


def ids(folder) -> list[str]:
    return [subject.id for subject in open_cohort(str(folder)).subjects]


def listing(folder, content) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "dataset.json").write_bytes(raw)


def case(name: str, label: str | None = None) -> dict[str, str]:
    return {"image": f"./imagesTr/{name}", "label": label or f"./labelsTr/{name}"}


def test_nnunet(write_nifti, tmp_path):
    listing(tmp_path, {**NNUNET, "channel_names": {"0": "T1", "1": "T2"}})
    for name in ("a_0000", "a_0001", "b_0000"):
        write_nifti(f"imagesTr/{name}.nii.gz", IMAGE)
    write_nifti("labelsTr/a.nii.gz", MASK)
    assert ids(tmp_path) == ["a"] and reasons(tmp_path) == {"b": "no label"}


def test_nnunet_chooses_the_labels_that_are_named_hippocampus(write_nifti, tmp_path):
    listing(tmp_path, {**NNUNET, "labels": {"background": 0, "amygdala": 1, "thalamus": 2, "left_Hippocampus": 3}})
    write_nifti("imagesTr/a_0000.nii.gz", IMAGE)
    labels = MASK * 3
    labels[:4, :4, :4], labels[5:8, :3, :3] = 1, 2
    write_nifti("labelsTr/a.nii.gz", labels)
    assert open_cohort(str(tmp_path)).subjects[0].mask.sum() == MASK.sum()


@pytest.mark.parametrize(
    "labels", [{"0": "background", "1": "Head", "2": "Body"}, {"background": 0, "Head": 1, "Body": 2}]
)
def test_classes_by_the_names_of_dataset_json(labels, write_nifti, tmp_path):
    listing(tmp_path, {**NNUNET, "labels": {**labels}})
    write_nifti("imagesTr/a_0000.nii.gz", IMAGE)
    mask = MASK.copy()
    mask[:, :20][MASK[:, :20] > 0] = 2
    write_nifti("labelsTr/a.nii.gz", mask)
    chosen = labels_of(str(tmp_path), "body,head")
    assert chosen == {"body": 2, "head": 1}
    (subject,) = open_cohort(str(tmp_path), labels=chosen).subjects
    assert [int((subject.mask == k).sum()) for k in (1, 2)] == [int((mask == k).sum()) for k in (2, 1)]


def test_names_of_several_labels_count_as_labels_and_name_none():
    regions = {"labels": {"background": 0, "hippocampus": 1, "lesion": [2, 3]}}
    assert msd._labels(regions) == (1,) and msd.named_labels(regions) == {"hippocampus": 1}
    twice = {"labels": {"1": "hippocampus", "2": "hippocampus", "3": "amygdala"}}
    assert msd._labels(twice) == (1, 2) and msd.named_labels(twice) == {"amygdala": 3}


@pytest.mark.parametrize("session", ["", "ses-1/"])
@pytest.mark.parametrize("place", ["derivatives/manual/", "derivatives/", ""])
def test_bids(session, place, write_nifti, tmp_path):
    (tmp_path / "dataset_description.json").write_text("{}")
    prefix = "_".join(["sub-1", *([session[:-1]] if session else [])])
    write_nifti(f"sub-1/{session}anat/{prefix}_T1w.nii.gz", IMAGE)
    write_nifti(f"sub-1/{session}anat/{prefix}_T2w.nii.gz", IMAGE)
    write_nifti(f"{place}sub-1/{session}anat/{prefix}_desc-hippocampus_mask.nii.gz", MASK)
    write_nifti(f"{place}sub-1/{session}anat/{prefix}_desc-brain_mask.nii.gz", MASK * 0)
    write_nifti("sub-2/anat/sub-2_T1w.nii.gz", IMAGE)
    assert ids(tmp_path) == [prefix]
    assert list(reasons(tmp_path)) == ["sub-2"] and "no mask of the hippocampus" in reasons(tmp_path)["sub-2"]


def test_bids_with_two_masks_says_which(write_nifti, tmp_path):
    write_nifti("sub-1/anat/sub-1_T1w.nii.gz", IMAGE)
    for who in ("a", "b"):
        write_nifti(f"derivatives/{who}/sub-1/anat/sub-1_hippocampus_{who}.nii.gz", MASK)
    assert reasons(tmp_path)["sub-1"].startswith("2 masks, one is needed: sub-1_hippocampus_a.nii.gz")


@pytest.mark.parametrize("ending", ["_mask", "_label", "_seg", "_Hippocampus"])
def test_masks_beside_their_images(ending, write_nifti, tmp_path):
    write_nifti("a.nii.gz", IMAGE)
    write_nifti(f"a{ending}.nii", MASK)
    write_nifti("b.nii.gz", IMAGE)
    assert ids(tmp_path) == ["a"] and reasons(tmp_path) == {"b": "no label"}


def test_endings_in_capitals_and_other_formats(write_nifti, tmp_path):
    write_nifti("images/a.nii.gz", IMAGE).rename(tmp_path / "images" / "a.NII.GZ")
    write_nifti("labels/a.nii", MASK)
    nib.save(nib.MGHImage(IMAGE, np.eye(4)), tmp_path / "images" / "b.mgz")
    nib.save(nib.MGHImage(MASK, np.eye(4)), tmp_path / "labels" / "b.mgz")
    nib.save(nib.Nifti1Pair(IMAGE, np.eye(4)), tmp_path / "images" / "c.img")
    write_nifti("labels/c.nii.gz", MASK)
    assert ids(tmp_path) == ["a", "b", "c"] and not reasons(tmp_path)


def test_a_folder_of_something_else_is_refused_with_what_was_seen(write_nifti, tmp_path):
    write_nifti("raw/scan.nii.gz", IMAGE)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ScanError, match=r"neither a Decathlon .* holds notes\.txt, raw/.*BIDS .* are read"):
        open_cohort(str(tmp_path))
    with pytest.raises(ScanError, match=r"holds scan\.nii\.gz"):
        open_cohort(str(tmp_path / "raw"))


@pytest.mark.parametrize("layout", ["images", "imagesTr"])
def test_nothing_is_an_error_and_not_zero_of_zero(layout, tmp_path):
    (tmp_path / layout).mkdir()
    (tmp_path / "masks").mkdir()
    listing(tmp_path, {"training": []})
    assert "holds no scan where scans are looked for" in call("data", "check", tmp_path, code=2)


TURNS = {"LAS": np.diag([-1, 1, 1]), "PIR": np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])}


@pytest.mark.parametrize("axes", TURNS)
def test_a_mask_in_another_order_of_axes_is_reoriented(axes, write_nifti):
    affine = nib.affines.from_matvec(np.eye(3), (3, -7, 9))
    mask = nib.Nifti1Image(MASK, affine)
    wanted = nib.orientations.axcodes2ornt(axes)
    turned = mask.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(affine), wanted))
    assert nib.aff2axcodes(turned.affine) == tuple(axes)
    image, plain = write_nifti("i.nii", IMAGE, affine), write_nifti("m.nii", MASK, affine)
    other = write_nifti("t.nii", np.asarray(turned.dataobj), turned.affine)
    np.testing.assert_array_equal(*(load_pair("s", image, path, box=(None, 56, 48)).mask for path in (plain, other)))


def test_other_grids_are_refused_with_how_much_they_differ(write_nifti):
    image, moved = write_nifti("i.nii", IMAGE), np.eye(4)
    moved[0, 3] = 9
    with pytest.raises(ScanError, match=r"lies 9 mm from the image's, 0\.1 mm at most"):
        load_pair("s", image, write_nifti("m.nii", MASK, moved), box=(None, 56, 48))
    with pytest.raises(ScanError, match=r"\[1\.0, 1\.0, 1\.0\] and \[2\.0, 2\.0, 2\.0\] mm"):
        load_pair("s", image, write_nifti("m.nii", MASK[::2, ::2, ::2], np.diag([2.0, 2, 2, 1])), box=(None, 56, 48))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 200_000, "cannot be read as JSON"),
        (b'{"a":' * 200_000, "cannot be read as JSON"),
        (b"\xff\xfe\x00", "cannot be read as JSON"),
        ([], "all of it is a list of 0; an object with names is allowed"),
        ({"name": "x"}, "has name; training"),
        ({"training": {"a": 1}}, "training is dict; a list of cases is needed"),
        ({"training": None}, "training is NoneType"),
    ],
)
def test_listings_that_lie_are_refused(content, reason, tmp_path):
    listing(tmp_path, content)
    (tmp_path / "imagesTr").mkdir()
    with pytest.raises(ScanError, match=reason):
        open_cohort(str(tmp_path))


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.nii", "imagesTr/../../x.nii", "C:\\x.nii", "..\\x.nii"])
def test_paths_that_lead_out_of_the_folder_are_not_followed(path, write_nifti, tmp_path):
    write_nifti("x.nii", IMAGE)
    write_nifti("set/imagesTr/a.nii", IMAGE)
    cases = [case("a.nii", path), {"image": path, "label": "./labelsTr/a.nii"}, "text", {"image": "./imagesTr/a.nii"}]
    listing(tmp_path / "set", {"training": cases})
    found = [reject.reason for reject in open_cohort(str(tmp_path / "set")).rejects]
    assert sum("leads out of its folder" in reason for reason in found) == 2
    assert sum("gives no image and label" in reason for reason in found) == 2


def test_a_mark_before_json_and_another_unicode_form(write_nifti, tmp_path):
    composed, apart = (unicodedata.normalize(form, "Jürgen.nii.gz") for form in ("NFC", "NFD"))
    listing(tmp_path, b"\xef\xbb\xbf" + json.dumps({"training": [case(composed)]}).encode())
    write_nifti(f"imagesTr/{apart}", IMAGE)
    write_nifti(f"labelsTr/{apart}", MASK)
    assert ids(tmp_path) == ["Jürgen"] and not reasons(tmp_path)


def test_one_bad_file_is_a_row_and_not_the_end(write_nifti, tmp_path):
    """`data check` lists it, `train` leaves it out."""
    names = ("good", "negative", "huge", "loop", "surface", "lfs")
    listing(tmp_path, {"training": [case(f"{name}.{'gii' if name == 'surface' else 'nii'}") for name in names]})
    for name in names:
        write_nifti(f"labelsTr/{name}.nii", MASK)
        path = write_nifti(f"imagesTr/{name}.nii", IMAGE)
        raw = bytearray(path.read_bytes())
        if name in ("negative", "huge"):
            raw[40:48] = struct.pack("<4h", 3, *((-9, 40, 36) if name == "negative" else (32767, 32767, 32767)))
            path.write_bytes(raw)
    (tmp_path / "imagesTr" / "loop.nii").unlink()
    os.symlink("loop.nii", tmp_path / "imagesTr" / "loop.nii")
    (tmp_path / "imagesTr" / "surface.nii").rename(tmp_path / "imagesTr" / "surface.gii")
    (tmp_path / "labelsTr" / "surface.nii").rename(tmp_path / "labelsTr" / "surface.gii")
    (tmp_path / "imagesTr" / "lfs.nii").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert ids(tmp_path) == ["good"] and {name.removesuffix(".gii") for name in reasons(tmp_path)} == set(names[1:])
    output = call("data", "check", tmp_path, code=1)
    assert "1 usable, 5 left out" in output and "git lfs pull" in output and "Traceback" not in output


@pytest.mark.parametrize("number", ["100000000", "1001", "0", "-1", "²", "9" * 5000])
def test_simulated_subjects_are_bounded(number):
    with pytest.raises(ScanError, match="1000 at most"):
        open_cohort(f"template:{number}")


def test_the_decathlons_names_of_labels_choose_nothing():
    assert msd._labels({"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}) is None
    assert msd._labels({"labels": {"0": "background", "1": "hippocampus"}}) is None
