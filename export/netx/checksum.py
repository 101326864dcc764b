"""The checksum of a network file: SHA-256 over all that its groups `layer` and `meta` hold. FORMAT.md defines it.

It tells damage, not intent: whoever changes a file on purpose can make another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import h5py
import numpy as np

from export import hdf5
from export.graph import GraphError
from export.netx.fields import Fields
from export.netx.parts import scalar

NAME = "sha256"


def seal(file: h5py.File) -> None:
    """Write the checksum of a file of ours into it."""
    known: dict[str, np.ndarray] = {}

    def take(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            known[f"layer/{name}"] = np.asarray(item[()])

    file["layer"].visititems(take)
    file["meta"].attrs[NAME] = digest(known | _meta(file["meta"].attrs))


def verify(file: Fields) -> None:
    """Raise GraphError where a file is not what its checksum says. Files without one, of others, pass."""
    if "meta" not in file or NAME not in file.sub("meta").group.attrs:
        return
    try:
        said, found = scalar(file.sub("meta").group.attrs, NAME), _checksum(file)
    except TypeError as error:
        raise GraphError(f"meta: {error}, of which there can be no checksum") from None
    if said != found:
        raise GraphError(
            f"its checksum is wrong: {found} is that of what it holds, {str(said)[:64]!r} stands in it; "
            "it was damaged or changed after it was written"
        )


def _checksum(file: Fields) -> str:
    reading, known = file.reading, {}
    for path, dataset in hdf5.walk(file.sub("layer").group, "layer", reading, reading.found).items():
        where, _, name = path.rpartition("/")
        known[path] = hdf5.read(dataset, where, name, reading)
    known |= {path: value for path, value in reading.found.items() if path.startswith("layer/")}
    return digest(known | _meta(file.sub("meta").group.attrs))


def _meta(attrs: h5py.AttributeManager) -> dict[str, np.ndarray]:
    return {f"meta/{name}": np.asarray(scalar(attrs, name)) for name in attrs if name != NAME}


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of arrays of numbers and strings in the order of their names, as FORMAT.md says."""
    total = hashlib.sha256()
    for name in sorted(arrays, key=_bytes):
        value = np.asarray(arrays[name])
        numbers = value.dtype.kind in "biuf"
        kind = f"{value.dtype.kind}{value.dtype.itemsize}" if numbers else "s"
        total.update(_bytes(f"{name} {kind} {','.join(map(str, value.shape))}\n"))
        if numbers:
            total.update(np.ascontiguousarray(value, value.dtype.newbyteorder("<")).data)
        else:
            total.update(b"".join(_bytes(text) + b"\0" for text in value.ravel().tolist()))
    return total.hexdigest()


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
