"""HDF5 files of strangers: what is in one is checked before libhdf5 is asked to read it.

HDF5 lets a few bytes claim any size, point into other files and ask for any filter. A network needs none of that: what
a file may make a reader do is bounded first. Whatever is refused is a GraphError that names place, field, what was
found and what is allowed.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from export.graph import GraphError

MAX_BYTES = 2**28  # all that is read of a small file, in memory as int32 or as it is stored
FACTOR, MOST_BYTES = 16, 2**33  # of a larger one, as many times its size, and at most
MAX_OBJECTS = 2**16  # groups and datasets; a network of 1000 layers has half as many
MAX_DEPTH = 32  # groups in groups
MAX_ELEMENTS = 2**26  # neurons of one layer; more is a broken file, not a network
GEOMETRY_MAX = 2**15  # more is no stride, padding, dilation, kernel or number of groups
CHUNK_COST = 4096  # bytes of the budget, and about those of memory, for each chunk that libhdf5 looks up
TEXT_COST = 1024  # and about as long as to read a KiB it takes to look up a string
PLAIN = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)


@dataclass
class Reading:
    """How far a file has been read.

    most: bytes that may be, left: that still may be. texts: whether a dataset may be of many strings, of any length.
    found: what datasets hold, by path, where a reader keeps it.
    """

    most: int = MAX_BYTES
    texts: bool = False
    found: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.left = self.most


def budget(path: Path) -> int:
    """Bytes that may be read of a file: HDF5 lets a small one claim any size."""
    return max(MAX_BYTES, min(FACTOR * path.stat().st_size, MOST_BYTES))


class _Whole(io.FileIO):
    """A file that ends in zeros, as it does for libhdf5's own drivers."""

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        done = 0
        while done < len(buffer) and (read := super().readinto(buffer[done:])):
            done += read
        if done < len(buffer):
            buffer[done:] = bytes(len(buffer) - done)
        return len(buffer)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """A file to read.

    libhdf5 is given the open file instead of its name: so it takes no lock, which it would share with a child that
    another thread forks, and does not mistake the file for one that this process's parent had open. Raises OSError,
    and GraphError for a pointer of Git LFS.
    """
    with open(path, "rb") as start:
        if start.read(len(LFS_POINTER)) == LFS_POINTER:
            raise GraphError("is a pointer of Git LFS, not the file itself; `git lfs pull` fetches that")
    with _Whole(path) as raw, h5py.File(raw, "r") as file:
        yield file


def error(where: str, name: str, found: str, allowed: str) -> GraphError:
    return GraphError(f"{where}: {name} is {found}; {allowed} is allowed")


def item(group: h5py.Group, name: str, where: str) -> h5py.Group | h5py.Dataset | None:
    """What a group holds under a name, or None. Links are not followed."""
    links, raw = group.id.links, name.encode("utf-8", "surrogateescape")
    if not links.exists(raw):
        return None
    if links.get_info(raw).type != h5py.h5l.TYPE_HARD:
        raise error(where, name, "a link", "what is in the group itself")
    return group[name]


def afford(dataset: h5py.Dataset, where: str, name: str, reading: Reading) -> None:
    """Pay for reading a dataset, whose size may be a claim, before it is read."""
    plan, dtype, size = dataset.id.get_create_plist(), dataset.dtype, dataset.size
    if plan.get_layout() not in PLAIN or plan.get_external_count():
        raise error(where, name, "virtual or in another file", "a dataset that holds its numbers itself")
    filters = [plan.get_filter(k)[0] for k in range(plan.get_nfilters())]
    if not set(filters) <= set(FILTERS):
        raise error(where, name, f"packed by HDF5 filters {filters}", f"no filter but {FILTERS}")
    texts = dtype.kind == "O" and reading.texts and h5py.check_string_dtype(dtype) is not None
    if size is None or (dtype.kind not in "biufS" and size != 1 and not texts):
        allowed = "an array of numbers or of strings" if reading.texts else "an array of numbers or one string"
        raise error(where, name, f"{dtype} of {size}", allowed)
    chunk = dataset.chunks or dataset.shape
    cost = max(size, math.prod(chunk)) * (TEXT_COST if texts else max(dtype.itemsize, 4))
    cost += math.prod(-(-n // max(c, 1)) for n, c in zip(dataset.shape, chunk, strict=True)) * CHUNK_COST
    if cost > reading.left or (filters and dataset.id.get_storage_size() > cost):
        raise error(where, name, f"{dataset.shape} of {dtype}", f"in a file what takes {reading.most >> 20} MiB")
    reading.left -= cost


def read(dataset: h5py.Dataset, where: str, name: str, reading: Reading) -> np.ndarray:
    """What an affordable dataset holds; strings, which may be of any length and share their place, one by one."""
    if dataset.dtype.kind != "O" or dataset.size == 1:
        return np.asarray(dataset[()])
    found = np.empty(dataset.shape, object)
    for place in np.ndindex(dataset.shape):
        found[place] = dataset[place]
        reading.left -= len(found[place])
        if reading.left < 0:
            raise error(where, name, "more text than that", f"in a file what takes {reading.most >> 20} MiB")
    return found


def walk(group: h5py.Group, path: str, reading: Reading, known: Collection[str] = ()) -> dict[str, h5py.Dataset]:
    """All datasets in a group and the groups in it, by path, each affordable; none is read, those known not opened."""
    found: dict[str, h5py.Dataset] = {}
    places: dict[int, str] = {}
    waiting, seen = deque([(group, path, 0)]), 0
    while waiting:
        outer, where, depth = waiting.popleft()
        seen += len(outer)
        before = places.setdefault(h5py.h5o.get_info(outer.id).addr, where)
        if before != where:  # a group that holds itself has no end, a few that share groups have 10^8 paths
            raise GraphError(f"{where}: the group is that of {before}; a place of its own is allowed")
        if seen > MAX_OBJECTS or depth > MAX_DEPTH:
            shown = "more groups and datasets" if seen > MAX_OBJECTS else "groups in more groups"
            raise GraphError(f"{where}: {shown} than a network has; {MAX_OBJECTS} in {MAX_DEPTH} levels are allowed")
        for name in outer:
            inner = f"{where}/{name}"
            if inner in known:
                continue
            member = item(outer, name, where)
            if isinstance(member, h5py.Dataset):
                afford(member, where, name, reading)
                found[inner] = member
            elif isinstance(member, h5py.Group):
                waiting.append((member, inner, depth + 1))
            else:
                raise error(where, name, "a named type", "a group or a dataset")
    return found
