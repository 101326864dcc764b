"""Where neurons of a NIR graph come back to themselves: each loop is cut, and what is sent over it a step late."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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
    """Cut every loop behind its last neurons. Raises GraphError for one without any, or with several ways in."""
    inputs = [name for name, found in feeds.items() if not found]
    feeds = {name: list(found) for name, found in feeds.items()}
    late: Feeds = {}
    for _ in range(MAX_LOOPS):
        try:
            order = tuple(TopologicalSorter(feeds).static_order())
        except CycleError as error:
            last, reader, neuron = _cut(nodes, feeds, inputs, list(error.args[1]))
            feeds[reader] = [name for name in feeds[reader] if name != last]
            late.setdefault(reader, []).append(neuron)
        else:
            _check(nodes, feeds, late)
            return Unrolled(order, feeds, late)
    raise GraphError(f"more than {MAX_LOOPS} recurrent loops")


def _cut(nodes: Mapping[str, Any], feeds: Feeds, inputs: Sequence[str], loop: list[str]) -> tuple[str, str, str]:
    """The edge of a loop where what its neurons sent becomes late, behind nodes that only pass it on; and the neurons.

    loop: each node feeds the next, the last is the first.
    """
    neurons = {name for name in loop if type(nodes[name]).__name__ in NEURONS}
    if not neurons:
        raise GraphError(f"{' -> '.join(loop)}: a recurrent loop without neurons; with some it is allowed")
    neuron = neurons.pop() if len(neurons) == 1 else _last(neurons, feeds, inputs, loop)
    start = loop.index(neuron)
    for last, reader in pairwise([*loop[start:-1], *loop[:start], neuron]):
        if type(nodes[reader]).__name__ not in PASSING or len(feeds[reader]) > 1:
            return last, reader, neuron
    raise AssertionError(loop)  # it ends in neurons, which pass nothing on


def _last(neurons: set[str], feeds: Feeds, inputs: Sequence[str], loop: list[str]) -> str:
    """The neurons of a loop over several layers behind which it begins anew: where the input leads into it."""
    from_input = _reached(inputs, feeds, but=set(loop))
    found = set()
    for place, name in enumerate(loop[:-1]):
        if not from_input.isdisjoint(feeds[name]):
            before = (*reversed(loop[:place]), *reversed(loop[place:-1]))
            found.add(next(node for node in before if node in neurons))
    if len(found) != 1:
        ends = f"behind any of {', '.join(sorted(found))}" if found else "nowhere"
        raise GraphError(
            f"{' -> '.join(loop)}: a recurrent loop of {len(neurons)} layers of neurons, into which the input leads "
            f"{ends}; one way in is allowed, by which it is known which of them comes first"
        )
    return found.pop()


def _reached(begin: Iterable[str], feeds: Feeds, *, but: Collection[str] = ()) -> set[str]:
    """Nodes, those that read them, and what comes of these; but for some."""
    readers = _readers(feeds)
    found: set[str] = set()
    open_ends = list(begin)
    while open_ends:
        name = open_ends.pop()
        if name not in found and name not in but:
            found.add(name)
            open_ends += readers[name]
    return found


def _check(nodes: Mapping[str, Any], feeds: Feeds, late: Feeds) -> None:
    """Raise GraphError where what comes back is read by what does not lead there, too: to that it is not late."""
    readers = _readers(feeds)
    for reader, neurons in late.items():
        seen: set[str] = set()
        open_ends = [reader]
        while open_ends:
            name = open_ends.pop()
            if name in seen:
                continue
            seen.add(name)
            ends = type(nodes[name]).__name__ in NEURONS
            if (ends and not _reached([name], feeds).issuperset(neurons)) or not readers[name]:
                raise GraphError(
                    f"{name}: reads what {neurons[0]} sends back, too; weights of its own are needed there"
                )
            open_ends += [] if ends else readers[name]


def _readers(feeds: Feeds) -> Feeds:
    readers: Feeds = {name: [] for name in feeds}
    for name, found in feeds.items():
        for feed in found:
            readers[feed].append(name)
    return readers
