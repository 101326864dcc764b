"""The reading half of `netx`: every field is checked before it is used.

One exception type, GraphError, naming the file, the layer, the field, what was found and what is allowed.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import h5py

from export import hdf5
from export.graph import (
    Graph,
    GraphError,
    Shape,
)
from export.guard import guarded
from export.netx import checksum, parts
from export.netx.fields import Fields
from export.netx.layers import MAX_LAYERS, Reader

log = logging.getLogger(__name__)


def read(path: Path | str, *, input_shape: Shape | None = None, trusted: bool = False) -> Graph:
    """Read a NetX file as an integer graph. Raises GraphError for anything it does not understand, and for damage.

    input_shape: (C, H, W) of the spikes that come in, for a file without an input layer whose first layer does not say
    it: a convolution with a stride, a pool. trusted: the file was written by this program a moment ago, so libhdf5 need
    not be guarded against it.
    """
    path = Path(path)
    if not path.is_file():
        raise GraphError(f"{path}: no such file")
    if trusted:
        return _open(path, input_shape=input_shape, most=hdf5.MOST_BYTES)[0]
    graph, cut = guarded(partial(_open, input_shape=input_shape, most=hdf5.budget(path)), path)
    if cut:
        log.warning(
            "%s: %s: stock NetX alters weights to fit a synapse's bits; here all are as in the file, and so in SLAYER",
            path, ", ".join(cut),
        )  # fmt: skip
    return graph


def _open(path: Path, *, input_shape: Shape | None = None, most: int = hdf5.MAX_BYTES) -> tuple[Graph, tuple[str, ...]]:
    """The graph, and the layers that stock NetX would run otherwise. most: bytes that may be read."""
    try:
        with hdf5.opened(path) as file:
            return _read(file, input_shape, hdf5.Reading(most))
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise GraphError(f"{path}: cannot be read as NetX HDF5 ({error})") from error


def _read(file: h5py.File, input_shape: Shape | None, reading: hdf5.Reading) -> tuple[Graph, tuple[str, ...]]:
    root = Fields(file, "", "the file", reading)
    if "layer" not in root:
        raise GraphError("no group 'layer'; a NetX file has one")
    layers = root.sub("layer")
    count = len(layers.group)
    if not 0 < count <= MAX_LAYERS:
        raise GraphError(f"{count} layers; 1 to {MAX_LAYERS} are allowed")
    ours = "meta" in root
    reader = Reader(input_shape, ours=ours)
    for k in range(count):
        if str(k) not in layers:
            raise GraphError(f"layer {k} is missing; {count} layers must be numbered from 0")
        reader.layer(layers.sub(str(k), where=f"layer {k}"))
    reader.finish()
    meta = parts.meta(root) if ours else parts.foreign_meta(root, reader.notes)
    graph = Graph(tuple(reader.nodes), integer=True, meta=meta)
    if not graph.populations:
        raise GraphError("no layer with neurons; at least one is needed")
    checksum.verify(root)  # last: what cannot be is named before what was changed
    return graph, tuple(reader.cut)
