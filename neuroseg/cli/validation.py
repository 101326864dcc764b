"""`neuroseg validate`: hold an engine against PyTorch on held-out subjects."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.markup import escape

from neuroseg.cli.app import EXIT_DIFFERENT
from neuroseg.cli.console import console, steps_bar, subjects_bar
from neuroseg.cli.options import (
    Backend,
    Device,
    Fidelity,
    ImagesToRun,
    LabelsOfImages,
    OnDevice,
    OtherData,
    RunFolder,
    StallTimeout,
)
from neuroseg.cli.results import show_report
from neuroseg.cli.subjects import settings_subjects
from neuroseg.cli.tables import show_diagnosis
from neuroseg.data.images import read_labels
from neuroseg.engine import STALL_TIMEOUT, Engine
from neuroseg.imported import ann_of, images_for, validate_run_images
from neuroseg.runs import Run
from neuroseg.spiking.device import choose
from neuroseg.steps import held_out, validate_run

commands = typer.Typer(add_completion=False)


@commands.command()
def validate(
    run_folder: RunFolder,
    data: OtherData = None,
    backend: Annotated[Backend, typer.Option(help="Engine to hold against PyTorch.")] = Backend.lava,
    fidelity: Annotated[Fidelity, typer.Option(help="How Lava runs.")] = Fidelity.fused,
    subjects: Annotated[int | None, typer.Option(min=1, help="Use the first N held-out subjects only.")] = None,
    stall_timeout: StallTimeout = STALL_TIMEOUT,
    images: ImagesToRun = None,
    labels: LabelsOfImages = None,
    device: OnDevice = Device.cpu,
) -> None:
    """Run PyTorch and an engine on the same spikes and compare every spike. Makes RUN/report.html.

    Uses subjects that were not trained on. report.html shows the slices, the spikes and, where they differ, why; the
    figures are in report.json too. Exit code 1 unless every spike and every output potential is equal.

    A network that came by file runs on --images; report.json says how often the spiking network decides as the model,
    and with --labels how often both are right.

    Example: neuroseg validate runs/first --backend lava --subjects 3

    Example: neuroseg validate runs/mine --images test.npy --labels truth.npy
    """
    run, where = Run(run_folder), choose(device.value)
    engine = Engine(backend.value, fidelity.value, stall_timeout)
    if images:
        if data or subjects:
            raise ValueError("--data and --subjects are of scans; --images goes without them")
        _validate_images(run, images, labels, engine, where)
        return
    if labels:
        raise ValueError("--labels needs --images")
    settings = run.load_settings()
    source = data or settings.data
    chosen = held_out(run, settings_subjects(settings, source), source=source)[:subjects]
    command = ["neuroseg", "validate", str(run.folder), *(["--data", data] if data else [])]
    command += ["--backend", backend.value, "--fidelity", fidelity.value]
    command += ["--subjects", str(subjects)] if subjects else []
    command += ["--device", where.type] if where.type != "cpu" else []
    with subjects_bar(backend.value, chosen) as show:
        found, report = validate_run(run, chosen, engine, command=shlex.join(command), on_step=show, device=where)
    show_report(report, run.report)
    if found.diagnosis:
        show_diagnosis(found.diagnosis)
    console.print(escape(f"{run.picture}, {run.page}"))
    if not found.equal:
        raise typer.Exit(EXIT_DIFFERENT)


def _validate_images(run: Run, images: Path, labels: Path | None, engine: Engine, where: torch.device) -> None:
    pictures = images_for(run, images)
    truth = read_labels(labels, pictures, output=ann_of(run).output.shape) if labels else None
    command = ["neuroseg", "validate", str(run.folder), "--images", str(images)]
    command += ["--labels", str(labels)] if labels else []
    command += ["--backend", engine.backend, "--fidelity", engine.fidelity]
    command += ["--device", where.type] if where.type != "cpu" else []
    with steps_bar(engine.backend, unit="images") as show:
        found, report = validate_run_images(
            run, pictures, engine, labels=truth, command=shlex.join(command), on_step=show, device=where
        )
    show_report(report, run.report)
    if found.diagnosis:
        show_diagnosis(found.diagnosis)
    if not found.equal:
        raise typer.Exit(EXIT_DIFFERENT)
