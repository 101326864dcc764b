"""Populations that share a Lava process: which, and that their spikes are those of a process each."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hardware_sim
from export.graph import Dense, Edge, Graph, Input, Neuron, Population
from hardware_sim import Record, SimulationError
from hardware_sim.comparison.compare import compare
from hardware_sim.lava_backend import grouping, launch
from hardware_sim.lava_backend.grouping import (
    MAX_PORTS,
    MOST_COPIES,
    MOST_PROCESSES,
    NEURONS,
    WEIGHTS,
    _parts,
    groups,
    share,
)
from hardware_sim.lava_backend.layout import Window
from tests.examples import examples
from tests.graphs import graded_graphs, graphs


@given(graphs(most=6, recurrent=True), st.integers(1, 9))
@examples(60)
def test_groups_are_neighbours_and_know_what_they_read_and_send(drawn, most):
    graph, _ = drawn
    made = groups(graph, most)
    assert [name for group in made for name in group.populations] == [p.name for p in graph.populations]
    assert len(made) == min(most, len(graph.populations))
    assert [group.input for group in made] == [graph.input.name, *[""] * (len(made) - 1)]
    for group in made:
        nodes = {*group.populations, group.input}
        outside = {(p.name, e.source) for p in graph.populations for e in p.edges}
        reads = {b for a, b in outside if a in group.populations and b not in nodes}
        sends = {b for a, b in outside if a not in group.populations and b in nodes}
        assert reads == set(group.sources) and sends == set(group.sends)
        assert len(group.sources) == len(reads) and len(group.sends) == len(sends)


def test_samples_are_shared_out_among_copies():
    graph = star(3)
    done = groups(graph, 2, 3)
    assert [list(group.copies) for group in done] == [[0, 2, 4], [1, 3, 5]]
    window = Window(depth=2, samples=7, timesteps=3, copies=6)
    assert window.steps == 2 + 2 * 3
    seen = {(copy, step): window.place(step, copy) for group in done for copy in group.copies for step in range(1, 20)}
    found = sorted(place for place in seen.values() if place)
    assert found == [(sample, t) for sample in range(7) for t in range(3)]  # each once
    assert seen[0, 3] == (0, 0) and seen[5, 5] == (5, 2) and seen[0, 6] == (6, 0) and seen[1, 6] is None


@pytest.mark.parametrize("there", [1, 2, 5, 40])
def test_every_process_has_its_share_of_the_samples(there, monkeypatch):
    monkeypatch.setattr(grouping, "cores", lambda: there)
    graph = star(3)
    assert share(graph, 1) == (there, 0) and share(star(MAX_PORTS + 1), 1) == (1, 1)
    for samples in range(2, 200):
        processes, copies = share(graph, samples)
        assert 1 <= copies <= MOST_COPIES and processes == min(there, samples, MOST_PROCESSES)
        dealt = [0] * processes
        for sample in range(samples):
            dealt[sample % (processes * copies) % processes] += 1
        assert max(dealt) - min(dealt) <= 1
        turns = -(-samples // (processes * copies))
        assert turns == -(-samples // (processes * MOST_COPIES))  # no more than with most copies


def test_a_large_network_is_shared(monkeypatch):
    def large(neurons: int, weights: int) -> Graph:
        edge = Edge("input", Dense(np.broadcast_to(np.int16(2), (weights // neurons, neurons))))
        return Graph((Input("input", (neurons, 1, 1)), Population("a", (weights // neurons, 1, 1), (edge,), Neuron(1))))

    monkeypatch.setattr(grouping, "cores", lambda: 4)
    assert share(large(NEURONS // 9, NEURONS), 1000) == (4, 2)
    assert share(large(NEURONS // 3, NEURONS), 1000) == (4, 0)
    assert share(large(2**14, WEIGHTS // 2), 1000) == (4, 0)


def one(source: str) -> Edge:
    return Edge(source, Dense(np.full((1, 1), 2)))


def star(readers: int) -> Graph:
    """Many populations that one reads."""
    rays = [Population(f"p{k}", (1, 1, 1), (one("input"),), Neuron(1)) for k in range(readers)]
    end = Population("end", (1, 1, 1), tuple(one(ray.name) for ray in rays), Neuron(None))
    return Graph((Input("input", (1, 1, 1)), *rays, end), integer=True)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(1, 9))
@examples(200)
def test_no_way_to_cut_leaves_less_to_the_busiest(work, number):
    number = min(number, len(work))
    populations = star(len(work) - 1).populations if len(work) > 1 else star(1).populations[:1]
    found = _parts(populations, work, number)
    assert [p.name for part in found for p in part] == [p.name for p in populations] and len(found) == number
    places = {population.name: k for k, population in enumerate(populations)}
    ways = itertools.combinations(range(1, len(work)), number - 1)
    least = min(max(sum(work[a:b]) for a, b in itertools.pairwise((0, *cuts, len(work)))) for cuts in ways)
    assert max(sum(work[places[p.name]] for p in part) for part in found) == least


def test_a_population_that_reads_too_many_others_is_named(worker, monkeypatch):
    wide = star(MAX_PORTS + 8)  # its end can read all of them where they are with it
    assert max(len(group.sources) for group in groups(wide, 1)) == 0
    spikes = np.ones((1, 8, 1, 1, 1), np.uint8)
    assert compare(hardware_sim.run(wide, spikes, backend="lava", worker=worker), hardware_sim.run(wide, spikes)).equal
    monkeypatch.setattr(launch, "share", lambda *_: (2, 0))
    with pytest.raises(SimulationError, match=r"end: reads 40 populations; 1 to 32 run in fused Lava"):
        hardware_sim.run(wide, spikes, backend="lava", worker=worker)


@pytest.mark.parametrize(("processes", "number"), [(1, 0), (2, 0), (9, 0), (1, 2), (2, 1), (3, 3)], ids=str)
def test_any_number_of_processes_and_copies_gives_the_same_spikes(processes, number, worker, monkeypatch):
    """number: of copies in each process, or 0: the processes share the layers of one."""
    monkeypatch.setattr(launch, "share", lambda *_: (processes, number))

    @given(st.one_of(graphs(most=4, recurrent=True, valued=True), graded_graphs(recurrent=True, late=True)), st.data())
    @examples(6)
    def equal(drawn, data):
        graph, spikes = drawn
        spikes = spikes[data.draw(st.lists(st.integers(0, len(spikes) - 1), min_size=1, max_size=11))]
        record = Record(potentials="all", counts="all")
        lavas = hardware_sim.run(graph, spikes, backend="lava", record=record, worker=worker)
        assert compare(hardware_sim.run(graph, spikes, backend="reference", record=record), lavas).equal

    equal()
