"""A mask comes back in the scan's own grid: exact where no resampling is needed, close where it is."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import nibabel.processing
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from neuroseg import pretrained, runs
from neuroseg.data import locate, template
from neuroseg.data.locate import Place
from neuroseg.data.volume import ScanError, load_nifti, load_pair
from neuroseg.metrics import dice
from neuroseg.segment import BOX, LABELS, Segmentation, check_name, cut, save, segment

RNG = np.random.default_rng(0)
PLACES = {"right": Place((26.0, -8.0, -5.0)), "left": Place((-24.0, -6.0, -4.0))}
HALF_MM = (8, 16, 10)
TURN = Rotation.from_euler("xyz", (12, -9, 20), degrees=True).as_matrix()
GRIDS = {
    "RAS 1 mm": np.eye(3),
    "LAS": np.diag([-1, 1, 1]),
    "PSR 0.8 mm": np.array([[0, 0, 0.8], [-0.8, 0, 0], [0, 0.8, 0]]),
    "thick slices": np.diag([1, 1, 1.2]),
    "oblique LAS 0.8 mm": TURN @ np.diag([-0.8, 0.8, 0.8]),
    "oblique thick": TURN @ np.diag([1, 1, 1.2]),
}


def blobs(linear, dtype=np.float32):
    """A scan of two bright ellipsoids on a grid with these axes, and the labels that it was drawn from."""
    shape = np.ceil(110 / np.linalg.norm(linear, axis=0)).astype(int)
    affine = nib.affines.from_matvec(linear, -linear @ ((shape - 1) // 2))
    world = nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    labels = np.zeros(shape, np.uint8)
    image = np.full(shape, 100.0)
    for side, place in PLACES.items():
        depth = np.linalg.norm((world - place.centre) / HALF_MM, axis=-1)
        labels[depth < 1] = LABELS[side]
        image += 800 * np.clip((1 - depth) * 5 + 0.5, 0, 1)  # half as bright at the surface
    return nib.Nifti1Image(image.astype(dtype), affine), labels


def brightness(slices: torch.Tensor) -> np.ndarray:
    return slices.numpy()


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("grid", GRIDS)
def test_masks_come_back_in_the_scans_grid(grid, dtype):
    scan, truth = blobs(GRIDS[grid], dtype)
    found = segment(scan, cut(scan, PLACES), brightness)
    assert found.mask.shape == found.probability.shape == scan.shape
    voxel = np.prod(nib.affines.voxel_sizes(scan.affine))
    for side, label in LABELS.items():
        assert dice(found.mask == label, truth == label) > 0.95
        assert found.volumes_mm3[side] == pytest.approx((truth == label).sum() * voxel, rel=0.05)


@pytest.mark.parametrize("linear", [np.eye(3), np.diag([-1, 1, -1]), np.eye(3)[[2, 0, 1]]])
def test_without_resampling_the_mask_is_the_prediction_exactly(linear):
    affine = nib.affines.from_matvec(linear, (-45.3, -50.7, -40.1) @ np.abs(linear) @ linear)
    scan = nib.Nifti1Image(RNG.random((90, 100, 95)).astype(np.float32), affine)
    middle = nib.affines.apply_affine(affine, (45, 50, 45))
    places = {"right": Place(tuple(middle + (25, 3, 2))), "left": Place(tuple(middle - (25, 2, 1)))}
    regions = cut(scan, places)
    answers = {region.side: RNG.random(region.image.shape).astype(np.float32) for region in regions}
    queue = [answers[region.side][:, None] for region in regions]
    found = segment(scan, regions, lambda slices: queue.pop(0))
    for region in regions:
        inside = nib.affines.apply_affine(np.linalg.inv(affine) @ region.affine, np.argwhere(region.image >= 0))
        voxels = np.rint(inside).astype(int)
        np.testing.assert_allclose(inside, voxels, atol=1e-6)
        keep = ((voxels >= 0) & (voxels < scan.shape)).all(axis=1)
        at = tuple(voxels[keep].T)
        np.testing.assert_array_equal(found.probability[at], answers[region.side].reshape(-1)[keep])
        expected = np.where(answers[region.side].reshape(-1)[keep] > 0.5, LABELS[region.side], 0)
        np.testing.assert_array_equal(found.mask[at], expected)


@pytest.mark.parametrize("spacing", [(1.0, 1, 1), (-1.0, 1, 1), (1, 1, 1.2)])
def test_a_crop_is_cut_as_training_data_are(write_nifti, spacing):
    image = RNG.random((34, 51, 36)).astype(np.float32) + 1
    path, mask = (
        write_nifti(name, data, np.diag([*spacing, 1]))
        for name, data in (("image.nii.gz", image), ("mask.nii.gz", (image > 1.5).astype(np.uint8)))
    )
    box = (None, *BOX[1:])
    subject = load_pair("crop", path, mask, box=box)
    scan = load_nifti(path)
    (region,) = cut(scan, locate.by_crop(scan), box=box)
    np.testing.assert_allclose(region.affine, subject.affine, atol=1e-6)
    np.testing.assert_allclose(region.image, subject.image, atol=0 if 1.2 not in spacing else 1e-5)


def test_the_left_looks_like_a_right_one():
    half = RNG.random((50, 100, 90)).astype(np.float32)
    scan = nib.Nifti1Image(np.concatenate([half[::-1], half]), nib.affines.from_matvec(np.eye(3), (-49.5, -50, -45)))
    right, left = cut(scan, {"right": Place((25.5, 0, 0)), "left": Place((-25.5, 0, 0))}, box=(24, 56, 48))
    np.testing.assert_array_equal(left.image, right.image)
    assert nib.aff2axcodes(left.affine) == ("L", "A", "S") and nib.aff2axcodes(right.affine) == ("R", "A", "S")


def test_the_likelier_side_wins_where_boxes_overlap():
    scan = nib.Nifti1Image(RNG.random((60, 60, 60)).astype(np.float32), np.eye(4))
    regions = cut(scan, {"right": Place((34, 30, 30)), "left": Place((26, 30, 30))})
    answers = iter((0.6, 0.9))
    found = segment(scan, regions, lambda slices: np.full(slices.shape, next(answers)))
    assert found.mask[40, 30, 30] == LABELS["left"] and found.probability[40, 30, 30] == np.float32(0.9)
    assert found.mask[50, 30, 30] == LABELS["right"]


def test_mixed_voxels_at_a_stripped_brains_edge_do_not_spoil_the_contrast():
    data = np.zeros((80, 80, 80), np.float32)
    data[20:60, 15:70, 20:60] = 1000 + 20 * RNG.random((40, 55, 40))
    scan = nib.Nifti1Image(data, np.eye(4))
    (straight,) = cut(scan, {"right": Place((40, 40, 40))})
    (between,) = cut(scan, {"right": Place((40.5, 40.5, 40.5), axes=TURN)})
    assert 0.3 < straight.image[18, 28, 24 - 6 : 24 + 6].mean() < 0.7
    assert 0.3 < between.image[18, 28, 24 - 6 : 24 + 6].mean() < 0.7


@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz"])
def test_files_keep_the_scans_header(tmp_path, name):
    scan, _ = blobs(GRIDS["oblique thick"], np.int16)
    scan.set_qform(scan.affine, code=1)
    scan.set_sform(scan.affine, code=2)
    scan.header.set_xyzt_units("mm", "sec")
    scan.header["cal_max"] = 900
    nib.save(scan, tmp_path / "scan.nii.gz")
    scan = load_nifti(tmp_path / "scan.nii.gz")
    found = segment(scan, cut(scan, PLACES), brightness)
    save(found, tmp_path / "out" / name, tmp_path / "out" / f"p_{name}")
    mask, probability = nib.load(tmp_path / "out" / name), nib.load(tmp_path / "out" / f"p_{name}")
    assert mask.get_data_dtype() == np.uint8 and probability.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(mask.dataobj), found.mask)
    np.testing.assert_array_equal(np.asarray(probability.dataobj), found.probability)
    for image in (mask, probability):
        np.testing.assert_array_equal(image.affine, scan.affine)
        np.testing.assert_allclose(image.get_qform(), scan.get_qform())
        assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 2)
        assert image.header["cal_max"] == 0 and image.header.get_xyzt_units() == ("mm", "sec")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([name, f"p_{name}"])


@pytest.mark.parametrize("name", ["mask.mgz", "mask", ".nii.gz", "mask.nii.bz2"])
def test_other_names_are_refused(name):
    with pytest.raises(ScanError, match=r"ends in \.nii or \.nii\.gz"):
        check_name(Path(name))


def test_what_cannot_be_segmented_is_refused(caplog):
    scan, _ = blobs(np.eye(3))
    with pytest.raises(
        ScanError, match=r"0% of the box of the right hippocampus around \(500, 0, 0\) mm lies in the scan"
    ):
        cut(scan, {"right": Place((500, 0, 0))})
    with pytest.raises(ScanError, match="no region"):
        segment(scan, (), brightness)
    with pytest.raises(ValueError, match=r"shape \(36, 1, 56\)"):
        segment(scan, cut(scan, {"right": PLACES["right"]}), lambda slices: slices.numpy()[..., 0])
    with caplog.at_level(logging.WARNING):
        found = segment(scan, cut(scan, PLACES), lambda slices: np.zeros(slices.shape), batch=10)
    assert found.volumes_mm3 == {"right": 0, "left": 0} and "left hippocampus was not found" in caplog.text


def test_the_shipped_network_finds_both_hippocampi_of_a_turned_template():
    folder = template.atlas_folder()
    brain = nib.load(folder / "templates" / "MNI152_T1_1mm_brain.nii.gz")
    moved = nib.affines.from_matvec(Rotation.from_euler("x", -25, degrees=True).as_matrix(), (8, -5, 3))
    scan = nib.Nifti1Image(np.asarray(brain.dataobj), moved @ brain.affine)
    network, _ = runs.load_snn(runs.Run(pretrained.FOLDER).snn)

    def predict(slices: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return torch.sigmoid(network.predict(slices, quantized=True).double()).numpy()

    found = segment(scan, cut(scan, locate.by_alignment(scan)), predict)
    atlas = nib.load(folder / "atlases" / "atlas_harvard_oxford.nii.gz")
    names = (folder / "atlases" / "labels_harvard_oxford.csv").read_text().splitlines()
    for side, label in LABELS.items():
        index = next(int(row.split(",")[0]) for row in names if f"{side.title()}_Hippocampus" in row)
        percent = nib.Nifti1Image(np.asarray(atlas.dataobj[..., index], np.float32), atlas.affine)
        truth = np.asarray(nib.processing.resample_from_to(percent, brain, order=1).dataobj) >= template.PROBABILITY
        assert dice(found.mask == label, truth) > 0.7


def test_mask_and_probability_appear_both_or_not_at_all(tmp_path):
    scan = nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4))
    found = Segmentation(np.ones((3, 4, 5), np.uint8), np.ones((3, 4, 5), np.float32), {"right": 60.0}, scan)
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(OSError, match=r"folder\.nii"):
        save(found, tmp_path / "mask.nii", tmp_path / "folder.nii")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.nii"]
    save(found, tmp_path / "mask.nii", tmp_path / "p.nii.gz")
    assert np.asarray(nib.load(tmp_path / "p.nii.gz").dataobj).sum() == 60
