"""The shipped network on a head, whatever its contrast; what makes a mask doubtful."""

from __future__ import annotations

import nibabel as nib
import nibabel.processing
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from benchmarks.heads import ALTERATIONS, Row, atlas_truth
from neuroseg import pretrained, runs
from neuroseg.data import locate, template
from neuroseg.metrics import dice
from neuroseg.segment import LABELS, Segmentation, cut, save, segment
from neuroseg.segment.doubts import Doubt, doubts
from neuroseg.segment.masks import expected_dice
from tests.neuroseg.test_segment import RNG


def head(change=lambda x: x, turn=-25) -> nib.Nifti1Image:
    """The template's brain, which lies askew, with other intensities."""
    brain = nib.load(template.atlas_folder() / "templates" / "MNI152_T1_1mm_brain.nii.gz")
    moved = nib.affines.from_matvec(Rotation.from_euler("x", turn, degrees=True).as_matrix(), (8, -5, 3))
    data = np.asarray(brain.dataobj, np.float32)
    return nib.Nifti1Image(change(data / data.max()).astype(np.float32), moved @ brain.affine)


@pytest.fixture(scope="module")
def shipped():
    net, _ = runs.load_snn(runs.Run(pretrained.FOLDER).snn)

    def predict(slices: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return torch.sigmoid(net.predict(slices, quantized=True).double()).numpy()

    return predict


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """The Harvard-Oxford hippocampi on the template's grid."""
    return atlas_truth(nib.load(template.atlas_folder() / "templates" / "MNI152_T1_1mm_brain.nii.gz"))


@pytest.fixture(scope="module")
def places():
    return locate.by_alignment(head())


def noisy(x):
    return np.hypot(x + 0.1 * RNG.standard_normal(x.shape), 0.1 * RNG.standard_normal(x.shape))


CONTRASTS = {
    "gamma 0.5": (lambda x: x**0.5, 0.82),
    "background noise": (lambda x: x + 1e-3 * (x == 0) * np.abs(RNG.standard_normal(x.shape)), 0.82),
    "z-scored brain": (lambda x: np.where(x > 0, (x - x[x > 0].mean()) / x[x > 0].std(), 0), 0.82),
    "noise": (noisy, 0.75),
}


@pytest.mark.parametrize("name", CONTRASTS)
def test_the_shipped_network_finds_the_hippocampus_whatever_the_contrast(name, shipped, places, truth):
    change, least = CONTRASTS[name]
    scan = head(change)
    side = "left" if name == "noise" else "right"
    found = segment(scan, cut(scan, {side: places[side]}), shipped)
    assert dice(found.mask == LABELS[side], truth == LABELS[side]) > least
    assert [doubt.kind for doubt in found.doubts] == (["noise"] if name == "noise" else [])


def test_what_cannot_be_right_is_doubted():
    scan = nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.diag([1.0, 1, 1, 1]))
    assert doubts(scan, {"right": 3000, "left": 3300}, {"right": 0.99, "left": 0.99}, 0.02) == ()
    thick = nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.diag([1.0, 1, 5, 1]))
    codes = nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4))
    codes.set_sform(None, code=0)
    cases = (
        (
            scan,
            {"right": 154.0},
            {},
            0,
            "volume",
            "right hippocampus has 154 mm3; 1,730 to 5,680 mm3 are usual",
        ),
        (scan, {"left": 6000.0}, {}, 0, "volume", "left hippocampus has 6,000 mm3"),
        (scan, {"right": 4000.0, "left": 2000.0}, {}, 0, "sides", "factor of 2.0; up to 1.5"),
        (scan, {"right": 3000.0, "left": 0.0}, {}, 0, "missing", "left hippocampus was not found"),
        (scan, {"right": 3000.0}, {"right": 0.6}, 0, "certainty", "right hippocampus: 0.60, 0.9 at least"),
        (scan, {"right": 3000.0}, {}, 0.1, "noise", "noise of 10%"),
        (thick, {"right": 3000.0}, {}, 0, "voxels", "voxels of 1 x 1 x 5 mm"),
        (codes, {"right": 3000.0}, {}, 0, "header", "codes are both 0"),
    )
    for image, volumes, certainty, noise, kind, text in cases:
        (doubt,) = doubts(image, volumes, certainty, noise)
        assert doubt.kind == kind and text in doubt.text


@pytest.mark.parametrize("name", ALTERATIONS)
def test_the_benchmark_of_heads_alters_what_it_says(name):
    scan = nib.Nifti1Image(RNG.random((24, 26, 28)).astype(np.float32), np.eye(4))
    altered = ALTERATIONS[name](scan)
    words = name.split()
    size = int(words[0 if "voxels" in name else 1]) if "mm" in words else 1
    thick = {"voxels": (1, 1, 1), "sagittal": (1, 0, 0), "coronal": (0, 1, 0), "axial": (0, 0, 1)}
    which = next((axes for word, axes in thick.items() if word in name), (0, 0, 0))
    np.testing.assert_allclose(nib.affines.voxel_sizes(altered.affine), np.where(which, size, 1))
    assert np.isfinite(np.asarray(altered.dataobj)).all()
    assert (
        Row("a", name, (0.8, 0.6), None, None, "").silent and not Row("a", name, (0.8, 0.6), None, None, "noise").silent
    )


def test_certainty_is_the_dice_that_probabilities_promise():
    assert expected_dice(np.array([1.0, 1, 0, 0]), np.array([1, 1, 0, 0]) > 0) == 1
    assert expected_dice(np.zeros(4), np.zeros(4, bool)) == 0
    assert expected_dice(np.array([0.8, 0.8, 0.4, 0]), np.array([1, 1, 0, 0]) > 0) == pytest.approx(2 * 1.6 / (2.0 + 2))


def test_doubts_are_in_the_files(tmp_path):
    scan = nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4))
    why = (Doubt("volume", "the right hippocampus has 60 mm3"), Doubt("noise", "noise of 9 %"))
    found = Segmentation(
        np.ones((3, 4, 5), np.uint8), np.ones((3, 4, 5), np.float32), {"right": 60.0}, scan, {"right": 1.0}, why
    )
    save(found, tmp_path / "mask.nii", tmp_path / "p.nii.gz")
    for name in ("mask.nii", "p.nii.gz"):
        image = nib.load(tmp_path / name)
        assert b"DOUBTFUL: volume, noise" in bytes(image.header["descrip"])
        (comment,) = image.header.extensions
        assert comment.text.startswith("DOUBTFUL: the right hippocampus has 60 mm3; noise of 9 %")
