"""The file: what is written is what is read, what is broken is named, what stock NetX runs it runs alike."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given

from export import hdf5, netx, nir
from export.graph import (
    Conv,
    ConvT,
    Dense,
    Edge,
    Graph,
    GraphError,
    Input,
    Meta,
    Neuron,
    Population,
    same,
    with_timesteps,
)
from export.passes import align_delays
from hardware_sim import SimulationError, run
from tests.examples import examples
from tests.export.netx.test_checksum import as_the_format_says
from tests.export.test_graph import chain
from tests.networks import build, cases


@given(case=cases())
@examples(40)
def test_what_is_written_is_read(case, tmp_path_factory):
    _, graph, _ = build(case)
    path = tmp_path_factory.mktemp("net") / "network.net"
    assert same(netx.read(netx.write(graph, path)), graph)
    assert [p.name for p in path.parent.iterdir()] == ["network.net"]


def test_edges_of_different_geometry_become_an_add_layer(tmp_path):
    nodes = (
        Input("input", (2, 6, 6)),
        Population("a", (3, 6, 6), (Edge("input", Conv(np.full((3, 2, 1, 1), 4))),), Neuron(3, u0=96)),
        Population(
            "b",
            (3, 6, 6),
            (
                Edge("a", Conv(np.full((3, 3, 3, 3), 2), padding=(1, 1))),
                Edge("input", Conv(np.full((3, 2, 1, 1), 6))),
                Edge("a", ConvT(np.full((3, 3, 1, 1), -4))),
            ),
            Neuron(9, bias=np.full((3, 1, 1), 64, np.int32)),
            scale=9.0,
        ),
        Population("c", (2, 1, 1), (Edge("b", Dense(np.full((2, 108), 2))),), Neuron(None)),
    )
    meta = Meta(timesteps=3, encoder="poisson", logit_scale=0.25, class_names=("x", "y"), notes={"by": "test"})
    graph = align_delays(Graph(nodes, integer=True, meta=meta))
    path = netx.write(graph, tmp_path / "g.net")
    assert same(netx.read(path), graph)
    with h5py.File(path) as file:
        kinds = [file[f"layer/{k}/type"][0].decode() for k in range(len(file["layer"]))]
    assert kinds == [
        "input", "conv", "concat", "conv", "concat", "conv", "concat", "convT", "add", "flatten", "dense",
    ]  # fmt: skip


def test_float_graphs_and_failures_leave_nothing_behind(tmp_path):
    with pytest.raises(GraphError, match="quantize it before writing"):
        netx.write(dataclasses.replace(chain(), integer=False), tmp_path / "a.net")
    broken = dataclasses.replace(chain(), meta=Meta(notes={"x": object()}))
    with pytest.raises(TypeError):
        netx.write(broken, tmp_path / "a.net")
    assert not list(tmp_path.iterdir())


def corrupt(path, where: str, value):
    with h5py.File(path, "r+") as file:
        if where in file:
            del file[where]
        if value is not None:
            file[where] = value


BROKEN = {
    "no layers": ("layer", None, "no group 'layer'"),
    "a layer missing": ("layer/1", None, "layer 1 is missing"),
    "unknown type": ("layer/1/type", b"dense_comp", "layer 1: type is 'dense_comp'; input, conv"),
    "no weight": ("layer/1/weight", None, "layer 1: field 'weight' is missing"),
    "NaN weight": ("layer/1/weight", np.full((2, 1, 3, 3), np.nan), "layer 1: weight is NaN or infinite"),
    "fractional weight": ("layer/1/weight", np.full((2, 1, 3, 3), 0.5), "layer 1: weight is fractional"),
    "flat weight": ("layer/1/weight", np.zeros(18), r"layer 1: weight is of shape \(18,\); 4 axes"),
    "wrong channels": ("layer/1/weight", np.zeros((2, 5, 3, 3)), "hidden: edge from input: weight"),
    "wrong shape": ("layer/1/shape", [2, 9, 9], r"hidden: edge from input makes \(2, 4, 4\)"),
    "negative shape": ("layer/1/shape", [2, -4, 4], "layer 1: shape is"),
    "huge shape": ("layer/0/shape", [2**20, 2**20, 1], "layer 0: shape is"),
    "text for a number": ("layer/1/stride", b"two", "layer 1: stride is"),
    "groups that do not divide": ("layer/1/groups", 3, "layer 1: groups is 3; a divisor of 2 channels is allowed"),
    "a meta that is no group": ("meta", [1], "the file: group 'meta' is missing"),
    "zero stride": ("layer/1/stride", [0, 1], r"layer 1: stride is \[0, 1\]; integers from 1"),
    "no neuron": ("layer/2/neuron", None, "layer 2: has no neuron"),
    "a resonator": (
        "layer/1/neuron/type",
        b"RF",
        "layer 1: neuron: type is 'RF'; CUBA, LOIHI, CUBA_SOFT_RESET, TERNARY",
    ),
    "resonator": ("layer/1/neuron/type", b"RF_PHASE", "layer 1: neuron: type is 'RF_PHASE'"),
    "no threshold": ("layer/1/neuron/vThMant", None, "layer 1: neuron: field 'vThMant' is missing"),
    "a fractional bias": ("layer/1/neuron/bias", np.full(1, 3.7), "layer 1: neuron: bias is fractional or too large"),
    "a huge bias": ("layer/1/neuron/bias", np.full(1, 1e12), "layer 1: neuron: bias is fractional or too large"),
    "an empty scale": ("layer/1/scale", np.zeros(0), "layer 1: scale is 0 numbers; one"),
    "a scale of 0": ("layer/1/scale", np.zeros(1), "layer 1: scale is 0; a positive number"),
    "an average within": ("layer/1/type", b"average", "layer 2: follows an average, which must be the last layer"),
    "delays for other channels": (
        "layer/1/delay",
        np.zeros(5),
        "layer 1: delay is 5 numbers; 1 or 2 of them is allowed",
    ),
    "a delay beyond Loihi's": ("layer/1/delay", [63.0, 0], r"layer 1: delay is \[63.0, 0.0\]; integers from 0 to 62"),
    "inputs of a synapse": ("layer/1/inputs", np.zeros(1), "layer 1: field 'inputs' is read on concat and add"),
    "refractory": ("layer/1/neuron/refDelay", 2, r"layer 1: neuron: refDelay is \[2.*\]; integers from 1 to 1"),
    "graded": ("layer/1/neuron/gradedSpike", True, "layer 1: neuron: gradedSpike is"),
    "reset unlike type": (
        "layer/1/neuron/reset",
        b"zero",
        "layer 1: neuron: reset is 'zero'; 'subtract' with type",
    ),
    "a weight that is a group": ("layer/1/weight/real", None, "layer 1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_name_layer_and_field(name, tmp_path):
    where, value, message = BROKEN[name]
    path = netx.write(chain(), tmp_path / "n.net")
    if name == "a weight that is a group":
        corrupt(path, "layer/1/weight", None)
        corrupt(path, where, np.zeros(3))
    else:
        corrupt(path, where, value)
    with pytest.raises(GraphError, match=message) as caught:
        netx.read(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_hdf5_are_named(tmp_path):
    with pytest.raises(GraphError, match="no such file"):
        netx.read(tmp_path / "none.net")
    (tmp_path / "text.net").write_text("hello")
    with pytest.raises(GraphError, match="cannot be read as NetX HDF5"):
        netx.read(tmp_path / "text.net")
    whole = netx.write(chain(), tmp_path / "whole.net").read_bytes()
    (tmp_path / "torn.net").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GraphError, match=r"torn\.net"):
        netx.read(tmp_path / "torn.net")


def test_files_of_another_version_are_refused(tmp_path):
    path = netx.write(chain(), tmp_path / "n.net")
    with h5py.File(path, "r+") as file:
        file["meta"].attrs["version"] = 99
    with pytest.raises(GraphError, match="99; neuroseg 1 is allowed"):
        netx.read(path)


def example() -> list[str]:
    text = (Path(__file__).resolve().parents[3] / "FORMAT.md").read_text().split("## Example\n")[1]
    return [line.removeprefix("    ") for line in text.splitlines()]


def test_the_example_of_the_format_is_what_it_says(tmp_path, monkeypatch):
    code = [line for line in example() if not line.startswith(("layer/", "meta/"))]
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(code), "FORMAT.md", "exec"), {})
    with h5py.File("tiny.net") as file:
        for line in example():
            group, _, fields = line.partition("  ")
            if group == "meta/sha256":
                assert file["meta"].attrs["sha256"] == fields == as_the_format_says(file)
            elif line.startswith("layer/"):
                found = {key for key, value in file[group].items() if isinstance(value, h5py.Dataset)}
                named = re.sub(r"\[.*?\]\]|\(.*?\)", "", fields)
                assert found == {field.split()[0] for field in named.split(", ") if field.strip()}


def test_a_large_file_is_read_as_far_as_it_is_large(tmp_path, monkeypatch):
    """What a file may claim grows with what it holds: 75 million weights were written, and not read back."""
    monkeypatch.setattr(hdf5, "MAX_BYTES", 2**20)
    weight = 2 * np.random.default_rng(0).integers(-100, 100, (600, 1000))
    nodes = (Input("input", (1000, 1, 1)), Population("a", (600, 1, 1), (Edge("input", Dense(weight)),), Neuron(None)))
    graph = Graph(nodes, integer=True, meta=Meta(timesteps=4))
    path = netx.write(graph, tmp_path / "large.net")
    assert same(netx.read(path), graph)
    with h5py.File(path, "r+") as file:  # a claim beyond that
        del file["layer/1/weight"]
        file.create_dataset("layer/1/weight", (600, 2**15), "f4", chunks=(600, 2**15), compression="gzip")
    claimed = r"layer 1: weight is \(600, 32768\) of float32; in a file what takes .* MiB is allowed"
    with pytest.raises(GraphError, match=claimed):
        netx.read(path)


def test_an_input_of_others_has_no_fractions(tmp_path):
    """NetX cuts them off; ours are what they are."""
    graph = chain()
    driven = Input("input", (1, 4, 4), Neuron(25), gain=63.5, offset=-1.5)
    path = netx.write(dataclasses.replace(graph, nodes=(driven, *graph.nodes[1:])), tmp_path / "n.net", sealed=False)
    assert (netx.read(path).input.gain, netx.read(path).input.offset) == (63.5, -1.5)
    with h5py.File(path, "r+") as file:
        del file["meta"]
    assert (netx.read(path).input.gain, netx.read(path).input.offset) == (63.0, -1.0)


def test_a_file_that_does_not_say_its_steps_asks_for_them(tmp_path):
    path = netx.write(chain(), tmp_path / "n.net")
    with h5py.File(path, "r+") as file:
        del file["meta"]
    graph = netx.read(path)
    assert graph.meta.notes["timesteps"].startswith("the file does not say")
    spikes = np.ones((1, 20, *graph.input.shape), np.uint8)
    with pytest.raises(SimulationError, match=r"20 time steps, and the network's file does not say its own; give them"):
        run(graph, spikes)
    given = with_timesteps(graph, 20)
    assert not given.meta.notes and run(given, spikes).timesteps == 20
    with h5py.File(path, "r+") as file:
        file["simulation/tSample"] = 20
    assert same(netx.read(path), given)


@pytest.mark.parametrize("read", [netx.read, partial(nir.read, timesteps=4)], ids=["netx", "nir"])
def test_a_pointer_of_git_lfs_says_so(read, tmp_path):
    path = tmp_path / "n.net"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 999\n")
    with pytest.raises(GraphError, match=r"n\.net: is a pointer of Git LFS, not the file itself; `git lfs pull`"):
        read(path)


def test_counts_are_named_as_they_are_allowed(tmp_path):
    path = netx.write(chain(), tmp_path / "n.net")
    with h5py.File(path, "r+") as file:
        del file["layer/1/shape"]
        file["layer/1/shape"] = [2, 4]
    with pytest.raises(GraphError, match="layer 1: shape is 2 numbers; 1 or 3 of them is allowed"):
        netx.read(path)
