"""Partitioned is whole: a network split into one population a core gives every spike and potential of the whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import hardware_sim
from benchmarks import mapping
from export import netx
from export.graph import (
    ConvT,
    Edge,
    Graph,
    GraphError,
    Input,
    Neuron,
    Pool,
    Population,
    output_shape,
    with_timesteps,
)
from export.limits import check
from export.mapping.chips import LOIHI1, LOIHI2, Chip
from export.mapping.geometry import cut, whole
from export.mapping.place import Placement, place
from export.partition import assemble, cut_operator, partition, piece_name
from hardware_sim import LavaWorker
from hardware_sim.lava_backend.synapses import to_sparse
from hardware_sim.record import Record
from hardware_sim.reference import input_spikes, run_reference
from hardware_sim.trace import Trace
from neuroseg.conversion.lower import export
from neuroseg.runs import load_snn
from tests.examples import examples
from tests.export.test_graph import chain
from tests.export.test_inspect import operators
from tests.graphs import graphs, single
from tests.networks import PLAIN, build, cases

LAVA_INPUTS = 4  # edges into a population that Lava takes
EVERYTHING = Record(potentials="all")
PRETRAINED = Path(__file__).resolve().parents[2] / "neuroseg" / "pretrained" / "snn.safetensors"


def assert_whole(graph: Graph, placement: Placement, trace: Trace, pieces: Trace) -> None:
    """All spikes and, where both have them, all potentials and the outputs."""
    spikes = assemble(placement, dict(pieces.spikes))
    assert set(spikes) == set(trace.shapes)
    for name in trace.shapes:
        np.testing.assert_array_equal(spikes[name], trace.spikes[name], err_msg=name)
    potentials = assemble(placement, dict(pieces.potentials))
    for name in trace.potentials:
        np.testing.assert_array_equal(potentials[name], trace.potentials[name], err_msg=name)


def largest(graph: Graph) -> int:
    """Neurons of its largest population."""
    return max(int(np.prod(population.shape)) for population in graph.populations)


def small(chip: Chip, neurons: int) -> Chip:
    return dataclasses.replace(chip, neurons=neurons)


@pytest.mark.parametrize("chip", [LOIHI1, LOIHI2], ids=lambda chip: chip.name)
@given(case=cases(max_side=8), parts=st.sampled_from([2, 3, 5]))
@examples(25)
def test_random_networks(chip, case, parts):
    """The largest layer in so many parts, or more: tiles are no thirds."""
    _, graph, spikes = build(case if chip.graded else dataclasses.replace(case, encoder="rate", ternary=False))
    placement = place(graph, small(chip, max(16, 2 * largest(graph) // parts)))
    pieces = partition(graph, placement)
    assert len(pieces.populations) == len(placement.cores)
    whole_run, cut_run = (run_reference(g, spikes, record=EVERYTHING) for g in (graph, pieces))
    assert_whole(graph, placement, whole_run, cut_run)


@pytest.mark.parametrize("chip", [LOIHI1, LOIHI2], ids=lambda chip: chip.name)
@given(data=st.data(), parts=st.sampled_from([2, 3, 5]))
@examples(25)
def test_single_synapses(chip, data, parts):
    graph, spikes = data.draw(graphs(valued=chip.graded, recurrent=data.draw(st.booleans())))
    placement = place(graph, small(chip, max(2, 2 * largest(graph) // parts)))
    whole_run, cut_run = (run_reference(g, spikes, record=EVERYTHING) for g in (graph, partition(graph, placement)))
    assert_whole(graph, placement, whole_run, cut_run)


def in_lava(graph: Graph, spikes: np.ndarray, placement: Placement, fidelity: str, worker: LavaWorker) -> None:
    pieces = partition(graph, placement)
    lavas = hardware_sim.run(pieces, spikes, backend="lava", fidelity=fidelity, record=EVERYTHING, worker=worker)
    assert_whole(graph, placement, hardware_sim.run(graph, spikes, record=EVERYTHING), lavas)


@pytest.mark.parametrize("fidelity", ["fused", "stock"])
def test_a_network_with_skips_in_lava(fidelity, worker):
    """Both kinds of convolution, skips with delays; every layer wide enough is on two cores."""
    case = dataclasses.replace(PLAIN, widths=(2, 4), drive="balanced", timesteps=5, reset="zero", rate=0.4)
    _, graph, spikes = build(case)
    placement = place(graph, small(LOIHI2, 64))
    assert max(len(layer.cores) for layer in placement.layers) == 2
    in_lava(graph, spikes, placement, fidelity, worker)


@pytest.mark.parametrize("fidelity", ["fused", "stock"])
@given(data=st.data())
@examples(4)
def test_single_synapses_in_lava(fidelity, data, worker):
    graph, spikes = data.draw(
        graphs(most=3, stock=fidelity == "stock", valued=True, recurrent=data.draw(st.booleans()))
    )
    placement = place(graph, small(LOIHI2, max(2, largest(graph) // 2)))
    assume(max(len(population.edges) for population in partition(graph, placement).populations) <= 2 * LAVA_INPUTS)
    in_lava(graph, spikes, placement, fidelity, worker)


@given(case=cases(max_side=8))
@examples(2)
def test_random_networks_in_lava(case, worker):
    _, graph, spikes = build(case)
    placement = place(graph, small(LOIHI2, max(16, largest(graph) // 2)))
    pieces = partition(graph, placement)
    assume(len(placement.cores) > len(graph.populations))
    assume(max(len(population.edges) for population in pieces.populations) <= LAVA_INPUTS)
    try:
        check(pieces)  # whose bound counts every cut edge by itself
    except GraphError:
        assume(False)
    in_lava(graph, spikes, placement, "fused", worker)


def test_the_shipped_network():
    """On Loihi 2's 97 cores. In the reference: four edges into a population are what Lava takes."""
    graph = with_timesteps(export(load_snn(PRETRAINED)[0]), 4)
    placement = place(graph, LOIHI2)
    assert len(placement.cores) == 97 and placement.chips == 1
    spikes = (np.random.default_rng(0).random((1, 4, *graph.input.shape)) < 0.6).astype(np.uint8)
    whole_run, cut_run = (run_reference(g, spikes, record=EVERYTHING) for g in (graph, partition(graph, placement)))
    assert all(whole_run.total(name) for name in whole_run.packed)
    assert_whole(graph, placement, whole_run, cut_run)


def test_pilotnet():
    """lava-dl's own, on its own image; the input stays whole, so the kernels that crop it are wider than Lava's 127."""
    graph = with_timesteps(netx.read(mapping.pilotnet_file()), 6)
    spikes = input_spikes(graph, np.load(mapping.pilotnet_file().with_name("image.npy")).T[None])
    placement = place(graph, LOIHI2)
    whole_run, cut_run = (run_reference(g, spikes) for g in (graph, partition(graph, placement)))
    assert sum(whole_run.total(name) for name in whole_run.packed) > 10_000
    assert_whole(graph, placement, whole_run, cut_run)


@given(
    st.one_of(operators(), st.just(single(np.random.default_rng(0), (2, 7, 6), (3, 5, 7)))),
    st.integers(1, 3),
    st.integers(1, 4),
)
@examples(25)
def test_cut_operators_are_parts_of_the_whole(op, rows, columns):
    """Every pair of tiles, as matrices."""
    source = (2, 7, 6)
    rng = np.random.default_rng(0)
    op = dataclasses.replace(op, weight=2 * rng.integers(1, 9, op.weight.shape))
    try:
        target = output_shape(op, source)
    except GraphError:
        return
    matrix = to_sparse(op, source, target).toarray().reshape(*target[::-1], *source[::-1])  # W, H, C of both
    for into in (*cut(source, (1, 3, 4)), whole(source)):
        for out in cut(target, (3, rows, columns)):
            (c, h, w), (i, y, x) = out.slices, into.slices
            part = matrix[w, h, c, x, y, i].reshape(out.neurons, into.neurons)
            found = cut_operator(op, source, into, out)
            if found is None:
                assert not part.any()
            else:
                assert output_shape(found, into.shape) == out.shape
                np.testing.assert_array_equal(to_sparse(found, into.shape, out.shape).toarray(), part)


def test_a_tile_of_padding_alone_still_has_a_depth():
    """An output padded so far that some of its tiles hear nothing."""
    up = ConvT(np.full((1, 1, 1, 1), 2), stride=(3, 3), output_padding=(2, 2))
    far = Population("far", (1, 6, 6), (Edge("input", up),), Neuron(1, bias=np.full((1, 1, 1), 64, np.int32)))
    graph = Graph((Input("input", (1, 2, 2)), far), integer=True)
    placement = place(graph, small(LOIHI2, 1))
    pieces = partition(graph, placement)
    assert len(pieces.populations) == 36 and all(population.edges for population in pieces.populations)
    spikes = np.ones((1, graph.meta.timesteps, 1, 2, 2), np.uint8)
    assert_whole(graph, placement, run_reference(graph, spikes), run_reference(pieces, spikes))


def test_a_foreign_placement_is_refused():
    graph, other = chain(), place(chain(), LOIHI2)
    renamed = dataclasses.replace(other, layers=other.layers[1:])
    with pytest.raises(GraphError, match="hidden: the placement has no such layer"):
        partition(graph, renamed)
    wrong = dataclasses.replace(other.layers[0], shape=(1, 1, 1))
    with pytest.raises(GraphError, match=r"hidden: shape is \(2, 4, 4\); the placement's is \(1, 1, 1\)"):
        partition(graph, dataclasses.replace(other, layers=(wrong, *other.layers[1:])))
    pooled = Graph((Input("input", (1, 4, 4)), Pool("p", (1, 2, 2), "input", (2, 2))))
    with pytest.raises(GraphError, match="p: a Pool is left"):
        partition(pooled, other)
    assert assemble(other, {}) == {} and piece_name("a", 3) == "a@3"
