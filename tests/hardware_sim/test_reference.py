"""The reference engine against plain Python, traces, comparison, report."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hardware_sim
from export.graph import Conv, ConvT, Dense, Edge, Graph, Input, Meta, Neuron, Population, Sparse
from export.limits import POTENTIAL_MAX
from hardware_sim import Record, SimulationError, Trace
from hardware_sim.comparison.compare import compare
from hardware_sim.lava_backend.synapses import to_sparse
from hardware_sim.reference import run_reference
from hardware_sim.reporting.report import build_report
from hardware_sim.trace import TraceError, pack, unpack
from neuroseg.validation import software_trace
from tests.examples import examples
from tests.export.test_graph import chain
from tests.graphs import graphs
from tests.networks import build, cases


def plain(graph: Graph, spikes: np.ndarray) -> tuple[dict, dict]:
    """Every synapse as a Python loop, every neuron as in lava-nc's fixed-point LIF. One sample (T, C, H, W)."""
    fired = {graph.input.name: spikes.astype(int)}
    potentials = {}
    for population in graph.populations:
        c, h, w = population.shape
        inputs = np.zeros((len(spikes), c, h, w), int)
        for edge in population.edges:
            reached = np.zeros_like(inputs)
            for t, frame in enumerate(fired[edge.source]):
                for source in np.argwhere(frame):
                    one = np.zeros_like(reached[t])
                    reach(edge.op, one, source, frame.shape)
                    reached[t] += one * frame[tuple(source)]
            for place in np.ndindex(c, h, w):
                late = 0 if edge.target_delay is None else edge.target_delay[place]
                inputs[(slice(late, None), *place)] += reached[(slice(0, max(len(spikes) - late, 0)), *place)]
        n = population.neuron
        u, v = np.zeros((c, h, w), int), np.full((c, h, w), int(n.u0))
        out, after = np.zeros_like(inputs), np.zeros_like(inputs)
        for t, x in enumerate(inputs):
            u = np.sign(u) * (abs(u) * (4096 - n.current_decay) // 4096) + x * 64
            v = np.sign(v) * (abs(v) * (4096 - n.voltage_decay) // 4096) + u + (0 if n.bias is None else n.bias)
            v = np.minimum(np.maximum(v, -(2**23) + 1), 2**23 - 1)
            if n.threshold is not None:
                out[t] = np.where(v > n.threshold * 64, 1, np.where(n.ternary & (v < -n.threshold * 64), -1, 0))
                drop = n.threshold * 64 if n.drop is None else n.drop
                v = np.where(out[t] != 0, v - out[t] * drop if n.reset == "subtract" else 0, v)
            after[t] = v
        fired[population.name], potentials[population.name] = out, after
    return fired, potentials


def reach(op, inputs: np.ndarray, source: np.ndarray, shape: tuple) -> None:
    """Add one spike's weights to the inputs (C, H, W) that it reaches."""
    i, y, x = source
    if isinstance(op, Dense):
        inputs[:, 0, 0] += op.weight[:, (i * shape[1] + y) * shape[2] + x]
        return
    if isinstance(op, Sparse):
        matrix = np.zeros((inputs.size, int(np.prod(shape))), int)
        for weight, into, out_of in zip(op.weight, op.target, op.source):
            matrix[into, out_of] += weight
        inputs += matrix[:, (i * shape[1] + y) * shape[2] + x].reshape(inputs.shape)
        return
    c, h, w = inputs.shape
    kh, kw = op.weight.shape[2:]
    for o in range(c):
        per_out, per_in = c // op.groups, shape[0] // op.groups
        if o // per_out != i // per_in:
            continue
        for ky in range(kh):
            for kx in range(kw):
                if isinstance(op, ConvT):
                    row = y * op.stride[0] - op.padding[0] + ky * op.dilation[0]
                    column = x * op.stride[1] - op.padding[1] + kx * op.dilation[1]
                    weight = op.weight[i, o % per_out, ky, kx]
                else:
                    row, r = divmod(y + op.padding[0] - ky * op.dilation[0], op.stride[0])
                    column, s = divmod(x + op.padding[1] - kx * op.dilation[1], op.stride[1])
                    if r or s:
                        continue
                    weight = op.weight[o, i % per_in, ky, kx]
                if 0 <= row < h and 0 <= column < w:
                    inputs[o, row, column] += weight


@given(cases(max_side=8))
@examples(12)
def test_reference_against_plain_python(case):
    _, graph, spikes = build(dataclasses.replace(case, widths=tuple(min(w, 3) for w in case.widths)))
    assert_plain(graph, spikes)


@given(graphs(valued=True))
@examples(60)
def test_single_synapses_against_plain_python(drawn):
    """Mixed with all others; delays of edges and of channels, leaks, biases, both resets."""
    assert_plain(*drawn)


def assert_plain(graph: Graph, spikes: np.ndarray) -> None:
    trace = run_reference(graph, spikes, record=Record(potentials="all"))
    for sample in range(len(spikes)):
        fired, potentials = plain(graph, spikes[sample])
        assert set(trace.graded) == {p.name for p in graph.populations if p.neuron.ternary}
        for name in trace.shapes:
            np.testing.assert_array_equal(trace.spikes[name][sample], fired[name])
        for name in trace.potentials:
            np.testing.assert_array_equal(trace.potentials[name][sample], potentials[name])


@given(
    st.integers(0, 4096),
    st.integers(0, 4096),
    st.integers(-2000, 2000),
    st.sampled_from(["zero", "subtract"]),
    st.integers(0, 1000),
)
@examples(60)
def test_leak_and_bias_against_plain_python(current_decay, voltage_decay, bias, reset, seed):
    neuron = {"current_decay": current_decay, "voltage_decay": voltage_decay, "reset": reset}
    graph = chain(**neuron, bias=np.full((2, 1, 1), bias, np.int32))
    spikes = (np.random.default_rng(seed).random((1, 4, 1, 4, 4)) < 0.5).astype(np.uint8)
    trace = run_reference(graph, spikes, record=Record(potentials="all"))
    fired, potentials = plain(graph, spikes[0])
    np.testing.assert_array_equal(trace.spikes["hidden"][0], fired["hidden"])
    np.testing.assert_array_equal(trace.potentials["hidden"][0], potentials["hidden"])


@given(cases())
@examples(60)
def test_pytorch_is_the_reference(case):
    network, graph, spikes = build(case)
    import torch

    time_major = torch.from_numpy(spikes).transpose(0, 1).float()
    activity = network.record(time_major, quantized=True)
    trace = hardware_sim.run(graph, spikes, record=Record(potentials="all"))
    for name, value in activity.spikes.items():
        np.testing.assert_array_equal(trace.spikes[name], value.transpose(0, 1).numpy())
    for name, value in activity.potentials.items():
        np.testing.assert_array_equal(trace.potentials[name], (value * 64).transpose(0, 1).numpy())
    np.testing.assert_allclose(trace.output * graph.meta.logit_scale, activity.logits.numpy(), rtol=1e-5, atol=1e-6)
    assert compare(software_trace(network, time_major), trace).equal


def test_potentials_clip_at_24_bits():
    """40 steps of near-maximal input: the soft-reset neuron's potential meets both ends of its range."""
    weight = np.array([[254] * 100, [-256] * 100])
    dense = Population("a", (2, 1, 1), (Edge("input", Dense(weight)),), Neuron(1))
    head = Population("head", (1, 1, 1), (Edge("a", Dense(np.array([[2, 2]]))),), Neuron(None))
    graph = Graph((Input("input", (100, 1, 1)), dense, head), integer=True, meta=Meta(timesteps=40))
    trace = hardware_sim.run(graph, np.ones((1, 40, 100, 1, 1), np.uint8), record=Record(potentials="all"))
    assert trace.potentials["a"][0, -1, 0, 0, 0] == POTENTIAL_MAX - 64  # clipped, then one threshold less
    assert trace.potentials["a"][0, -1, 1, 0, 0] == -POTENTIAL_MAX


def test_sparse_matrices_number_neurons_as_lava_does():
    rng = np.random.default_rng(0)
    op = ConvT(rng.integers(-4, 5, (4, 3, 3, 2)), (2, 1), (1, 0), (1, 0), (1, 2), groups=2)
    from export.graph import output_shape

    source = (4, 3, 5)
    target = output_shape(op, source)
    spikes = rng.random(source) < 0.5
    expected = np.zeros(target, int)
    for place in np.argwhere(spikes):
        reach(op, expected, place, source)
    out = to_sparse(op, source, target) @ spikes.transpose(2, 1, 0).ravel().astype(int)
    np.testing.assert_array_equal(out.reshape(target[::-1]).transpose(2, 1, 0), expected)


def test_a_sparse_convolution_is_the_convolution():
    rng = np.random.default_rng(0)
    op = Conv(rng.integers(-4, 5, (6, 2, 3, 2)), (2, 1), (1, 2), (1, 2), groups=2)
    import torch

    from export.graph import output_shape

    source = (4, 7, 5)
    target = output_shape(op, source)
    x = rng.integers(0, 2, source)
    weight, image = torch.from_numpy(op.weight).double(), torch.from_numpy(x).double()[None]
    expected = torch.nn.functional.conv2d(image, weight, None, op.stride, op.padding, op.dilation, op.groups)[0]
    out = to_sparse(op, source, target) @ x.transpose(2, 1, 0).ravel()
    np.testing.assert_array_equal(out.reshape(target[::-1]).transpose(2, 1, 0), expected.numpy())


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 1000))
@examples(20)
def test_packing_loses_nothing(samples, timesteps, seed):
    shape = (2, 3, 5)
    spikes = (np.random.default_rng(seed).random((samples, timesteps, *shape)) < 0.4).astype(np.uint8)
    np.testing.assert_array_equal(unpack(pack(spikes), shape), spikes)


@pytest.fixture
def run():
    graph = chain()
    spikes = (np.random.default_rng(3).random((3, 4, 1, 4, 4)) < 0.6).astype(np.uint8)
    return graph, spikes, hardware_sim.run(graph, spikes, record=Record(potentials="all"))


def test_traces_survive_their_file(run, tmp_path):
    *_, trace = run
    loaded = Trace.load(trace.save(tmp_path / "t.npz"))
    assert compare(trace, loaded).equal
    np.testing.assert_array_equal(loaded.potentials["hidden"], trace.potentials["hidden"])
    np.testing.assert_array_equal(loaded.counts["hidden"], trace.spikes["hidden"].sum(1))
    assert [p.name for p in tmp_path.iterdir()] == ["t.npz"]
    with pytest.raises(TraceError, match="no such file"):
        Trace.load(tmp_path / "none.npz")
    (tmp_path / "torn.npz").write_bytes((tmp_path / "t.npz").read_bytes()[:200])
    with pytest.raises(TraceError, match=r"torn\.npz: not a trace"):
        Trace.load(tmp_path / "torn.npz")


def test_the_first_divergence_is_the_earliest_step(run):
    *_, trace = run
    changed = trace.spikes["hidden"]
    for place in ((2, 1, 1, 3, 2), (0, 3, 0, 0, 0)):
        changed[place] ^= 1
    other = dataclasses.replace(trace, packed={"hidden": pack(changed)})
    comparison = compare(trace, other)
    assert not comparison.equal and comparison.mismatched == 2
    first = comparison.first
    assert (first.sample, first.step, first.population, first.neuron) == (2, 1, "hidden", (1, 3, 2))
    assert first.software != first.hardware
    assert first.software_potential == first.hardware_potential == trace.potentials["hidden"][2, 1, 1, 3, 2]
    assert "sample 2, step 1, population hidden, neuron (1, 3, 2)" in str(first)


def test_outputs_are_compared_too(run):
    *_, trace = run
    output = trace.output.copy()
    output[1, 0, 2, 2] += 1
    comparison = compare(trace, dataclasses.replace(trace, output=output))
    assert comparison.mismatched == 0 and comparison.output_mismatched == 1 and not comparison.equal
    assert "sample 1, output head, neuron (0, 2, 2)" in comparison.cause


def test_unlike_runs_are_not_compared(run):
    graph, spikes, trace = run
    outputs_only = hardware_sim.run(graph, spikes, record=Record(spikes=()))
    with pytest.raises(TraceError, match="nothing to compare"):
        compare(outputs_only, outputs_only)
    with pytest.raises(TraceError, match="populations differ"):
        compare(trace, hardware_sim.run(graph, spikes, record=Record(spikes=())))
    with pytest.raises(TraceError, match="numbers of samples"):
        compare(trace, hardware_sim.run(graph, spikes[:2]))


def test_report_adds_subjects_up(run):
    *_, trace = run
    comparison = compare(trace, trace)
    report = build_report(
        [comparison, comparison],
        samples=[3, 3],
        subjects=["a", "b"],
        dice={"ann": {"3d": 0.5, "2d": 0.25}},
        backend="lava",
        fidelity="stock",
        timesteps=4,
        seconds={"run": 1.23456},
        repeat={"command": "neuroseg validate runs/first"},
        chip={"refused": "too large"},
        metrics={},
    )
    assert report["repeat"] == {"command": "neuroseg validate runs/first"}
    (layer,) = report["spikes"]["layers"]
    assert report["spikes"]["equal"] and report["spikes"]["total"] == 2 * trace.total("hidden")
    assert layer["rate"] == pytest.approx(trace.spikes["hidden"].mean())
    assert report["seconds"] == {"run": 1.235} and report["subjects"] == ["a", "b"]


def test_bad_runs_are_named(run):
    graph, spikes, _ = run
    for bad, message in (
        (spikes[:, :3], "3 time steps; the network was made for 4"),
        (spikes[0], r"shape \(4, 1, 4, 4\)"),
        (spikes * 2, "range from 0 to 2; 0 and 1"),
    ):
        with pytest.raises(SimulationError, match=message):
            hardware_sim.run(graph, bad)
    with pytest.raises(SimulationError, match="backend 'brian' is unknown"):
        hardware_sim.run(graph, spikes, backend="brian")
    with pytest.raises(SimulationError, match="fidelity 'exact' is unknown"):
        hardware_sim.run(graph, spikes, backend="lava", fidelity="exact")
    with pytest.raises(SimulationError, match="cannot record spikes of head; hidden can be"):
        hardware_sim.run(graph, spikes, record=Record(spikes=["head"]))
