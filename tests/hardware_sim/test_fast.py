"""The fast engine does what the reference does, whatever arithmetic a layer gets, and takes as long for each layer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given

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
    Operator,
    Population,
)
from export.limits import beyond
from hardware_sim import Record, Trace, run
from hardware_sim.comparison.compare import compare
from hardware_sim.fast import bytes as byte_arithmetic
from hardware_sim.fast import engine, kernels, synapses
from hardware_sim.reference import apply_operator
from hardware_sim.trace import pack
from tests.examples import examples
from tests.export.test_graph import chain
from tests.graphs import graphs
from tests.networks import build, cases

EVERYTHING = Record(potentials="all", counts="all")
WAYS = ("floats", "events", *(["bytes"] if byte_arithmetic.bytes_are_fast() else []))


class Always(dict):
    """What is known of which way is faster, wherever it is asked."""

    def __init__(self, way: int) -> None:
        super().__init__()
        self.way = way

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: object) -> int:
        return self.way


def go(way: str, patch: pytest.MonkeyPatch) -> None:
    """Compute synapses one way, where it can be."""
    patch.setattr(synapses, "bytes_are_fast", lambda: way == "bytes")
    patch.setattr(synapses, "multiplies_bytes", lambda: way != "events")
    patch.setattr(synapses, "FASTEST", Always(1))


def assert_same(ours: Trace, theirs: Trace) -> None:
    """Every spike, output and potential."""
    comparison = compare(ours, theirs)
    assert comparison.equal, comparison.cause
    np.testing.assert_array_equal(theirs.output, ours.output)
    assert set(ours.potentials) == set(theirs.potentials)
    for name in ours.potentials:
        np.testing.assert_array_equal(theirs.potentials[name], ours.potentials[name], err_msg=name)
    for name in ours.tallied:
        np.testing.assert_array_equal(theirs.tallied[name], ours.tallied[name], err_msg=name)


def both(graph: Graph, spikes: np.ndarray) -> None:
    ours, theirs = (run(graph, spikes, backend=backend, record=EVERYTHING) for backend in ("reference", "fast"))
    assert_same(ours, theirs)


@pytest.mark.parametrize("way", WAYS)
@given(drawn=graphs(valued=True))
@examples(60)
def test_random_graphs(way, drawn):
    """Leaks, decays and resets of single neurons, delays, biases, single synapses, odd weights, dense ones."""
    with pytest.MonkeyPatch.context() as patch:
        go(way, patch)
        patch.setattr(engine, "MOST", 3)  # some samples at a time, and the rest
        both(*drawn)


@pytest.mark.parametrize("way", WAYS)
@given(case=cases())
@examples(25)
def test_random_networks(way, case):
    with pytest.MonkeyPatch.context() as patch:
        go(way, patch)
        both(*build(case)[1:])


RNG = np.random.default_rng(0)


def even(*shape: int) -> np.ndarray:
    return 2 * RNG.integers(-128, 128, shape)


MAPS: dict[str, tuple[Operator, tuple[int, int, int], str]] = {
    "a convolution": (Conv(even(6, 8, 3, 3), padding=(1, 1)), (8, 8, 12), "bytes"),
    "in groups, strided, dilated": (Conv(even(6, 4, 3, 2), (2, 1), (1, 0), (1, 2), groups=2), (8, 9, 12), "bytes"),
    "a mean before it": (
        Conv(even(6, 8, 3, 3).repeat(2, axis=2).repeat(2, axis=3), (2, 2), (2, 2)), (8, 8, 12), "bytes of sums"
    ),
    "a mean of nine": (Conv(even(6, 8, 1, 1).repeat(3, axis=2).repeat(3, axis=3), (3, 3)), (8, 9, 12), "bytes of sums"),
    "a mean that does not tile": (
        Conv(even(6, 8, 3, 3).repeat(2, axis=2).repeat(2, axis=3), (2, 2), (2, 2)), (8, 9, 12), "bytes"
    ),
    "kernels side by side": (ConvT(even(8, 6, 2, 3), (2, 3)), (8, 4, 5), "bytes"),
    "kernels that overlap": (ConvT(even(8, 6, 3, 3), (2, 2), (1, 1), (1, 1)), (8, 4, 5), "floats"),
    "all to all": (Dense(even(7, 8 * 4 * 5)), (8, 4, 5), "floats"),
    "padding alone": (Conv(even(2, 8, 1, 1), (3, 2), (2, 1), (1, 2)), (8, 7, 1), "floats"),  # on which oneDNN crashes
    "padding alone, of sums": (Conv(even(2, 8, 1, 1).repeat(2, 2).repeat(2, 3), (2, 8), (0, 4)), (8, 4, 4), "floats"),
    "odd weights": (Conv(RNG.integers(0, 256, (6, 8, 3, 3))), (8, 5, 5), "floats"),
}  # fmt: skip


@pytest.mark.skipif(not byte_arithmetic.bytes_are_fast(), reason="this processor does not multiply bytes")
@pytest.mark.parametrize("name", MAPS)
def test_every_arithmetic_is_exact(name, monkeypatch):
    op, source, arithmetic = MAPS[name]
    monkeypatch.setattr(synapses, "multiplies_bytes", lambda: True)
    x = torch.from_numpy((RNG.random((6, *source)) < 0.5).astype(np.uint8))
    x = x.contiguous(memory_format=torch.channels_last)
    apply, found = synapses.choose(op, source, 6)
    assert found == arithmetic
    assert torch.equal(apply(x), apply_operator(op, x.double()).float())
    assert torch.equal(apply(x[:2].contiguous(memory_format=torch.channels_last)), apply(x)[:2])  # the last samples


@pytest.mark.parametrize("name", MAPS)
def test_spikes_add_up_to_what_a_map_is(name, monkeypatch):
    op, source, _ = MAPS[name]
    x = torch.from_numpy((RNG.random((6, *source)) < 0.3).astype(np.uint8)).contiguous(
        memory_format=torch.channels_last
    )
    monkeypatch.setattr(synapses, "multiplies_bytes", lambda: False)
    apply, found = synapses.choose(op, source, 6)
    if name in ("a convolution", "kernels side by side", "kernels that overlap"):
        assert found.endswith(" or events")
        for way in apply.ways:
            assert torch.equal(way(x), apply_operator(op, x.double()).float())
        assert any(apply(x) is not None and apply.chosen is way for way in apply.ways)
    elif isinstance(op, Dense):
        assert "events" not in found


def test_edges_of_one_geometry_are_one_map():
    same = [Edge(name, Conv(even(4, 3, 3, 3), padding=(1, 1))) for name in ("a", "b")]
    other = Edge("a", Conv(even(4, 3, 1, 1)))
    late = Edge("b", Conv(even(4, 3, 3, 3), padding=(1, 1)), target_delay=np.ones((4, 5, 5), np.int32))
    first = [Population(name, (3, 5, 5), (Edge("input", Conv(even(3, 1, 1, 1))),), Neuron(200)) for name in ("a", "b")]
    head = Population("head", (4, 5, 5), (same[0], other, late, same[1]), Neuron(900))
    graph = Graph((Input("input", (1, 5, 5)), *first, head), integer=True, meta=Meta(timesteps=5))
    assert [part.sources for part in synapses.parts_of(graph, head, 10)] == [("a", "b"), ("a",), ("b",)]
    both(graph, (RNG.random((3, 5, 1, 5, 5)) < 0.5).astype(np.uint8))


@pytest.mark.parametrize("shape", [(8, 3, 16), (16, 5, 8), (3, 4, 8), (8, 3, 5), (1, 1, 1)])
def test_spikes_become_bits_in_the_order_of_traces(shape):
    fired = (RNG.random((3, 2, *shape)) < 0.4).astype(np.uint8)  # T, B, C, H, W
    bits = np.zeros((2, 3, -(-int(np.prod(shape)) // 8)), np.uint8)
    flat = np.ascontiguousarray(fired.transpose(0, 1, 3, 4, 2)).reshape(3, 2, -1)
    kernels.pack_spikes(flat, *shape, bits)
    np.testing.assert_array_equal(bits, pack(fired.swapaxes(0, 1)))


def test_several_threads_run_at_once():
    graph, spikes = chain(), (RNG.random((40, 4, 1, 4, 4)) < 0.5).astype(np.uint8)
    expected = run(graph, spikes, backend="reference")
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: run(graph, spikes, backend="fast"), range(12)):
            assert_same(expected, found)


def test_what_is_kept_is_what_was_asked_for_and_layers_have_their_share():
    graph, spikes = chain(), np.ones((5, 4, 1, 4, 4), np.uint8)
    done: list[tuple[int, int]] = []
    trace = run(graph, spikes, record=Record(spikes=(), potentials=["hidden"]), on_step=lambda *at: done.append(at))
    assert trace.engine == "fast" and not trace.packed and list(trace.potentials) == ["hidden"] and trace.samples == 5
    assert done[-1] == (20, 20)
    assert all(trace.seconds[f"layer {p.name}"] > 0 for p in graph.populations)


def test_what_may_exceed_loihi_is_left_to_the_reference_which_watches():
    wide = Population("wide", (1, 1, 1), (Edge("input", Dense(np.full((1, 200), 254))),), Neuron(10))
    graph = Graph((Input("input", (200, 1, 1)), wide), integer=True, meta=Meta(timesteps=2))
    assert beyond(graph) and run(graph, np.zeros((1, 2, 200, 1, 1), np.uint8)).engine == "reference"


def test_floats_are_refused():
    graph = replace(chain(), integer=False)
    with pytest.raises(GraphError, match="holds floats"):
        engine.run_fast(graph, np.ones((1, 4, 1, 4, 4), np.uint8))
