"""A fault is planted in one population of a graph; the diagnosis must name the population and the fault."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch

import hardware_sim
from export.graph import Dense, Edge, Graph, Input, Meta, Neuron, Population, with_encoder, with_timesteps
from hardware_sim.comparison.compare import compare
from hardware_sim.comparison.diagnose import Diagnosis, diagnose
from hardware_sim.comparison.hypotheses import LISTED, Case, causes, outcome
from hardware_sim.reference import run_reference
from hardware_sim.trace import TraceError, pack
from tests.graphs import single, values_of
from tests.networks import PLAIN, build


def network(reset: str = "subtract", seed: int = 0) -> tuple[Graph, np.ndarray]:
    _, graph, spikes = build(replace(PLAIN, size=(12, 8), timesteps=8, samples=4, reset=reset, seed=seed))
    return graph, spikes


def plant(graph: Graph, changed: Population) -> Graph:
    """The graph with one population changed."""
    return replace(graph, nodes=tuple(changed if node.name == changed.name else node for node in graph.nodes))


def with_weight(population: Population, source: str, weight: np.ndarray) -> Population:
    edges = tuple(
        replace(edge, op=replace(edge.op, weight=weight)) if edge.source == source else edge
        for edge in population.edges
    )
    return replace(population, edges=edges)


def with_neuron(population: Population, neuron: Neuron) -> Population:
    return replace(population, neuron=neuron)


def raised(population: Population) -> Population:
    return with_neuron(population, replace(population.neuron, threshold=population.neuron.threshold + 40))


def found(graph: Graph, faulty: Graph, spikes: np.ndarray) -> Diagnosis | None:
    return diagnose(graph, hardware_sim.run(graph, spikes), hardware_sim.run(faulty, spikes))


def check(diagnosis: Diagnosis | None, name: str, kind: str, *words: str) -> None:
    assert diagnosis is not None and diagnosis.population == name and diagnosis.departs == "hardware"
    named = [cause for cause in diagnosis.causes if cause.kind == kind]
    assert named, diagnosis.verdict
    text = " ".join(cause.text for cause in named)
    assert all(word in text for word in words), text
    assert all(arrival.spikes[0] == arrival.spikes[1] for arrival in diagnosis.arrivals)


def edges(graph: Graph) -> list[tuple[str, Edge]]:
    return [(population.name, edge) for population in graph.populations for edge in population.edges]


def valued() -> tuple[Graph, np.ndarray]:
    """Graded spikes come in."""
    graph, spikes = network("subtract", seed=2)
    graph = with_encoder(graph, "graded", levels=3)
    return graph, values_of(spikes, graph, np.random.default_rng(0))


def signed(reset: str, seed: int) -> tuple[Graph, np.ndarray]:
    """Every hidden neuron is ternary."""
    graph, spikes = network(reset, seed=seed)
    nodes = (
        with_neuron(node, replace(node.neuron, ternary=True))
        if isinstance(node, Population) and node.neuron.threshold is not None
        else node
        for node in graph.nodes
    )
    return replace(graph, nodes=tuple(nodes)), spikes


GRAPHS = [network("subtract"), network("zero", seed=1), valued(), signed("subtract", seed=3), signed("zero", seed=4)]
NAMES = ["subtract", "zero", "graded", "ternary", "ternary zero"]


@pytest.mark.parametrize("graph, spikes", GRAPHS, ids=NAMES)
def test_one_weight(graph, spikes):
    """The strongest weight of every edge, one at a time, turned round."""
    seen = 0
    for name, edge in edges(graph):
        place = np.unravel_index(np.abs(edge.op.weight).argmax(), edge.op.weight.shape)
        weight = edge.op.weight.copy()
        old = int(weight[place])
        weight[place] = -old if old != -256 else 254
        diagnosis = found(graph, plant(graph, with_weight(graph[name], edge.source, weight)), spikes)
        if diagnosis is not None:  # else its source is silent there, and nothing differs
            seen += 1
            check(diagnosis, name, "weight", f"weight {[int(k) for k in place]} from {edge.source}", f"says {old}")
    assert seen > 0.7 * len(edges(graph))


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_one_weight_of_single_synapses(reset):
    """Each of them, lost or turned round, is told from the one neuron that it leads to; in an output too."""
    rng = np.random.default_rng(0)
    op, head = (single(rng, (2, 4, 4), shape, 0.1) for shape in ((2, 4, 4), (1, 2, 2)))
    bias = 64 * rng.integers(0, 3, (2, 4, 4), np.int32)
    nodes = (
        Input("input", (2, 4, 4)),
        Population("a", (2, 4, 4), (Edge("input", op),), Neuron(20, reset=reset, bias=bias)),
        Population("head", (1, 2, 2), (Edge("a", head),), Neuron(None)),
    )
    graph = Graph(nodes, integer=True, meta=Meta(timesteps=8))
    spikes, seen, told = (rng.random((12, 8, 2, 4, 4)) < 0.5).astype(np.uint8), 0, 0
    for name, edge in edges(graph):
        for k, old in enumerate(edge.op.weight.tolist()):
            weight = edge.op.weight.copy()
            weight[k] = -old if k % 2 else 0
            diagnosis = found(graph, plant(graph, with_weight(graph[name], edge.source, weight)), spikes)
            if diagnosis is not None:
                seen += 1
                check(diagnosis, name, "weight", f"from {edge.source} is")
                texts = [cause.text for cause in diagnosis.causes if cause.kind == "weight"]
                named = [text for text in texts if text.startswith(f"weight [{k}] ") and f"says {old}" in text]
                assert named or len(texts) == LISTED, texts
                told += bool(named)
    assert told > 0.9 * seen > 0.5 * sum(edge.op.weight.size for _, edge in edges(graph))


@pytest.mark.parametrize("graph, spikes", GRAPHS, ids=NAMES)
@pytest.mark.parametrize("factor", [0.8, 1.3])
def test_one_threshold(graph, spikes, factor):
    for population in graph.populations:
        neuron = population.neuron
        if neuron.threshold is None:
            continue
        wrong = int(neuron.threshold * factor)
        faulty = plant(graph, with_neuron(graph[population.name], replace(population.neuron, threshold=wrong)))
        diagnosis = found(graph, faulty, spikes)
        check(diagnosis, population.name, "threshold", f"the file says {neuron.threshold:g}")
        low, high = _range(diagnosis)
        assert low <= wrong <= high


def _range(diagnosis: Diagnosis) -> tuple[float, float]:
    text = next(cause.text for cause in diagnosis.causes if cause.kind == "threshold")
    words = text.removeprefix("the threshold is ").split(";")[0].replace("between ", "").split(" and ")
    if words[0].startswith("at least"):
        return float(words[0].split()[-1]), np.inf
    return float(words[0]), float(words[-1])


@pytest.mark.parametrize("graph, spikes", GRAPHS, ids=NAMES)
def test_a_delay_off_by_one(graph, spikes):
    for name, edge in edges(graph):
        late = replace(edge, target_delay=np.ones(graph[name].shape, int))
        changed = tuple(late if e.source == edge.source else e for e in graph[name].edges)
        slow = run_reference(plant(graph, replace(graph[name], edges=changed)), spikes)  # not `run`, which refuses it
        diagnosis = diagnose(graph, hardware_sim.run(graph, spikes), replace(slow, stimulus=pack(spikes)))
        check(diagnosis, name, "delay", f"{edge.source} arrive 1 step late")


@pytest.mark.parametrize("graph, spikes", GRAPHS, ids=NAMES)
def test_one_kernel_flipped(graph, spikes):
    for name, edge in edges(graph):
        weight = edge.op.weight
        if isinstance(edge.op, Dense) or weight.shape[2:] == (1, 1):
            continue
        faulty = plant(graph, with_weight(graph[name], edge.source, weight[:, :, ::-1, ::-1].copy()))
        check(found(graph, faulty, spikes), name, "kernel", edge.source, "180 degrees")


@pytest.mark.parametrize("graph, spikes", GRAPHS, ids=NAMES)
def test_channels_swapped(graph, spikes):
    for name, edge in edges(graph):
        if edge.op.weight.shape[1] < 2 or isinstance(edge.op, Dense):
            continue
        axis = 0 if type(edge.op).__name__ == "ConvT" else 1
        order = np.arange(edge.op.weight.shape[axis])
        order[:2] = 1, 0
        weight = edge.op.weight.take(order, axis=axis)
        faulty = plant(graph, with_weight(graph[name], edge.source, weight))
        check(found(graph, faulty, spikes), name, "channels", f"channels 0 and 1 of {edge.source} are swapped")


def test_own_channels_swapped_and_another_reset():
    graph, spikes = GRAPHS[0]
    population = graph.populations[1]
    order = [1, 0, *range(2, population.shape[0])]
    turned = tuple(replace(e, op=replace(e.op, weight=e.op.weight[order])) for e in population.edges)
    diagnosis = found(graph, plant(graph, replace(graph[population.name], edges=turned)), spikes)
    check(diagnosis, population.name, "channels", "2 of its channels are swapped: 0 does what 1 should")
    faulty = plant(graph, with_neuron(graph[population.name], replace(population.neuron, reset="zero")))
    check(found(graph, faulty, spikes), population.name, "neuron", "the reset is zero; the file says subtract")


def test_signs_that_are_lost():
    graph, spikes = GRAPHS[3]
    population = graph.populations[1]
    faulty = plant(graph, with_neuron(graph[population.name], replace(population.neuron, ternary=False)))
    runs = [hardware_sim.run(each, spikes) for each in (graph, faulty)]
    runs[1] = replace(runs[1], packed={}, graded={n: s.astype(np.int32) for n, s in runs[1].spikes.items()})
    check(diagnose(graph, *runs), population.name, "neuron", "spikes of -1 are missing")


def test_no_single_fault_is_invented():
    """Two faults at once: the population is named, and no cause is."""
    graph, spikes = GRAPHS[0]
    population = graph.populations[1]
    edge = population.edges[0]
    noise = np.random.default_rng(0).integers(-60, 60, edge.op.weight.shape) * 2
    faulty = plant(graph, with_weight(graph[population.name], edge.source, noise))
    diagnosis = found(graph, faulty, spikes)
    assert diagnosis is not None and diagnosis.population == population.name and not diagnosis.causes
    assert "no single fault" in diagnosis.verdict


def test_it_tells_which_run_departs_from_the_file():
    graph, spikes = GRAPHS[0]
    name = graph.populations[1].name
    faulty = plant(graph, raised(graph[name]))
    good, bad = hardware_sim.run(graph, spikes), hardware_sim.run(faulty, spikes)
    assert diagnose(graph, good, good) is None
    first, second = diagnose(graph, bad, good), diagnose(graph, good, bad)
    assert first is not None and first.departs == "software" and second is not None and second.departs == "hardware"
    row = next(row for row in second.rows if row.step == second.step)
    assert row.spikes == (row.predicted_spike, 1 - row.predicted_spike) and row.potentials == (None, None)


def test_a_trace_without_what_is_needed_is_refused():
    graph, spikes = GRAPHS[0]
    last = graph.populations[2].name
    faulty = plant(graph, raised(graph[last]))
    record = hardware_sim.Record(spikes=(last,))
    good, bad = (hardware_sim.run(g, spikes, record=record) for g in (graph, faulty))
    with pytest.raises(TraceError, match="were not recorded"):
        diagnose(graph, good, bad)
    first = graph.populations[0].name
    record = hardware_sim.Record(spikes=(first,))
    faulty = plant(graph, raised(graph[first]))
    good, bad = (
        dataclasses.replace(hardware_sim.run(g, spikes, record=record), stimulus=None) for g in (graph, faulty)
    )
    with pytest.raises(TraceError, match="lacks its input spikes"):
        diagnose(graph, good, bad)
    with pytest.raises(TraceError, match="of another network"):
        diagnose(
            network(seed=3)[0],
            *(replace(trace, output_name="nobody", stimulus=good.packed[first]) for trace in (good, bad)),
        )


def test_a_skip_whose_delay_is_ignored():
    """Its spikes come as many steps early as the delay should hold them back."""
    graph, spikes = GRAPHS[0]
    name, edge = max(edges(graph), key=lambda pair: pair[1].delay)
    stream = spikes.reshape(1, -1, *spikes.shape[2:])  # one long sample, so that early spikes cross between samples
    long = with_timesteps(graph, stream.shape[1])
    good = hardware_sim.run(long, stream)
    source = torch.from_numpy(good.spikes[edge.source]).transpose(0, 1).float()
    early = torch.cat([source[edge.delay :], torch.zeros_like(source[: edge.delay])])
    population = graph[name]
    inputs = {e.source: torch.from_numpy(good.spikes[e.source]).transpose(0, 1).float() for e in population.edges}
    observed = outcome(Case(population, {**inputs, edge.source: early}, source).currents(), population.neuron)
    assert edge.delay > 3
    assert [cause.text for cause in causes(Case(population, inputs, observed))] == [
        f"spikes of {edge.source} arrive {edge.delay} steps early"
    ]


def test_a_kernel_beside_another_of_the_same_source_and_a_bias():
    """A residual reads its source through two kernels; a bias is not taken for a weight."""
    _, graph, spikes = build(replace(PLAIN, size=(12, 8), timesteps=8, samples=4, residual=True, biased=True))
    twice = [p for p in graph.populations if len({e.source for e in p.edges}) < len(p.edges)]
    assert twice
    population = twice[0]
    number = next(k for k, e in enumerate(population.edges) if e.op.weight.shape[2:] != (1, 1))
    turned = replace(population.edges[number].op, weight=population.edges[number].op.weight[:, :, ::-1, ::-1].copy())
    wrong = tuple(replace(e, op=turned) if k == number else e for k, e in enumerate(population.edges))
    diagnosis = found(graph, plant(graph, replace(population, edges=wrong)), spikes)
    check(diagnosis, population.name, "kernel", "180 degrees")

    population = next(p for p in graph.populations if p.neuron.bias is not None and p.neuron.threshold is not None)
    bias = np.broadcast_to(population.neuron.bias, population.shape).copy()
    bias[1] += 60 * 64
    moved = plant(graph, with_neuron(population, replace(population.neuron, bias=bias)))
    diagnosis = found(graph, moved, spikes)
    check(diagnosis, population.name, "neuron", "the bias of channel 1 is", "more than in the file")


def test_what_cannot_be_told_is_said():
    """In neurons that leak no single threshold is named, and the verdict does not claim that none was wrong."""
    graph, spikes = GRAPHS[0]
    population = graph.populations[1]
    leaky = plant(graph, with_neuron(population, replace(population.neuron, voltage_decay=256)))
    diagnosis = found(leaky, plant(leaky, raised(leaky[population.name])), spikes)
    assert diagnosis is not None and not diagnosis.causes and "cannot be told where neurons leak" in diagnosis.verdict


def test_a_wrong_second_output_is_a_difference():
    """The first output and all spikes are equal; the second's potentials are not."""
    _, graph, spikes = build(replace(PLAIN, size=(12, 8), timesteps=8, samples=2, classifier=True))
    second = [p for p in graph.populations if p.neuron.threshold is None][1]
    edge = second.edges[0]
    good, bad = (
        hardware_sim.run(g, spikes) for g in (graph, plant(graph, with_weight(second, edge.source, -edge.op.weight)))
    )
    assert compare(good, good).equal and not compare(good, bad).equal
    assert np.array_equal(good.output, bad.output)
    diagnosis = diagnose(graph, good, bad)
    assert diagnosis is not None and diagnosis.population == second.name
