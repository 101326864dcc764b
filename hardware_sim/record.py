"""What a run keeps, and how it fails: what the engines and their callers share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from export.graph import Graph

Progress = Callable[[int, int], None]  # steps done, steps in all


class SimulationError(RuntimeError):
    """A run that could not start, stopped making progress, or failed in an engine."""


@dataclass(frozen=True)
class Record:
    """What a run keeps: names of populations, or `all`.

    The output potential is always kept, and so are those of further populations that only integrate: no spikes show
    whether they are right.
    """

    spikes: Collection[str] | Literal["all"] = "all"
    counts: Collection[str] | Literal["all"] = ()  # alone, where spikes are too many to keep
    potentials: Collection[str] | Literal["all"] = ()

    def names(self, graph: Graph, what: Literal["spikes", "counts", "potentials"]) -> tuple[str, ...]:
        """The populations chosen, in order. Raises SimulationError for a name the graph has not got."""
        firing = tuple(p.name for p in graph.populations if p.neuron.threshold is not None)
        possible = tuple(p.name for p in graph.populations) if what == "potentials" else firing
        wanted, output = getattr(self, what), graph.output.name
        if wanted == "all":
            return possible
        unknown = sorted(set(wanted) - set(possible))
        if unknown:
            raise SimulationError(f"cannot record {what} of {', '.join(unknown)}; {', '.join(possible)} can be")
        kept = () if what != "potentials" else [name for name in possible if name not in firing and name != output]
        return tuple(name for name in possible if name in wanted or name in kept)
