"""`neuroseg segment`: scans in, masks in the scans' own grids out."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from neuroseg.cli.app import EXIT_BAD_INPUT
from neuroseg.cli.console import console, errors, steps_bar
from neuroseg.cli.options import Backend, Device, Fidelity, Jobs, OnDevice, Scheduler, StallTimeout
from neuroseg.cluster import Cluster
from neuroseg.data.labels import parse_labels
from neuroseg.data.scan import ScanError
from neuroseg.engine import STALL_TIMEOUT, Engine
from neuroseg.segment import batch, network
from neuroseg.spiking.device import choose, place

commands = typer.Typer(add_completion=False)


class Side(StrEnum):
    both, right, left = "both", "right", "left"


SIDE_OF: dict[Side, Literal["right", "left"] | None] = {Side.both: None, Side.right: "right", Side.left: "left"}


@commands.command()
def segment(
    net: Annotated[
        str, typer.Argument(metavar="NETWORK", help="Run folder, FILE.net, or `pretrained`, the network that ships.")
    ],
    scans: Annotated[
        list[Path], typer.Argument(metavar="SCAN...", help="T1-weighted scans: whole heads or crops of a hippocampus.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Mask to write, .nii or .nii.gz: 1 right, 2 left; classes right, then left."),
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option(help="Folder for the masks of several scans, and volumes.csv.")
    ] = None,
    side: Annotated[Side, typer.Option(help="Of the patient. A crop counts as right by default.")] = Side.both,
    at: Annotated[
        list[str] | None,
        typer.Option(help="Centre of a hippocampus, X,Y,Z in mm of the scan's world (RAS); once a side."),
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="NIfTI that roughly covers the hippocampus, one or both.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Values of --mask that are hippocampus, like 17,53 of FreeSurfer's aseg.")
    ] = None,
    probability: Annotated[Path | None, typer.Option(help="Write the probability map too.")] = None,
    strict: Annotated[bool, typer.Option(help="Exit code 2 and no mask where the mask is doubtful.")] = False,
    backend: Annotated[Backend, typer.Option(help="Engine.")] = Backend.fast,
    fidelity: Annotated[Fidelity, typer.Option(help="How Lava runs.")] = Fidelity.fused,
    stall_timeout: StallTimeout = STALL_TIMEOUT,
    processes: Jobs = 1,
    dask: Scheduler = None,
    device: OnDevice = Device.cpu,
) -> None:
    """Segment the hippocampus in scans; mask and probabilities lie in the scan's own grid. Prints volumes in mm3.

    A whole head is aligned to the MNI152 template to find both hippocampi; where that fails no mask is written. --at or
    --mask say where they are instead. The left one is mirrored for the network. What makes a mask doubtful is said, and
    written into the file. For research, not for patients.

    Example: neuroseg segment pretrained head.nii.gz -o mask.nii.gz --probability p.nii.gz --backend lava

    Example: neuroseg segment pretrained scans/*.nii.gz --out-dir masks --jobs 4
    """
    centres = tuple(_point(text) for text in at or ())
    search = batch.Search(SIDE_OF[side], centres, mask, parse_labels(labels))
    jobs, table = _jobs(scans, out, out_dir, probability)
    batch.check_jobs(jobs, search, more=[table] if table else [])
    if table is None and (processes > 1 or dask):
        raise ValueError("--jobs and --dask share out the scans of --out-dir; --out is one scan")
    where = choose(device.value)
    if where.type != "cpu" and (processes > 1 or dask or backend != Backend.fast):
        raise ValueError(
            "--device runs the network in PyTorch, in one process; --backend, --jobs and --dask go without"
        )
    graph, spiking = network.load(net), None
    if where.type != "cpu":
        spiking = network.load_spiking(net)
        place(spiking, where)
    engine = Engine(backend.value, fidelity.value, stall_timeout)
    if table is None:
        with engine.warm() as warm, steps_bar(f"{backend.value}, {jobs[0].scan.name}") as show:
            predict = batch.pytorch_predictor(spiking) if spiking else batch.predictor(graph, warm, show)
            found = batch.segment_file(jobs[0], predict, graph, search, strict=strict)
        outcomes = [batch.outcome(jobs[0], found)]
    else:
        task = batch.Task(graph, engine, search, strict, spiking)
        with steps_bar(backend.value, unit="scans") as show:
            outcomes = batch.segment_files(jobs, task, cluster=Cluster(processes, dask), on_done=show)
        batch.write_table(outcomes, table)
    _show(outcomes, table)
    if any(outcome.error for outcome in outcomes):
        raise typer.Exit(EXIT_BAD_INPUT)


def _jobs(
    scans: Sequence[Path], out: Path | None, out_dir: Path | None, probability: Path | None
) -> tuple[tuple[batch.Job, ...], Path | None]:
    """What to do, and where the table of several scans shall lie."""
    if (out is None) == (out_dir is None):
        raise ScanError("one of --out (for one scan) and --out-dir (for several) is needed")
    if out is not None:
        if len(scans) > 1:
            raise ScanError(f"{len(scans)} scans and one --out; --out-dir takes several")
        return (batch.Job(scans[0], out, probability),), None
    if probability is not None:
        raise ScanError("--probability is for one scan with --out; --out-dir writes masks alone")
    assert out_dir is not None
    return batch.jobs_into(out_dir, scans), out_dir / batch.TABLE


def _show(outcomes: Sequence[batch.Outcome], table_file: Path | None) -> None:
    several = table_file is not None
    table = Table()
    for column in (["scan"] if several else []) + ["side", "label", "volume (mm3)"]:
        table.add_column(column, justify="right" if column in ("label", "volume (mm3)") else "left")
    for outcome in outcomes:
        where = f"{outcome.job.scan}: " if several else ""
        for doubt in outcome.doubts:
            errors.print(f"[yellow]warning:[/yellow] {escape(where + doubt)}", highlight=False, soft_wrap=True)
        if outcome.error:
            errors.print(f"[red]error:[/red] {escape(outcome.error)}", highlight=False, soft_wrap=True)
        for name, volume in (outcome.class_volumes_mm3 or outcome.volumes_mm3).items():
            row = (escape(name), str(outcome.labels[name]), f"{volume:,.0f}")
            table.add_row(*((escape(outcome.job.scan.name), *row) if several else row))
    console.print(table)
    made = [table_file] if table_file else list(outcomes[0].job.made)
    console.print(escape(", ".join(str(path) for path in made)))


def _point(text: str) -> tuple[float, ...]:
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--at is {text!r}; X,Y,Z in mm like 25,-22,-11 is allowed") from None
    return x, y, z
