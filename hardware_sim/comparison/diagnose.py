"""From the first spike that differs to its cause: one page on the population in which two runs part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from export.graph import Graph, Population, SigmaDelta
from export.limits import POTENTIAL_MAX
from hardware_sim.comparison.bounds import UNIT
from hardware_sim.comparison.compare import divergence
from hardware_sim.comparison.hypotheses import Case, Cause, causes, outcome
from hardware_sim.neurons import scan
from hardware_sim.reference import edge_input
from hardware_sim.trace import Trace, TraceError, unpack

AROUND = 4  # steps shown before and after the first that differs
SAMPLES = 64  # that a cause has to explain, from the first that differs on; more would not fit into memory


@dataclass(frozen=True)
class Arrival:
    """One edge at the step that differs. spikes: all that its source emitted, in the first and the second run.

    weighted: what the neuron got of it in each, in weight units.
    """

    source: str
    delay: int
    spikes: tuple[int, int]
    weighted: tuple[float, float]
    weights: tuple[float, float]  # least and greatest


@dataclass(frozen=True)
class StepRow:
    """The neuron at one step: input, potential after it, spike. Potentials in weight units, None where not recorded."""

    step: int
    arriving: float
    predicted: float
    potentials: tuple[float | None, ...]
    predicted_spike: int
    spikes: tuple[int, int]


@dataclass(frozen=True)
class Diagnosis:
    """Where two runs part and why. Of the pair the first is `software`, the second `hardware`.

    departs: the run that does not do what the graph says, `software`, `hardware` or `both`. causes: each explains
    every spike of the population in that run. untried: what could not be tried, if anything. peak: largest predicted
    potential as a share of the 24-bit limit.
    """

    population: str
    sample: int
    step: int
    neuron: tuple[int, ...]
    threshold: float | None
    reset: str
    arrivals: tuple[Arrival, ...]
    rows: tuple[StepRow, ...]
    departs: str
    causes: tuple[Cause, ...]
    untried: str
    peak: float

    @property
    def verdict(self) -> str:
        """One sentence."""
        who = {"both": "neither run does"}.get(self.departs, f"the {self.departs} does not do")
        start = f"{self.population}: {who} what the file says"
        if not self.causes:
            return f"{start}; no single fault that was tried explains it{self.untried and f' ({self.untried})'}"
        return f"{start}; as if {'; or '.join(cause.text for cause in self.causes)}"


def diagnose(graph: Graph, software: Trace, hardware: Trace) -> Diagnosis | None:
    """Explain the first population, in network order, in which two runs of a graph differ; None if none does.

    Its inputs are the same in both runs, so that the cause lies in itself. Raises TraceError where a trace is of
    another network, or lacks the input spikes or the spikes of a population before it.
    """
    _check(graph, software, hardware)
    population = _first(graph, software, hardware)
    if population is None:
        return None
    sample, step, neuron = _place(software, hardware, population)
    first = max(0, sample - 1)  # late spikes of the sample before reach this one
    near = slice(first, first + SAMPLES)
    inputs = {edge.source: _spikes(graph, software, edge.source, near) for edge in population.edges}
    case = Case(population, inputs, torch.empty(0))
    currents = case.currents()
    predicted = outcome(currents, population.cuba)
    ours, theirs = (_observed(trace, population, near) for trace in (software, hardware))
    strays = [side for side, seen in (("software", ours), ("hardware", theirs)) if not torch.equal(seen, predicted)]
    spikes, potentials = scan(currents, population.cuba)
    peak = float(potentials.abs().max()) / POTENTIAL_MAX
    return Diagnosis(
        population=population.name,
        sample=sample,
        step=step,
        neuron=neuron,
        threshold=population.cuba.threshold,
        reset=population.cuba.reset if population.cuba.threshold is not None else "never",
        arrivals=_arrivals(graph, population, (software, hardware), (sample, step, neuron)),
        rows=_rows(population, (software, hardware), (sample, step, neuron), (currents, spikes, potentials), first),
        departs="both" if len(strays) == 2 else strays[0],
        causes=causes(Case(population, inputs, ours if strays == ["software"] else theirs)),
        untried=_untried(case, peak),
        peak=peak,
    )


def _untried(case: Case, peak: float) -> str:
    numbers = "one weight, bias or threshold cannot be told where"
    if not case.plain:
        return f"{numbers} neurons leak"
    if peak >= 1:
        return f"{numbers} potentials reach the 24-bit limit"
    if any(edge.target_delay is not None for edge in case.population.edges):
        return "one weight cannot be told where delays differ by neuron"
    return ""


def _check(graph: Graph, *traces: Trace) -> None:
    for population in graph.populations:
        if population.recurrent or isinstance(population.neuron, SigmaDelta):
            what = "is fed back what it sent" if population.recurrent else "has sigma-delta neurons"
            raise TraceError(f"{population.name} {what}: causes are told of integrate-and-fire neurons in layers alone")
    known = {population.name: population.shape for population in graph.populations}
    for trace in traces:
        for name, shape in {**trace.shapes, trace.output_name: trace.output.shape[1:]}.items():
            if known.get(name) != tuple(shape):
                found = "not in the network" if name not in known else f"{known[name]} in the network"
                raise TraceError(f"the trace is of another network: {name} {tuple(shape)} is {found}")
        if trace.stimulus is None:
            raise TraceError("the trace lacks its input spikes; make it again with this version")


def _first(graph: Graph, software: Trace, hardware: Trace) -> Population | None:
    for population in graph.populations:
        name = population.name
        if population.cuba.threshold is None:
            ends = [_end(trace, name) for trace in (software, hardware)]
            recorded = all(end is not None for end in ends)
            differ = recorded and not np.array_equal(ends[0], ends[1])  # type: ignore[arg-type]
        else:
            seen = [_recorded(trace, name) for trace in (software, hardware)]
            recorded = all(each is not None for each in seen)
            differ = recorded and not np.array_equal(seen[0], seen[1])  # type: ignore[arg-type]
        if differ:
            return population
    return None


def _recorded(trace: Trace, name: str) -> np.ndarray | None:
    """The spikes of a population as the trace keeps them: bits, or values."""
    return trace.graded[name] if name in trace.graded else trace.packed.get(name)


def _end(trace: Trace, name: str) -> np.ndarray | None:
    """Potentials (samples, C, H, W) after the last step."""
    if name == trace.output_name:
        return trace.output
    return trace.potentials[name][:, -1] if name in trace.potentials else None


def _spikes(graph: Graph, trace: Trace, name: str, samples: slice) -> torch.Tensor:
    """Spikes (T, B, C, H, W) of a population or of the input, float32."""
    if name == graph.input.name:
        assert trace.stimulus is not None
        bits, shape = trace.stimulus, graph.input.shape
    else:
        found, shape = _recorded(trace, name), graph[name].shape
        if found is None:
            raise TraceError(f"the spikes of {name} were not recorded; record those of all populations")
        bits = found
    return torch.from_numpy(unpack(bits[samples], shape)).transpose(0, 1).float()


def _observed(trace: Trace, population: Population, samples: slice) -> torch.Tensor:
    if population.cuba.threshold is None:
        end = _end(trace, population.name)
        assert end is not None
        return torch.from_numpy(end[samples])
    bits = _recorded(trace, population.name)
    assert bits is not None
    return torch.from_numpy(unpack(bits[samples], population.shape)).transpose(0, 1).float()


def _place(software: Trace, hardware: Trace, population: Population) -> tuple[int, int, tuple[int, ...]]:
    """Sample, step and neuron; of an output that never fires the last step."""
    if population.cuba.threshold is not None:
        first = divergence(software, hardware, population.name)
        return first.sample, first.step, first.neuron
    ours, theirs = _end(software, population.name), _end(hardware, population.name)
    sample, *neuron = (int(k) for k in np.argwhere(ours != theirs)[0])
    return sample, software.timesteps - 1, tuple(neuron)


def _arrivals(
    graph: Graph, population: Population, traces: tuple[Trace, Trace], place: tuple[int, int, tuple[int, ...]]
) -> tuple[Arrival, ...]:
    sample, step, neuron = place
    at = (step, 0, *neuron)
    found = []
    for edge in population.edges:
        both = [_spikes(graph, trace, edge.source, slice(sample, sample + 1)) for trace in traces]
        spikes = [int(torch.count_nonzero(x[step])) for x in both]
        weighted = [float(edge_input(edge, x)[at]) for x in both]
        weight = edge.op.weight if edge.op.weight.size else np.zeros(1)  # single synapses may be none
        weights = (float(weight.min()), float(weight.max()))
        found.append(Arrival(edge.source, edge.delay, (spikes[0], spikes[1]), (weighted[0], weighted[1]), weights))
    return tuple(found)


def _rows(
    population: Population,
    traces: tuple[Trace, Trace],
    place: tuple[int, int, tuple[int, ...]],
    predicted: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    first: int,
) -> tuple[StepRow, ...]:
    sample, step, neuron = place
    name, timesteps = population.name, traces[0].timesteps
    currents, spikes, potentials = (_line(x.transpose(0, 1).numpy(), sample - first, neuron) for x in predicted)
    recorded = [_line(t.potentials[name], sample, neuron) if name in t.potentials else None for t in traces]
    fired = [[0.0] * timesteps] * 2
    if population.cuba.threshold is not None:
        fired = [_line(t.spikes[name][sample : sample + 1], 0, neuron) for t in traces]
    return tuple(
        StepRow(
            step=t,
            arriving=currents[t],
            predicted=potentials[t] / UNIT,
            potentials=tuple(None if values is None else values[t] / UNIT for values in recorded),
            predicted_spike=int(spikes[t]),
            spikes=(int(fired[0][t]), int(fired[1][t])),
        )
        for t in range(max(0, step - AROUND), min(timesteps, step + AROUND + 1))
    )


def _line(values: np.ndarray, sample: int, neuron: tuple[int, ...]) -> list[float]:
    """One neuron over time, from (samples, T, C, H, W)."""
    place = (slice(None), *neuron)
    return values[sample][place].tolist()
