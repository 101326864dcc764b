"""What a network file's checksum tells: every change, and that it is the one of FORMAT.md."""

from __future__ import annotations

import hashlib

import h5py
import numpy as np
import pytest
from hypothesis import given

from export import netx
from export.graph import (
    GraphError,
    same,
)
from export.netx.read import _open
from tests.examples import examples
from tests.export.test_graph import chain
from tests.networks import build, cases


def as_the_format_says(file: h5py.File) -> str:
    """The checksum by FORMAT.md, without our code."""
    values: dict[bytes, object] = {}
    visit = lambda name, item: values.update({f"layer/{name}".encode(): item[()]} if hasattr(item, "dtype") else {})  # noqa: E731
    file["layer"].visititems(visit)
    values |= {f"meta/{name}".encode(): value for name, value in file["meta"].attrs.items() if name != "sha256"}
    total = b""
    for path in sorted(values):
        array = np.asarray(values[path])
        numbers = array.dtype.kind in "biuf"
        kind = array.dtype.kind + str(array.dtype.itemsize) if numbers else "s"
        total += path + f" {kind} {','.join(str(side) for side in array.shape)}\n".encode()
        if numbers:
            total += array.astype(array.dtype.newbyteorder("<")).tobytes()
        else:
            total += b"".join((t if isinstance(t, bytes) else t.encode()) + b"\0" for t in array.ravel().tolist())
    return hashlib.sha256(total).hexdigest()


@given(case=cases())
@examples(10)
def test_the_checksum_is_that_of_the_format(case, tmp_path_factory):
    path = netx.write(build(case)[1], tmp_path_factory.mktemp("net") / "n.net")
    with h5py.File(path) as file:
        assert file["meta"].attrs["sha256"] == as_the_format_says(file)


CHANGES = {
    "a weight": ("layer/1/weight", lambda value: value + 2),
    "a threshold": ("layer/1/neuron/vThMant", lambda value: value + 1),
    "a name": ("layer/1/name", lambda value: b"other"),
    "what no reader looks at": ("layer/1/inChannels", lambda value: value + 1),
    "a type of numbers": ("layer/1/shape", lambda value: value.astype(np.int32)),
    "a scalar for an array": ("layer/1/type", lambda value: value[0]),
    "a new field": ("layer/1/other", lambda value: 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_changed_in_a_file_is_told_by_its_checksum(change, tmp_path):
    where, changed = CHANGES[change]
    path = netx.write(chain(), tmp_path / "n.net")
    with h5py.File(path, "r+") as file:
        value = changed(file[where][()] if where in file else None)
        if where in file:
            del file[where]
        file[where] = value
    with pytest.raises(GraphError, match=r"n\.net: its checksum is wrong: \w{64} is that .*, '\w{64}' stands"):
        netx.read(path)
    with h5py.File(path, "r+") as file:
        del file["meta"].attrs["sha256"]
    netx.read(path)  # as files of lava-dl, and ours of before


@pytest.mark.parametrize(
    ("name", "value"), [("timesteps", 9), ("notes", '{"a": "b"}'), ("other", 1), ("sha256", "x" * 99), ("sha256", 1)]
)
def test_changed_meta_is_told_by_the_checksum(name, value, tmp_path):
    path = netx.write(chain(), tmp_path / "n.net")
    with h5py.File(path, "r+") as file:
        file["meta"].attrs[name] = value
    with pytest.raises(GraphError, match="its checksum is wrong"):
        netx.read(path)


def test_a_checksum_that_is_no_text_is_refused(tmp_path):
    path = netx.write(chain(), tmp_path / "n.net")
    with h5py.File(path, "r+") as file:
        file["meta"].attrs["sha256"] = np.zeros(3)
    with pytest.raises(GraphError, match="meta: sha256 is an array"):
        netx.read(path)


def test_each_flipped_byte_is_refused_or_changes_nothing(tmp_path):
    graph = chain()
    path = netx.write(graph, tmp_path / "n.net")
    whole, rng, told = path.read_bytes(), np.random.default_rng(0), 0
    with h5py.File(path) as file:
        weight = file["layer/1/weight"].id.get_chunk_info(0)
    inside = range(weight.byte_offset, weight.byte_offset + weight.size)
    for place in (*inside, *rng.integers(len(whole), size=60).tolist()):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            assert same(_open(path)[0], graph), place
        except GraphError:
            told += 1
    assert told > len(inside) / 2
