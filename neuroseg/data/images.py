"""Images and labels of any network: a .npy array, an image file, or a folder of such files sorted by name."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from hardware_sim import npz

PICTURES, ARRAY = (".png", ".jpg", ".jpeg", ".tif", ".tiff"), ".npy"
FORMATS = ("PNG", "JPEG", "TIFF")
MODES = ("1", "L", "RGB", "RGBA", "P", "F")  # 8 bits a channel, and floats
MAX_FILES, MAX_NUMBERS, MAX_PIXELS = 2**20, 2**31, 2**26
READ = "a .npy, an image (.png, .jpg, .tif) or a folder of these is read"


class ImageError(ValueError):
    """A file of images or labels that cannot be used; names the file, what was found and what is allowed."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images float32 (N, C, H, W) in [0, 1], and what each is called."""

    pixels: torch.Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of each."""
        return tuple(self.pixels.shape[1:])

    def first(self, count: int | None) -> Images:
        return Images(self.pixels[:count], self.names[:count])


def read_images(path: Path, *, shape: tuple[int, ...] | None = None) -> Images:
    """Images of a .npy (N, C, H, W) or (N, H, W), of an image file, or of a folder of images.

    uint8, or floats in [0, 1]. A .npy in a folder is one image, (C, H, W) or (H, W). shape: (C, H, W) that a network
    takes. Raises FileNotFoundError, ImageError.
    """
    if path.is_file() and path.suffix.lower() == ARRAY:
        values = _npy(path)
        if values.ndim == 3:
            values = values[:, None]
        if values.ndim != 4 or not values.size:
            raise ImageError(f"{path}: an array of {values.shape}; (N, C, H, W) or (N, H, W) is allowed")
        found = Images(_unit(values, path), tuple(f"{path.stem}[{k}]" for k in range(len(values))))
    else:
        files = _files(path)
        parts = [_unit(_image(file), file) for file in files]
        _check_equal(files, parts)
        found = Images(torch.stack(parts), tuple(file.name for file in files))
    if shape is not None and found.shape != tuple(shape):
        raise ImageError(f"{path}: images of {_sides(found.shape)} (CxHxW); the network takes {_sides(shape)}")
    return found


def read_labels(path: Path, images: Images, *, output: tuple[int, ...]) -> np.ndarray:
    """What the images show: int64 (N,) of a classifier, (N, H, W) of a network whose output (C, H, W) has pixels.

    A .npy of integers, or a folder with a label image for each image, sorted by name, of the same or a longer name. Of
    one output channel 0 and 1 are allowed (in images 0 and 255, too), else 0 to C - 1. Raises FileNotFoundError,
    ImageError.
    """
    classes, *sides = output
    if path.is_file() and path.suffix.lower() == ARRAY:
        values = _npy(path)
    else:
        files = _files(path)
        _check_names(path, files, images)
        parts = [_label(file) for file in files]
        _check_equal(files, parts)
        values = np.stack(parts)
    expected = (len(images), *([] if sides == [1, 1] else sides))
    if values.shape == (len(images), 1, *sides):
        values = values.reshape(expected)
    if values.shape != expected or values.dtype.kind not in "biu":
        raise ImageError(f"{path}: labels are {values.dtype} of {values.shape}; integers of {expected} are allowed")
    most = max(classes, 2) - 1
    if classes == 1 and set(np.unique(values)) <= {0, 255}:
        values = values > 0
    if values.min() < 0 or values.max() > most:
        raise ImageError(f"{path}: labels from {values.min()} to {values.max()}; 0 to {most} are allowed")
    return values.astype(np.int64)


def _files(path: Path) -> list[Path]:
    """The image files of a folder by name, or one alone."""
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        files = [file for file in files if file.suffix.lower() in (*PICTURES, ARRAY)]
    else:
        raise FileNotFoundError(f"{path}: no such file or folder; {READ}")
    if not files or len(files) > MAX_FILES or files[0].suffix.lower() not in (*PICTURES, ARRAY):
        raise ImageError(f"{path}: holds {len(files) if path.is_dir() else 'no'} images; {READ}")
    return files


def _npy(file: Path) -> np.ndarray:
    try:
        return npz.load_npy(file)
    except ValueError as error:
        raise ImageError(f"{file}: no array of numbers ({error})") from error


def _opened(file: Path) -> np.ndarray:
    """An image file as (H, W) or (H, W, C); one with a palette as its numbers."""
    try:
        with warnings.catch_warnings(), Image.open(file, formats=FORMATS) as image:
            warnings.simplefilter("ignore")  # of pictures that are large
            if image.mode not in MODES:
                raise ImageError(f"{file}: an image of mode {image.mode}; {', '.join(MODES)} are allowed")
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{file}: {image.width}x{image.height} pixels; {MAX_PIXELS:,} are allowed")
            return np.asarray(image)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{file}: cannot be read: {str(error)[:200]}") from error


def _image(file: Path) -> np.ndarray:
    """One image (C, H, W)."""
    if file.suffix.lower() == ARRAY:
        values = _npy(file)
    else:
        values = _opened(file)
        if _has_palette(file):
            raise ImageError(f"{file}: an image with a palette; grey, RGB and RGBA are allowed")
        values = np.moveaxis(values, -1, 0) if values.ndim == 3 else values
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or not values.size:
        raise ImageError(f"{file}: an image of {values.shape}; (C, H, W) or (H, W) is allowed")
    return values


def _label(file: Path) -> np.ndarray:
    """One map of labels (H, W); that of a palette are its numbers."""
    values = _npy(file) if file.suffix.lower() == ARRAY else _opened(file)
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise ImageError(f"{file}: labels are {values.dtype} of {values.shape}; integers of (H, W) are allowed")
    return values


def _has_palette(file: Path) -> bool:
    with Image.open(file, formats=FORMATS) as image:
        return image.mode == "P"


def _unit(values: np.ndarray, file: Path) -> torch.Tensor:
    """Intensities as float32 in [0, 1]."""
    if values.size > MAX_NUMBERS:
        raise ImageError(f"{file}: {values.size:,} numbers; {MAX_NUMBERS:,} are allowed")
    if values.dtype == np.uint8:
        return torch.from_numpy(values.astype(np.float32) / 255)
    if values.dtype == bool:
        return torch.from_numpy(values.astype(np.float32))
    if values.dtype.kind != "f":
        raise ImageError(f"{file}: intensities are {values.dtype}; uint8, or floats in [0, 1], are allowed")
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise ImageError(f"{file}: intensities lie in [{low:g}, {high:g}]; floats in [0, 1], or uint8, are allowed")
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _check_equal(files: Sequence[Path], parts: Sequence[np.ndarray | torch.Tensor]) -> None:
    for file, part in zip(files, parts, strict=True):
        if part.shape != parts[0].shape:
            first = f"{files[0].name} before it is {_sides(parts[0].shape)}"
            raise ImageError(f"{file}: {_sides(part.shape)}; {first}, one size is allowed")


def _check_names(path: Path, files: Sequence[Path], images: Images) -> None:
    if len(files) != len(images):
        raise ImageError(f"{path}: {len(files)} labels of {len(images)} images; one each is allowed")
    for file, name in zip(files, images.names, strict=True):
        stem = Path(name).stem
        if not re.search(r"\[\d+\]$", name) and not file.stem.startswith(stem):
            raise ImageError(f"{file}: beside the image {name}; a label's name has to begin with {stem!r}")


def _sides(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
