"""An npz file of strangers as arrays: what it claims is checked before it is unpacked.

numpy would take the memory that a header asks for, and a zip of a megabyte can hold a gigabyte. So the sizes in the
zip's directory are bounded, and each array's header has to say just what the directory does (numpy/lib/format.py
describes it; a header other than numpy writes for plain arrays is refused, so none is evaluated).
"""

from __future__ import annotations

import math
import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

MAX_BYTES = 2**30  # of all arrays; more in a file that is large itself
MAX_RATIO = 16  # times its own size
MAX_ARRAYS = 2**14
PART = 2**20  # bytes unpacked at once
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
MAGIC = b"\x93NUMPY"
ENDING = ".npy"
SIDES = r"((?:\d{1,18}, ?)*(?:\d{1,18})?)"
HEADER = re.compile(
    r"\{'descr': '([<>|][biufU]\d{1,9})', 'fortran_order': (True|False), 'shape': \(" + SIDES + r"\), \} *\n"
)


def load(path: Path | str) -> dict[str, np.ndarray]:
    """Arrays of numbers and text by name. Raises FileNotFoundError, or ValueError saying what is found and allowed."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check(members, max(MAX_BYTES, MAX_RATIO * os.fstat(file.fileno()).st_size))
            return {member.filename.removesuffix(ENDING): _array(archive, member) for member in members}
    except (FileNotFoundError, ValueError):
        raise
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(str(error)[:200]) from error
    except (OSError, RuntimeError, EOFError, LookupError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{type(error).__name__}: {str(error)[:200]}") from error


def load_npy(path: Path | str) -> np.ndarray:
    """The array of an npy file; its header is checked and no object is read. Raises as `load` does."""
    try:
        with open(path, "rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size, Path(path).name[:80])
    except (FileNotFoundError, ValueError):
        raise
    except (OSError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{type(error).__name__}: {str(error)[:200]}") from error


def _check(members: list[zipfile.ZipInfo], most: int) -> None:
    if len(members) > MAX_ARRAYS:
        raise ValueError(f"it holds {len(members)} arrays; {MAX_ARRAYS} are allowed")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("it holds two arrays of one name; one is allowed")
    total = 0
    for member in members:
        total += member.file_size
        if total > most:
            raise ValueError(
                f"{member.filename[:80]!r} unpacks to {member.file_size} bytes, all to {total}; {most} are allowed"
            )
        if member.compress_type not in METHODS or not member.filename.endswith(ENDING):
            raise ValueError(f"{member.filename[:80]!r} is packed by method {member.compress_type}; npy is allowed")


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        return _read(stream, member.file_size, member.filename[:80])


def _read(stream: IO[bytes], size: int, name: str) -> np.ndarray:
    """The array of a stream of some bytes."""
    text, start = _header(stream, name)
    found = HEADER.fullmatch(text)
    if found is None:
        raise ValueError(f"{name!r} has the header {text[:80]!r}; that of an array of numbers or text is allowed")
    dtype, shape = np.dtype(found[1]), tuple(int(side) for side in found[3].replace(",", " ").split())
    claimed, held = math.prod(shape) * dtype.itemsize, size - start
    if claimed != held or len(shape) > 32:
        raise ValueError(f"{name!r} claims {dtype} of {shape}, {claimed} bytes, and holds {held}; as many are allowed")
    turned = found[2] == "True"
    value = np.empty(shape[::-1] if turned else shape, dtype)
    if value.size:
        _fill(value.reshape(-1).view(np.uint8), stream, name)
    if stream.read(1):  # and so its checksum is looked at
        raise ValueError(f"{name!r} holds more than it says")
    return value.T if turned else value


def _fill(value: np.ndarray, stream: IO[bytes], name: str) -> None:
    done = 0
    while done < len(value):
        part = stream.read(min(PART, len(value) - done))
        if not part:
            raise ValueError(f"{name!r} ends after {done} of {len(value)} bytes")
        value[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)


def _header(stream: IO[bytes], name: str) -> tuple[str, int]:
    """The text of a header, and where the numbers start."""
    start = stream.read(8)
    width = 2 if start[6:7] == b"\x01" else 4
    size = int.from_bytes(stream.read(width), "little")
    if start[:6] != MAGIC or size > 2**16:
        raise ValueError(f"{name!r} starts with {start[:6]!r} and a header of {size} bytes; npy is allowed")
    return stream.read(size).decode("latin-1"), 8 + width + size
