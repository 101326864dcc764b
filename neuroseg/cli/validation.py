"""Hold an engine against PyTorch on held-out subjects."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.markup import escape

from export import netx
from hardware_sim.compare import compare as compare_traces
from hardware_sim.report import build_report
from hardware_sim.trace import Trace
from neuroseg import runs
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
    show_report,
    steps_bar,
)
from neuroseg.cli.deployment import final, simulate_network
from neuroseg.cli.subjects import place, usable_subjects
from neuroseg.data import ScanError, Subject, stack_slices
from neuroseg.encode import encode
from neuroseg.figures import draw_masks, mask_rows
from neuroseg.metrics import mean_dice
from neuroseg.runs import Run
from neuroseg.spiking import SpikingNetwork
from neuroseg.train import predict


@app.command()
def validate(
    run_folder: RunFolder,
    data: OtherData = None,
    backend: Annotated[Backend, typer.Option(help="Engine to hold against PyTorch.")] = Backend.lava,
    fidelity: Annotated[Fidelity, typer.Option(help="How Lava runs.")] = Fidelity.fused,
    subjects: Annotated[int | None, typer.Option(min=1, help="Use the first N held-out subjects only.")] = None,
    stall_timeout: StallTimeout = STALL_TIMEOUT,
) -> None:
    """Run PyTorch and an engine on the same spikes and compare every spike. Makes RUN/report.json.

    Uses subjects that were not trained on. Exit code 1 unless every spike and every output potential is equal.

    Example: neuroseg validate runs/first --backend lava --subjects 3
    """
    run = Run(run_folder)
    settings = run.load_settings()
    usable = usable_subjects(data or settings.data, settings.seed, settings.box)
    # The shipped run knows its data by name only; its subjects are its own wherever they lie.
    same = data is None or place(data) == settings.data or not Path(settings.data).is_absolute()
    trained_on, test = (settings.training, settings.test) if same else ((), ())
    chosen = [s for s in usable if (s.id in test if test else s.id not in trained_on)][:subjects]
    if not chosen:
        raise ScanError(f"{data or settings.data}: every subject was trained on; none is left to validate with")
    start = time.perf_counter()
    network, _ = final(run)
    graph = netx.read(run.network)
    comparisons, software_masks, hardware_masks, run_seconds = [], [], [], 0.0
    for k, subject in enumerate(chosen, start=1):
        spikes = _spikes(subject, network)
        software = software_trace(network, spikes)
        with steps_bar(f"{backend.value} {k}/{len(chosen)} {subject.id}") as show:
            hardware = simulate_network(graph, spikes, backend, fidelity, show, stall_timeout=stall_timeout)
        comparisons.append(compare_traces(software, hardware))
        software_masks.append(_mask(software))
        hardware_masks.append(_mask(hardware))
        run_seconds += hardware.seconds["run"]
    with console.status("Dice of each stage"):
        masks = {**_masks_by_stage(run, network, chosen), "quantized": software_masks, "hardware": hardware_masks}
        truths = [subject.mask for subject in chosen]
    report = build_report(
        comparisons,
        samples=[len(subject.image) for subject in chosen],
        subjects=[subject.id for subject in chosen],
        dice={stage: mean_dice(found, truths) for stage, found in masks.items()},
        backend=backend.value,
        fidelity=hardware.engine.rpartition("/")[2],
        timesteps=network.spec.timesteps,
        seconds={"run": run_seconds, "all": time.perf_counter() - start},
    )
    draw_masks(mask_rows(chosen[0], {STAGES[stage]: found[0] for stage, found in masks.items()}), run.picture)
    runs.write_json(report, run.report)
    show_report(report, run.report)
    console.print(escape(str(run.picture)))
    if not report["spikes"]["equal"]:
        raise typer.Exit(EXIT_DIFFERENT)


def software_trace(network: SpikingNetwork, spikes: torch.Tensor) -> Trace:
    """What PyTorch's integer network does on spikes (T, B, C, H, W), as a trace."""
    parts = []
    for chunk in spikes.split(16, dim=1):
        activity = network.record(chunk, quantized=True)
        fired = {name: value.transpose(0, 1).numpy() for name, value in activity.spikes.items()}
        output = activity.potentials[network.spec.output.name][-1].numpy() * 2**6
        parts.append(
            Trace.from_arrays(
                fired, potentials={}, output=output, output_name=network.spec.output.name, engine="pytorch"
            )
        )
    packed = {name: np.concatenate([part.packed[name] for part in parts]) for name in parts[0].packed}
    return dataclasses.replace(parts[0], packed=packed, output=np.concatenate([part.output for part in parts]))


def _spikes(subject: Subject, network: SpikingNetwork) -> torch.Tensor:
    images, _ = stack_slices([subject])
    return encode(images, timesteps=network.spec.timesteps, encoder=network.spec.encoder)


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
