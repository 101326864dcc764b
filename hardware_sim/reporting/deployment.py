"""What a network would take of a chip: its placement and, with a run of it, what a slice costs by each table."""

from __future__ import annotations

from dataclasses import dataclass

from export.graph import Graph
from export.mapping.chips import Chip
from export.mapping.cost import Cost, cost
from export.mapping.energies import TABLES
from export.mapping.place import Placement, place
from hardware_sim.reporting.metrics import active_steps, spike_counts
from hardware_sim.trace import Trace


@dataclass(frozen=True)
class Deployment:
    """A network on a chip. costs: one for each table of energies, none without a run."""

    placement: Placement
    costs: tuple[Cost, ...]


def deploy(graph: Graph, chip: Chip, trace: Trace | None = None) -> Deployment:
    """Lay an integer graph out on a chip, and count what a run made its cores do.

    Raises GraphError for a layer that no tiling fits, TraceError for a trace that is not the graph's.
    """
    placement = place(graph, chip)
    if trace is None:
        return Deployment(placement, ())
    counts, active = spike_counts(graph, trace), active_steps(graph, trace)
    costs = (cost(graph, placement, counts, table, samples=trace.samples, active=active) for table in TABLES)
    return Deployment(placement, tuple(costs))
