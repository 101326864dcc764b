"""PyTorch against an engine on the same spikes: every spike of every layer, Dice of every stage, why they differ."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from export.graph import Graph, ternary
from export.limits import POTENTIAL_SHIFT
from hardware_sim.comparison.compare import Comparison, compare
from hardware_sim.comparison.diagnose import Diagnosis, diagnose
from hardware_sim.record import Record, SimulationError
from hardware_sim.trace import Trace, TraceError, pack
from neuroseg.data.volume import Subject, stack_slices
from neuroseg.engine import Engine, class_names
from neuroseg.metrics import decide, mean_dice
from neuroseg.spiking.device import device_of
from neuroseg.spiking.network import Activity, SpikingNetwork

log = logging.getLogger(__name__)

SLICES = 16  # of PyTorch's at a time: what memory holds of all potentials

OnSubject = Callable[[Subject, int, int], None]  # whose slices run, steps done and steps in all of these


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
    """PyTorch and an engine on the same spikes (T, B, C, H, W)."""

    spikes: torch.Tensor
    software: Trace
    hardware: Trace


@dataclasses.dataclass(frozen=True, eq=False)
class Pair(Runs):
    """A subject in PyTorch and in an engine."""

    subject: Subject


@dataclasses.dataclass(frozen=True, eq=False)
class Validation:
    """What was found. comparisons: one a subject. masks: of each stage, uint8 (X, Y, Z), one a subject.

    shown: the traces of the first subject that differs, or just of the first. diagnosis: why it differs, if that could
    be told. seconds: of the engine's runs, and of all.
    """

    graph: Graph
    engine: Engine
    subjects: tuple[Subject, ...]
    comparisons: tuple[Comparison, ...]
    masks: Mapping[str, Sequence[np.ndarray]]
    shown: Pair
    diagnosis: Diagnosis | None
    seconds: Mapping[str, float]

    @property
    def equal(self) -> bool:
        return all(comparison.equal for comparison in self.comparisons)

    @property
    def dice(self) -> dict[str, dict[str, float]]:
        """Mean 3D and 2D Dice of each stage, and 3D of each class, as report.json has them."""
        truths = [subject.mask for subject in self.subjects]
        return {stage: mean_dice(found, truths, self.classes) for stage, found in self.masks.items()}

    @property
    def classes(self) -> tuple[str, ...]:
        """What labels of the masks are, from 1, of a network of several channels."""
        return class_names(self.graph)[1:]


def validate(
    network: SpikingNetwork,
    graph: Graph,
    subjects: Sequence[Subject],
    engine: Engine = Engine(backend="lava"),
    *,
    stages: Mapping[str, Sequence[np.ndarray]] | None = None,
    on_step: OnSubject | None = None,
) -> Validation:
    """Run a network with integer scales in PyTorch, its graph in an engine, on the same spikes, and compare them.

    stages: masks that other stages of the road made of the same subjects, to have their Dice beside it. Raises
    ValueError without subjects, GraphError and SimulationError as the engine does.
    """
    if not subjects:
        raise ValueError("no subject to validate on")
    start = time.perf_counter()
    comparisons: list[Comparison] = []
    software_masks, hardware_masks, engine_seconds = [], [], 0.0
    shown: Pair | None = None
    with engine.warm() as warm:
        for subject in subjects:
            pair = _run(subject, network, graph, warm, on_step)
            comparisons.append(compare(pair.software, pair.hardware))
            software_masks.append(_mask(pair.software))
            hardware_masks.append(_mask(pair.hardware))
            engine_seconds += pair.hardware.seconds["run"]
            if shown is None or (not comparisons[-1].equal and all(c.equal for c in comparisons[:-1])):
                shown = pair
    assert shown is not None
    equal = all(comparison.equal for comparison in comparisons)
    return Validation(
        graph=graph,
        engine=engine,
        subjects=tuple(subjects),
        comparisons=tuple(comparisons),
        masks={**(stages or {}), "quantized": software_masks, "hardware": hardware_masks},
        shown=shown,
        diagnosis=None if equal else explain(network, graph, engine, shown),
        seconds={"run": engine_seconds, "all": time.perf_counter() - start},
    )


def _run(subject: Subject, network: SpikingNetwork, graph: Graph, engine: Engine, on_step: OnSubject | None) -> Pair:
    images, _ = stack_slices([subject], context=graph.meta.context)
    spikes = network.encode(images)
    software = software_trace(network, spikes)

    def show(done: int, total: int) -> None:
        if on_step:
            on_step(subject, done, total)

    return Pair(spikes, software, engine.run(graph, spikes, on_step=show), subject)


def software_trace(network: SpikingNetwork, spikes: torch.Tensor, *, potentials: Sequence[str] = ()) -> Trace:
    """What PyTorch's integer network does on spikes (T, B, C, H, W), as a trace; potentials: of which populations."""
    further = [population.name for population in network.outputs[1:]]  # no spikes show whether they are right
    kept = list(dict.fromkeys([*further, *potentials]))
    output = network.output.name
    parts = []
    for chunk in spikes.split(SLICES, dim=1):
        activity = _on_host(network.record(chunk.to(device_of(network)), quantized=True, potentials_of=kept))
        shifted = {
            name: activity.potentials[name].transpose(0, 1).numpy() * 2**POTENTIAL_SHIFT for name in {*kept, output}
        }
        parts.append(
            Trace.from_arrays(
                {name: value.transpose(0, 1).numpy() for name, value in activity.spikes.items()},
                potentials={name: shifted[name] for name in kept},
                output=shifted[output][:, -1],
                output_name=output,
                engine="pytorch",
                values=ternary(network.graph),
            )
        )
    return dataclasses.replace(
        Trace.joined(parts),
        stimulus=pack(spikes.transpose(0, 1).numpy().astype(np.int32 if network.graph.input.levels > 1 else np.uint8)),
    )


def _on_host(activity: Activity) -> Activity:
    spikes, potentials = (
        {name: value.cpu() for name, value in values.items()} for values in (activity.spikes, activity.potentials)
    )
    return Activity(spikes, potentials, activity.logits.cpu())


def explain(network: SpikingNetwork, graph: Graph, engine: Engine, pair: Runs) -> Diagnosis | None:
    """The cause, with the potentials of that slice, which are not kept for all; None where it cannot be looked for."""
    try:
        found = diagnose(graph, pair.software, pair.hardware)
        return found and _with_potentials(found, network, graph, engine, pair)
    except (TraceError, SimulationError) as error:  # the verdict stands without it
        log.warning("no cause: %s", error)
        return None


def _with_potentials(found: Diagnosis, network: SpikingNetwork, graph: Graph, engine: Engine, pair: Runs) -> Diagnosis:
    slice_alone = pair.spikes[:, found.sample : found.sample + 1]
    again = diagnose(
        graph,
        software_trace(network, slice_alone, potentials=(found.population,)),
        engine.run(graph, slice_alone, record=Record(potentials=(found.population,))),
    )
    same = again and (again.population, again.step, again.neuron) == (found.population, found.step, found.neuron)
    return dataclasses.replace(found, rows=again.rows) if again and same else found


def _mask(trace: Trace) -> np.ndarray:
    return decide(trace.output).astype(np.uint8)
