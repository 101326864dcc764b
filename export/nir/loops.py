"""Where neurons of a NIR graph come back to themselves: each loop is cut, and what is sent over it a step late."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any

from export.graph import GraphError
from export.nir.nodes import NEURONS

PASSING = ("Output", "Flatten", "Input")  # the last of a nested graph
MAX_LOOPS = 1000

Feeds = dict[str, list[str]]  # of each node, the nodes that it reads


@dataclass(frozen=True)
class Unrolled:
    """A graph without loops. order: nodes after those that they read. late: of a node, neurons that it reads late."""

    order: tuple[str, ...]
    feeds: Feeds
    late: Feeds


def unroll(nodes: Mapping[str, Any], feeds: Feeds) -> Unrolled:
    """Cut every loop behind its neurons. Raises GraphError for a loop of several layers of neurons, or of none."""
    feeds = {name: list(found) for name, found in feeds.items()}
    late: Feeds = {}
    first = {name: list(found) for name, found in feeds.items()}  # what has to be known before a node
    for _ in range(MAX_LOOPS):
        try:
            order = tuple(TopologicalSorter(first).static_order())
        except CycleError as error:
            last, reader, neuron = _cut(nodes, feeds, list(error.args[1]))
            for read in (first, feeds):
                read[reader] = [name for name in read[reader] if name != last]
            late.setdefault(reader, []).append(neuron)
            # What tells the shape of the neurons, unless the reader itself leads to it.
            behind = set(first) - _leading_to(reader, first)
            first[reader] += list(feeding(neuron, nodes, first, behind.__contains__))
        else:
            _check(nodes, feeds, late)
            return Unrolled(order, feeds, late)
    raise GraphError(f"more than {MAX_LOOPS} recurrent loops")


def feeding(neuron: str, nodes: Mapping[str, Any], feeds: Feeds, wanted: Callable[[str], bool]) -> Iterator[str]:
    """What feeds a neuron and is wanted; of nodes that only pass on and are not, what feeds these."""
    open_ends, seen = list(feeds[neuron]), set()
    while open_ends:
        name = open_ends.pop(0)
        if name in seen:
            continue
        seen.add(name)
        if wanted(name):
            yield name
        elif type(nodes[name]).__name__ in PASSING:
            open_ends += feeds[name]


def _cut(nodes: Mapping[str, Any], feeds: Feeds, loop: list[str]) -> tuple[str, str, str]:
    """The edge of a loop where what its neurons sent becomes late, behind nodes that only pass it on; and the neurons.

    loop: each node feeds the next, the last is the first.
    """
    neurons = {name for name in loop if type(nodes[name]).__name__ in NEURONS}
    if len(neurons) != 1:
        raise GraphError(
            f"{' -> '.join(loop)}: a recurrent loop of {len(neurons)} layers of neurons; one that feeds itself is "
            "allowed: a later layer's spikes would come as many steps late as layers lie between"
        )
    neuron = neurons.pop()
    start = loop.index(neuron)
    for last, reader in pairwise([*loop[start:-1], *loop[:start], neuron]):
        if type(nodes[reader]).__name__ not in PASSING or len(feeds[reader]) > 1:
            return last, reader, neuron
    raise AssertionError(loop)  # it ends in neurons, which pass nothing on


def _leading_to(reader: str, feeds: Feeds) -> set[str]:
    """All nodes that read a node, or what comes of it, and itself."""
    readers = _readers(feeds)
    found, open_ends = set(), [reader]
    while open_ends:
        name = open_ends.pop()
        if name not in found:
            found.add(name)
            open_ends += readers[name]
    return found


def _check(nodes: Mapping[str, Any], feeds: Feeds, late: Feeds) -> None:
    """Raise GraphError where what neurons send themselves is read by others, too: to these it is not late."""
    readers = _readers(feeds)
    for reader, neurons in late.items():
        reached, open_ends = set(), [reader]
        while open_ends:
            name = open_ends.pop()
            if name in neurons or name in reached:
                continue
            reached.add(name)
            if type(nodes[name]).__name__ in NEURONS or not readers[name]:
                raise GraphError(
                    f"{name}: reads what {neurons[0]} sends itself, too; weights of its own are needed there"
                )
            open_ends += readers[name]


def _readers(feeds: Feeds) -> Feeds:
    readers: Feeds = {name: [] for name in feeds}
    for name, found in feeds.items():
        for feed in found:
            readers[feed].append(name)
    return readers
