"""Masks: what is hippocampus in them, and what is none."""

from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest

from neuroseg.data import ScanError, open_cohort
from neuroseg.data.labels import check_size, hippocampus, parse_labels, values_and_classes
from neuroseg.data.volume import load_pair

MASK = np.zeros((30, 40, 36), np.uint8)
MASK[10:20, 12:28, 14:22] = 1  # 1,280 mm3
IMAGE = np.random.default_rng(0).random(MASK.shape).astype(np.float32)
FRACTIONS = np.where(MASK, 0.8, 0.0)
FRACTIONS[8:10, 12:28, 14:22] = 0.3
ASEG = np.zeros(MASK.shape, np.int16)
ASEG[:, :4], ASEG[:, 4:6], ASEG[:, 6:8] = 2, 3, 41
ASEG[MASK > 0] = 53


def found(values, labels=None):
    return hippocampus(nib.Nifti1Image(values, np.eye(4)), labels)


@pytest.mark.parametrize("value", [1, 2, 17, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_one_or_two_labels_are_the_hippocampus(value, dtype):
    values = (MASK * value).astype(dtype)
    assert (found(values).voxels == (MASK > 0)).all() and found(values).note is None
    values[10:14] = np.where(values[10:14] > 0, 1, 0)  # another label
    assert (found(values).voxels == (MASK > 0)).all()


def test_a_map_of_probabilities_is_cut_in_its_middle_and_that_is_said():
    taken = found(FRACTIONS)
    assert taken.voxels.sum() == 1280 and "map of probabilities" in taken.note
    with pytest.raises(ScanError, match=r"probabilities up to 0\.4; none reaches 0\.5"):
        found(FRACTIONS / 2)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (ASEG, r"4 labels \(0, 2, 3, 41, 53\), as an atlas does; 2 at most .*--labels \(17,53"),
        (1 - MASK, "fills 97% of its volume, 50% at most are allowed; is it inverted"),
        (1 - FRACTIONS, "is it inverted"),
        (100 * FRACTIONS + MASK * 0.5, "fractions from 0 to 80.5"),
        (IMAGE - 0.5, "values from -0.5 to 0.5|values from -"),
        (MASK * 0, "mask is empty"),
    ],
)
def test_what_is_no_mask_is_refused(values, reason):
    with pytest.raises(ScanError, match=reason):
        found(values)


def test_labels_are_chosen():
    assert (found(ASEG, (17, 53)).voxels == (MASK > 0)).all()
    with pytest.raises(ScanError, match=r"no voxel of the label\(s\) 17, 18; it holds 0, 2, 3, 41, 53"):
        found(ASEG, (17, 18))
    assert parse_labels("17,53") == (17, 53) and parse_labels(None) is None
    for text in ("", "a", "0", "1,-2", "1.5"):
        with pytest.raises(ScanError, match="--labels is"):
            parse_labels(text)


def test_labels_may_be_classes():
    parts = ASEG.copy()
    parts[10:14][MASK[10:14] > 0] = 17
    taken = found(parts, {"body": 53, "head": 17})
    expected = np.where(MASK, 1, 0)
    expected[10:14] = np.where(MASK[10:14], 2, 0)
    assert (taken.voxels == expected).all() and taken.note is None
    assert found(ASEG, {"body": 53, "head": 17}).note == "mask holds no head (17); it holds 0, 2, 3, 41, 53"
    with pytest.raises(ScanError, match=r"no voxel of the label\(s\) 17 \(head\), 18 \(tail\); it holds"):
        found(ASEG, {"head": 17, "tail": 18})


def test_classes_have_a_value_or_a_name_that_the_data_set_knows():
    known = {"Anterior": 1, "Posterior": 2}
    assert parse_labels("posterior, anterior", known) == {"posterior": 2, "anterior": 1}
    assert parse_labels("head=17,body=53") == {"head": 17, "body": 53}
    assert values_and_classes({"head": 17, "body": 53}) == ((17, 53), ("head", "body"))
    for text, reason in (
        ("anterior,tail", "the data set names Anterior, Posterior: tail=VALUE is allowed"),
        ("anterior,Anterior", "classes of different names"),
        ("anterior,other=1", "each value once"),
        ("background=1", "'background=1' is found where .* background and mean are no classes"),
        ("mean=1,other=2", "background and mean are no classes"),
        ("a|b=1", "letters, digits, spaces and _-"),
        ("head=x", "'x' is found where whole numbers above 0"),
        ("head=3000000000", "'3000000000' is found"),
        ("17,head=3", "'17' is found where .* or classes"),
    ):
        with pytest.raises(ScanError, match=reason):
            parse_labels(text, known)
    with pytest.raises(ScanError, match="the data set names no labels: head=VALUE is allowed"):
        parse_labels("head")
    with pytest.raises(ScanError, match="its masks have one label; classes are for a folder of scans"):
        open_cohort("template:3", labels={"head": 1})


def test_more_than_two_hippocampi_is_refused():
    check_size(MASK > 0, np.eye(4))
    with pytest.raises(ScanError, match=r"81,920 mm3; 12,000 mm3 at most"):
        check_size(MASK > 0, np.diag([4.0, 4, 4, 1]))


def test_subjects_have_the_right_volume(write_nifti, tmp_path, caplog):
    image = write_nifti("image.nii.gz", IMAGE)
    with caplog.at_level(logging.WARNING):
        subject = load_pair("s", image, write_nifti("p.nii.gz", FRACTIONS), box=(None, 56, 48))
    assert subject.mask.sum() == 1280 and "s: mask is a map of probabilities" in caplog.text
    subject = load_pair("s", image, write_nifti("aseg.nii.gz", ASEG), box=(None, 56, 48), labels=(17, 53))
    assert subject.mask.sum() == 1280
    write_nifti("set/images/a.nii.gz", IMAGE)
    write_nifti("set/masks/a.nii.gz", ASEG)
    (reject,) = open_cohort(str(tmp_path / "set")).rejects
    assert "as an atlas does" in reject.reason
    assert open_cohort(str(tmp_path / "set"), labels=(53,)).subjects[0].mask.sum() == 1280
    both = open_cohort(str(tmp_path / "set"), labels={"tail": 17, "rest": 53}).subjects[0].mask
    assert (both == 2).sum() == 1280 == (both > 0).sum()
