"""Single synapses in the file: written and read, hidden from stock NetX, and every broken field named."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given

from export import netx
from export.graph import Edge, Graph, GraphError, Input, Neuron, Population, Sparse, same
from export.netx import layers
from tests.examples import examples
from tests.export.netx.test_netx import corrupt
from tests.graphs import graphs


@given(drawn=graphs(valued=True))
@examples(60)
def test_what_is_written_is_read(drawn, tmp_path_factory):
    """By themselves, joined through a concat, added to others; with delays of edges and of channels."""
    path = netx.write(drawn[0], tmp_path_factory.mktemp("net") / "network.net")
    assert same(netx.read(path), drawn[0])
    with h5py.File(path) as file:
        kinds = [file[f"layer/{k}/type"][0] for k in range(len(file["layer"]))]
    assert all(kinds[k - 1] == b"concat" for k, kind in enumerate(kinds) if kind == b"sparse")


def single() -> Graph:
    """input 2x2x2 -> a 1x1x3, three single synapses."""
    op = Sparse(np.array([4, -6, 8]), np.array([2, 0, 1]), np.array([7, 0, 3]), (1, 1, 3))
    return Graph((Input("input", (2, 2, 2)), Population("a", (1, 1, 3), (Edge("input", op),), Neuron(5))), integer=True)


NO_SYNAPSES = {
    "no target": ("target", None, "layer 2: field 'target' is missing"),
    "a matrix": ("weight", np.zeros((3, 1)), r"layer 2: weight is of shape \(3, 1\); 1 axes"),
    "fewer sources": ("source", np.zeros(2), r"layer 2: source is of shape \(2,\); one number for each of 3 weights"),
    "a scalar": ("source", 1, r"layer 2: source is of shape \(\); one number"),
    "a target beyond": ("target", [2, 3, 0], "layer 2: target is from 0 to 3; integers from 0 to 2 is allowed"),
    "a source beyond": ("source", [8, 0, 1], "layer 2: source is from 0 to 8; integers from 0 to 7 is allowed"),
    "a negative source": ("source", [-1, 0, 1], "layer 2: source is from -1 to 1; integers from 0"),
    "the least integer": ("source", [-(2**63), 0, 1], "layer 2: source is from -9.22337e"),
    "the greatest": ("target", np.full(3, 2**64 - 1, np.uint64), "layer 2: target is from 1.84467e"),
    "half a neuron": ("target", [0.5, 0, 1], "layer 2: target is from 0 to 1; integers from 0 to 2"),
    "NaN": ("target", [np.nan, 0, 1], "layer 2: target is NaN or infinite"),
    "text": ("target", b"all", "layer 2: target is"),
    "a fraction": ("weight", [0.5, 0, 1], "layer 2: weight is fractional"),
    "a pair twice": ("source", [3, 0, 3], None),
    "another shape": ("shape", [1, 1, 2], "layer 2: target is from 0 to 2; integers from 0 to 1"),
}


@pytest.mark.parametrize("name", NO_SYNAPSES)
def test_broken_synapses_name_layer_and_field(name, tmp_path):
    field, value, message = NO_SYNAPSES[name]
    path = netx.write(single(), tmp_path / "n.net", sealed=False)
    corrupt(path, f"layer/2/{field}", value)
    if message is None:  # one pair twice needs two fields
        corrupt(path, "layer/2/target", [1, 1, 1])
        message = "a: edge from input: sparse synapses join the same two neurons twice"
    with pytest.raises(GraphError, match=message):
        netx.read(path)


def test_none_of_them_is_allowed_and_too_many_are_not(tmp_path, monkeypatch):
    path = netx.write(single(), tmp_path / "n.net", sealed=False)
    for field in ("weight", "target", "source"):
        corrupt(path, f"layer/2/{field}", np.zeros(0, int))
    assert netx.read(path)["a"].edges[0].op.weight.size == 0
    path = netx.write(single(), tmp_path / "n.net")
    monkeypatch.setattr(layers, "MAX_SYNAPSES", 2)
    with pytest.raises(GraphError, match="layer 2: the layers so far make more than 2 single synapses"):
        netx.read(path)


def test_the_checksum_covers_the_ends_of_synapses(tmp_path):
    for field in ("weight", "target", "source"):
        path = netx.write(single(), tmp_path / "n.net")
        with h5py.File(path, "r+") as file:
            file[f"layer/2/{field}"][0] = 2 if field == "weight" else 1 if field == "target" else 6
            if field == "target":
                file["layer/2/target"][2] = 2
        with pytest.raises(GraphError, match="its checksum is wrong"):
            netx.read(path)
