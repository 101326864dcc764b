"""NIR files that attack: what no network needs is refused by name before anything is read, as in network files."""

from __future__ import annotations

import zlib

import h5py
import numpy as np
import pytest

from export.graph import GraphError
from export.hdf5 import MAX_BYTES
from export.nir import read as read_nir
from export.nir import write as write_nir
from tests.export.test_graph import chain

WEIGHT, GROUP = "weight", "node/nodes/hidden:0"


def attacked(path, make):
    write_nir(chain(), path)
    with h5py.File(path, "r+") as file:
        make(file[GROUP])
    return path


def without(group: h5py.Group) -> h5py.Group:
    del group[WEIGHT]
    return group


def virtual(group: h5py.Group) -> None:
    layout = h5py.VirtualLayout((2, 1, 3, 3), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (2, 1, 3, 3))
    without(group).create_virtual_dataset(WEIGHT, layout)


def bomb(group: h5py.Group) -> None:
    made = without(group).create_dataset(WEIGHT, (2, 1, 3, 3), "f4", chunks=(2, 1, 3, 3), compression="gzip")
    made.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(2**26)))


def nested(group: h5py.Group) -> None:
    for _ in range(500):
        group = group.create_group("metadata")
    group["scale"] = 1.0


def many(group: h5py.Group) -> None:
    """Groups that hold the next group ten times: a small tree of 10^8 paths."""
    for _ in range(8):
        inner = group.create_group("0")
        for k in range(1, 10):
            group[str(k)] = inner
        group = inner


def loop(group: h5py.Group) -> None:
    group["metadata"] = group


def create(*shape: int, **options):
    dtype = options.pop("dtype", "f4")
    return lambda group: without(group).create_dataset(WEIGHT, shape, dtype, **options)


def put(value, name: str = WEIGHT):
    def make(group: h5py.Group) -> None:
        if name in group:
            del group[name]
        group[name] = value

    return make


STORED = r"weight is virtual or in another file; a dataset that holds its numbers itself is allowed"
ATTACKS = {
    "/etc/passwd as weights": (create(2, 1, 3, 3, dtype="u1", external=[("/etc/passwd", 0, 18)]), STORED),
    "zeros without end": (create(2**26, external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)]), STORED),
    "a view of another file": (virtual, STORED),
    "22 GiB": (
        create(22 * 2**28, chunks=(1024,)),
        r"weight is \(5905580032,\) of float32; in a file what takes 256 MiB",
    ),
    "32 TiB": (create(2**43), r"weight is \(8796093022208,\) of float32; in a file what takes 256 MiB"),
    "just too much": (create(MAX_BYTES // 4 + 1), "in a file what takes 256 MiB is allowed"),
    "a million chunks": (create(2**20, chunks=(1,)), "in a file what takes 256 MiB is allowed"),
    "a huge chunk": (create(2, maxshape=(None,), chunks=(2**28,)), "in a file what takes 256 MiB is allowed"),
    "a bomb": (bomb, r"weight is \(2, 1, 3, 3\) of float32; in a file what takes 256 MiB"),
    "a huge string": (create(1, dtype="S2000000000"), "in a file what takes 256 MiB is allowed"),
    "a filter": (create(99, compression="lzf"), r"weight is packed by HDF5 filters \[32000\]; no filter but"),
    "a link outside": (put(h5py.ExternalLink("/etc/passwd", "/")), "weight is a link; what is in the group itself"),
    "a link to another weight": (put(h5py.SoftLink("/node/nodes/head:0/weight")), "weight is a link; what is in"),
    "a link to nowhere": (put(h5py.SoftLink("/no/where"), "other"), "other is a link; what is in"),
    "references": (create(9, dtype=h5py.ref_dtype), "weight is object of 9; an array of numbers or of strings"),
    "compounds": (create(9, dtype="i4,f4"), "weight is .* of 9; an array of numbers or of strings"),
    "many strings": (create(2**19, dtype=h5py.string_dtype()), "in a file what takes 256 MiB is allowed"),
    "nothing": (put(h5py.Empty("f4")), "weight is float32 of None; an array of numbers"),
    "a nest of groups": (nested, "metadata/metadata: groups in more groups than a network has; 65536 in 32 levels"),
    "a group in itself": (loop, "metadata: the group is that of node/nodes/hidden:0; a place of its own is allowed"),
    "10^8 paths": (many, "1: the group is that of node/nodes/hidden:0/0; a place of its own is allowed"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_no_network_needs_is_refused_before_it_is_read(attack, tmp_path, monkeypatch):
    make, message = ATTACKS[attack]
    path = attacked(tmp_path / "n.nir", make)

    def never(dataset: h5py.Dataset, *where: object) -> object:
        raise AssertionError("it was read")

    monkeypatch.setattr(h5py.Dataset, "__getitem__", never)
    with pytest.raises(GraphError, match=rf"n\.nir: node/nodes/hidden:0.*{message}"):
        read_nir(path, timesteps=4)


def test_strings_that_share_their_text_are_refused_once_it_is_too_much(tmp_path):
    """A text of 8 MiB, 40 times, in a file of 8 MiB."""
    path = write_nir(chain(), tmp_path / "n.nir")
    with h5py.File(path, "r+") as file:
        del file["node/edges"]
        texts = file.create_dataset("node/edges", (20, 2), h5py.string_dtype())
        texts[0, 0] = "x" * 2**23
    raw = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        start = file["node/edges"].id.get_offset()
    raw[start : start + 40 * 16] = raw[start : start + 16] * 40
    path.write_bytes(raw)
    with pytest.raises(GraphError, match="node: edges is more text than that; in a file what takes 256 MiB is allowed"):
        read_nir(path, timesteps=4)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("nodes/input/shape", [2**20, 2**20, 1], r"input: shape is \(1048576, 1048576, 1\); 67108864 neurons at most"),
        ("nodes/input/shape", [1.5, 4, 4], r"input: shape is \[1.5, 4.0, 4.0\]"),
        ("nodes/input/shape", list(range(1, 99)), r"input: shape is \[1, 2, 3, 4, 5, 6, 7, 8\]; \(N\)"),
        ("nodes/hidden:0/stride", [2**40, 1], r"hidden:0: stride is \[1099511627776.0, 1.0\]; .* from 1 to 32768"),
        ("nodes/hidden:0/dilation", [2**62, 1], r"hidden:0: dilation is .*; 1 or 2 integers from 1 to 32768"),
        ("nodes/hidden:0/padding", [2**15, 2**15], r"hidden:0: shape is \(2, .*\); 67108864 neurons at most"),
        ("nodes/hidden:0/groups", 2**40, r"hidden:0: groups is \[1099511627776.0\]; 1 or 2 integers from 1 to 32768"),
        ("nodes/hidden/metadata/reset", "x" * 10_000, "hidden: reset in its metadata is 'x{80}'; subtract and zero"),
        ("nodes/hidden/metadata/scale", -1.0, "hidden: scale in its metadata is -1; a positive number"),
        ("metadata/class_names", "a,b", "the graph: class_names in its metadata is 'a,b'; a JSON list of names"),
        ("nodes/hidden/metadata/reset", [1, 2], r"hidden: reset in its metadata is '\[1 2\]'; subtract and zero"),
    ],
)
def test_sizes_beyond_a_network_are_refused_by_name(place, value, message, tmp_path):
    path = write_nir(chain(), tmp_path / "n.nir")
    with h5py.File(path, "r+") as file:
        if f"node/{place}" in file:
            del file[f"node/{place}"]
        file[f"node/{place}"] = value
    with pytest.raises(GraphError, match=message) as caught:
        read_nir(path, timesteps=4)
    assert str(path) in str(caught.value)


def test_a_file_that_is_locked_or_open_elsewhere_is_read(tmp_path):
    """As it is while another thread's child lives: it inherits the lock of what this process writes."""
    path = write_nir(chain(), tmp_path / "n.nir")
    expected = read_nir(path, timesteps=4)
    with h5py.File(path, "r+"):
        assert read_nir(path, timesteps=4)["hidden"].shape == expected["hidden"].shape


def test_flipped_bytes_are_read_or_refused(tmp_path):
    """Damaged bytes, one by one: read or refused by name, never a traceback."""
    path = write_nir(chain(), tmp_path / "n.nir")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for place in rng.integers(len(whole), size=20).tolist():
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            read_nir(path, timesteps=4)
        except GraphError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 1
