"""Which populations share a Lava process: at most as many processes as there are cores. Knows no Lava.

Every Lava process is one of the operating system's and is told of every step; spikes between two of them are messages.
So each runs the whole network, in copies that do a sample each, which share its steps and send no messages. A single
sample, or a network that is too large for that, is shared out by its layers: those that would share a core anyway.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from export.graph import Graph, Population
from export.inspect import synapse_count

MAX_PORTS = 32  # of a group, for spikes in and for spikes out
MOST_PROCESSES = 16  # with the whole network each: Lava tells one after another of a step
MOST_COPIES = 4  # in a process; what a step costs beside the layers' work is little then
NEURONS, WEIGHTS = 2**22, 2**28  # of all copies, and of all processes, which hold them each
A_PIXEL, A_NEURON = 5000.0, 100.0  # synapses in whose time a source's pixel is looked at, and a neuron fires


@dataclass(frozen=True)
class Group:
    """Populations by name, in the graph's order. sources: nodes outside that they read; sends: theirs read outside.

    input: the graph's, which the first group has and so is one of its nodes; empty in others.
    copies: of the network's, those that the group does its populations of.
    """

    populations: tuple[str, ...]
    sources: tuple[str, ...]
    sends: tuple[str, ...]
    input: str
    copies: range = range(1)

    @property
    def ports(self) -> int:
        return max(len(self.sources), len(self.sends))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(graph: Graph, samples: int) -> tuple[int, int]:
    """The processes of a fused run, and how many copies of the network each runs; 0: they share one.

    All processes have as many samples, or one more in the last turn.
    """
    populations = graph.populations
    neurons = sum(math.prod(node.shape) for node in graph.nodes)
    weights = sum(edge.op.weight.size for population in populations for edge in population.edges)
    if samples == 1:
        many = any(len({edge.source for edge in population.edges}) > MAX_PORTS for population in populations)
        return (1, 1) if many else (cores(), 0)
    processes = min(cores(), samples, MOST_PROCESSES)
    turns = -(-samples // (processes * MOST_COPIES))
    copies = min(-(-samples // (processes * turns)), NEURONS // (neurons * processes))
    return (processes, copies) if copies and weights * processes <= WEIGHTS else (cores(), 0)


def groups(graph: Graph, processes: int, copies: int = 0) -> tuple[Group, ...]:
    """What each of some processes does: copies of the whole network, or a part of the one that they share.

    Parts are neighbouring populations of about the same work; there are more where ports do not suffice. Where even a
    single population reads more than MAX_PORTS others, its group has more.
    """
    if copies:
        names = tuple(population.name for population in graph.populations)
        each = (range(k, processes * copies, processes) for k in range(processes))
        return tuple(Group(names, (), (), graph.input.name, done) for done in each)
    work = [_work(graph, population) for population in graph.populations]
    for number in range(min(processes, len(work)), len(work) + 1):
        parts = _parts(graph.populations, work, number)
        made = tuple(_group(graph, part, graph.input.name if part is parts[0] else "") for part in parts)
        if all(group.ports <= MAX_PORTS for group in made):
            break
    return made


def _work(graph: Graph, population: Population) -> float:
    """Of a step in which about a seventh of the neurons spike, in synapses; measured on the shipped network."""
    sources = [graph[edge.source].shape for edge in population.edges]
    synapses = sum(synapse_count(e.op, s, population.shape) for e, s in zip(population.edges, sources, strict=True))
    pixels = sum(height * width for _, height, width in sources)
    return synapses + A_PIXEL * pixels + A_NEURON * math.prod(population.shape)


def _parts(populations: Sequence[Population], work: Sequence[float], number: int) -> list[list[Population]]:
    """Populations in order, cut so that the most work of a part is least: found by halving the interval it lies in."""
    low, high = max(work), sum(work)
    best = _filled(populations, work, high)
    for _ in range(40):
        middle = (low + high) / 2
        parts = _filled(populations, work, middle)
        low, high, best = (low, middle, parts) if len(parts) <= number else (middle, high, best)
    while len(best) < number:  # more may share out no better, but do not wait for each other
        longest = max(best, key=len)
        place, half = best.index(longest), len(longest) // 2
        best[place : place + 1] = [longest[:half], longest[half:]]
    return best


def _filled(populations: Sequence[Population], work: Sequence[float], most: float) -> list[list[Population]]:
    parts: list[list[Population]] = [[]]
    total = 0.0
    for population, own in zip(populations, work, strict=True):
        if parts[-1] and total + own > most * (1 + 1e-9):
            parts.append([])
            total = 0.0
        parts[-1].append(population)
        total += own
    return parts


def _group(graph: Graph, populations: Sequence[Population], source: str) -> Group:
    names = tuple(population.name for population in populations)
    nodes = (source, *names)
    read = [edge.source for population in populations for edge in population.edges]
    elsewhere = {edge.source for other in graph.populations if other.name not in names for edge in other.edges}
    return Group(
        populations=names,
        sources=tuple(dict.fromkeys(name for name in read if name not in nodes)),
        sends=tuple(name for name in nodes if name in elsewhere),
        input=source,
    )
