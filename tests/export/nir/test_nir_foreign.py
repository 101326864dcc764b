"""What other people's NIR files say in passing: axes that are flattened, metadata, names, shapes."""

from __future__ import annotations

import nir
import numpy as np
import pytest

from export.graph import GraphError, same
from export.nir import read as read_nir
from export.quantize import quantize
from hardware_sim.reference import run_reference
from tests.export.nir.test_nir_others import FOUR, PLAIN_NODES, conv2d, lif, saved, spiking
from tests.export.nir.test_nir_signals import STEPS, fires, integrated, row, spikes, written

ONES = np.ones((2, 2, 3))
LINE = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1, "bias": np.zeros(2)}


def flatten(shape: tuple[int, ...], first: int, last: int = -1) -> nir.Flatten:
    return nir.Flatten(input_type={"input": np.array(shape)}, start_dim=first, end_dim=last)


READERS = {
    "conv1d": nir.Conv1d(input_shape=8, weight=np.ones((2, 2, 3)), **LINE),
    "conv2d": conv2d(np.ones((1, 2, 1, 3))),
    "pool": nir.AvgPool2d(np.array([1, 2]), np.array([1, 2]), np.array([0, 0])),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("between", [False, True], ids=["at once", "behind neurons"])
def test_what_was_flattened_is_not_convolved_along_its_old_axes(reader, between, tmp_path):
    """(2, 2, 4) to (2, 8): a kernel would run along 8."""
    neurons = {"first": fires(2, 8)} if between else {}
    nodes, links = row(f=flatten((2, 2, 4), 1), **neurons, c=READERS[reader], n=spiking(2))
    nodes["in"] = nir.Input(np.array([2, 2, 4]))
    with pytest.raises(GraphError, match=r"c: reads what f flattened, of \(2, 2, 4\); Linear, Affine"):
        written(nodes, links, tmp_path / "n.nir")


def test_neurons_behind_a_flatten_do_not_feed_themselves_through_a_convolution(tmp_path):
    again = nir.Conv1d(input_shape=8, weight=np.ones((2, 2, 3)), **LINE)
    nodes = {"in": nir.Input(np.array([2, 2, 4])), "f": flatten((2, 2, 4), 1), "n": fires(2, 8), "c": again}
    nodes["out"] = nir.Output(np.array([2, 8]))
    links = [("in", "f"), ("f", "n"), ("n", "c"), ("c", "n"), ("n", "out")]
    with pytest.raises(GraphError, match="c: reads what f flattened"):
        written(nodes, links, tmp_path / "n.nir")


@pytest.mark.parametrize("first", [0, 1])
def test_what_was_flattened_and_what_was_not_add_up(first, tmp_path):
    """start_dim is 0, or 1 where an axis of batches is counted."""
    weight = np.random.default_rng(0).normal(size=(12, 12))
    nodes = {
        "in": nir.Input(np.array([2, 2, 3])),
        "f": flatten((2, 2, 3), first),
        "w": nir.Linear(weight),
        "n": fires(12),
        "out": nir.Output(np.array([12])),
    }
    links = [("in", "f"), ("f", "w"), ("f", "n"), ("w", "n"), ("n", "out")]
    given = spikes(2, 2, 3)
    flat = given.reshape(*given.shape[:2], -1).astype(float)
    graph = written(nodes, links, tmp_path / "n.nir")
    assert graph["n"].shape == (12, 1, 1)
    found = run_reference(graph, given).spikes["n"]
    np.testing.assert_array_equal(found.reshape(flat.shape), integrated(flat @ weight.T + flat))


@pytest.mark.parametrize("flat", [False, True])
def test_a_scale_of_single_neurons_is_allowed_where_no_weights_lie_before_it(flat, tmp_path):
    factor = np.arange(1, 13) / 4
    between = {"f": flatten((2, 2, 3), 0)} if flat else {}
    scale = nir.Scale(factor if flat else factor.reshape(2, 2, 3))
    nodes, links = row(**between, s=scale, n=fires(*((12,) if flat else (2, 2, 3))))
    nodes["in"] = nir.Input(np.array([2, 2, 3]))
    given = spikes(2, 2, 3)
    drive = given.reshape(*given.shape[:2], -1) * factor
    found = run_reference(written(nodes, links, tmp_path / "n.nir"), given).spikes["n"]
    np.testing.assert_array_equal(found.reshape(drive.shape), integrated(drive))


def test_thresholds_of_channels_stand_behind_a_scale_of_neurons(tmp_path):
    factor, threshold = np.arange(1, 13).reshape(2, 2, 3) / 4, np.array([1.0, 2.0]).reshape(2, 1, 1) * ONES
    neurons = nir.IF(r=ONES, v_threshold=threshold)
    nodes, links = row(s=nir.Scale(factor), n=neurons)
    nodes["in"] = nir.Input(np.array([2, 2, 3]))
    given = spikes(2, 2, 3)
    drive = (given * (factor / threshold)).reshape(*given.shape[:2], -1)
    found = run_reference(written(nodes, links, tmp_path / "n.nir"), given).spikes["n"]
    np.testing.assert_array_equal(found.reshape(drive.shape), integrated(drive))


@pytest.mark.parametrize("sides", [(2, 8), (1, 8)])
def test_lines_may_be_pooled(sides, tmp_path):
    conv = nir.Conv1d(input_shape=8, weight=np.ones((2, sides[0], 3)), **LINE)
    pool = nir.AvgPool2d(np.array([1, 2]), np.array([1, 2]), np.array([0, 0]))
    nodes, links = row(c=conv, n=fires(2, 8), p=pool, m=fires(2, 4))
    nodes["in"] = nir.Input(np.array(sides))
    graph = written(nodes, links, tmp_path / "n.nir")
    assert graph.input.shape == (sides[0], 1, 8) and graph["m"].shape == (2, 1, 4)


def test_a_convolution_reads_one_scale_a_channel(tmp_path):
    nodes, links = row(s=nir.Scale(np.arange(12.0).reshape(2, 2, 3)), c=conv2d(np.ones((1, 2, 1, 1))), n=fires(1, 2, 3))
    nodes["in"] = nir.Input(np.array([2, 2, 3]))
    with pytest.raises(GraphError, match="c: the scale of what it reads differs within a channel"):
        written(nodes, links, tmp_path / "n.nir")


def test_dt_alone_does_not_make_a_file_ours(tmp_path):
    """Then the framework's reset would be forgotten without a word."""
    nodes = {**PLAIN_NODES, "n": lif(4, beta=0.5)}
    plain, noted = (
        read_nir(saved(tmp_path / "n.nir", nodes, metadata=each), timesteps=4, framework="snntorch")["n"].neuron
        for each in ({}, {"dt": 1e-4})
    )
    assert noted.reset == "subtract" and noted.drop == plain.drop is not None
    with pytest.raises(GraphError, match=r"was written for steps of 0\.01 s; dt 0\.0001 is asked for"):
        read_nir(saved(tmp_path / "n.nir", nodes, metadata={"dt": 1e-2}), timesteps=4)


def test_metadata_are_ours_alone(tmp_path):
    """Weights would be rounded by a scale, neurons start elsewhere."""
    found = []
    for said in ({}, {"scale": 1.0, "reset": "hard", "u0": 0.5}):
        neurons = nir.IF(r=np.ones(4), v_threshold=np.ones(4), metadata=said)
        nodes = {**PLAIN_NODES, "w": nir.Linear(np.full((4, 4), 0.3)), "n": neurons}
        about = {"class_names": "cat,dog", "logit_scale": 7.0} if said else {}
        found.append(quantize(read_nir(saved(tmp_path / "n.nir", nodes, metadata=about), timesteps=STEPS)))
    assert same(*found) and found[0]["n"].edges[0].op.weight.all()


def test_a_name_that_a_nested_graph_gives_again_is_refused(tmp_path):
    inner = nir.NIRGraph(
        {"in": nir.Input(FOUR), "w": nir.Linear(np.eye(4)), "n": spiking(4), "out": nir.Output(FOUR)},
        [("in", "w"), ("w", "n"), ("n", "out")],
        type_check=False,
    )
    for names in (("sub", "sub.w"), ("sub.w", "sub")):
        parts = {"sub": inner, "sub.w": nir.Linear(-np.eye(4))}
        nodes = {"in": nir.Input(FOUR), **{name: parts[name] for name in names}, "k": spiking(4)}
        nodes |= {"out": nir.Output(FOUR), "other": nir.Output(FOUR)}
        links = [("in", "sub"), ("sub", "out"), ("in", "sub.w"), ("sub.w", "k"), ("k", "other")]
        with pytest.raises(GraphError, match=r"sub\.w: a node's name, and that of another in a nested graph"):
            read_nir(saved(tmp_path / "n.nir", nodes, links), timesteps=4)


WRONG = {
    "thresholds of other axes": (
        {"in": nir.Input(np.array([2, 3, 3])), "w": conv2d(np.ones((2, 2, 1, 1))), "n": spiking((3, 3, 2))},
        r"n: v_reset has shape \(3, 3, 2\); one number, or one for each of \(2, 3, 3\)",
    ),
    "an odd side": (
        {
            "in": nir.Input(np.array([1, 5, 7])),
            "w": nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
            "n": spiking((1, 2, 3)),
        },
        r"w: pools spikes of 5 x 7 pixels by \(2, 2\); sides that divide them are allowed, or weights before it",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(name, tmp_path):
    changes, message = WRONG[name]
    with pytest.raises(GraphError, match=message):
        read_nir(saved(tmp_path / "n.nir", {**PLAIN_NODES, **changes}), timesteps=4)


def test_images_of_one_channel_stay_so_beside_a_conv1d(tmp_path):
    """(1, H, W) is a line with a batch only where there are no planes."""
    nodes = {
        "in": nir.Input(np.array([1, 3, 5])),
        "plane": conv2d(np.ones((1, 1, 3, 1))),
        "n": fires(1, 1, 5),
        "line": nir.Conv1d(input_shape=5, weight=np.ones((1, 1, 5)), **{**LINE, "padding": 0, "bias": np.zeros(1)}),
        "m": fires(1, 1),
        "out": nir.Output(np.array([1])),
    }
    graph = written(nodes, list(zip([*nodes][:-1], [*nodes][1:])), tmp_path / "n.nir")
    assert graph.input.shape == (1, 3, 5) and graph["n"].shape == (1, 1, 5)
