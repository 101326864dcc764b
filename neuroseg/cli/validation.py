"""`neuroseg validate`: hold an engine against PyTorch on held-out subjects."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer
from rich.markup import escape

from neuroseg.cli.app import (
    EXIT_DIFFERENT,
    Backend,
    Fidelity,
    OtherData,
    RunFolder,
    StallTimeout,
    app,
)
from neuroseg.cli.console import console, show_diagnosis, show_report, subjects_bar
from neuroseg.cli.subjects import settings_subjects
from neuroseg.engine import STALL_TIMEOUT, Engine
from neuroseg.runs import Run
from neuroseg.steps import held_out, validate_run


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
    source = data or settings.data
    chosen = held_out(run, settings_subjects(settings, source), source=source)[:subjects]
    command = ["neuroseg", "validate", str(run.folder), *(["--data", data] if data else [])]
    command += ["--backend", backend.value, "--fidelity", fidelity.value]
    command += ["--subjects", str(subjects)] if subjects else []
    engine = Engine(backend.value, fidelity.value, stall_timeout)
    with subjects_bar(backend.value, chosen) as show:
        found, report = validate_run(run, chosen, engine, command=shlex.join(command), on_step=show)
    show_report(report, run.report)
    if found.diagnosis:
        show_diagnosis(found.diagnosis)
    console.print(escape(f"{run.picture}, {run.page}"))
    if not found.equal:
        raise typer.Exit(EXIT_DIFFERENT)
