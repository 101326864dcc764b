"""A mask comes back in the scan's own grid: exact where no resampling is needed, close where it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import nibabel.processing
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import softmax

from neuroseg import runs
from neuroseg.data import locate, template
from neuroseg.data.intensity import LANDMARKS, TRAINED
from neuroseg.data.locate import Place
from neuroseg.data.scan import ScanError, load_nifti
from neuroseg.data.volume import load_pair, normalise
from neuroseg.engine import Engine
from neuroseg.metrics import dice
from neuroseg.segment import BOX, LABELS, Segmentation, check_name, cut, regions, save, segment
from neuroseg.segment.batch import Job, failure, jobs_into, outcome, predictor, pytorch_predictor, write_table
from neuroseg.segment.network import load as load_network
from neuroseg.segment.network import load_spiking
from neuroseg.segment.outputs import try_places

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


@pytest.fixture
def plain(monkeypatch):
    """Intensities that are scaled alone, so that brightness tells where the ellipsoids are."""
    monkeypatch.setattr(regions, "as_trained", lambda image, inside, crop: normalise(image))


@pytest.mark.usefixtures("plain")
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
    even = np.linspace(0, 100, 34 * 51 * 36).reshape(34, 51, 36)
    image = (np.interp(even, LANDMARKS, TRAINED) + 1).astype(np.float32)  # the contrast of training data stays
    part = np.zeros(image.shape, np.uint8)
    part[12:22, 15:35, 12:24] = 1
    path, mask = (
        write_nifti(name, data, np.diag([*spacing, 1])) for name, data in (("i.nii.gz", image), ("m.nii.gz", part))
    )
    box = (None, *BOX[1:])
    subject = load_pair("crop", path, mask, box=box)
    scan = load_nifti(path)
    (region,) = cut(scan, locate.by_crop(scan), box=box)
    np.testing.assert_allclose(region.affine, subject.affine, atol=1e-6)
    np.testing.assert_allclose(region.image, subject.image, atol=0 if 1.2 not in spacing else 1e-5)


def test_without_resampling_classes_are_the_prediction_exactly(tmp_path):
    affine = nib.affines.from_matvec(np.eye(3), (-45.0, -50, -40))
    scan = nib.Nifti1Image(RNG.random((90, 100, 95)).astype(np.float32), affine)
    regions = cut(scan, {"right": Place((25.0, 3, 2)), "left": Place((-25.0, 3, 2))})
    logits = {
        region.side: 3 * RNG.standard_normal((len(region.image), 3, *region.image.shape[1:])) for region in regions
    }
    queue = [softmax(logits[region.side], axis=1) for region in regions]
    found = segment(scan, regions, lambda slices: queue.pop(0), classes=("head", "body"))
    assert found.labels == {"right head": 1, "right body": 2, "left head": 3, "left body": 4}
    for region, first in zip(regions, (0, 2), strict=True):
        voxels = np.rint(
            nib.affines.apply_affine(np.linalg.inv(affine) @ region.affine, np.argwhere(region.image >= 0))
        )
        keep = ((voxels >= 0) & (voxels < scan.shape)).all(axis=1)
        at = tuple(voxels[keep].astype(int).T)
        expected = logits[region.side].argmax(axis=1).reshape(-1)[keep]
        np.testing.assert_array_equal(found.mask[at], np.where(expected, expected + first, 0))
        inside = 1 - softmax(logits[region.side], axis=1)[:, 0].reshape(-1)[keep]
        np.testing.assert_allclose(found.probability[at], inside, atol=1e-6)
    assert (
        found.volumes_mm3["left"]
        == np.isin(found.mask, (3, 4)).sum()
        == pytest.approx(found.class_volumes_mm3["left head"] + found.class_volumes_mm3["left body"])
    )
    save(found, tmp_path / "mask.nii")
    assert b"DOUBTFUL: " in bytes(nib.load(tmp_path / "mask.nii").header["descrip"])
    save(replace(found, doubts=()), tmp_path / "mask.nii")
    assert b"1 right head, 2 right body, 3 left head, 4 left body" in bytes(
        nib.load(tmp_path / "mask.nii").header["descrip"]
    )
    write_table(
        [outcome(Job(Path("a.nii"), Path("m.nii")), found), failure(Job(Path("b"), Path("n")), "no")], tmp_path / "t"
    )
    head, first, second = (tmp_path / "t").read_text().splitlines()
    assert "right_head_mm3,right_body_mm3,left_head_mm3,left_body_mm3,doubts" in head
    assert f",{found.class_volumes_mm3['right head']:.1f}," in first and second.endswith(",,,,,,,,,no")
    with pytest.raises(ValueError, match=r"3 channel\(s\) are expected"):
        segment(scan, regions, lambda slices: slices.numpy(), classes=("head", "body"))


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
    inner = (slice(10, 26), slice(20, 36), slice(18, 30))
    assert 0.3 < straight.image[inner].mean() < 0.7
    assert 0.3 < between.image[inner].mean() < 0.7


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


def test_what_cannot_be_segmented_is_refused():
    scan, _ = blobs(np.eye(3))
    with pytest.raises(
        ScanError, match=r"0% of the box of the right hippocampus around \(500, 0, 0\) mm lies in the scan"
    ):
        cut(scan, {"right": Place((500, 0, 0))})
    with pytest.raises(ScanError, match="no region"):
        segment(scan, (), brightness)
    with pytest.raises(ValueError, match=r"shape \(36, 1, 56\)"):
        segment(scan, cut(scan, {"right": PLACES["right"]}), lambda slices: slices.numpy()[..., 0])
    with pytest.raises(ScanError, match="the right and the left hippocampus was not found"):
        segment(scan, cut(scan, PLACES), lambda slices: np.zeros(slices.shape), batch=10)


def test_places_are_tried_and_nothing_is_left(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.nii").mkdir()
    try_places([tmp_path / "mask.nii", tmp_path / "new" / "deep" / "mask.nii.gz"])
    for path, reason in (
        (tmp_path / ("n" * 260 + ".nii"), "264 bytes; 255 at most"),
        (tmp_path / "file" / "mask.nii", "is no folder"),
        (tmp_path / "folder.nii", "cannot replace it"),
        (Path("/proc/mask.nii"), "cannot be written"),
    ):
        with pytest.raises((ScanError, OSError), match=reason):
            try_places([path])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.nii"]


def test_pytorch_predicts_what_an_engine_does(tmp_path):
    slices = torch.from_numpy(template.subject().image[8:16, None])
    found = pytorch_predictor(load_spiking("pretrained"))(slices)
    engines = predictor(load_network("pretrained"), Engine())(slices)
    np.testing.assert_allclose(found, engines, atol=1e-6)
    np.testing.assert_array_equal(found > 0.5, engines > 0.5)
    with pytest.raises(runs.RunError, match="a file, which engines run on the CPU; --device takes a run folder"):
        load_spiking(str(tmp_path / "m.net"))


def test_scans_of_one_name_are_refused_before_the_work():
    jobs = jobs_into(Path("masks"), [Path("a/x.nii"), Path("b/y.NII.GZ"), Path("b/z.mgz")])
    assert [job.mask.name for job in jobs] == ["x.nii.gz", "y.nii.gz", "z.nii.gz"]
    with pytest.raises(ScanError, match=r"a/x\.nii and b/X\.nii\.gz would have one mask"):
        jobs_into(Path("masks"), [Path("a/x.nii"), Path("b/X.nii.gz")])


def test_mask_and_probability_appear_both_or_not_at_all(tmp_path):
    scan = nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4))
    found = Segmentation(np.ones((3, 4, 5), np.uint8), np.ones((3, 4, 5), np.float32), {"right": 60.0}, scan)
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(OSError, match=r"folder\.nii"):
        save(found, tmp_path / "mask.nii", tmp_path / "folder.nii")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.nii"]
    save(found, tmp_path / "mask.nii", tmp_path / "p.nii.gz")
    assert np.asarray(nib.load(tmp_path / "p.nii.gz").dataobj).sum() == 60
