"""Populations that feed themselves, and spikes that carry values: every engine does what the reference does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hardware_sim
from export import netx
from export.graph import (
    Dense,
    Dropout,
    Edge,
    Graph,
    GraphError,
    Input,
    Meta,
    Neuron,
    Population,
    SigmaDelta,
    pipelined,
    same,
)
from export.passes import remove_dropout
from hardware_sim import Record, SimulationError, Trace
from hardware_sim.comparison.compare import compare
from hardware_sim.comparison.diagnose import diagnose
from hardware_sim.reference import run_reference
from hardware_sim.trace import TraceError
from tests.examples import examples
from tests.graphs import graded_graphs, graphs
from tests.hardware_sim.test_fast import assert_same

EVERYTHING = Record(potentials="all", counts="all")
FIDELITIES = ("fused", "stock")


def assert_all_same(graph, spikes, fidelity, worker, *, stream=False) -> None:
    """Both engines without Lava, and Lava; where the reference sees a limit broken, all say the same."""
    try:
        ours = hardware_sim.run(graph, spikes, backend="reference", record=EVERYTHING, stream=stream)
    except SimulationError as error:
        assert "is what Loihi holds" in str(error)
        with pytest.raises(SimulationError, match="is what Loihi holds"):
            hardware_sim.run(graph, spikes, backend="lava", fidelity=fidelity, worker=worker, stream=stream)
        return
    for backend in ("fast", "lava"):
        kept = worker if backend == "lava" else None
        given = {"fidelity": fidelity, "record": EVERYTHING, "worker": kept, "stream": stream}
        assert_same(ours, hardware_sim.run(graph, spikes, backend=backend, **given))


@pytest.mark.parametrize("fidelity", FIDELITIES)
@given(data=st.data())
@examples(10)
def test_what_feeds_itself(data, fidelity, worker):
    assert_all_same(*data.draw(graphs(recurrent=True, stock=fidelity == "stock", valued=True)), fidelity, worker)


@pytest.mark.parametrize("fidelity", FIDELITIES)
@given(data=st.data())
@examples(10)
def test_values(data, fidelity, worker):
    assert_all_same(*data.draw(graded_graphs(late=fidelity == "fused")), fidelity, worker)


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_a_sum_of_binary_spikes_alone(fidelity, worker):
    """Nothing carries values, and yet there are sigma-delta neurons."""
    one = Edge("input", Dense(np.array([[8]])))
    fires = Population("a", (1, 1, 1), (one,), Neuron(6, reset="zero"))
    sums = Population("sum", (1, 1, 1), (Edge("a", Dense(np.array([[2]]))),), SigmaDelta(None))
    graph = Graph((Input("input", (1, 1, 1)), fires, sums), integer=True, meta=Meta(timesteps=4))
    assert_all_same(graph, np.ones((2, 4, 1, 1, 1), np.uint8), fidelity, worker)
    reader = Population("reader", (1, 1, 1), (Edge("sum", Dense(np.array([[2]]))),), SigmaDelta(0))
    with pytest.raises(GraphError, match="reader: reads sum, which only sums its input; none may read it"):
        hardware_sim.run(replace(graph, nodes=(*graph.nodes, reader)), np.ones((2, 4, 1, 1, 1), np.uint8))


@pytest.mark.parametrize("fidelity", FIDELITIES)
@given(data=st.data())
@examples(6)
def test_streams(data, fidelity, worker):
    """Every layer from Lava's first step on, whatever feeds what."""
    kind = data.draw(st.sampled_from([graphs(recurrent=True), graded_graphs(recurrent=True)]))
    graph, spikes = data.draw(kind)
    assert_all_same(graph, spikes[:1], fidelity, worker, stream=True)


@given(drawn=st.one_of(graphs(recurrent=True, valued=True), graded_graphs(recurrent=True)))
@examples(25)
def test_files_hold_them(drawn, tmp_path_factory):
    graph, spikes = drawn
    again = netx.read(netx.write(graph, tmp_path_factory.mktemp("files") / "n.net"))
    try:
        ours = hardware_sim.run(graph, spikes, backend="reference", record=EVERYTHING)
    except SimulationError:
        return
    assert_same(ours, hardware_sim.run(again, spikes, backend="reference", record=EVERYTHING))


def loop(weight: int = -8, *, delay: int = 0) -> Graph:
    """One neuron that fires at each step it is driven, unless what it sends itself holds it back."""
    edges = (Edge("input", Dense(np.array([[8]]))), Edge("a", Dense(np.array([[weight]])), delay))
    hidden = Population("a", (1, 1, 1), edges, Neuron(6, reset="zero"))
    head = Population("head", (1, 1, 1), (Edge("a", Dense(np.array([[2]]))),), Neuron(None))
    return Graph((Input("input", (1, 1, 1)), hidden, head), integer=True, meta=Meta(timesteps=6))


@pytest.mark.parametrize(("delay", "fires"), [(0, [1, 0, 1, 0, 1, 0]), (1, [1, 1, 0, 0, 1, 1])])
def test_a_spike_comes_back_a_step_late_and_by_its_delay_later(delay, fires):
    graph = loop(delay=delay)
    trace = hardware_sim.run(graph, np.ones((2, 6, 1, 1, 1), np.uint8), backend="reference")
    assert trace.spikes["a"].squeeze().tolist() == [fires, fires]  # nothing reaches the next sample


def ring(*, late: int) -> Graph:
    """A neuron that fires at each step it is driven, unless the third one behind it held it back `late` steps ago."""
    one = (1, 1, 1)
    back = Edge("c", Dense(np.array([[-8]])), late - 1, feedback=True)
    nodes = [
        Input("input", one),
        Population("a", one, (Edge("input", Dense(np.array([[8]]))), back), Neuron(6, reset="zero")),
    ]
    for name, source in (("b", "a"), ("c", "b")):
        nodes.append(Population(name, one, (Edge(source, Dense(np.array([[8]]))),), Neuron(6, reset="zero")))
    head = Population("head", one, (Edge("c", Dense(np.array([[2]]))),), Neuron(None))
    return Graph((*nodes, head), integer=True, meta=Meta(timesteps=8))


@pytest.mark.parametrize(
    ("late", "fires"), [(3, [1, 1, 1, 0, 0, 0, 1, 1]), (4, [1, 1, 1, 1, 0, 0, 0, 0])], ids=["at once", "later"]
)
def test_what_a_later_layer_sends_comes_back_when_it_can(late, fires, worker):
    graph = ring(late=late)
    spikes = np.ones((3, 8, 1, 1, 1), np.uint8)
    for engine in ({"backend": "reference"}, {"backend": "fast"}, {"backend": "lava", "worker": worker}):
        trace = hardware_sim.run(graph, spikes, **engine)
        assert trace.spikes["a"].squeeze().tolist() == [fires] * 3  # nothing reaches the next sample
    trace = hardware_sim.run(graph, spikes[:1], backend="lava", fidelity="stock", worker=worker)
    assert trace.spikes["a"].squeeze().tolist() == fires


def test_layers_take_a_step_each():
    message = "a: is fed back by c 2 steps late; 3 or more are allowed, as a layer takes a step"
    with pytest.raises(GraphError, match=message):
        hardware_sim.run(ring(late=2), np.ones((1, 8, 1, 1, 1), np.uint8))
    assert same(pipelined(ring(late=1)), ring(late=3)) and same(pipelined(ring(late=4)), ring(late=4))


def test_what_comes_back_comes_from_later_neurons():
    graph = ring(late=3)
    first, back = graph["a"].edges
    for source in ("input", "a", "nobody"):
        wrong = replace(graph["a"], edges=(first, replace(back, source=source)))
        with pytest.raises(GraphError, match=f"a: is fed back by '{source}', which is no other population"):
            replace(graph, nodes=(graph.input, wrong, *graph.nodes[2:]))


def test_what_never_fires_brings_nothing_back():
    graph = ring(late=3)
    first, back = graph["a"].edges
    head = replace(back, source="head", delay=5)
    wrong = replace(graph, nodes=(graph.input, replace(graph["a"], edges=(first, head)), *graph.nodes[2:]))
    with pytest.raises(GraphError, match="a: is fed back by head, which never fires; what fires may"):
        hardware_sim.run(wrong, np.ones((1, 8, 1, 1, 1), np.uint8))


def test_passes_come_before_a_loop_is_run():
    graph = ring(late=3)
    first, *others = graph.populations[1:]
    masked = replace(first, edges=(replace(first.edges[0], source="drop"),))
    loose = replace(graph, nodes=(*graph.nodes[:2], Dropout("drop", (1, 1, 1), "a", 0.5), masked, *others))
    spikes = np.ones((1, 8, 1, 1, 1), np.uint8)
    with pytest.raises(GraphError, match="drop: a Dropout in a loop; run the passes first"):
        run_reference(loose, spikes)
    assert compare(run_reference(remove_dropout(loose), spikes), run_reference(graph, spikes)).equal


def test_a_long_loop_fits_a_file_and_lava(tmp_path, worker):
    """Its delay in a sample's steps is more than a synapse waits, in Lava's it is none."""
    one = (1, 1, 1)
    names = [f"p{k}" for k in range(70)]
    nodes = [Input("input", one)]
    for k, name in enumerate(names):
        edge = Edge(nodes[-1].name, Dense(np.array([[8]])))
        back = (Edge(names[-1], Dense(np.array([[-8]])), 69, feedback=True),) if k == 0 else ()
        nodes.append(Population(name, one, (edge, *back), Neuron(6, reset="zero")))
    graph = Graph(tuple(nodes), integer=True, meta=Meta(timesteps=80))
    again = netx.read(netx.write(graph, tmp_path / "n.net"))
    spikes = np.ones((2, 80, 1, 1, 1), np.uint8)
    trace = hardware_sim.run(graph, spikes, backend="reference")
    assert trace.spikes["p0"].squeeze().tolist() == [[1] * 70 + [0] * 10] * 2
    assert compare(trace, hardware_sim.run(again, spikes, backend="lava", worker=worker)).equal


def test_samples_after_another_are_refused_in_stock_processes():
    with pytest.raises(SimulationError, match=r"2 samples of a network with recurrent synapses \(a\)"):
        hardware_sim.run(loop(), np.ones((2, 6, 1, 1, 1), np.uint8), backend="lava", fidelity="stock")


def test_a_stream_is_one_sample():
    with pytest.raises(SimulationError, match="2 samples are given; a stream is one"):
        hardware_sim.run(loop(), np.ones((2, 6, 1, 1, 1), np.uint8), stream=True)


def test_what_knows_no_recurrence_says_so():
    graph = loop()
    trace = hardware_sim.run(graph, np.ones((1, 6, 1, 1, 1), np.uint8))
    with pytest.raises(TraceError, match="a is fed back what it sent: causes are told of"):
        diagnose(graph, trace, trace)
    alone = replace(graph["a"], edges=graph["a"].edges[1:])
    with pytest.raises(GraphError, match="a: no edge feeds it from outside"):
        replace(graph, nodes=(graph.input, alone, graph["head"]))


def test_a_loop_has_one_delay_for_all():
    graph = loop()
    first, again = graph["a"].edges
    edges = (first, replace(again, target_delay=np.ones((1, 1, 1), np.int32)))
    with pytest.raises(GraphError, match="a: feeds itself with delays by target neuron; one delay for all is allowed"):
        replace(graph, nodes=(graph.input, replace(graph["a"], edges=edges), graph["head"]))


def graded(threshold: int = 0, *, weight: int = 2) -> Graph:
    """A sum of what changes, and a reader of it."""
    one = Edge("input", Dense(np.array([[weight]])))
    tells = Population("a", (1, 1, 1), (one,), SigmaDelta(threshold))
    sums = Population("sum", (1, 1, 1), (Edge("a", Dense(np.array([[2]]))),), SigmaDelta(None))
    return Graph((Input("input", (1, 1, 1)), tells, sums), integer=True, meta=Meta(timesteps=4))


def test_a_change_is_told_and_what_is_too_small_waits():
    values = np.array([640, 32, 0, -640], np.int32).reshape(1, 4, 1, 1, 1)
    trace = hardware_sim.run(graded(100), values, backend="reference", record=EVERYTHING)
    assert trace.potentials["a"].squeeze().tolist() == [1280, 1344, 1344, 64]  # relu of the sum
    assert trace.spikes["a"].squeeze().tolist() == [20, 0, 0, -19]  # 64 wait, then -1216 are told, >> 6
    assert trace.output.item() == 2 * (20 - 19)
    assert trace.total("a") == 2 and trace.counts["a"].item() == 2


def test_values_are_kept_in_the_trace_and_compared(tmp_path):
    graph, values = graded(), np.array([640, 32, 0, -640], np.int32).reshape(1, 4, 1, 1, 1)
    ours = hardware_sim.run(graph, values)
    again = Trace.load(ours.save(tmp_path / "trace.npz"))
    assert compare(ours, again).equal and again.spikes["a"].dtype == np.int32
    np.testing.assert_array_equal(again.stimulus, values)
    other = ours.graded["a"].copy()
    other[0, 3] += 1
    found = compare(ours, replace(ours, graded={"a": other}))
    assert (found.mismatched, found.first.step, found.first.population) == (1, 3, "a")


@pytest.mark.parametrize("backend", ["reference", "fast"])
def test_what_24_bits_do_not_hold_is_an_error_that_names_it(backend):
    values = np.full((1, 4, 1, 1, 1), 2**20, np.int32)
    with pytest.raises(SimulationError, match=r"a: sigma is 8388608 in sample 0, step 1; -8388607 to 8388607 is what"):
        hardware_sim.run(graded(weight=2), values * 2, backend=backend)


@pytest.mark.parametrize(("values", "message"), [(np.full((1, 4, 1, 1, 1), 0.5), "integers from -8388607 to 8388607")])
def test_inputs_are_integers(values, message):
    with pytest.raises(SimulationError, match=message):
        hardware_sim.run(graded(), values)
