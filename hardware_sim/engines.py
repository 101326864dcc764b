"""One call for every engine: `run(graph, spikes, backend=...)`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from export.graph import Graph
from export.limits import check
from hardware_sim.trace import Trace, pack

BACKENDS = ("reference", "lava", "loihi")
FIDELITIES = ("stock", "fused")

Progress = Callable[[int, int], None]


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


def run(
    graph: Graph,
    spikes: np.ndarray,
    *,
    backend: str = "reference",
    fidelity: str = "fused",
    record: Record = Record(),
    stall_timeout: float = 120.0,
    on_step: Progress | None = None,
) -> Trace:
    """Run an integer graph on input spikes, uint8 (samples, T, C, H, W) of 0 and 1.

    backend: `reference` (exact integers, batched, no Lava), `lava` (Lava's runtime on the CPU) or `loihi` (the
    same processes on hardware; untried, no chip was at hand). fidelity, of `lava`: `fused` runs a layer as one
    event-driven model, `stock` as Lava's own processes. Both do the same, spike for spike.
    stall_timeout: seconds without a step after which a Lava run is ended. on_step: called with steps done and
    steps in all. Raises GraphError for a graph that does not fit Loihi, SimulationError for a run that fails.
    """
    check(graph)
    spikes = check_spikes(graph, spikes)
    if backend == "reference":
        from hardware_sim.reference import run_reference  # noqa: PLC0415 - torch is loaded for it alone

        return replace(run_reference(graph, spikes, record=record, on_step=on_step), stimulus=pack(spikes))
    if backend not in BACKENDS:
        raise SimulationError(f"backend {backend!r} is unknown; {', '.join(BACKENDS)} are allowed")
    if fidelity not in FIDELITIES:
        raise SimulationError(f"fidelity {fidelity!r} is unknown; {', '.join(FIDELITIES)} are allowed")
    if backend == "loihi":
        fidelity = "stock"  # the chip has no fused layers
    if importlib.util.find_spec("lava") is None or importlib.util.find_spec("lava.magma") is None:
        raise SimulationError(
            f"backend {backend!r} needs Lava, which is not installed: Python 3.10 and pip install 'neuroseg[lava]'"
        )
    if len(spikes) > 1 and any(e.target_delay is not None for p in graph.populations for e in p.edges):
        raise SimulationError(
            f"{len(spikes)} samples of a network with delays by target neuron; run them one by one in Lava, where "
            "spikes still under way would reach the next sample"
        )
    from hardware_sim.lava_backend.launch import run_lava  # noqa: PLC0415 - Lava is loaded for it alone

    trace = run_lava(
        graph,
        spikes,
        backend=backend,
        fidelity=fidelity,
        record=record,
        stall_timeout=stall_timeout,
        on_step=on_step,
    )
    return replace(trace, stimulus=pack(spikes))


def check_spikes(graph: Graph, spikes: np.ndarray) -> np.ndarray:
    """Input spikes as contiguous uint8; raises SimulationError for a wrong shape or values beside 0 and 1."""
    expected = ("samples", graph.meta.timesteps, *graph.input.shape)
    if spikes.ndim != len(expected) or spikes.shape[2:] != graph.input.shape or not len(spikes):
        raise SimulationError(f"spikes have shape {spikes.shape}; {expected} is needed")
    if spikes.shape[1] != graph.meta.timesteps:
        raise SimulationError(
            f"spikes have {spikes.shape[1]} time steps; the network was made for {graph.meta.timesteps}"
        )
    if spikes.min() < 0 or spikes.max() > 1 or (spikes != spikes.astype(np.uint8)).any():
        raise SimulationError(f"spikes range from {spikes.min()} to {spikes.max()}; 0 and 1 are allowed")
    return np.ascontiguousarray(spikes, np.uint8)
