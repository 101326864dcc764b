"""What a network would take of a chip: its placement and, with a run of it, what a slice costs by each table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.graph import STEPS_UNKNOWN, Graph, GraphError, graded, levels, spans, with_timesteps
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

    A graded spike that an encoder makes counts as so many spikes as it stands for, a ternary one as one, since only
    those have published energies: no less than it costs. Raises GraphError for a layer that no tiling fits, and for the
    cost of other spikes that carry values; TraceError for a trace that is not the graph's.
    """
    placement = place(graph, chip)
    if trace is None:
        return Deployment(placement, ())
    if values := graded(graph) - spans(graph).keys():
        raise GraphError(
            f"{', '.join(sorted(values))}: spikes that carry values; the energies that are published are of others. "
            "A map alone, without a run, is allowed"
        )
    if STEPS_UNKNOWN in graph.meta.notes:
        graph = with_timesteps(graph, trace.timesteps)
    counts, active = spike_counts(graph, trace), active_steps(graph, trace)
    if levels(graph) and trace.stimulus is not None:
        counts[graph.input.name] = trace.stimulus.sum((0, 1), dtype=np.int64)
    costs = (cost(graph, placement, counts, table, samples=trace.samples, active=active) for table in TABLES)
    return Deployment(placement, tuple(costs))
