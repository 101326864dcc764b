"""Images and labels: arrays and folders are read alike; what does not fit is one sentence with file, found, allowed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from neuroseg.data.images import ImageError, read_images, read_labels

RGB = (3, 6, 5)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, *RGB), dtype=np.uint8)
MAPS = np.random.default_rng(1).integers(0, 3, (4, 6, 5), dtype=np.uint8)


@pytest.fixture
def folders(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for k, (image, label) in enumerate(zip(PIXELS, MAPS)):
        Image.fromarray(np.moveaxis(image, 0, -1)).save(tmp_path / "images" / f"i{k}.png")
        Image.fromarray(label).save(tmp_path / "labels" / f"i{k}_label.png")
    (tmp_path / "images" / "README.txt").touch()
    return tmp_path


def test_an_array_and_a_folder_are_the_same_images(folders):
    np.save(folders / "x.npy", PIXELS)
    np.save(folders / "f.npy", np.asfortranarray(PIXELS.astype(np.float64) / 255))
    found = read_images(folders / "images", shape=RGB)
    assert found.names == ("i0.png", "i1.png", "i2.png", "i3.png") and found.shape == RGB and len(found) == 4
    for name in ("x.npy", "f.npy"):
        torch.testing.assert_close(read_images(folders / name).pixels, found.pixels)
    np.save(folders / "labels.npy", MAPS.astype(np.int32))
    for name in ("labels", "labels.npy"):
        np.testing.assert_array_equal(read_labels(folders / name, found, output=RGB), MAPS)


def test_grey_images_have_one_channel(tmp_path):
    grey = np.random.default_rng(0).random((2, 6, 5))
    np.save(tmp_path / "x.npy", grey)
    assert read_images(tmp_path / "x.npy").shape == (1, 6, 5)
    for name in ("a.tif", "a.jpg", "a.png"):
        Image.fromarray((grey[0] * 255).astype(np.uint8)).save(tmp_path / name)
        assert read_images(tmp_path / name).shape == (1, 6, 5)
    np.save(tmp_path / "y.npy", np.array([3, 9]))
    images = read_images(tmp_path / "x.npy")
    assert read_labels(tmp_path / "y.npy", images, output=(10, 1, 1)).tolist() == [3, 9]
    np.save(tmp_path / "y.npy", np.array([[[0, 255] + [0] * 3] * 6] * 2, np.uint8))
    assert read_labels(tmp_path / "y.npy", images, output=(1, 6, 5)).max() == 1


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


ARRAYS = {
    "a shape": (np.zeros((2, 3)), r"an array of \(2, 3\); \(N, C, H, W\) or \(N, H, W\) is allowed"),
    "empty": (np.zeros((0, 3, 4, 4)), r"an array of \(0, 3, 4, 4\)"),
    "integers": (np.zeros((2, 3, 4, 4), int), r"intensities are int64; uint8, or floats in \[0, 1\], are allowed"),
    "a range": (np.full((2, 3, 4, 4), 2.0), r"lie in \[2, 2\]; floats in \[0, 1\]"),
    "nan": (np.full((2, 3, 4, 4), np.nan), r"lie in \[nan, nan\]"),
    "objects": (np.array([Evil()], object), "no array of numbers"),
    "another size": (np.zeros((2, 3, 4, 4)), r"images of 3x4x4 \(CxHxW\); the network takes 3x6x5"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_no_images_are_refused(name, tmp_path):
    values, message = ARRAYS[name]
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(ImageError, match=message) as caught:
        read_images(tmp_path / "x.npy", shape=RGB)
    assert str(caught.value).startswith(str(tmp_path / "x.npy"))


def test_a_header_that_claims_more_than_there_is(tmp_path):
    np.save(tmp_path / "x.npy", PIXELS)
    raw = (tmp_path / "x.npy").read_bytes().replace(b"(4, 3, 6, 5)", b"(9, 3, 6, 5)")
    (tmp_path / "x.npy").write_bytes(raw)
    with pytest.raises(ImageError, match="claims uint8"):
        read_images(tmp_path / "x.npy")


def test_folders_that_do_not_fit_are_refused(folders):
    images = read_images(folders / "images")
    (folders / "labels" / "i3_label.png").rename(folders / "labels" / "j3.png")
    with pytest.raises(ImageError, match=r"j3.png: beside the image i3.png; a label's name has to begin with 'i3'"):
        read_labels(folders / "labels", images, output=RGB)
    (folders / "labels" / "j3.png").unlink()
    with pytest.raises(ImageError, match="3 labels of 4 images"):
        read_labels(folders / "labels", images, output=RGB)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folders / "images" / "z.png")
    with pytest.raises(ImageError, match=r"z.png: 1x9x9; i0.png before it is 3x6x5, one size is allowed"):
        read_images(folders / "images")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(folders / "images" / "z.png")
    with pytest.raises(ImageError, match="an image of mode I;16"):
        read_images(folders / "images" / "z.png")
    (folders / "images" / "z.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"z\.png: cannot be read"):
        read_images(folders / "images")
    (folders / "none").mkdir()
    with pytest.raises(ImageError, match=r"holds 0 images; a \.npy, an image"):
        read_images(folders / "none")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_images(folders / "nowhere")


@pytest.mark.parametrize(
    ("labels", "output", "message"),
    [
        (np.full((4, 6, 5), 3), RGB, "labels from 3 to 3; 0 to 2 are allowed"),
        (np.zeros((4, 6, 5)), RGB, r"labels are float64 of \(4, 6, 5\); integers of \(4, 6, 5\) are allowed"),
        (np.zeros(4, int), RGB, r"int64 of \(4,\); integers of \(4, 6, 5\)"),
        (np.full(4, -1), (10, 1, 1), "labels from -1 to -1; 0 to 9"),
        (np.full((4, 6, 5), 2), (1, 6, 5), "labels from 2 to 2; 0 to 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, output, message, folders):
    np.save(folders / "y.npy", labels)
    with pytest.raises(ImageError, match=message):
        read_labels(folders / "y.npy", read_images(folders / "images"), output=output)
