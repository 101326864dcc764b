"""Broken files: a few hundred of the hundred thousand of `benchmarks/fuzz.py`, and the worst kinds one by one."""

from __future__ import annotations

import os
import signal
import zlib

import h5py
import numpy as np
import pytest

from benchmarks.fuzz import READ, REFUSED, fuzz
from benchmarks.mutations import mutate
from benchmarks.originals import originals
from export import netx
from export.graph import Graph, GraphError
from export.guard import guarded
from export.hdf5 import MAX_BYTES
from tests.examples import some
from tests.export.test_graph import chain


def test_every_mutation_is_read_or_refused(tmp_path):
    results = list(fuzz(range(some(300)), tmp_path))
    assert [result.seed for result in results] == list(range(some(300)))
    assert not [result for result in results if result.failed]
    outcomes = [result.outcome for result in results]
    assert outcomes.count(READ) > len(outcomes) // 15 and outcomes.count(REFUSED) > len(outcomes) // 2


def test_a_file_follows_from_its_seed(tmp_path):
    sources = originals(tmp_path)
    seen = []
    for seed in range(6):
        for name in ("a", "b"):
            mutate(seed, sources, tmp_path / name)
        a, b = (h5_or_bytes(tmp_path / name, seed) for name in ("a", "b"))
        assert a == b
        seen.append(str(a))
    assert len(set(seen)) == len(seen)  # and another seed gives another file


def h5_or_bytes(path, seed: int) -> object:
    """HDF5 writes times into what it changes: fields are compared by what they are called."""
    if seed % 2 == 0:
        return path.read_bytes()
    names: list[str] = []
    with h5py.File(path) as file:
        file.visit(names.append)
    return names


def replaced(path, make) -> None:
    netx.write(chain(), path)
    with h5py.File(path, "r+") as file:
        del file["layer/1/weight"]
        make(file["layer/1"])


def bomb(layer: h5py.Group) -> None:
    weight = layer.create_dataset("weight", (2, 1, 3, 3), "i2", chunks=(2, 1, 3, 3), compression="gzip")
    weight.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(2**26)))


def view_of_itself(layer: h5py.Group) -> None:
    layout = h5py.VirtualLayout((2, 1, 3, 3), "i2")
    layout[:] = h5py.VirtualSource(".", "/layer/1/weight", (2, 1, 3, 3))
    layer.create_virtual_dataset("weight", layout)


CLAIMS = {
    "a petabyte": lambda layer: layer.create_dataset("weight", (2**47,), "f8", chunks=(1024,)),
    "more than the budget": lambda layer: layer.create_dataset("weight", (MAX_BYTES // 8 + 1,), "f8"),
    "a million chunks": lambda layer: layer.create_dataset("weight", (2**20,), "i2", chunks=(1,)),
    "a huge chunk": lambda layer: layer.create_dataset("weight", (2,), "f8", maxshape=(None,), chunks=(2**28,)),
    "a bomb": bomb,
    "a huge string": lambda layer: layer.create_dataset("weight", (1,), "S2000000000"),
    "many strings": lambda layer: layer.create_dataset("weight", (9,), h5py.string_dtype()),
    "a view of itself": view_of_itself,
    "another file": lambda layer: layer.create_dataset("weight", (9,), "i2", external=[("/dev/zero", 0, 18)]),
    "a filter": lambda layer: layer.create_dataset("weight", data=np.ones(99), compression="lzf"),
    "a soft link": lambda layer: layer.__setitem__("weight", h5py.SoftLink("/layer/2/weight")),
    "a link outside": lambda layer: layer.__setitem__("weight", h5py.ExternalLink("/dev/zero", "/")),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_no_network_needs_is_refused_before_it_is_read(claim, tmp_path, monkeypatch):
    replaced(tmp_path / "n.net", CLAIMS[claim])
    read = h5py.Dataset.__getitem__

    def all_but_weight(dataset: h5py.Dataset, *where: object) -> object:
        assert not dataset.name.endswith("weight"), "it was read"
        return read(dataset, *where)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", all_but_weight)
    with pytest.raises(GraphError, match=r"layer 1: weight is .* allowed"):
        netx.read(tmp_path / "n.net")


def test_one_layer_under_many_numbers_is_refused(tmp_path):
    netx.write(chain(), tmp_path / "n.net")
    with h5py.File(tmp_path / "n.net", "r+") as file:
        for k in range(3, 1200):
            file[f"layer/{k}"] = file["layer/1"]
    with pytest.raises(GraphError, match="1200 layers; 1 to 1000 are allowed"):
        netx.read(tmp_path / "n.net")


def test_synapses_that_multiply_are_refused(tmp_path):
    """200 times the same sum of 200 synapses: a small file, and 40,000 edges."""
    netx.write(chain(), tmp_path / "n.net")
    with h5py.File(tmp_path / "n.net", "r+") as file:
        del file["layer/2/neuron"]
        file["layer/3/type"], file["layer/3/shape"], file["layer/3/inputs"] = b"add", (1, 4, 4), [2] * 20_000
        file.copy("layer/1/neuron", "layer/3/neuron")
    with pytest.raises(GraphError, match="layer 3: inputs is 20000 numbers; 1 to 999"):
        netx.read(tmp_path / "n.net")
    with h5py.File(tmp_path / "n.net", "r+") as file:
        del file["layer/3/inputs"]
        file["layer/3/inputs"] = [2] * 900
        for k in range(4, 30):
            file[f"layer/{k}"] = file["layer/3"]
    with pytest.raises(GraphError, match="make more than 16384 synapses between layers"):
        netx.read(tmp_path / "n.net")


def test_the_least_integer_is_no_weight(tmp_path):
    """Its absolute value is itself, negative: as a 32-bit integer it would be 0."""
    value = np.full((2, 1, 3, 3), -(2**63))
    replaced(tmp_path / "n.net", lambda layer: layer.create_dataset("weight", data=value))
    with pytest.raises(GraphError, match="layer 1: weight is fractional or beyond 16 bits"):
        netx.read(tmp_path / "n.net")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("encoder", "morse", "encoder is 'morse'; rate, poisson, graded are allowed"),
        ("notes", "[" * 50_000, "meta: missing or broken attribute"),
        ("timesteps", 1e308, "meta: missing or broken attribute|out of range"),
        ("logit_scale", np.nan, "out of range"),
        ("class_names", np.array(["a"] * 9, h5py.string_dtype()), "class_names is an array"),
    ],
)
def test_attributes_of_meta_are_checked(name, value, message, tmp_path):
    netx.write(chain(), tmp_path / "n.net")
    with h5py.File(tmp_path / "n.net", "r+") as file:
        file["meta"].attrs[name] = value
    with pytest.raises(GraphError, match=message):
        netx.read(tmp_path / "n.net")


def crash(path) -> Graph:
    os.kill(os.getpid(), signal.SIGSEGV)
    return chain()


def loop(path) -> Graph:
    while True:
        pass


def swell(path) -> Graph:
    return [bytearray(2**28) for _ in range(64)]


def test_a_crash_of_libhdf5_is_refused(tmp_path):
    path = netx.write(chain(), tmp_path / "n.net")
    with pytest.raises(GraphError, match=r"n\.net: libhdf5 was stopped by SIGSEGV; the file is damaged"):
        guarded(crash, path)


def test_an_endless_loop_of_libhdf5_is_refused(tmp_path):
    path = netx.write(chain(), tmp_path / "n.net")
    with pytest.raises(GraphError, match=r"n\.net: libhdf5 was stopped after 4 s"):
        guarded(loop, path)


def stumble(path) -> Graph:
    return 1 // 0  # a mistake of the reader's own


def test_a_reader_that_fails_is_no_broken_file(tmp_path):
    path = netx.write(chain(), tmp_path / "n.net")
    with pytest.raises(RuntimeError, match=r"(?s)the reader failed:.*ZeroDivisionError"):
        guarded(stumble, path)
    with pytest.raises(GraphError, match="takes more than 1024 MiB to read"):
        guarded(swell, path)
