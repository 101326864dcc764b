"""Placements: Intel's public core counts, limits that change them, both resets, refusals, and what every core holds."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import mapping
from export import netx
from export.graph import Conv, ConvT, Dense, Edge, Graph, GraphError, Input, Neuron, Population, Sparse, output_shape
from export.mapping.axons import axons_in, axons_out
from export.mapping.chips import CHIPS, LOIHI1, LOIHI2, RESOURCES, Board, Chip
from export.mapping.geometry import cut, fan_out, inside, neurons_read, tap_sets, whole
from export.mapping.memory import LOIHI2_DENSE_BITS, list_words, synapse_words, weight_bits
from export.mapping.place import Placement, place
from export.mapping.summary import summary
from hardware_sim.lava_backend.synapses import to_sparse
from tests.examples import examples
from tests.export.test_graph import chain
from tests.export.test_inspect import operators
from tests.graphs import graphs, single
from tests.networks import build, cases


def one(op, source: tuple, target: tuple, **neuron) -> Graph:
    population = Population("a", target, (Edge("input", op),), Neuron(1, **neuron))
    return Graph((Input("input", source), population), integer=True)


@pytest.mark.parametrize("table", ["lif", "sdnn", "yolo"])
def test_intels_tables(table):
    """Every row's cores; PilotNet's words, dense layers among them, to the word."""
    if table == "lif":
        placement = place(netx.read(mapping.pilotnet_file()), LOIHI2)
        found = mapping.compare(placement, mapping.PILOTNET_LIF, given=(mapping.PILOTNET_LIF_INPUT, "input"))
    else:
        shape, rows = ((3, 66, 200), mapping.PILOTNET_SDNN) if table == "sdnn" else ((3, 448, 448), mapping.YOLO_KP)
        found = mapping.compare(place(mapping.network(shape, rows), LOIHI2), rows)
    assert len(found) in (10, 11)
    for name, row in found.items():
        assert row["cores"] == row["Intel"], name
        if table != "yolo" and "words" in row:
            assert row["words"] == row["Intel's words"], name


def test_the_shipped_tiles_are_intels():
    """Where one tile alone needs the fewest cores, it is the log's: W x H x C."""
    placement = place(netx.read(mapping.pilotnet_file()), LOIHI2)
    tiles = [layer.tile[::-1] for layer in placement.layers[:6]]
    assert tiles == [(16, 66, 3), (4, 32, 24), (4, 15, 36), (8, 7, 48), (8, 4, 64), (16, 2, 64)]


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
@given(case=cases())
@examples(15)
def test_every_neuron_lies_on_one_core_and_every_limit_holds(chip, case):
    _, graph, _ = build(case if chip.graded else dataclasses.replace(case, encoder="rate", ternary=False))
    assert_placed(graph, dataclasses.replace(chip, neurons=40))


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
@given(drawn=st.one_of(graphs(), graphs(recurrent=True)))
@examples(25)
def test_so_does_every_neuron_with_single_synapses(chip, drawn):
    assert_placed(drawn[0], dataclasses.replace(chip, neurons=16))


def assert_placed(graph: Graph, small: Chip) -> None:
    placement = place(graph, small)
    assert [core.number for core in placement.cores] == list(range(len(placement.cores)))
    for population in graph.populations:
        seen = np.zeros(population.shape, int)
        for core in placement[population.name].cores:
            seen[core.tile.slices] += 1
            for what in RESOURCES:
                assert 0 <= getattr(core, what) <= small.limit(what)
            if not any(
                isinstance(e.op, Sparse) for p in graph.populations for e in p.edges
            ):  # of which a core may have none
                assert core.axons_out > 0 and core.words > 0
        assert (seen == 1).all()
    assert summary(placement)["cores"] == len(placement.cores)


def test_a_limit_changes_the_cores():
    graph = netx.read(mapping.pilotnet_file())
    whole_count = len(place(graph, LOIHI2).cores)
    for what, value in (("neurons", 2000), ("words", 4000), ("axons_out", 500)):
        less = place(graph, dataclasses.replace(LOIHI2, **{what: value}))
        assert len(less.cores) > whole_count, what
        assert all(getattr(core, what) <= value for core in less.cores)


def test_soft_reset_takes_two_compartments_on_loihi_1():
    for chip, factor in ((LOIHI1, 2), (LOIHI2, 1)):
        zero, subtract = (place(chain(reset=reset), chip)["hidden"].cores[0] for reset in ("zero", "subtract"))
        assert zero.neurons == 32 and subtract.neurons == 32 * factor
    conv = Conv(np.full((16, 1, 1, 1), 2))
    counts = [len(place(one(conv, (1, 32, 32), (16, 32, 32), reset=r), LOIHI1).cores) for r in ("zero", "subtract")]
    assert counts == [16, 32]


@pytest.mark.parametrize(
    ("chip", "op", "source", "message"),
    [
        (
            LOIHI2,
            Dense(np.full((2, 16000), 254)),
            (16000, 1, 1),
            r"a: .* 16,000 synaptic memory \(words\) .* 12,000 fit",
        ),
        (LOIHI1, Dense(np.full((2, 5000), 2)), (5000, 1, 1), r"a: .* 5,000 input axons of a core; 4,096 fit Loihi 1"),
        (LOIHI2, Conv(np.full((1, 13000, 1, 1), 2)), (13000, 2, 2), r"a: one of its 4 neurons .* Loihi 2"),
    ],
)
def test_what_no_tiling_fits_is_refused(chip, op, source, message):
    target = (len(op.weight), 1, 1) if isinstance(op, Dense) else (1, 2, 2)
    with pytest.raises(GraphError, match=message):
        place(one(op, source, target), chip)


def test_fan_out_is_refused_or_divided():
    """A neuron that more cores read than its core has output axons; and cores made smaller until they have enough."""
    readers = [Population(f"r{k}", (4, 1, 1), (Edge("a", Dense(np.full((4, 4), 2))),), Neuron(1)) for k in range(5)]
    source = Population("a", (4, 1, 1), (Edge("input", Dense(np.full((4, 4), 2))),), Neuron(1))
    graph = Graph((Input("input", (4, 1, 1)), source, *readers), integer=True)
    assert [len(place(graph, dataclasses.replace(LOIHI1, axons_out=n))["a"].cores) for n in (20, 10, 5)] == [1, 2, 4]
    with pytest.raises(GraphError, match=r"a: one of its neurons takes 5 output axons; 4 fit Loihi 1"):
        place(graph, dataclasses.replace(LOIHI1, axons_out=4))


def test_float_graphs_and_unknown_resets_are_refused():
    with pytest.raises(GraphError, match="quantize it"):
        place(dataclasses.replace(chain(), integer=False), LOIHI2)
    with pytest.raises(GraphError, match="hidden: reset is 'zero'; subtract run on"):
        place(chain(reset="zero"), dataclasses.replace(LOIHI2, compartments={"subtract": 1}))


def test_chips_and_boards():
    placement = place(chain(), LOIHI2)
    core = placement.cores[0]
    for cores, chips, board in ((1, 1, "Oheo Gulch"), (129, 2, "Kapoho Point"), (1025, 9, "Hala Point")):
        layer = dataclasses.replace(placement.layers[0], cores=(core,) * cores)
        found = Placement(LOIHI2, (layer,))
        assert (found.chips, found.board and found.board.name) == (chips, board)
    assert Placement(dataclasses.replace(LOIHI2, boards=(Board("b", 1),)), (layer,)).board is None


@given(operators())
def test_what_a_tile_reads_is_what_its_synapses_join(op):
    """Against the synapse as a matrix, tile by tile."""
    source = (2, 7, 6)
    try:
        target = output_shape(op, source)
    except GraphError:
        return
    matrix = to_sparse(op, source, target).toarray().reshape(*target[::-1], *source[::-1])  # W, H, C of both
    for tile in cut(target, (3, 2, 3)):
        c, h, w = tile.slices
        joined = matrix[w, h, c].astype(bool).sum((0, 1, 2)).T  # C, H, W of the source
        np.testing.assert_array_equal(joined, np.broadcast_to(fan_out(op, source, tile), source))
        assert neurons_read(op, source, tile) == (joined > 0).sum()


@pytest.mark.parametrize("seed", range(10))
def test_axons_and_words_of_single_synapses_are_of_those_that_there_are(seed):
    """Counted tile by tile in their matrix: lists of what each source neuron sends there, axons of those that send."""
    rng = np.random.default_rng(seed)
    source, target = (2, 4, 3), (3, 5, 4)
    op = single(rng, source, target, 0.1)
    op = dataclasses.replace(op, weight=np.full_like(op.weight, 2))
    edge, matrix = Edge("input", op), np.zeros((60, 24), int)
    matrix[op.target, op.source] = 2
    tiles, own = cut(target, (2, 3, 2)), cut(source, (1, 2, 3))
    pairs = np.zeros(source, int)
    for tile in tiles:
        rows = np.arange(60).reshape(target)[tile.slices].ravel()
        assert sorted(inside(op, tile)) == list(inside(op, tile))
        assert set(op.target[inside(op, tile)]) == set(rows[matrix[rows].any(1)])
        lists = (matrix[rows] > 0).sum(0)
        pairs += (lists > 0).reshape(source)
        for chip in (LOIHI1, LOIHI2):
            assert axons_in(chip, edge, source, tile) == (lists > 0).sum()
        words = sum(list_words(int(n), 2 + LOIHI2_DENSE_BITS) for n in lists if n)
        assert synapse_words(LOIHI2, edge, source, tile) == words
    graph = one(op, source, target)
    listening = axons_out(LOIHI1, graph, {"input": own, "a": tiles})["input"]
    assert listening == [int(pairs[tile.slices].sum()) for tile in own]
    heard = axons_out(LOIHI2, graph, {"input": own, "a": tiles})["input"]
    assert heard == [int((pairs[tile.slices] > 0).sum()) for tile in own]


def test_all_single_synapses_take_what_dense_ones_do():
    every = np.arange(6 * 24)
    op, matrix = Sparse(np.full(6 * 24, 2), every // 24, every % 24, (6, 1, 1)), Dense(np.full((6, 24), 2))
    for chip in (LOIHI1, LOIHI2):
        ours, theirs = (place(one(o, (2, 4, 3), (6, 1, 1)), chip)["a"].cores for o in (op, matrix))
        assert ours == theirs


def test_lists_of_loihi_1():
    """A 3 x 3 kernel on a row of places: in the middle all taps, towards the ends fewer."""
    assert sorted(tap_sets(Conv(np.ones((1, 1, 3, 3)), padding=(1, 1)), 0, 8, (2, 6))) == [1, 1, 2, 2, 3]
    assert tap_sets(ConvT(np.ones((1, 1, 2, 2)), (2, 2)), 0, 4, (0, 8)) == (2,)
    assert whole((1, 2, 3)).neurons == 6


@pytest.mark.parametrize(("most", "bits"), [(254, 9), (128, 8), (42, 7), (8, 4), (6, 4), (2, 2), (0, 1)])
def test_weight_bits(most, bits):
    assert weight_bits(np.array([[-most, 0]])) == bits


def test_lists_have_a_header_for_64():
    assert list_words(1, 18) == 1 and list_words(100, 15) == 24 and list_words(9, 15) == 3
    assert list_words(64, 64) == math.ceil((64 * 64 + 10) / 64)


def test_mapping_needs_no_torch():
    code = "import sys, export.mapping.cost, export.partition; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[3]).returncode == 0
