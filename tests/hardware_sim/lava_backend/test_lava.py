"""Lava against the reference, spike for spike; stock NetX on our files."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import hardware_sim
from export import netx
from export.graph import Conv, Dense, Edge, Graph, Input, Meta, Neuron, Node, Population, with_encoder
from export.limits import beyond
from export.passes import align_delays
from hardware_sim import LavaWorker, Record, SimulationError
from hardware_sim.comparison.compare import compare
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.validation import software_trace
from tests.examples import examples
from tests.export.test_graph import chain
from tests.graphs import graphs, single
from tests.hardware_sim.test_fast import assert_same
from tests.networks import PLAIN, build, cases

FIDELITIES = ("fused", "stock")
EXCITED = replace(
    PLAIN, size=(9, 11), widths=(5, 5), kernel=(5, 5), down="strided", timesteps=12, u0=0.5, drive="excited", rate=1.0
)
EVERYTHING = replace(
    EXCITED,
    size=(8, 12),
    down="average",
    up="nearest",
    biased=True,
    norm="after",
    residual=True,
    classifier=True,
    rate=0.4,
)


def assert_equal_runs(
    graph: Graph, spikes: np.ndarray, fidelity: str, worker: LavaWorker, network: SpikingNetwork | None = None
) -> hardware_sim.Trace:
    """Reference = fast = Lava in spikes, potentials and outputs; and PyTorch, where the network is given."""
    everything = Record(potentials="all")
    ours = hardware_sim.run(graph, spikes, backend="reference", record=everything)
    assert_same(ours, hardware_sim.run(graph, spikes, backend="fast", record=everything))
    lavas = hardware_sim.run(graph, spikes, backend="lava", fidelity=fidelity, record=everything, worker=worker)
    assert_same(ours, lavas)
    if network is not None:
        time_major = torch.from_numpy(spikes).transpose(0, 1).float()
        assert compare(software_trace(network, time_major), lavas).equal
    return ours


@pytest.mark.parametrize("fidelity", FIDELITIES)
@given(case=cases(max_side=8, max_depth=2))
@example(case=EXCITED)
@example(case=replace(EVERYTHING, drive="balanced"))
@examples(25)
def test_random_networks_do_the_same_in_lava(case, fidelity, worker):
    network, graph, spikes = build(case)
    assert_equal_runs(graph, spikes, fidelity, worker, network)


@pytest.mark.parametrize("fidelity", FIDELITIES)
@given(data=st.data())
@examples(25)
def test_single_synapses_do_the_same_in_lava(data, fidelity, worker):
    assert_equal_runs(*data.draw(graphs(stock=fidelity == "stock", valued=True)), fidelity, worker)


def test_what_is_late_is_refused_in_stock_processes(worker):
    """Spikes of another sample, or of a bias before the first: fused layers keep both apart."""
    late = Edge("a", Dense(np.array([[2]])), target_delay=np.full((1, 1, 1), 2))
    fires = Population("a", (1, 1, 1), (Edge("input", Dense(np.array([[2]]))),), Neuron(1, bias=np.full((1, 1, 1), 64)))
    head = Population("head", (1, 1, 1), (late,), Neuron(None))
    graph = Graph((Input("input", (1, 1, 1)), fires, head), integer=True, meta=Meta(timesteps=4))
    spikes = np.ones((3, 4, 1, 1, 1), np.uint8)
    assert_equal_runs(graph, spikes, "fused", worker)
    with pytest.raises(hardware_sim.SimulationError, match=r"3 samples .* \(head\).*one by one, or use fidelity fused"):
        hardware_sim.run(graph, spikes, backend="lava", fidelity="stock")
    with pytest.raises(
        hardware_sim.SimulationError, match="head has delays by target neuron from a, which fires before"
    ):
        hardware_sim.run(graph, spikes[:1], backend="lava", fidelity="stock")
    waits = replace(fires, neuron=Neuron(1, u0=64))  # at its threshold, and so driven by input alone
    assert_equal_runs(replace(graph, nodes=(graph.input, waits, head)), spikes[:1], "stock", worker)


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_clipped_potentials_are_the_same_in_lava(fidelity, worker):
    weight = np.array([[254] * 100, [-256] * 100])
    dense = Population("a", (2, 1, 1), (Edge("input", Dense(weight)),), Neuron(1))
    head = Population("head", (1, 1, 1), (Edge("a", Dense(np.array([[2, 2]]))),), Neuron(None))
    graph = Graph((Input("input", (100, 1, 1)), dense, head), integer=True, meta=Meta(timesteps=12))
    trace = assert_equal_runs(graph, np.ones((2, 12, 100, 1, 1), np.uint8), fidelity, worker)
    assert trace.potentials["a"].max() == 2**23 - 1 - 64 and trace.potentials["a"].min() == 1 - 2**23


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_what_only_a_bound_says_is_watched(fidelity, worker):
    """A fan-in whose weights add up to more than 16 bits, and an output that integrates for long: both run as long as
    what arrives fits, and are refused by population, sample and step where it does not."""
    rng = np.random.default_rng(0)
    wide = Population("wide", (4, 1, 1), (Edge("input", Dense(2 * rng.integers(-90, 127, (4, 2312)))),), Neuron(9000))
    head = Population("head", (1, 1, 1), (Edge("wide", Dense(np.full((1, 4), 254))),), Neuron(None))
    graph = Graph((Input("input", (2312, 1, 1)), wide, head), integer=True, meta=Meta(timesteps=140))
    assert beyond(graph) == ("wide", "head")
    spikes = (rng.random((2, 140, 2312, 1, 1)) < 0.05).astype(np.uint8)
    assert assert_equal_runs(graph, spikes, fidelity, worker).total("wide") > 50
    spikes[1, 7] = 1
    for backend in ("reference", "lava"):
        with pytest.raises(SimulationError, match=r"wide: input is \d+ in sample 1, step 7; -32768 to 32767 is what"):
            hardware_sim.run(graph, spikes, backend=backend, fidelity=fidelity, worker=worker)
    for neuron in (
        Neuron(None, current_decay=0, voltage_decay=0),
        Neuron(None, reset="zero", current_decay=1024, voltage_decay=128),
        Neuron(None, u0=8_000_000),
    ):  # outputs that leak, or start high
        end = Population("end", (1, 1, 1), (Edge("input", Dense(np.full((1, 10), 254))),), neuron)
        late = Graph((Input("input", (10, 1, 1)), end), integer=True, meta=Meta(timesteps=40))
        for backend in ("fast", "lava"):
            with pytest.raises(SimulationError, match=r"end: potential, >> 6, is 13\d+.* in sample 0"):
                hardware_sim.run(late, np.ones((1, 40, 10, 1, 1), np.uint8), backend=backend, fidelity=fidelity)
    always = replace(wide, neuron=replace(wide.neuron, threshold=1, bias=np.full((4, 1, 1), 2**17, np.int32)))
    with pytest.raises(SimulationError, match=r"head: potential, >> 6, is \d+ in sample 0, step 1\d\d; -131071 to"):
        hardware_sim.run(replace(graph, nodes=(graph.input, always, head)), 0 * spikes)


@pytest.mark.parametrize("fidelity", FIDELITIES)
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_leak_bias_and_several_outputs_of_one_node(fidelity, reset, worker):
    """CUBA parameters, a bias, groups, and one population read with three different delays."""
    rng = np.random.default_rng(0)

    def conv(cout: int, cin: int, groups: int = 1) -> Conv:
        return Conv(rng.integers(-8, 12, (cout, cin // groups, 3, 3)) * 2, padding=(1, 1), groups=groups)

    leaky = Neuron(
        40,
        reset=reset,
        current_decay=1024,
        voltage_decay=300,
        bias=np.array([128, 0, -64, 640]).reshape(4, 1, 1),
    )
    plain = Neuron(30, reset=reset)
    nodes = (
        Input("input", (2, 5, 4)),
        Population("a", (4, 5, 4), (Edge("input", conv(4, 2)),), leaky),
        Population("b", (4, 5, 4), (Edge("a", conv(4, 4, groups=2)),), plain),
        Population("c", (2, 5, 4), (Edge("b", conv(2, 4)), Edge("a", conv(2, 4))), leaky_without_bias(reset)),
        Population("d", (2, 5, 4), (Edge("c", conv(2, 2)), Edge("a", conv(2, 4)), Edge("input", conv(2, 2))), plain),
        Population("e", (3, 1, 1), (Edge("d", Dense(rng.integers(-5, 6, (3, 40)) * 2)),), Neuron(None, reset=reset)),
    )
    graph = align_delays(Graph(nodes, integer=True, meta=Meta(timesteps=6)))
    spikes = (rng.random((3, 6, 2, 5, 4)) < 0.4).astype(np.uint8)
    trace = assert_equal_runs(graph, spikes, fidelity, worker)
    assert all(trace.total(name) for name in trace.packed)


def leaky_without_bias(reset: str) -> Neuron:
    return Neuron(25, reset=reset, current_decay=2048, voltage_decay=128)


def test_recording_is_what_was_asked_for():
    graph, spikes = chain(), np.ones((2, 4, 1, 4, 4), np.uint8)
    trace = hardware_sim.run(graph, spikes, backend="lava", record=Record(spikes=(), potentials=["hidden"]))
    assert not trace.packed and list(trace.potentials) == ["hidden"] and trace.output.any()


def run_stock(path: Path, spikes: np.ndarray, tmp_path: Path, *options: str) -> subprocess.CompletedProcess:
    np.save(tmp_path / "in.npy", spikes)
    script = Path(__file__).with_name("stock_netx.py")
    return subprocess.run(
        [sys.executable, script, path, tmp_path / "in.npy", tmp_path / "out.npz", *options],
        capture_output=True,
        text=True,
        timeout=120,
    )


def hard_reset_chain() -> tuple[Graph, np.ndarray]:
    rng = np.random.default_rng(1)
    nodes = (
        Input("input", (2, 7, 6)),
        Population(
            "a",
            (3, 4, 6),
            (Edge("input", Conv(rng.integers(-9, 20, (3, 2, 3, 3)) * 2, stride=(2, 1), padding=(1, 1))),),
            Neuron(50, reset="zero"),
        ),
        Population(
            "b",
            (4, 2, 6),
            (Edge("a", Conv(rng.integers(-9, 20, (4, 3, 3, 1)) * 2)),),
            Neuron(40, reset="zero", bias=np.array([7, -5, 0, 12], np.int32).reshape(-1, 1, 1) << 6),
        ),
        Population("c", (5, 1, 1), (Edge("b", Dense(rng.integers(-9, 14, (5, 48)) * 2)),), Neuron(60, reset="zero")),
    )
    graph = Graph(nodes, integer=True, meta=Meta(timesteps=6))
    return graph, (rng.random((3, 6, 2, 7, 6)) < 0.5).astype(np.uint8)


@pytest.mark.parametrize("seed", [0, 1])
def test_fast_models_of_stock_processes_spike_alike(seed, tmp_path):
    script, out = Path(__file__).with_name("fast_parts.py"), tmp_path / "out.npz"
    result = subprocess.run([sys.executable, script, str(seed), out], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    with np.load(out) as recorded:
        assert all(name.partition(":")[2].startswith("Fast") for name in recorded["models"])
        for k in range(3):
            assert recorded[f"stock{k}"].any() and not recorded[f"stock{k}"].all()
            assert (recorded[f"fast{k}"] == recorded[f"stock{k}"]).all()


@pytest.mark.parametrize(("du", "dv"), [(4096, 0), (2000, 300)])
def test_ternary_neurons_are_lavas_own(du, dv, tmp_path):
    """Reset to zero, two layers: Lava's TernaryLIF, and its Dense, which takes the sign in."""
    rng = np.random.default_rng(0)
    a, b = (2 * rng.integers(-30, 31, shape) for shape in ((20, 8), (12, 20)))
    spikes = (rng.random((1, 40, 8, 1, 1)) < 0.4).astype(np.uint8)
    script, given, out = Path(__file__).with_name("ternary_lif.py"), tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(given, input=spikes[0, :, :, 0, 0].T, a=a, b=b, threshold=50, du=du, dv=dv)
    result = subprocess.run([sys.executable, script, given, out], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    nodes: list[Node] = [Input("input", (8, 1, 1))]
    for name, weight in (("a", a), ("b", b)):
        neuron = Neuron(50, "zero", current_decay=du, voltage_decay=dv, ternary=True)
        nodes.append(Population(name, (len(weight), 1, 1), (Edge(nodes[-1].name, Dense(weight)),), neuron))
    trace = hardware_sim.run(Graph(tuple(nodes), integer=True, meta=Meta(timesteps=40)), spikes)
    with np.load(out) as recorded:
        for depth, name in enumerate("ab", start=1):
            ours = trace.spikes[name][0, :, :, 0, 0].T
            assert ours.min() == -1 and ours.max() == 1
            np.testing.assert_array_equal(recorded[name][:, depth:], ours[:, :-depth], err_msg=name)


@pytest.mark.parametrize("options", [(), ("fast",)])
def test_a_hard_reset_chain_runs_alike_in_unmodified_netx(options, tmp_path):
    graph, spikes = hard_reset_chain()
    result = run_stock(netx.write(graph, tmp_path / "chain.net"), spikes, tmp_path, *options)
    assert result.returncode == 0, result.stderr
    trace = hardware_sim.run(graph, spikes)
    steps = len(spikes) * 6
    with np.load(tmp_path / "out.npz") as recorded:
        for depth, name in enumerate("abc", start=1):
            ours = trace.spikes[name].reshape(steps, -1)
            theirs = recorded[str(depth - 1)].reshape(recorded[str(depth - 1)].shape[0], -1)[depth : depth + steps]
            np.testing.assert_array_equal(theirs, ours, err_msg=name)
            assert ours.any()


@pytest.mark.parametrize("reset", ["subtract", "zero", "single", "graded", "ternary"])
def test_what_unmodified_netx_cannot_run_it_does_not_load(reset, tmp_path):
    """Skips, single synapses, graded input and ternary neurons at hard reset, soft reset even without: refused at
    construction.

    Never wired wrongly: NetX would run a network without the layers whose type it does not know.
    """
    if reset == "single":
        graph, spikes = hard_reset_chain()
        op = single(np.random.default_rng(0), (5, 1, 1), (4, 1, 1))
        last = Population("d", (4, 1, 1), (Edge("c", op),), Neuron(5, reset="zero"))
        graph = Graph((*graph.nodes, last), integer=True, meta=graph.meta)
    elif reset == "graded":
        graph, spikes = hard_reset_chain()
        graph = with_encoder(graph, "graded")
    elif reset == "ternary":
        graph, spikes = hard_reset_chain()
        nodes = (replace(n, neuron=replace(n.neuron, ternary=True)) if n.name == "a" else n for n in graph.nodes)
        graph = replace(graph, nodes=tuple(nodes))
    elif reset == "subtract":
        graph, spikes = chain(), np.ones((1, 4, 1, 4, 4), np.uint8)
    else:
        graph, spikes = hard_reset_chain()
        branch = Population("branch", (2, 4, 6), (Edge("a", Conv(np.full((2, 3, 1, 1), 4))),), Neuron(5, reset="zero"))
        graph = Graph((*graph.nodes, branch), integer=True, meta=graph.meta)  # reads an earlier layer
    result = run_stock(netx.write(graph, tmp_path / "n.net"), spikes, tmp_path)
    assert result.returncode != 0 and not (tmp_path / "out.npz").exists()
    unknown = reset in ("subtract", "ternary")
    expected = "AttributeError: 'NoneType'" if unknown else "NotImplementedError: concat is not implemented"
    assert expected in result.stderr
