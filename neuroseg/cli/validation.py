"""Hold an engine against PyTorch on held-out subjects, and show it: report.json, report.html, segmentation.png."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import platform
import shlex
import time
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.markup import escape

import hardware_sim
from export import netx
from export.graph import Graph
from export.inspect import draw as draw_graph
from hardware_sim.compare import compare as compare_traces
from hardware_sim.diagnose import Diagnosis, diagnose
from hardware_sim.page import count_cells, make_viewer, rasters, render
from hardware_sim.report import build_report
from hardware_sim.trace import Trace, TraceError, pack
from neuroseg import __version__, runs
from neuroseg.activity import measure
from neuroseg.cli.app import (
    EXIT_DIFFERENT,
    STALL_TIMEOUT,
    Backend,
    Fidelity,
    OtherData,
    RunFolder,
    StallTimeout,
    app,
)
from neuroseg.cli.console import (
    STAGES,
    console,
    errors,
    show_diagnosis,
    show_report,
    steps_bar,
)
from neuroseg.cli.deployment import final, simulate_network
from neuroseg.cli.subjects import usable_subjects
from neuroseg.data import ScanError, Subject, stack_slices
from neuroseg.encode import encode
from neuroseg.figures import draw_masks, mask_rows
from neuroseg.metrics import mean_dice
from neuroseg.runs import Run
from neuroseg.spiking import SpikingNetwork
from neuroseg.train import predict

VIEWED = 3  # subjects whose slices report.html shows
VERSIONS = ("torch", "numpy", "lava-nc", "lava-dl", "h5py", "nibabel")


@app.command()
def validate(
    run_folder: RunFolder,
    data: OtherData = None,
    backend: Annotated[Backend, typer.Option(help="Engine to hold against PyTorch.")] = Backend.lava,
    fidelity: Annotated[Fidelity, typer.Option(help="How Lava runs.")] = Fidelity.fused,
    subjects: Annotated[int | None, typer.Option(min=1, help="Use the first N held-out subjects only.")] = None,
    stall_timeout: StallTimeout = STALL_TIMEOUT,
) -> None:
    """Run PyTorch and an engine on the same spikes and compare every spike. Makes RUN/report.html.

    Uses subjects that were not trained on. report.html shows the slices, the spikes and, where they differ, why; the
    figures are in report.json too. Exit code 1 unless every spike and every output potential is equal.

    Example: neuroseg validate runs/first --backend lava --subjects 3
    """
    run = Run(run_folder)
    settings = run.load_settings()
    usable = usable_subjects(data or settings.data, settings.seed, settings.box)
    # By name alone: data may lie elsewhere than when it was trained on.
    test = [subject for subject in usable if subject.id in settings.test]
    chosen = (test or [subject for subject in usable if subject.id not in settings.training])[:subjects]
    if not chosen:
        raise ScanError(f"{data or settings.data}: every subject was trained on; none is left to validate with")
    start = time.perf_counter()
    network, _ = final(run)
    graph = netx.read(run.exported())
    run.forget_after(run.network)
    with console.status("Dice of each stage"):
        masks = _masks_by_stage(run, network, chosen)
    engine = Engine(graph, backend, fidelity, stall_timeout)
    comparisons, software_masks, hardware_masks, run_seconds = [], [], [], 0.0
    shown: Pair | None = None  # the first subject that differs, or just the first
    for k, subject in enumerate(chosen, start=1):
        pair = _run(subject, network, engine, f"{backend.value} {k}/{len(chosen)} {subject.id}")
        comparisons.append(compare_traces(pair.software, pair.hardware))
        software_masks.append(_mask(pair.software))
        hardware_masks.append(_mask(pair.hardware))
        run_seconds += pair.hardware.seconds["run"]
        if shown is None or (not comparisons[-1].equal and all(c.equal for c in comparisons[:-1])):
            shown = pair
    assert shown is not None
    masks |= {"quantized": software_masks, "hardware": hardware_masks}
    truths = [subject.mask for subject in chosen]
    report = build_report(
        comparisons,
        samples=[len(subject.image) for subject in chosen],
        subjects=[subject.id for subject in chosen],
        dice={stage: mean_dice(found, truths) for stage, found in masks.items()},
        backend=backend.value,
        fidelity=pair.hardware.engine.rpartition("/")[2],
        timesteps=network.spec.timesteps,
        seconds={"run": run_seconds, "all": time.perf_counter() - start},
        repeat=_repeat(run, settings.seed, data, engine, subjects),
    )
    runs.write_json(report, run.report)
    draw_masks(mask_rows(chosen[0], {STAGES[stage]: found[0] for stage, found in masks.items()}), run.picture)
    with console.status("report.html"):
        diagnosis = _diagnose(network, engine, shown) if not report["spikes"]["equal"] else None
        runs.write_text(_page(run, network, engine, report, shown, chosen, masks, diagnosis), run.page)
    show_report(report, run.report)
    if diagnosis:
        show_diagnosis(diagnosis)
    console.print(escape(f"{run.picture}, {run.page}"))
    if not report["spikes"]["equal"]:
        raise typer.Exit(EXIT_DIFFERENT)


@dataclasses.dataclass(frozen=True)
class Engine:
    """A network file and how it is run."""

    graph: Graph
    backend: Backend
    fidelity: Fidelity
    stall_timeout: float

    def run(self, spikes: torch.Tensor, show: Any = None, *, potentials: Sequence[str] = ()) -> Trace:
        record = hardware_sim.Record(potentials=potentials)
        return simulate_network(
            self.graph, spikes, self.backend, self.fidelity, show, record=record, stall_timeout=self.stall_timeout
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """A subject in PyTorch and in an engine. spikes: its input (T, B, C, H, W)."""

    subject: Subject
    spikes: torch.Tensor
    software: Trace
    hardware: Trace


def _run(subject: Subject, network: SpikingNetwork, engine: Engine, what: str) -> Pair:
    images, _ = stack_slices([subject])
    spikes = encode(images, timesteps=network.spec.timesteps, encoder=network.spec.encoder)
    software = software_trace(network, spikes)
    with steps_bar(what) as show:
        return Pair(subject, spikes, software, engine.run(spikes, show))


def _diagnose(network: SpikingNetwork, engine: Engine, pair: Pair) -> Diagnosis | None:
    """The cause, with the potentials of that slice, which are not kept for all; None where it cannot be looked for."""
    try:
        found = diagnose(engine.graph, pair.software, pair.hardware)
        return found and _with_potentials(found, network, engine, pair)
    except (TraceError, hardware_sim.SimulationError) as error:  # the verdict stands without it
        errors.print(f"[yellow]no cause:[/yellow] {escape(str(error))}", highlight=False, soft_wrap=True)
        return None


def _with_potentials(found: Diagnosis, network: SpikingNetwork, engine: Engine, pair: Pair) -> Diagnosis:
    slice_alone = pair.spikes[:, found.sample : found.sample + 1]
    again = diagnose(
        engine.graph,
        software_trace(network, slice_alone, potentials=(found.population,)),
        engine.run(slice_alone, potentials=(found.population,)),
    )
    same = again and (again.population, again.step, again.neuron) == (found.population, found.step, found.neuron)
    return dataclasses.replace(found, rows=again.rows) if again and same else found


def _page(
    run: Run,
    network: SpikingNetwork,
    engine: Engine,
    report: dict[str, Any],
    shown: Pair,
    subjects: Sequence[Subject],
    masks: dict[str, list[np.ndarray]],
    diagnosis: Diagnosis | None,
) -> str:
    """report.html; its slices are of the first subjects, `shown` before all."""
    order = sorted(range(len(subjects)), key=lambda k: subjects[k].id != shown.subject.id)[:VIEWED]
    viewers = [
        make_viewer(
            subjects[k].id,
            subjects[k].image,
            subjects[k].mask,
            {STAGES[stage]: found[k] for stage, found in masks.items()},
            compared=(STAGES["quantized"], STAGES["hardware"]),
        )
        for k in order
    ]
    images, _ = stack_slices([shown.subject])
    networks = {"converted": runs.load_snn(run.converted)[0]} if run.converted.exists() else {}
    networks |= {"fine-tuned": network} if run.snn.exists() else {}
    draw_graph(engine.graph, run.drawing)
    return render(
        report,
        viewers=viewers,
        rates={name: measure(part, images, quantized=True).rates for name, part in networks.items()},
        rasters=rasters(shown.software, shown.hardware, diagnosis),
        cells=count_cells(shown.software, shown.hardware),
        stages=STAGES,
        network_svg=run.drawing.read_text(),
        samples=shown.software.samples,
        diagnosis=diagnosis,
    )


def _repeat(run: Run, seed: int, data: str | None, engine: Engine, subjects: int | None) -> dict[str, Any]:
    """The command, and all that its outcome depends on."""
    command = ["neuroseg", "validate", str(run.folder), *(["--data", data] if data else [])]
    command += ["--backend", engine.backend.value, "--fidelity", engine.fidelity.value]
    command += ["--subjects", str(subjects)] if subjects else []
    installed = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    return {
        "command": shlex.join(command),
        "seed": seed,
        "encoder": engine.graph.meta.encoder,
        "network.net, SHA-256": hashlib.sha256(run.network.read_bytes()).hexdigest(),
        "versions": {
            "neuroseg": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in VERSIONS if name in installed},
        },
        "machine": f"{platform.system()} {platform.machine()}",
        "made": time.strftime("%Y-%m-%d %H:%M %Z"),
    }


def software_trace(network: SpikingNetwork, spikes: torch.Tensor, *, potentials: Sequence[str] = ()) -> Trace:
    """What PyTorch's integer network does on spikes (T, B, C, H, W), as a trace; potentials: of which populations."""
    further = [population.name for population in network.spec.outputs[1:]]  # no spikes show whether they are right
    potentials = [*dict.fromkeys([*further, *potentials])]
    parts = []
    for chunk in spikes.split(16, dim=1):
        activity = network.record(chunk, quantized=True)
        shifted = {name: value.transpose(0, 1).numpy() * 2**6 for name, value in activity.potentials.items()}
        parts.append(
            Trace.from_arrays(
                {name: value.transpose(0, 1).numpy() for name, value in activity.spikes.items()},
                potentials={name: shifted[name] for name in potentials},
                output=shifted[network.spec.output.name][:, -1],
                output_name=network.spec.output.name,
                engine="pytorch",
            )
        )
    return dataclasses.replace(
        parts[0],
        packed={name: np.concatenate([part.packed[name] for part in parts]) for name in parts[0].packed},
        potentials={name: np.concatenate([part.potentials[name] for part in parts]) for name in potentials},
        output=np.concatenate([part.output for part in parts]),
        stimulus=pack(spikes.transpose(0, 1).numpy().astype(np.uint8)),
    )


def _mask(trace: Trace) -> np.ndarray:
    return (trace.output[:, 0] > 0).astype(np.uint8)


def _masks_by_stage(run: Run, network: SpikingNetwork, subjects: Sequence[Subject]) -> dict[str, list[np.ndarray]]:
    """What the float networks of a run make of subjects, as far as it has them."""
    masks = {"ann": predict(runs.load_ann(run.ann), subjects)}
    if run.converted.exists():
        masks["converted"] = predict(runs.load_snn(run.converted)[0].predict, subjects)
    if run.snn.exists():
        masks["finetuned"] = predict(network.predict, subjects)
    return masks
