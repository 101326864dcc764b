"""One call for every engine: `run(graph, spikes, backend=...)`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.graph import STEPS_UNKNOWN, AnyNeuron, Graph, Neuron, graded
from export.limits import POTENTIAL_MAX, POTENTIAL_SHIFT, beyond, check
from hardware_sim.lava_backend import compat
from hardware_sim.lava_backend.process import LavaWorker
from hardware_sim.record import Progress, Record, SimulationError
from hardware_sim.trace import Trace, pack

BACKENDS = ("fast", "reference", "lava", "loihi")
FIDELITIES = ("stock", "fused")


def run(
    graph: Graph,
    spikes: np.ndarray,
    *,
    backend: str = "fast",
    fidelity: str = "fused",
    record: Record = Record(),
    stall_timeout: float = 120.0,
    on_step: Progress | None = None,
    worker: LavaWorker | None = None,
    stream: bool = False,
) -> Trace:
    """Run an integer graph on input spikes, uint8 (samples, T, C, H, W) of 0 and 1; int32 where they carry values.

    backend: `fast` (exact integers, no Lava), `reference` (the same, plainly written), `lava` (Lava's runtime on the
    CPU) or `loihi` (the same processes on hardware; untried, no chip was at hand). fidelity, of `lava`: `fused` runs a
    layer as one event-driven model, `stock` as Lava's own processes. All do the same, spike for spike.
    What may exceed Loihi's range by the weights alone is watched: a run in which it does is a SimulationError.
    stream: run one sample as Lava by itself runs a network that nobody resets: every layer from the first step on, on
    what those before it sent a step ago. T is then Lava's steps, and no depth is taken off the trace.
    stall_timeout: seconds without a step after which a Lava run is ended. on_step: called with steps done and
    steps in all. worker: an open LavaWorker, for many small runs; by default Lava is imported for this one alone.
    Raises GraphError for a graph that does not fit Loihi, SimulationError for a run that fails.
    """
    check(graph, stock=backend == "loihi" or (backend == "lava" and fidelity == "stock"), bounds=False)
    spikes = check_spikes(graph, spikes)
    if stream and len(spikes) != 1:
        raise SimulationError(f"{len(spikes)} samples are given; a stream is one, of as many steps as it takes")
    if backend == "fast":
        from hardware_sim.fast.engine import run_fast  # noqa: PLC0415 - torch is loaded for it alone

        return replace(run_fast(graph, spikes, record=record, on_step=on_step, stream=stream), stimulus=pack(spikes))
    if backend == "reference":
        from hardware_sim.reference import run_reference  # noqa: PLC0415 - torch is loaded for it alone

        trace = run_reference(graph, spikes, record=record, on_step=on_step, stream=stream)
        return replace(trace, stimulus=pack(spikes))
    if backend not in BACKENDS:
        raise SimulationError(f"backend {backend!r} is unknown; {', '.join(BACKENDS)} are allowed")
    if fidelity not in FIDELITIES:
        raise SimulationError(f"fidelity {fidelity!r} is unknown; {', '.join(FIDELITIES)} are allowed")
    if backend == "loihi":
        fidelity = "stock"  # the chip has no fused layers
    try:
        compat.check()
    except compat.LavaError as error:
        raise SimulationError(f"backend {backend!r}: {error}") from None
    if fidelity == "stock" and not stream:
        _check_late(graph, len(spikes))
    if beyond(graph):  # Lava would wrap around and say nothing
        from hardware_sim.reference import run_reference  # noqa: PLC0415

        run_reference(graph, spikes, record=Record(spikes=()), stream=stream)
    from hardware_sim.lava_backend.launch import run_lava  # noqa: PLC0415 - Lava is loaded for it alone

    trace = run_lava(
        graph,
        spikes,
        backend=backend,
        fidelity=fidelity,
        record=record,
        stall_timeout=stall_timeout,
        on_step=on_step,
        worker=worker,
        stream=stream,
    )
    return replace(trace, stimulus=pack(spikes))


def _check_late(graph: Graph, samples: int) -> None:
    """Raise SimulationError where what is still under way in stock processes would be another run's.

    Delays of target neurons, and what a population sends itself, outlast the last step of a sample.
    """
    early = _early(graph)
    for population in graph.populations:
        late = [(edge, "delays by target neuron") for edge in population.edges if edge.target_delay is not None]
        late += [(edge, "recurrent synapses") for edge in population.recurrent]
        for edge, what in late:
            if samples > 1:
                raise SimulationError(
                    f"{samples} samples of a network with {what} ({population.name}): in stock processes spikes still "
                    "under way reach the next sample; run them one by one, or use fidelity fused"
                )
            if edge.source in early:
                raise SimulationError(
                    f"{population.name} has {what} from {edge.source}, which fires before a sample begins, by a bias "
                    "or its start potential: in stock processes that reaches it; use fidelity fused"
                )


def _early(graph: Graph) -> set[str]:
    """Neurons that may fire without input, and so before a sample begins: they, or a source of theirs."""
    early = {population.name for population in graph.populations if _fires_alone(population.neuron)}
    while True:
        behind = {p.name for p in graph.populations if any(edge.source in early for edge in p.edges)}
        if behind <= early:
            return early
        early |= behind


def _fires_alone(neuron: AnyNeuron) -> bool:
    signed = isinstance(neuron, Neuron) and neuron.ternary  # these fire below, too
    bias = np.zeros(1) if neuron.bias is None else neuron.bias
    over = (
        isinstance(neuron, Neuron)
        and neuron.threshold is not None
        and (abs(neuron.u0) if signed else neuron.u0) > int(neuron.threshold) << POTENTIAL_SHIFT
    )
    return bool((np.abs(bias) if signed else bias).max() > 0 or over)


def check_spikes(graph: Graph, spikes: np.ndarray) -> np.ndarray:
    """Input spikes as contiguous uint8, or int32 where they carry values; raises SimulationError for anything else."""
    expected = ("samples", graph.meta.timesteps, *graph.input.shape)
    if spikes.ndim != len(expected) or spikes.shape[2:] != graph.input.shape or not len(spikes):
        raise SimulationError(f"spikes have shape {spikes.shape}; {expected} is needed")
    if spikes.shape[1] != graph.meta.timesteps and STEPS_UNKNOWN in graph.meta.notes:
        raise SimulationError(
            f"spikes have {spikes.shape[1]} time steps, and the network's file does not say its own; give them: "
            "with_timesteps(graph, T), or simulate --timesteps T"
        )
    if spikes.shape[1] != graph.meta.timesteps:
        raise SimulationError(
            f"spikes have {spikes.shape[1]} time steps; the network was made for {graph.meta.timesteps}"
        )
    values = graph.input.name in graded(graph)
    dtype, low, high = (np.int32, -POTENTIAL_MAX, POTENTIAL_MAX) if values else (np.uint8, 0, 1)
    if graph.input.levels > 1:
        low, high = 0, graph.input.levels
    whole = spikes.dtype == dtype or bool((spikes == np.round(spikes)).all())
    if spikes.min() < low or spikes.max() > high or not whole:
        allowed = f"integers from {low} to {high}" if values else "0 and 1"
        raise SimulationError(f"spikes range from {spikes.min()} to {spikes.max()}; {allowed} are allowed")
    return np.ascontiguousarray(spikes, dtype)
