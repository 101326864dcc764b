"""The one place where files are written: beside their place, then renamed, so that nobody ever sees half of one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


@contextlib.contextmanager
def replacing(*paths: Path | str) -> Iterator[tuple[Path, ...]]:
    """Empty files to write, which take the places of `paths` when the block ends: all, or on an error none.

    Each lies beside its place under a name of its own with the same ending, so that two writers never share one, and a
    link that lies in the way is replaced, not followed. Folders are made. Raises OSError naming the file where there is
    no place to write.
    """
    places = [Path(path) for path in paths]
    scratch: list[Path] = []
    try:
        for place in places:
            scratch.append(_beside(place))
        yield tuple(scratch)
        for made in scratch:
            _flush(made)
        for made, place in zip(scratch, places, strict=True):
            os.replace(made, place)
    finally:
        for made in scratch:
            made.unlink(missing_ok=True)


def write_bytes(content: bytes, path: Path | str) -> Path:
    """Write bytes; the file appears complete or not at all."""
    with replacing(path) as (scratch,):
        scratch.write_bytes(content)
    return Path(path)


def write_text(text: str, path: Path | str) -> Path:
    """Write text as UTF-8; the file appears complete or not at all."""
    return write_bytes(text.encode("utf-8"), path)


def write_json(content: Any, path: Path | str) -> Path:
    """Write JSON, indented; the file appears complete or not at all."""
    return write_text(json.dumps(content, indent=2) + "\n", path)


def write_array(values: np.ndarray, path: Path | str) -> Path:
    """Write an array as npy; the file appears complete or not at all."""
    with replacing(path) as (scratch,), open(scratch, "wb") as file:  # a name without .npy stays as it is
        np.save(file, values, allow_pickle=False)
    return Path(path)


def _beside(place: Path) -> Path:
    """A new empty file in the place's folder with its ending, since writers look at endings."""
    ending = ".nii.gz" if place.name.endswith(".nii.gz") else place.suffix
    scratch = place.with_name(f".part-{secrets.token_hex(8)}{ending}")
    try:
        if place.exists() and not place.is_file():
            raise IsADirectoryError(errno.EISDIR, "it is no file, and a file cannot replace it")
        place.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise type(error)(error.errno, f"cannot be written: {error.strerror}", str(place)) from None
    return scratch


def _flush(path: Path) -> None:
    """To the disk, before the rename: after a power cut there is the old file or the new, not an empty one."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
