"""Hippocampi are found in whole heads within millimetres, and what is no head is refused."""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import nibabel.processing
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from neuroseg.data import align, locate, template
from neuroseg.data.volume import ScanError

HEAD = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"  # of nilearn, another template than ours
NEAR_MM = 4.0
GOOD = align.Alignment(np.eye(4), likeness=0.8, hippocampi=0.9, scales=(0.9, 1.1))


def head(*, turn=(0, 0, 0), stretch=(1, 1, 1), shift=(0, 0, 0)):
    """Another template's brain at 2 mm, moved in the world, and the (4, 4) that moved it."""
    spec = importlib.util.find_spec("nilearn")
    image = nib.load(Path(spec.submodule_search_locations[0]) / HEAD)
    small = nib.Nifti1Image(np.asarray(image.dataobj, np.float32), image.affine).slicer[::2, ::2, ::2]
    linear = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() @ np.diag(stretch)
    moved = nib.affines.from_matvec(linear, shift)
    return nib.Nifti1Image(np.asarray(small.dataobj), moved @ small.affine), moved


@pytest.fixture(scope="module")
def askew():
    """A stretched head that lies askew, stored oblique LAS with thick slices as int16, with bias and noise."""
    image, moved = head(turn=(-20, 12, 10), stretch=(0.9, 1.08, 1.0), shift=(30, -20, 15))
    grid = nib.affines.from_matvec(
        Rotation.from_euler("xyz", (5, -8, 12), degrees=True).as_matrix() @ np.diag([-1.8, 1.8, 2.4]), (150, -120, -70)
    )
    data = np.asarray(nib.processing.resample_from_to(image, ((125, 125, 95), grid), order=1).dataobj)
    ramp = np.linspace(0.7, 1.3, data.shape[1])[:, None]
    noisy = data * ramp + 8 * np.random.default_rng(0).standard_normal(data.shape)
    return nib.Nifti1Image(noisy.astype(np.int16), grid), moved


@pytest.fixture(scope="module")
def found(askew):
    return locate.by_alignment(askew[0])


def test_both_hippocampi_are_found_in_a_head_askew(askew, found):
    for side, place in found.items():
        true = nib.affines.apply_affine(askew[1], align.HIPPOCAMPI[side])
        assert np.linalg.norm(place.centre - true) < NEAR_MM
        turn = place.axes.T @ replace(GOOD, matrix=askew[1]).rotation
        assert np.trace(turn) > 1 + 2 * np.cos(np.deg2rad(5)) and np.linalg.det(place.axes) == pytest.approx(1)


def test_alignment_repeats_exactly(askew, found):
    again = align.align(askew[0])
    for side, place in found.items():
        np.testing.assert_array_equal(place.centre, nib.affines.apply_affine(again.matrix, align.HIPPOCAMPI[side]))


def test_middles_are_those_of_the_harvard_oxford_atlas():
    folder = template.atlas_folder() / "atlases"
    with open(folder / "labels_harvard_oxford.csv", newline="") as file:
        index = {row["name"]: int(row["index"]) for row in csv.DictReader(file)}
    atlas = nib.load(folder / "atlas_harvard_oxford.nii.gz")
    for side, centre in align.HIPPOCAMPI.items():
        region = np.asarray(atlas.dataobj[..., index[f"{side.title()}_Hippocampus"]]) >= template.PROBABILITY
        window = ndimage.find_objects(region.astype(np.uint8))[0]
        middle = [(axis.start + axis.stop) / 2 for axis in window]
        np.testing.assert_allclose(nib.affines.apply_affine(atlas.affine, middle), centre, atol=1)


@pytest.fixture
def one_round(monkeypatch):
    """What is no head is none with further starts either, only later."""
    monkeypatch.setattr(align, "ROUNDS", 1)


@pytest.mark.usefixtures("one_round")
def test_noise_is_refused():
    noise = np.random.default_rng(0).random((80, 90, 80)).astype(np.float32)
    scan = nib.Nifti1Image(noise, nib.affines.from_matvec(np.diag([2, 2, 2]), (-80, -90, -80)))
    with pytest.raises(ScanError, match=r"could not be aligned.*MNI152"):
        locate.by_alignment(scan)


@pytest.mark.usefixtures("one_round")
def test_a_header_with_wrong_axes_is_refused():
    scan, _ = head()
    upside_down = nib.Nifti1Image(np.asarray(scan.dataobj), np.diag([1, 1, -1, 1]) @ scan.affine)
    with pytest.raises(ScanError, match=r"correlation .* is -?0\.\d\d, 0\.\d at least are allowed"):
        locate.by_alignment(upside_down)


@pytest.mark.usefixtures("one_round")
def test_a_head_without_temporal_lobes_is_refused():
    scan, _ = head()
    with pytest.raises(ScanError, match=r"could not be aligned|does not lie in the scan"):
        locate.by_alignment(scan.slicer[:, :, 34:])


@pytest.mark.parametrize(
    ("change", "figure"),
    [
        ({"likeness": 0.2}, "over the brain is 0.20, 0.4"),
        ({"hippocampi": float("nan")}, "around the hippocampi is nan, 0.5"),
        ({"scales": (0.5, 1.1)}, "stretched 0.50 to 1.10 times, 0.7 to 1.4"),
    ],
)
def test_a_refusal_names_the_figure_and_the_limit(change, figure):
    assert locate.check_alignment(GOOD) is GOOD
    with pytest.raises(ScanError, match=figure):
        locate.check_alignment(replace(GOOD, **change))


def test_an_empty_scan_and_a_missing_package_are_named(monkeypatch):
    empty = nib.Nifti1Image(np.zeros((90, 90, 90), np.float32), np.eye(4))
    with pytest.raises(ScanError, match="scan is empty"):
        align.align(empty)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ScanError, match="pip install SimpleITK"):
        align.align(empty)


WIDE = nib.Nifti1Image(
    np.zeros((100, 100, 100), np.uint8), nib.affines.from_matvec(np.diag([-2, 2, 2]), (99, -99, -99))
)


def mask_of(*boxes):
    data = np.zeros(WIDE.shape, np.uint8)
    for x, y, z in boxes:
        data[x - 5 : x + 5, y - 10 : y + 10, z - 5 : z + 5] = 1
    return nib.Nifti1Image(data, WIDE.affine)


def test_a_mask_of_both_sides_is_split_at_its_gap():
    found = locate.by_mask(mask_of((35, 50, 40), (65, 50, 40)), WIDE)
    assert found["right"].centre == pytest.approx((30, 0, -20)) and found["left"].centre == pytest.approx((-30, 0, -20))
    assert list(locate.by_mask(mask_of((35, 50, 40), (65, 50, 40)), WIDE, side="left")) == ["left"]


def test_a_mask_of_one_side_is_told_by_its_place_or_by_the_user():
    assert list(locate.by_mask(mask_of((65, 50, 40)), WIDE)) == ["left"]
    assert list(locate.by_mask(mask_of((50, 50, 40)), WIDE, side="right")) == ["right"]
    with pytest.raises(ScanError, match="name the side"):
        locate.by_mask(mask_of((50, 50, 40)), WIDE)
    with pytest.raises(ScanError, match="no voxel above 0"):
        locate.by_mask(mask_of(), WIDE)


def test_a_speck_is_not_the_other_side():
    mask = mask_of((35, 50, 40))
    data = np.asarray(mask.dataobj).copy()
    data[80, 50, 40] = 1
    found = locate.by_mask(nib.Nifti1Image(data, mask.affine), WIDE)
    assert found["right"].centre == pytest.approx((30, 0, -20)) and list(found) == ["right"]


def test_a_centre_outside_the_scan_is_refused():
    assert locate.by_box((25, -20, -10), WIDE)["right"].centre == (25, -20, -10)
    with pytest.raises(ScanError, match=r"\(25, -20, 200\) mm lies outside the scan, which spans \(-99, -99, -99\)"):
        locate.by_box((25, -20, 200), WIDE)


def test_a_crop_is_told_by_its_size_and_its_middle_is_fit_boxs():
    crop = nib.Nifti1Image(np.zeros((35, 51, 35), np.uint8), np.diag([-1, 1, 1, 1]))
    assert locate.is_crop(crop) and not locate.is_crop(WIDE)
    assert locate.by_crop(crop)["right"].centre == (-17, 25, 17)
    assert list(locate.by_crop(crop, side="left")) == ["left"]


def test_find_takes_what_the_user_says_before_it_looks(caplog, monkeypatch):
    both = [(30, 0, -20), (-30, 0, -20)]
    assert list(locate.find(WIDE, boxes=both)) == ["right", "left"]
    assert list(locate.find(WIDE, mask=mask_of((35, 50, 40)))) == ["right"]
    crop = nib.Nifti1Image(np.zeros((35, 51, 35), np.uint8), np.eye(4))
    assert list(locate.find(crop, side="left")) == ["left"] and not caplog.text
    assert list(locate.find(crop)) == ["right"] and "taken for the right one" in caplog.text
    monkeypatch.setattr(locate, "align", lambda scan: GOOD)
    assert list(locate.find(WIDE)) == ["right", "left"] and list(locate.find(WIDE, side="left")) == ["left"]
    with pytest.raises(ScanError, match="2 boxes for the right hippocampus; one a side"):
        locate.find(WIDE, boxes=both, side="right")
    with pytest.raises(ScanError, match="a mask and a box were given"):
        locate.find(WIDE, boxes=both, mask=mask_of((35, 50, 40)))
