"""Files whose populations feed themselves, and sigma-delta neurons: what is read, and what is refused by its name."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest

from benchmarks.originals import far_loops, loops, values
from export import netx
from export.graph import Dense, Edge, GraphError, SigmaDelta, same
from export.limits import check
from export.netx.stock import keeps


def edited(graph, tmp_path, *changes):
    """The graph's file without a checksum, some of its datasets put in place, or taken out by None."""
    path = netx.write(graph, tmp_path / "n.net", sealed=False)
    with h5py.File(path, "r+") as file:
        for name, value in changes:
            if name in file:
                del file[name]
            if value is not None:
                file[name] = value
    return path


@pytest.mark.parametrize("graph", [loops(), far_loops(), values()], ids=["loops", "far", "values"])
def test_what_is_written_is_read(graph, tmp_path):
    again = netx.read(netx.write(graph, tmp_path / "n.net"))
    assert [node.name for node in again.nodes] == [node.name for node in graph.nodes]
    assert same(again, netx.read(netx.write(again, tmp_path / "again.net")))


LOOPS = {
    "an empty name": ([("layer/0/name", b"")], "layer 0: name is empty; a name of at least one character"),
    "cut": ([("layer/1/weight_rec", np.full((4, 4), -256))], "layer 1: weight_rec is not what NetX runs beside"),
    "too few": ([("layer/1/weight_rec", np.arange(6))], r"layer 1: weight_rec is of shape \(6,\); 2 axes"),
    "too many": ([("layer/1/weight_rec", np.ones((4, 8)) * 2)], r"layer 1: weight_rec is of shape \(4, 8\); \(4, 4\)"),
    "a delay": ([("layer/1/delay", np.ones(4))], "layer 1: delay is of a recurrent layer; none"),
    "no neuron": ([("layer/1/neuron", None)], "layer 1: a dense_rec layer without CUBA neurons of its own"),
    "values": ([("layer/1/neuron/type", b"SDNN")], "layer 1: a dense_rec layer without CUBA neurons of its own"),
    "two delays": ([("layer/5/delay", np.arange(2))], "image: feeds itself with delays by target neuron"),
    "a shape": ([("layer/4/shape", np.array([1, 3, 3]))], r"layer 4: a feedback of \(1, 3, 3\); \(2, 3, 3\) is summed"),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_that_do_not_fit_are_named(name, tmp_path):
    changes, message = LOOPS[name]
    with pytest.raises(GraphError, match=message):
        netx.read(edited(loops(), tmp_path, *changes))


def test_a_feedback_is_read_once_and_by_a_synapse(tmp_path):
    path = edited(loops(), tmp_path, ("layer/5", None), ("layer/6/inputs", np.array([3])))
    with h5py.File(path, "r+") as file:
        file.move("layer/6", "layer/5")
    with pytest.raises(GraphError, match="layer 4: a feedback that no synapse layer follows"):
        netx.read(path)
    path = edited(loops(), tmp_path)
    with h5py.File(path, "r+") as file:
        file.copy("layer/6", "layer/7")
        file["layer/7/name"][()] = b"other"
    with pytest.raises(GraphError, match="layer 7: sums layer 5, a feedback of another; one add may sum it"):
        netx.read(path)


FAR = {
    "no neurons": ([("layer/3/inputs", np.array([9]))], "layer 9: has no neurons, and a feedback of it; a layer with"),
    "beyond": ([("layer/3/inputs", np.array([99]))], "layer 99: has no neurons, and a feedback of it"),
    "an input": ([("layer/3/inputs", np.array([0]))], "a: is fed back by 'input', which is no other population"),
    "two": ([("layer/3/inputs", np.array([8, 10]))], "layer 3: inputs"),
    "a shape": ([("layer/5/shape", np.array([4, 1, 1]))], r"layer 10: has shape \(3, 1, 1\), and a feedback of it \(4"),
    "two shapes": (
        [("layer/5/inputs", np.array([8]))],
        r"layer 5: shape is \(3, 1, 1\); \(2, 4, 4\), as another of layer 8",
    ),
    "itself": ([("layer/3/inputs", np.array([7]))], "a: is fed back by 'a', which is no other population"),
    "a name": ([("layer/8/name", np.array(b"\0x", "S2"))], "layer 8: name is"),
    "too soon": ([("layer/5/delay", 0)], "a: is fed back by c 1 step late; 3 or more are allowed, as a layer takes"),
    "delays": (
        [("layer/4/delay", np.arange(2))],
        "a: is fed back by b with delays by target neuron; one delay for all",
    ),
}


@pytest.mark.parametrize("name", FAR)
def test_what_later_layers_send_back_is_named(name, tmp_path):
    changes, message = FAR[name]
    with pytest.raises(GraphError, match=message):
        check(netx.read(edited(far_loops(), tmp_path, *changes)))


VALUES = {
    "tanh": ([("layer/1/neuron/activation", b"tanh")], "layer 1: neuron: activation is 'tanh'; 'relu'"),
    "spikes": ([("layer/1/neuron/messageBits", 0)], "layer 1: neuron: messageBits is"),
    "threshold": ([("layer/1/neuron/vThMant", 2048)], "layer 1: neuron: vThMant is"),
    "shift": ([("layer/3/neuron/shift", 17)], "layer 3: neuron: shift is .*; integers from 0 to 16"),
    "bias": ([("layer/1/bias", np.array([1, 2, 3000]))], "layer 1: bias is"),
}


@pytest.mark.parametrize("name", VALUES)
def test_sigma_delta_neurons_that_do_not_fit_are_named(name, tmp_path):
    changes, message = VALUES[name]
    with pytest.raises(GraphError, match=message):
        netx.read(edited(values(), tmp_path, *changes))


def test_fractions_of_a_bias_are_cut_off_as_netx_does(tmp_path):
    graph = netx.read(edited(values(), tmp_path, ("layer/1/bias", np.array([1.9, -1.9, 0.5]))))
    assert graph["told"].neuron.bias.ravel().tolist() == [4096, -4096, 0]


def test_an_input_tells_whatever_it_is_called(tmp_path):
    """NetX runs its Delta for every input."""
    graph = netx.read(edited(values(), tmp_path, ("layer/0/neuron/sigma_output", True)))
    assert isinstance(graph.input.neuron, SigmaDelta) and graph.input.neuron.threshold == 4096


def test_an_output_needs_no_threshold(tmp_path):
    path = edited(values(), tmp_path, ("layer/4/neuron/vThMant", None))
    assert netx.read(path).output.neuron.threshold is None


@pytest.mark.parametrize(
    ("forward", "back", "kept"),
    [
        ([[4, -86]], [[-90]], True),
        ([[4, -86]], [[-128]], False),  # -256 when both are scaled
        ([[200, -6]], [[-8]], True),
        ([[201, 3]], [[-2]], False),
        ([[3, 5]], [[7]], True),
        ([[-128, -128]], [[-128]], False),  # none above 0: cut as one sign
        ([[-128, -128]], [[254]], True),  # scaled together, though alone it would be cut
        ([[254, 2]], [[6]], True),
    ],
)
def test_what_netx_runs_at_another_scale_is_no_dense_rec(forward, back, kept, tmp_path):
    assert keeps(np.array(forward), np.array(back)) == kept
    graph = loops()
    first = graph["first"]
    edges = (
        Edge("input", Dense(np.resize(np.array(forward), (4, 9)))),
        Edge("first", Dense(np.resize(np.array(back), (4, 4)))),
    )
    graph = replace(graph, nodes=(graph.input, replace(first, edges=edges), graph["image"]))
    with h5py.File(netx.write(graph, tmp_path / "n.net")) as file:
        assert (b"dense_rec" in {layer["type"][0] for layer in file["layer"].values()}) == kept
