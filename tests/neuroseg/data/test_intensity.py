"""Contrast: whatever a scanner or a program did to intensities, a network gets nearly the same image."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from neuroseg.data import ScanError, template
from neuroseg.data.intensity import BAND, CORE_MM, LANDMARKS, SPREAD, TRAINED, as_trained, noise, smoothed, tissue

BOX = (36, 56, 48)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def brain() -> np.ndarray:
    path = template.atlas_folder() / "templates" / "MNI152_T1_1mm_brain.nii.gz"
    return np.asarray(nib.load(path).dataobj, np.float32)[::2, ::2, ::2]


@pytest.fixture(scope="module")
def box() -> tuple[np.ndarray, np.ndarray]:
    image = template.subject(box=BOX).image
    return image, image > 0


def landmarks(image: np.ndarray) -> np.ndarray:
    middle = tuple(slice((n - c) // 2, (n - c) // 2 + c) for n, c in zip(image.shape, CORE_MM))
    return np.percentile(image[middle][image[middle] > 0], LANDMARKS)


@pytest.mark.parametrize("power", [0.5, 0.7, 1.4, 2])
def test_any_gamma_gives_nearly_the_same_image(power, box):
    image, inside = box
    plain = as_trained(image, inside)
    assert np.abs(as_trained(1000 * image**power, inside) - plain).max() < 0.1
    assert np.abs(as_trained(1000 * image**power, inside) - plain).mean() < 0.03


@pytest.mark.parametrize("change", [lambda x: 700 * x - 1024, lambda x: (x - x.mean()) / x.std()])
def test_scale_and_offset_change_nothing(change, box):
    image, inside = box
    np.testing.assert_allclose(as_trained(change(image), inside), as_trained(image, inside), atol=1e-4)


def test_the_histogram_is_that_of_training_data(box):
    image, inside = box
    found = landmarks(as_trained(image**3, inside))
    assert (np.abs(found - TRAINED) < BAND * np.array(SPREAD) + 0.05).all()


def test_an_image_like_those_trained_on_stays_as_it_is():
    even = np.linspace(0, 100, np.prod(CORE_MM)).reshape(CORE_MM)
    image = np.interp(even, LANDMARKS, TRAINED).astype(np.float32)
    np.testing.assert_allclose(as_trained(500 * image + 3, np.ones(CORE_MM, bool)), image, atol=2e-3)


def test_order_of_intensities_is_kept(box):
    image, inside = box
    values = as_trained(image**0.5, inside)[inside][np.argsort(image[inside])]
    assert (np.diff(values) >= -1e-6).all()


BACKGROUNDS = {
    "zeros": lambda x: x,
    "offset": lambda x: x - 1024,
    "noise of 1e-3": lambda x: x + 1e-3 * x.max() * (x == 0) * np.abs(RNG.standard_normal(x.shape)),
    "z-scores": lambda x: (x - x.mean()) / x.std(),
    "z-scores of the brain": lambda x: np.where(x > 0, (x - x[x > 0].mean()) / x[x > 0].std(), 0),
    "inverted fill": lambda x: np.where(x > 0, x, 2 * x.max()),
}


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_background_is_told_from_tissue_whatever_its_value(name, brain):
    found = tissue(BACKGROUNDS[name](brain).astype(np.float32))
    assert (found == (brain > 0)).mean() > 0.99


def test_a_crop_of_tissue_has_no_background(box):
    image, _ = box
    assert tissue(image[8:28, 14:40, 12:36] + 0.2).all()
    with pytest.raises(ScanError, match="one value"):
        tissue(np.full((5, 5, 5), 3.0))


def test_noise_is_measured_and_smoothed(box):
    image, inside = box
    noisy = image + 0.1 * RNG.standard_normal(image.shape)
    assert noise(image, inside) < 0.03 and noise(noisy, inside) == pytest.approx(0.1, rel=0.3)
    assert noise(smoothed(noisy, inside, np.ones(3)), inside) < 0.03
    away = np.abs(smoothed(noisy, inside, np.ones(3)) - image)[inside]
    assert away.mean() < 0.6 * np.abs(noisy - image)[inside].mean()


def test_a_box_without_tissue_or_of_one_value_is_refused():
    with pytest.raises(ScanError, match="no tissue"):
        as_trained(np.ones(BOX), np.zeros(BOX, bool))
    with pytest.raises(ScanError, match="constant"):
        as_trained(np.ones(BOX), np.ones(BOX, bool))
