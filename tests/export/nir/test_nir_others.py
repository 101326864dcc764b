"""NIR files that others write: read as they mean it, or refused by name."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from export.graph import (
    Dense,
    Edge,
    Graph,
    GraphError,
    Input,
    Meta,
    Neuron,
    Population,
    same,
)
from export.limits import check
from export.nir import read as read_nir
from export.nir import write as write_nir
from export.quantize import quantize
from hardware_sim.engines import Record, run
from hardware_sim.reference import run_reference
from tests.export.nir.test_nir import DT, drive


def lif(shape, *, beta: float, threshold: float = 1.0, **fields) -> nir.LIF:
    """As snnTorch writes it."""
    tau = np.full(shape, DT / (1 - beta))
    zeros = np.zeros(shape)
    values = {"tau": tau, "r": tau / DT, "v_leak": zeros, "v_threshold": np.full(shape, threshold), "v_reset": zeros}
    return nir.LIF(**{**values, **fields})


def spiking(shape) -> nir.IF:
    return nir.IF(r=np.ones(shape), v_threshold=np.ones(shape))


def conv2d(weight: np.ndarray, **fields) -> nir.Conv2d:
    values = {
        "stride": 1,
        "padding": 0,
        "dilation": 1,
        "groups": 1,
        "bias": np.zeros(len(weight)),
        "input_shape": (1, 1),
    }
    return nir.Conv2d(weight=weight, **{**values, **fields})


def saved(path, nodes: dict, edges: list | None = None, metadata: dict | None = None):
    """A file with these nodes, in a row unless edges say otherwise."""
    names = list(nodes)
    links = list(itertools.pairwise(names)) if edges is None else edges
    nir.write(path, nir.NIRGraph(nodes, links, type_check=False, metadata=metadata or {}))
    return path


def test_euler_steps_of_every_neuron(tmp_path):
    """Float potentials by NIR's equations, stepped here, against the integer graph's."""
    rng = np.random.default_rng(2)
    weight = rng.integers(6, 40, (6, 4)) / 64
    full = lambda value: np.full(6, value)  # noqa: E731
    tau, tau_syn, dt, steps = 16e-3, 4e-3, 1e-3, 30  # decays that 12 bits hold
    leaky = {"r": full(3.0), "v_leak": full(0.0), "v_threshold": full(0.375)}
    cases = {  # at scales at which weights and thresholds are integers: only decays round
        "LIF": nir.LIF(tau=full(tau), metadata={"scale": 2048 / 3}, **leaky),
        "CubaLIF": nir.CubaLIF(full(tau_syn), full(tau), w_in=full(2.0), metadata={"scale": 4096 / 3}, **leaky),
        "IF": nir.IF(r=full(1 / dt), v_threshold=full(1.5), metadata={"scale": 128.0}),
    }
    spikes = (rng.random((1, steps, 4, 1, 1)) < 0.4).astype(np.uint8)
    for kind, node in cases.items():
        nodes = {"in": nir.Input(np.array([4])), "w": nir.Linear(weight), "n": node, "out": nir.Output(np.array([6]))}
        path = saved(tmp_path / "n.nir", nodes, metadata={"dt": dt, "logit_scale": 1.0})  # the scales are ours
        graph = check(quantize(read_nir(path, timesteps=steps, dt=dt)))
        trace = run(graph, spikes, record=Record(potentials="all"))
        i, v, threshold = np.zeros(6), np.zeros(6), node.v_threshold[0]
        for t in range(steps):
            x = weight @ spikes[0, t].ravel()
            if kind == "LIF":
                v = v + dt / tau * (3.0 * x - v)
            elif kind == "CubaLIF":
                i = i + dt / tau_syn * (2.0 * x - i)
                v = v + dt / tau * (3.0 * i - v)
            else:
                v = v + x
            v = np.where(fired := v > threshold, 0.0, v)
            assert (trace.spikes["n"][0, t].ravel() == fired).all(), (kind, t)
            found = trace.potentials["n"][0, t].ravel() / (64 * graph["n"].scale)
            np.testing.assert_allclose(found, v, atol=0.002 * threshold)
        assert 5 < trace.total("n") < 150


def test_neurons_of_a_node_may_differ(tmp_path):
    """Time constants, resistances, thresholds and resting potentials of their own, and no leak at all: NIR's equations,
    stepped here in floats. One synapse is dense, one a convolution, whose channels differ."""
    rng = np.random.default_rng(5)
    dt, steps = 1e-3, 40
    tau = np.array([4e-3, 8e-3, 16e-3, np.inf])
    r = np.array([3.0, 2.0, 5.0, np.inf])
    leaky = {
        "tau": tau,
        "r": r,
        "v_leak": np.array([0.5, 0.0, -1.0, 7.0]),
        "v_threshold": np.array([0.5, 1.0, 2.0, 3.0]),
    }
    channel = np.array([0.25, 0.75]).reshape(2, 1, 1) * np.ones((2, 2, 2))
    slow = {"tau_syn": 8e-3 * channel, "tau_mem": 16e-3 / channel, "r": 160 * channel, "w_in": 2 * channel}
    weight, kernel = rng.integers(6, 40, (4, 4)) / 64, rng.integers(6, 60, (2, 1, 1, 1)) / 64
    dense = {"in": nir.Input(np.array([4])), "w": nir.Linear(weight), "n": nir.LIF(**leaky), "out": nir.Output(FOUR)}
    image = {
        "in": nir.Input(np.array([1, 2, 2])),
        "w": conv2d(kernel, bias=np.array([0.125, -0.0625])),  # through a current that decays
        "n": nir.CubaLIF(**slow, v_leak=channel, v_threshold=1 + channel),
        "out": nir.Output(np.array([2, 2, 2])),
    }
    for nodes, shape in ((dense, (4, 1, 1)), (image, (1, 2, 2))):
        graph = read_nir(saved(tmp_path / "n.nir", nodes), timesteps=steps, dt=dt)
        spikes = (rng.random((1, steps, *shape)) < 0.4).astype(np.uint8)
        trace, v, i, fired = run_reference(graph, spikes, record=Record(potentials="all")), 0.0, 0.0, []
        check(quantize(graph))
        for t in range(steps):
            if nodes is dense:
                x = weight @ spikes[0, t].ravel()
                step = np.where(np.isinf(tau), x, dt / tau * (leaky["v_leak"] - v + np.where(np.isinf(r), 0, r) * x))
                threshold = leaky["v_threshold"]
            else:
                x = kernel.reshape(2, 1, 1) * spikes[0, t] + np.array([0.125, -0.0625]).reshape(2, 1, 1)
                i = i + dt / slow["tau_syn"] * (slow["w_in"] * x - i)
                step, threshold = dt / slow["tau_mem"] * (channel - v + slow["r"] * i), 1 + channel
            v = v + step
            now = v > threshold
            v = np.where(now, 0.0, v)
            fired.append(now)
            np.testing.assert_allclose(trace.potentials["n"][0, t].reshape(v.shape) * threshold, v, atol=2e-3)
        assert np.sum(fired) > 4 and (trace.spikes["n"][0].reshape(np.shape(fired)) == fired).all()


def test_a_resting_potential_of_all_neurons_is_their_bias(tmp_path):
    nodes = {**PLAIN_NODES, "n": lif(4, beta=0.5, v_leak=np.full(4, 0.75))}
    graph = check(quantize(read_nir(saved(tmp_path / "n.nir", nodes), timesteps=6)))
    spikes = np.zeros((1, 6, 4, 1, 1), np.uint8)
    runs = [run(graph, spikes, backend=backend, record=Record(potentials="all")) for backend in ("reference", "fast")]
    scale = 64 * graph["n"].scale
    for trace in runs:  # v <- v / 2 + 0.75 / 2
        np.testing.assert_allclose(
            trace.potentials["n"][0, :, 0, 0, 0] / scale, 0.75 * (1 - 0.5 ** np.arange(1, 7)), atol=0.01
        )


def test_a_reset_a_step_late_is_that_of_the_threshold_alone(tmp_path):
    slow = nir.CubaLIF(*(np.full(4, 1e-3),) * 2, np.ones(4), np.zeros(4), np.ones(4))
    path = saved(tmp_path / "n.nir", {**PLAIN_NODES, "n": slow})
    with pytest.raises(GraphError, match="n: a reset to zero a step late loses an input; no reset_delay is allowed"):
        read_nir(path, timesteps=4, framework="snntorch", reset="zero")
    assert read_nir(path, timesteps=4, framework="snntorch", reset="zero", reset_delay=False)["n"].neuron.drop is None
    weak = {**PLAIN_NODES, "w": nir.Linear(np.full((4, 4), 0.01)), "n": lif(4, beta=0.05)}
    check(quantize(read_nir(saved(tmp_path / "w.nir", weak), timesteps=4, framework="snntorch")))


def test_our_own_files_say_what_a_framework_leaves_unsaid(tmp_path):
    leaky = Neuron(20, reset="zero", voltage_decay=1024)
    first = Population("a", (3, 1, 1), (Edge("input", Dense(np.full((3, 4), 8))),), leaky)
    graph = Graph((Input("input", (4, 1, 1)), first), integer=True, meta=Meta(timesteps=4))
    path = write_nir(graph, tmp_path / "own.nir")
    assert same(*(quantize(read_nir(path, timesteps=4, framework=name)) for name in (None, "snntorch")))


@pytest.mark.parametrize("pool", [nir.AvgPool2d, nir.SumPool2d])
@pytest.mark.parametrize("before", [True, False])
def test_pools_before_and_after_convolutions_are_those_of_torch(pool, before, tmp_path):
    """Before a convolution they pool spikes, after it currents; flattened and dense behind."""
    rng = np.random.default_rng(3)
    weight, bias = rng.integers(-8, 24, (4, 3, 3, 3)) / 8, rng.integers(-8, 9, 4) / 8
    last = rng.integers(-8, 9, (2, 4 * 4 * 2)) / 8
    pooling = pool(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
    convolution = conv2d(weight, padding="same", bias=bias)
    steps = {"w": convolution, "pool": pooling}
    nodes = {
        "in": nir.Input(np.array([3, 8, 4])),
        **(dict(reversed(steps.items())) if before else steps),
        "n": spiking((4, 4, 2)),
        "flat": nir.Flatten(np.array([4, 4, 2]), 0, -1),
        "last": nir.Linear(last),
        "out": nir.Output(np.array([2])),
    }
    graph = read_nir(saved(tmp_path / "p.nir", nodes), timesteps=5)
    spikes = (rng.random((2, 5, 3, 8, 4)) < 0.5).astype(np.uint8)
    x = torch.from_numpy(spikes.reshape(10, 3, 8, 4)).double()
    w, b = torch.from_numpy(weight), torch.from_numpy(bias)
    factor = 4 if pool is nir.SumPool2d else 1
    if before:
        y = F.conv2d(F.avg_pool2d(x, 2) * factor, w, b, padding=1)
    else:
        y = F.avg_pool2d(F.conv2d(x, w, b, padding=1), 2) * factor
    silent = dataclasses.replace(graph["n"], neuron=dataclasses.replace(graph["n"].neuron, bias=None, threshold=None))
    alone = dataclasses.replace(graph, nodes=(graph.input, silent))
    found = run_reference(alone, spikes, record=Record(potentials="all")).potentials["n"]
    each_step = np.diff(found, axis=1, prepend=0) + graph["n"].neuron.bias
    np.testing.assert_allclose(each_step.reshape(y.shape), y.numpy(), atol=1e-12)
    assert [p.name for p in graph.populations] == ["n", "out"] and graph.output.neuron.threshold is None
    check(quantize(graph))


def test_in_edges_are_summed_and_nested_graphs_laid_open(tmp_path):
    """A residual sum before a weight, spikes straight into neurons, a nested graph, two outputs."""
    rng = np.random.default_rng(4)
    one, two = rng.integers(-8, 24, (4, 4)) / 8, rng.integers(-8, 24, (3, 4)) / 8
    four = np.array([4])
    inner = nir.NIRGraph(
        {"a": nir.Input(four), "w": nir.Affine(one, np.full(4, 0.25)), "n": spiking(4), "b": nir.Output(four)},
        [("a", "w"), ("w", "n"), ("n", "b")],
    )
    nodes = {
        "in": nir.Input(four), "inner": inner, "sum": spiking(4), "w": nir.Linear(two), "n": lif(3, beta=0.5),
        "out": nir.Output(np.array([3])), "also": nir.Output(four),
    }  # fmt: skip
    edges = [("in", "inner"), ("in", "sum"), ("inner", "sum"), ("inner", "w"), ("sum", "w"), ("w", "n"), ("n", "out")]
    path = saved(tmp_path / "r.nir", nodes, [*edges, ("inner", "also")])
    graph = read_nir(path, timesteps=6)
    assert {p.name: [(e.source, e.delay) for e in p.edges] for p in graph.populations} == {
        "inner.n": [("in", 0)], "sum": [("in", 1), ("inner.n", 0)], "n": [("inner.n", 1), ("sum", 0)],
    }  # fmt: skip
    graph = check(quantize(graph))
    spikes = drive(graph)
    trace = run(graph, spikes)
    v = {name: np.zeros((2, size)) for name, size in (("inner.n", 4), ("sum", 4), ("n", 3))}
    for t in range(6):
        x = spikes[:, t].reshape(2, 4)
        v["inner.n"] += x @ one.T + 0.25
        first = v["inner.n"] > 1
        v["sum"] += x + first
        second = v["sum"] > 1
        v["n"] = v["n"] / 2 + (first.astype(int) + second) @ two.T
        fired = {"inner.n": first, "sum": second, "n": v["n"] > 1}
        for name, now in fired.items():
            np.testing.assert_array_equal(trace.spikes[name][:, t].reshape(now.shape), now)
            v[name][now] = 0


FOUR = np.array([4])


PLAIN_NODES = {
    "in": nir.Input(FOUR),
    "w": nir.Linear(np.ones((4, 4))),
    "n": nir.IF(r=np.ones(4), v_threshold=np.ones(4)),
    "out": nir.Output(FOUR),
}


IMAGE_NODES = {**PLAIN_NODES, "in": nir.Input(np.array([1, 6, 6])), "w": conv2d(np.ones((2, 1, 3, 3)))}


def test_an_input_with_a_batch_axis_can_be_given_its_shape(tmp_path):
    path = saved(tmp_path / "b.nir", {**PLAIN_NODES, "in": nir.Input(np.array([1, 4]))})
    assert read_nir(path, timesteps=4, input_shape=(4,)).input.shape == (4, 1, 1)


@pytest.mark.parametrize("absent", ["torch", "nir"])
def test_importing_it_loads_neither_torch_nor_nir(absent):
    code = f"import sys, export.nir.read, export.nir.write; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_nothing_between_the_last_neurons_and_the_output_is_lost(tmp_path):
    """A pool, or a sum of two, is refused; a flattened readout is read."""
    shape = (2, 4, 4)
    nodes = {"in": nir.Input(np.array(shape)), "a": spiking(shape), "b": spiking(shape)}
    pool = nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
    path = saved(
        tmp_path / "p.nir", {"in": nodes["in"], "a": nodes["a"], "pool": pool, "out": nir.Output(np.array([2, 2, 2]))}
    )
    with pytest.raises(GraphError, match="out: reads spikes of a pool"):
        read_nir(path, timesteps=4)
    edges = [("in", "a"), ("in", "b"), ("a", "out"), ("b", "out")]
    path = saved(tmp_path / "s.nir", {**nodes, "out": nir.Output(np.array(shape))}, edges)
    with pytest.raises(GraphError, match="out: reads spikes of 2 nodes"):
        read_nir(path, timesteps=4)
    ones = np.ones(shape)
    readout = {"li": nir.LI(tau=ones * 10 * DT, r=ones, v_leak=0 * ones), "flat": nir.Flatten(np.array(shape), 0, -1)}
    path = saved(tmp_path / "f.nir", {"in": nodes["in"], **readout, "out": nir.Output(np.array([32]))})
    assert read_nir(path, timesteps=4).output.name == "li"


def test_a_file_of_ours_is_read_with_its_own_dt(tmp_path):
    path = write_nir(chain_of_ours(), tmp_path / "n.nir", dt=1e-3)
    with pytest.raises(GraphError, match=r"was written for steps of 0\.001 s; dt 0\.0001 is asked for"):
        read_nir(path, timesteps=4)
    assert read_nir(path, timesteps=4, dt=1e-3).populations


def chain_of_ours() -> Graph:
    dense = Dense(np.array([[3.0, -1.0]]))
    return Graph((Input("in", (2, 1, 1)), Population("n", (1, 1, 1), (Edge("in", dense),), Neuron(2.0, reset="zero"))))
