"""What could make a population spike otherwise than its graph says: each cause is tried against what it did.

A cause is named only if with it, and the same input spikes, the population would have done exactly what was seen, at
every step, in every sample and neuron.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from export.graph import Conv, ConvT, Dense, Edge, Neuron, Population, Sparse
from export.limits import THRESHOLD_MAX, THRESHOLD_MIN, WEIGHT_MAX, WEIGHT_MIN
from hardware_sim.comparison.bounds import (
    UNIT,
    between,
    bounds,
    drive,
    exact,
    gather,
    into_neuron,
    spent,
    taps,
    thresholds,
)
from hardware_sim.neurons import scan
from hardware_sim.reference import edge_input

LATE = (1, -1, 2, -2, 3, -3)  # steps
Place = tuple[slice, slice, slice]  # in (C, H, W)
LISTED = 3  # causes of one kind that are told apart in words


@dataclass(frozen=True)
class Cause:
    """kind: threshold, delay, kernel, channels, signs, weight, neuron. source: of its edge, if any. text: a line."""

    kind: str
    text: str
    source: str = ""


@dataclass(frozen=True, eq=False)
class Case:
    """A population, the spikes (T, B, C, H, W) of its sources, and what it made of them.

    observed: its spikes (T, B, C, H, W); of an output that never fires its potentials (B, C, H, W) after T steps.
    """

    population: Population
    inputs: Mapping[str, torch.Tensor]
    observed: torch.Tensor

    def currents(self, edges: tuple[Edge, ...] | None = None) -> torch.Tensor:
        """Weighted input (T, B, C, H, W), with other edges in place of the population's if given."""
        return sum(edge_input(edge, self.inputs[edge.source]) for edge in edges or self.population.edges)  # type: ignore[return-value]

    def does(self, currents: torch.Tensor, neuron: Neuron | None = None) -> bool:
        """Whether this input, into these neurons, gives exactly what was observed."""
        return bool(torch.equal(outcome(currents, neuron or self.population.cuba), self.observed))

    def sample(self, k: int) -> Case:
        """One sample alone."""
        axis = self.observed.ndim - 4  # where the samples are
        inputs = {name: x[:, k : k + 1] for name, x in self.inputs.items()}
        return replace(self, inputs=inputs, observed=self.observed.narrow(axis, k, 1))

    @property
    def plain(self) -> bool:
        """Whether the neurons only integrate: then input and threshold follow from the spikes."""
        return not self.population.cuba.leaks and self.population.cuba.drop is None


def outcome(currents: torch.Tensor, neuron: Neuron) -> torch.Tensor:
    """Spikes (T, B, C, H, W) of neurons, or where they never fire the potentials (B, C, H, W) after the last step."""
    spikes, potentials = scan(currents, neuron)
    return potentials[-1] if neuron.threshold is None else spikes


def causes(case: Case) -> tuple[Cause, ...]:
    """Every cause that explains all that was observed; empty where none does, or where nothing departs."""
    expected = case.currents()
    if case.does(expected):
        return ()
    tests: tuple[Callable[[Case, torch.Tensor], Iterator[Cause]], ...] = (
        _threshold,
        _neuron,
        _delay,
        _kernel,
        _channels,
        _signs,
        _bias,
        _weight,
    )
    return tuple(itertools.chain.from_iterable(test(case, expected) for test in tests))


def _threshold(case: Case, expected: torch.Tensor) -> Iterator[Cause]:
    """The thresholds that all spikes allow."""
    neuron = case.population.cuba
    if neuron.threshold is None or not case.plain:
        return
    driven, before = drive(expected, case.observed, neuron), spent(case.observed, neuron)
    low, high = thresholds(driven, before, case.observed, neuron)
    low, high = max(low, THRESHOLD_MIN), min(high, THRESHOLD_MAX)
    if low <= high and case.does(expected, replace(neuron, threshold=int(low))):
        yield Cause("threshold", f"the threshold is {between(low, high)}; the file says {neuron.threshold:g}")


def _neuron(case: Case, expected: torch.Tensor) -> Iterator[Cause]:
    neuron = case.population.cuba
    if neuron.threshold is not None:
        other = "zero" if neuron.reset == "subtract" else "subtract"
        if case.does(expected, replace(neuron, reset=other)):
            yield Cause("neuron", f"the reset is {other}; the file says {neuron.reset}")
        if case.does(expected, replace(neuron, ternary=not neuron.ternary)):
            missing = "spikes of -1 are missing" if neuron.ternary else "neurons fire -1, too; the file knows no signs"
            yield Cause("neuron", missing)
        for u0, word in ((0, "0"), (int(neuron.threshold) * UNIT // 2, "half the threshold")):
            if u0 != neuron.u0 and case.does(expected, replace(neuron, u0=u0)):
                yield Cause("neuron", f"the start potential is {word}; the file says {neuron.u0 / UNIT:g}")
    if neuron.bias is not None and case.does(expected, replace(neuron, bias=None)):
        yield Cause("neuron", "the bias is missing")


def _delay(case: Case, expected: torch.Tensor) -> Iterator[Cause]:
    """Late or early spikes of one edge; in a stream of samples they reach the next one, else they are lost."""
    for edge in case.population.edges:
        x = case.inputs[edge.source]
        own = edge_input(edge, x)
        for late in dict.fromkeys((*LATE, -edge.delay)):  # or its delay is left out
            if not late:
                continue
            for stream in (True, False):
                y = edge_input(edge, _shift(x, late, stream=stream))
                if case.does(expected - own + y):
                    steps = f"{abs(late)} step{'s' if abs(late) > 1 else ''} {'late' if late > 0 else 'early'}"
                    yield Cause("delay", f"spikes of {edge.source} arrive {steps}", edge.source)
                    break


def _shift(x: torch.Tensor, late: int, *, stream: bool) -> torch.Tensor:
    """Spikes (T, B, ...) some steps later; negative: earlier."""
    line = x.transpose(0, 1).flatten(0, 1) if stream else x  # B*T, ... or T, B, ...
    moved = torch.zeros_like(line)
    if abs(late) < len(line):
        moved[max(late, 0) : len(line) + min(late, 0)] = line[max(-late, 0) : len(line) - max(late, 0)]
    return moved.unflatten(0, x.transpose(0, 1).shape[:2]).transpose(0, 1) if stream else moved


def _signs(case: Case, expected: torch.Tensor) -> Iterator[Cause]:
    """Spikes of -1 that a synapse takes for spikes of 1, or does not take at all."""
    for edge in case.population.edges:
        x = case.inputs[edge.source]
        if (x < 0).any():
            for read, words in ((x.abs(), "are read as 1"), (x.clamp(min=0), "are not read")):
                if case.does(expected - edge_input(edge, x) + edge_input(edge, read)):
                    yield Cause("signs", f"spikes of -1 of {edge.source} {words}", edge.source)


def _kernel(case: Case, expected: torch.Tensor) -> Iterator[Cause]:
    turns: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
        ("flipped (turned by 180 degrees)", lambda w: w[:, :, ::-1, ::-1]),
        ("flipped top to bottom", lambda w: w[:, :, ::-1]),
        ("flipped left to right", lambda w: w[..., ::-1]),
        ("transposed (height and width swapped)", lambda w: w.swapaxes(2, 3)),
    )
    edges = case.population.edges
    spatial = {
        k: edge.op.weight
        for k, edge in enumerate(edges)
        if isinstance(edge.op, Conv | ConvT) and max(edge.op.weight.shape[2:]) > 1
    }
    for word, turn in turns:
        for k, weight in spatial.items():
            if _with(case, {k: turn(weight)}, expected):
                yield Cause("kernel", f"the kernel from {edges[k].source} is {word}", edges[k].source)
        if len(spatial) > 1 and _with(case, {k: turn(weight) for k, weight in spatial.items()}, expected):
            yield Cause("kernel", f"all kernels are {word}")


def _with(case: Case, weights: Mapping[int, np.ndarray], expected: torch.Tensor) -> bool:
    """Whether other weights, by number of the edge, explain it."""
    edges = case.population.edges
    if any(weight.shape != edges[k].op.weight.shape for k, weight in weights.items()):
        return False
    own = tuple(edges[k] for k in weights)
    changed = tuple(replace(edges[k], op=replace(edges[k].op, weight=weight.copy())) for k, weight in weights.items())
    return case.does(expected - case.currents(own) + case.currents(changed))


def _channels(case: Case, expected: torch.Tensor) -> Iterator[Cause]:
    """Two of the population's own channels, two sources, or two channels of a source swapped."""
    yield from _own_channels(case, expected)
    edges = case.population.edges
    for a, b in itertools.combinations(edges, 2):
        if a.source != b.source and case.inputs[a.source].shape == case.inputs[b.source].shape:
            inputs = {**case.inputs, a.source: case.inputs[b.source], b.source: case.inputs[a.source]}
            if case.does(replace(case, inputs=inputs).currents()):
                yield Cause("channels", f"the sources {a.source} and {b.source} are swapped")
    few = case.sample(_first_sample(case, expected))  # thousands of pairs: those that fail here need no more
    base = few.currents()
    for edge in edges:
        if isinstance(edge.op, Dense | Sparse) or edge.op.groups > 1:
            continue
        for i, j in itertools.combinations(range(case.inputs[edge.source].shape[2]), 2):
            if few.does(base + _swap(few, edge, i, j)) and case.does(expected + _swap(case, edge, i, j)):
                yield Cause("channels", f"channels {i} and {j} of {edge.source} are swapped", edge.source)


def _swap(case: Case, edge: Edge, i: int, j: int) -> torch.Tensor:
    """How the input changes when two channels of a source change places: (w_i - w_j) on (x_j - x_i)."""
    op, x = edge.op, case.inputs[edge.source]
    assert isinstance(op, Conv | ConvT)
    taken = [op.weight[k : k + 1] if isinstance(op, ConvT) else op.weight[:, k : k + 1] for k in (i, j)]
    difference = replace(edge, op=replace(op, weight=taken[0] - taken[1]))
    return edge_input(difference, x[:, :, j : j + 1] - x[:, :, i : i + 1])


def _own_channels(case: Case, expected: torch.Tensor) -> Iterator[Cause]:
    axis = case.observed.ndim - 3
    ours, theirs = (
        x.movedim(axis, 0).flatten(1) for x in (outcome(expected, case.population.cuba), case.observed)
    )  # C, ...
    wrong = [c for c in range(len(ours)) if not torch.equal(ours[c], theirs[c])]
    match = {c: [k for k in wrong if torch.equal(theirs[c], ours[k])] for c in wrong}
    if all(match.values()) and len({found[0] for found in match.values()}) == len(wrong):
        order = ", ".join(f"{c} does what {found[0]} should" for c, found in list(match.items())[:LISTED])
        yield Cause("channels", f"{len(wrong)} of its channels are swapped: {order}")


def _first_sample(case: Case, expected: torch.Tensor) -> int:
    differing = outcome(expected, case.population.cuba) != case.observed
    by_sample = differing.movedim(differing.ndim - 4, 0).flatten(1).any(1)
    return int(by_sample.nonzero()[0])


def _bias(case: Case, expected: torch.Tensor) -> Iterator[Cause]:
    """The bias of one channel off by some d, which adds up at every step."""
    neuron, channel = case.population.cuba, _only_channel(_differing(case, expected))
    if neuron.bias is None or channel is None or not case.plain:
        return
    spot = f"the bias of channel {channel}"
    for _, low, high in _changes(case, expected, _all_of(channel), torch.ones_like(expected[:, :, :1])):
        bias = np.broadcast_to(neuron.bias, case.population.shape)
        moved = bias.copy()
        moved[channel] += round(low * UNIT)
        if case.does(expected, replace(neuron, bias=moved)):
            values = np.unique(bias[channel]) / UNIT
            said = f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"
            yield Cause("neuron", f"{spot} is {between(low, high)} more than in the file, which says {said}")


def _weight(case: Case, expected: torch.Tensor) -> Iterator[Cause]:
    """One weight off by some d, within what Loihi holds."""
    differing = _differing(case, expected)
    if not case.plain:
        return
    found = []
    for number, edge in enumerate(case.population.edges):
        if edge.target_delay is not None:
            continue
        for place, index_of, carriers in _carriers(edge, case.inputs[edge.source], differing):
            for k, least, most in _changes(case, expected, place, carriers):
                index = index_of(k)
                old = float(edge.op.weight[index])
                low, high = max(old + least, WEIGHT_MIN), min(old + most, WEIGHT_MAX)
                weight = edge.op.weight.copy()
                weight[index] = low
                if low <= high and _with(case, {number: weight}, expected):
                    found.append((edge.source, index, low, high, old))
    for source, index, low, high, old in found[:LISTED]:
        rest = f" (one of {len(found)} that would explain it)" if len(found) > 1 else ""
        there = f"weight {list(index)} from {source} is {between(low, high)}"
        yield Cause("weight", f"{there}; the file says {old:g}{rest}", source)


def _carriers(
    edge: Edge, x: torch.Tensor, differing: torch.Tensor
) -> Iterator[tuple[Place, Callable[[int], tuple[int, ...]], torch.Tensor]]:
    """Where one weight of an edge alone would make the neurons (C, H, W) differ that do; else as `taps`."""
    if isinstance(edge.op, Sparse):
        if int(differing.sum()) == 1:
            channel, row, column = (slice(int(k), int(k) + 1) for k in differing.nonzero()[0])
            synapses, carriers = into_neuron(edge.op, x, int(differing.flatten().nonzero()))
            yield (channel, row, column), lambda k: (int(synapses[k]),), carriers
        return
    only = _only_channel(differing)
    if only is not None:
        for index_of, carriers in taps(edge, x, only):
            yield _all_of(only), index_of, carriers


def _differing(case: Case, expected: torch.Tensor) -> torch.Tensor:
    """The neurons (C, H, W) that do not do what they should."""
    return (outcome(expected, case.population.cuba) != case.observed).flatten(0, -4).any(0)


def _only_channel(differing: torch.Tensor) -> int | None:
    """The channel in which all differences lie, if one holds them all."""
    channels = differing.flatten(1).any(1).nonzero().flatten().tolist()
    return channels[0] if len(channels) == 1 else None


def _all_of(channel: int) -> Place:
    return slice(channel, channel + 1), slice(None), slice(None)


def _changes(
    case: Case, expected: torch.Tensor, place: Place, carriers: torch.Tensor
) -> Iterator[tuple[int, float, float]]:
    """Which of K carriers (T, B, K, H, W) explain a place if each of their spikes counts some d; least and most d.

    With x of them up to a step, neurons fire if drive + d x > v, and else not; ternary ones below -v, too.
    """
    neuron = case.population.cuba
    if neuron.bias is not None:
        neuron = replace(neuron, bias=np.broadcast_to(neuron.bias, case.population.shape)[place].copy())
    observed = case.observed[(..., *place)]
    driven = drive(expected[(..., *place)], observed, neuron)
    carried = gather(carriers, observed, neuron)
    if neuron.threshold is None:
        low, high = exact(carried[-1], observed.double() / UNIT - driven[-1])
    else:
        before = spent(observed, neuron)
        low, high = bounds(carried, neuron.threshold * (before + 1) - driven, observed > 0)
        if neuron.ternary:
            further = bounds(-carried, neuron.threshold * (1 - before) + driven, observed < 0)
            low, high = torch.maximum(low, further[0]), torch.minimum(high, further[1])
    for k in (low <= high).nonzero().flatten().tolist():
        yield k, low[k].item(), high[k].item()
