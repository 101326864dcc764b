"""NIR's Scale, Delay, Threshold and Conv1d against plain loops over what they mean."""

from __future__ import annotations

from dataclasses import replace

import nir
import numpy as np
import pytest
import torch

from export import netx
from export.graph import Graph, GraphError
from export.nir import read as read_nir
from export.quantize import quantize
from hardware_sim.comparison.compare import compare
from hardware_sim.engines import run
from hardware_sim.reference import edge_input, run_reference
from tests.export.nir.test_nir import DT

STEPS = 7


def written(nodes: dict, links: list[tuple[str, str]], path) -> Graph:
    nir.write(path, nir.NIRGraph(nodes, links, type_check=False))
    return read_nir(path, timesteps=STEPS)


def row(**between) -> tuple[dict, list[tuple[str, str]]]:
    """Input, the nodes in a row, output."""
    first = next(iter(between.values()))
    shape = first.input_type["input"]
    nodes = {"in": nir.Input(shape), **between, "out": nir.Output(np.array([1]))}
    return nodes, list(zip([*nodes][:-1], [*nodes][1:]))


def spikes(*shape: int) -> np.ndarray:
    return (np.random.default_rng(0).random((3, STEPS, *shape)) < 0.5).astype(np.uint8)


def fires(*shape: int, threshold: float = 1.0) -> nir.IF:
    return nir.IF(r=np.ones(shape), v_threshold=np.full(shape, threshold))


def integrated(inputs: np.ndarray, threshold: float = 1.0) -> np.ndarray:
    """IF neurons that are reset to zero: (samples, T, n) to spikes."""
    v, out = np.zeros_like(inputs[:, 0], float), []
    for t in range(inputs.shape[1]):
        v = v + inputs[:, t]
        out.append(v > threshold)
        v[out[-1]] = 0
    return np.stack(out, 1)


@pytest.mark.parametrize("scale", [np.array([2.0]), np.array([0.5, 1.0, 2.0, -1.0])], ids=["one", "each"])
@pytest.mark.parametrize("after", ["weights", "spikes"])
def test_scale(scale, after, tmp_path):
    """Of weights, or of spikes, which then reach neurons one to one."""
    weight = np.eye(4) + 0.25
    between = {"w": nir.Linear(weight)} if after == "weights" else {"first": fires(4)}
    graph = written(
        *row(**between, s=nir.Scale(np.broadcast_to(scale, 4).copy()), n=fires(4, threshold=1.1)), tmp_path / "n.nir"
    )
    x = spikes(4, 1, 1)
    plain = x[..., 0, 0].astype(float)
    arriving = plain @ weight.T if after == "weights" else integrated(plain)
    found = run_reference(graph, x).spikes["n"][..., 0, 0]
    np.testing.assert_array_equal(found, integrated(arriving * scale, 1.1))
    assert found.any()


def test_scale_goes_through_weights_where_it_is_one(tmp_path):
    graph = written(*row(s=nir.Scale(np.full(4, 0.5)), w=nir.Linear(np.eye(4)), n=fires(4)), tmp_path / "n.nir")
    np.testing.assert_array_equal(graph["n"].edges[0].op.weight, np.eye(4) / 2)


@pytest.mark.parametrize("each", [False, True])
def test_delay(each, tmp_path):
    """Of weighted input one for each neuron; of spikes one for all, with weights behind them."""
    steps = np.array([0, 1, 3, 2]) if each else np.array([2])
    weight = np.array([[1.5, 0, 0, 0], [0, 2, 0, 0], [0.5, 0, 1, 0], [0, 0, 0, 1.2]])
    wait = nir.Delay(np.broadcast_to(steps * DT, 4).copy())
    between = (
        {"w": nir.Linear(weight), "d": wait}
        if each
        else {"first": fires(4, threshold=0.5), "d": wait, "w": nir.Linear(weight)}
    )
    graph = written(*row(**between, n=fires(4)), tmp_path / "n.nir")
    x = spikes(4, 1, 1)
    plain = x[..., 0, 0].astype(float)
    arriving = (plain if each else integrated(plain, 0.5)) @ weight.T
    late = np.zeros_like(arriving)
    for neuron, k in enumerate(np.broadcast_to(steps, 4)):
        late[:, k:, neuron] = arriving[:, : STEPS - k, neuron]
    np.testing.assert_array_equal(run_reference(graph, x).spikes["n"][..., 0, 0], integrated(late))
    integers = netx.read(netx.write(quantize(graph), tmp_path / "n.net"))
    assert compare(run(integers, x[:1]), run(integers, x[:1], backend="lava")).equal


def test_a_delay_in_a_loop_is_that_of_the_loop(tmp_path):
    nodes = {
        "in": nir.Input(np.array([2])),
        "n": fires(2),
        "again": nir.Linear(np.array([[0, 0.75], [0.5, 0]])),
        "d": nir.Delay(np.full(2, 2 * DT)),
        "out": nir.Output(np.array([2])),
    }
    links = [("in", "n"), ("n", "again"), ("again", "d"), ("d", "n"), ("n", "out")]
    graph = written(nodes, links, tmp_path / "n.nir")
    (again,) = graph["n"].recurrent
    assert again.delay == 1 and again.target_delay is None
    one = np.zeros((1, STEPS, 2, 1, 1), np.uint8)
    one[0, 0, 0] = 1
    plain = written(
        {**nodes, "again": nir.Linear(2 * np.eye(2)), "in": nir.Input(np.array([2]))}, links, tmp_path / "m.nir"
    )
    plain = replace(plain, nodes=tuple(_doubled(node) for node in plain.nodes))
    assert run_reference(plain, one).spikes["n"][0, :, 0, 0, 0].tolist() == [1, 0, 1, 0, 1, 0, 1]  # y(t) = x(t - 2)


def _doubled(node):
    """Every weight from the input is 2, so that a spike is above the threshold."""
    if node.name != "n":
        return node
    edges = (replace(e, op=replace(e.op, weight=2 * e.op.weight)) if e.source == "in" else e for e in node.edges)
    return replace(node, edges=tuple(edges))


def test_a_threshold_alone_asks_for_no_framework(tmp_path, caplog):
    nodes, links = row(w=nir.Linear(np.eye(4)), t=nir.Threshold(np.full(4, 0.5)))
    written(nodes, links, tmp_path / "n.nir")
    assert not caplog.records


def test_a_loop_through_a_threshold_is_one_of_two_layers(tmp_path):
    nodes = {
        "in": nir.Input(np.array([2])),
        "n": fires(2),
        "a": nir.Linear(np.eye(2)),
        "t": nir.Threshold(np.ones(2)),
        "b": nir.Linear(np.eye(2)),
        "out": nir.Output(np.array([2])),
    }
    links = [("in", "n"), ("n", "a"), ("a", "t"), ("t", "b"), ("b", "n"), ("n", "out")]
    with pytest.raises(GraphError, match="n: is fed back by t 1 step late; 2 or more are allowed"):
        written(nodes, links, tmp_path / "n.nir")


@pytest.mark.parametrize("kind", ["dense", "conv", "grouped"])
def test_a_scale_by_channel_goes_into_the_weights_behind_it(kind, tmp_path):
    rng = np.random.default_rng(2)
    scale = np.array([0.5, 2.0, -1.0, 3.0])
    if kind == "dense":
        shape, weights = (4,), nir.Linear(rng.normal(size=(3, 4)).round(2))
    else:
        groups = 2 if kind == "grouped" else 1
        weight = rng.normal(size=(4, 4 // groups, 3, 3)).round(2)
        shape, weights = (4, 5, 5), nir.Conv2d((5, 5), weight, 1, 1, 1, groups, np.zeros(4))
    laid = scale if kind == "dense" else np.broadcast_to(scale[:, None, None], shape).copy()
    target = (3,) if kind == "dense" else (4, 5, 5)
    nodes, links = row(s=nir.Scale(laid), w=weights, n=fires(*target))
    graph = written(nodes, links, tmp_path / "n.nir")
    plain = written({**nodes, "s": nir.Scale(np.ones(shape))}, links, tmp_path / "m.nir")
    x = spikes(*shape, *(1,) * (3 - len(shape)))
    edges, given = (one["n"].edges[0] for one in (graph, plain)), torch.from_numpy(x).transpose(0, 1).double()
    found, unscaled = edges
    torch.testing.assert_close(
        edge_input(found, given), edge_input(unscaled, given * torch.from_numpy(scale).view(-1, 1, 1))
    )


def test_threshold(tmp_path):
    """It keeps nothing from one step to the next."""
    weight = np.array([[0.6, 0.6], [1.0, -1.0], [0.4, 0.3]])
    limit = np.array([0.5, 0.9, 0.65])
    graph = written(*row(w=nir.Linear(weight), t=nir.Threshold(limit)), tmp_path / "n.nir")
    x = spikes(2, 1, 1)
    found = run_reference(graph, x).spikes["t"][..., 0, 0]
    np.testing.assert_array_equal(found, x[..., 0, 0] @ weight.T > limit)
    assert found.any(axis=(0, 1)).all() and not found.all()


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, "same", 2)])
def test_conv1d(stride, padding, dilation, tmp_path):
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(3, 2, 3)).round(2), rng.normal(size=3).round(2) / 4
    conv = nir.Conv1d(9, weight, stride, padding, dilation, 1, bias)
    reach = dilation * 2
    pad = reach // 2 if padding == "same" else padding
    length = (9 + 2 * pad - reach - 1) // stride + 1
    between = {"c": conv, "n": fires(3, length), "f": nir.Flatten({"input": np.array([3, length])}, start_dim=0)}
    graph = written(*row(**between, w=nir.Linear(np.ones((1, 3 * length)))), tmp_path / "n.nir")
    assert graph["n"].shape == (3, 1, length) and graph.input.shape == (2, 1, 9)
    x = spikes(2, 1, 9)
    padded = np.pad(x[:, :, :, 0].astype(float), ((0, 0), (0, 0), (0, 0), (pad, pad)))
    arriving = np.zeros((3, STEPS, 3, length))
    for o, i, k, at in np.ndindex(3, 2, 3, length):
        arriving[:, :, o, at] += weight[o, i, k] * padded[:, :, i, at * stride + k * dilation]
    wanted = integrated((arriving + bias[:, None]).reshape(3, STEPS, -1)).reshape(arriving.shape)
    np.testing.assert_array_equal(run_reference(graph, x).spikes["n"][:, :, :, 0], wanted)


WRONG = {
    "part of a step": ({"d": nir.Delay(np.full(4, DT / 2))}, "d: delay is 5e-05 to 5e-05; whole steps of dt = 0.0001"),
    "a delay back": ({"d": nir.Delay(np.full(4, -DT))}, "d: delay is -0.0001"),
    "a long delay": ({"d": nir.Delay(np.full(4, 63 * DT))}, "d: delay is 0.0063 .* 62 at most"),
    "spikes that differ": ({"d": nir.Delay(np.arange(4) * DT)}, "d: delays of single neurons' spikes"),
    "a bias that waits": (
        {"w": nir.Affine(np.eye(4), np.ones(4)), "d": nir.Delay(np.full(4, DT))},
        "d: delays a bias of the weights before it",
    ),
    "a threshold of 0": ({"t": nir.Threshold(np.zeros(4))}, "t: threshold is 0; a positive number"),
    "scales of another size": ({"s": nir.Scale(np.arange(3.0))}, r"s: scale has shape \(3,\)"),
    "scales along another axis": ({"s": nir.Scale(np.arange(4.0).reshape(1, 1, 4))}, r"s: scale has shape \(1, 1, 4\)"),
    "no scale": ({"s": nir.Scale(np.full(4, np.nan))}, "s: scale is float64 and holds"),
    "weights of no line": (
        {"c": nir.Conv1d(4, np.ones((1, 4, 1, 1)), 1, 0, 1, 1, np.zeros(1))},
        r"c: weight has shape \(1, 4, 1, 1\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused_is_named(name, tmp_path):
    between, message = WRONG[name]
    nodes = {"in": nir.Input(np.array([4])), **between, "n": fires(4), "out": nir.Output(np.array([4]))}
    links = list(zip([*nodes][:-1], [*nodes][1:]))
    with pytest.raises(GraphError, match=message):
        written(nodes, links, tmp_path / "n.nir")
