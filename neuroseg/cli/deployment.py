"""Commands on a network file: export, simulate, bench."""

from __future__ import annotations

import importlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.markup import escape

import hardware_sim
from export import files, netx
from export.graph import Graph, with_timesteps
from neuroseg.cli.console import console, errors, steps_bar
from neuroseg.cli.options import Backend, Fidelity, ImagesToRun, Jobs, RunFolder, Scheduler, StallTimeout
from neuroseg.cli.subjects import usable_subjects
from neuroseg.cluster import Cluster
from neuroseg.data import ScanError, stack_slices
from neuroseg.data.images import read_images
from neuroseg.engine import STALL_TIMEOUT, Engine, image_spikes, logits, read_frames, read_spikes, run_shared
from neuroseg.metrics import decide

commands = typer.Typer(add_completion=False)


class Bench(StrEnum):
    engines, lava, train, finetune, reference = "engines", "lava", "train", "finetune", "reference"
    scaling = "scaling"
    mapping, heads, third_party, sigma_delta = "mapping", "heads", "third_party", "sigma_delta"


@commands.command()
def export(run_folder: RunFolder) -> None:
    """Write the integer network as NetX HDF5, checked against Loihi's limits. Makes RUN/network.net.

    The fine-tuned network where there is one, else the converted one.

    Example: neuroseg export runs/first
    """
    from neuroseg.runs import Run  # noqa: PLC0415 - what draws reports comes with the steps; `simulate` does without
    from neuroseg.steps import export_run  # noqa: PLC0415

    run = Run(run_folder)
    graph = export_run(run)
    size = run.network.stat().st_size / 1024
    console.print(f"{len(graph.populations)} populations, 8-bit weights, {size:.0f} KiB; {escape(str(run.network))}")


@commands.command()
def simulate(
    file: Annotated[Path, typer.Argument(help="Exported network, FILE.net.")],
    data: Annotated[str | None, typer.Option(help="Scans to run on, as in `neuroseg train`.")] = None,
    images: ImagesToRun = None,
    spikes: Annotated[
        Path | None,
        typer.Option(
            help="Spikes to run on: a .npy (samples, T, C, H, W) of 0 and 1 (or values), or TRACE.npz for its input."
        ),
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option(help="Frames for sigma-delta neurons at the input: a .npy (samples, T, C, H, W), one a step."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Trace to write, TRACE.npz: every spike.")] = None,
    logits_file: Annotated[
        Path | None, typer.Option("--logits", help="Logits to write, a .npy (samples, C, H, W) of floats.")
    ] = None,
    labels_file: Annotated[
        Path | None,
        typer.Option("--labels", help="What is decided, a .npy (samples, H, W) or (samples): class, or logit above 0."),
    ] = None,
    backend: Annotated[Backend, typer.Option(help="Engine.")] = Backend.fast,
    fidelity: Annotated[Fidelity, typer.Option(help="How Lava runs.")] = Fidelity.fused,
    subjects: Annotated[int, typer.Option(min=1, help="Use the first N subjects.")] = 1,
    timesteps: Annotated[
        int | None, typer.Option("--timesteps", "-T", min=1, help="Steps a sample, other than the file says.")
    ] = None,
    potentials: Annotated[bool, typer.Option(help="Record membrane potentials too.")] = False,
    stream: Annotated[
        bool,
        typer.Option(help="One sample, all layers from Lava's first step, as in a network that nobody resets."),
    ] = False,
    stall_timeout: StallTimeout = STALL_TIMEOUT,
    processes: Jobs = 1,
    dask: Scheduler = None,
) -> None:
    """Run an exported network on scans, images or spikes; keep every spike, the logits, or what is decided.

    Example: neuroseg simulate runs/first/network.net --data mni152 --backend lava --out lava.npz

    Example: neuroseg simulate model.net --images test.npy --labels found.npy
    """
    if out is None and logits_file is None and labels_file is None:
        raise ValueError("nothing to write; --out TRACE.npz, --logits FILE.npy or --labels FILE.npy are allowed")
    graph = netx.read(file)
    if timesteps:
        graph = with_timesteps(graph, timesteps)
    record = hardware_sim.Record(spikes="all" if out else (), potentials="all" if potentials else ())
    cluster = Cluster(processes, dask)
    if stream and not cluster.alone:
        raise ValueError("--stream is one sample, which --jobs and --dask cannot share out")
    if cluster.alone:
        with Engine(backend.value, fidelity.value, stall_timeout).warm() as engine:  # Lava comes up meanwhile
            given = _stimulus(graph, data, images, spikes, frames, subjects)
            with steps_bar(backend.value) as show:
                trace = engine.run(graph, given, record=record, on_step=show, stream=stream)
    else:
        given = _stimulus(graph, data, images, spikes, frames, subjects)
        with steps_bar(backend.value, unit="parts") as show:
            engine = Engine(backend.value, fidelity.value, stall_timeout)
            trace = run_shared(engine, graph, given, cluster=cluster, record=record, on_samples=show)
    if out:
        trace.save(out)
    if logits_file:
        files.write_array(logits(graph, trace), logits_file)
    if labels_file:
        files.write_array(decide(logits(graph, trace)), labels_file)
    total = sum(trace.total(name) for name in trace.spikes)
    counted = f", {total:,} spikes" if out else ""
    written = ", ".join(str(path) for path in (out, logits_file, labels_file) if path)
    console.print(f"{trace.samples} samples{counted} in {trace.seconds['run']:.1f} s; {escape(written)}")


def _stimulus(
    graph: Graph, data: str | None, images: Path | None, spikes: Path | None, frames: Path | None, subjects: int
) -> torch.Tensor:
    """What a network is to run on, as spikes (T, B, C, H, W)."""
    if sum(source is not None for source in (data, images, spikes, frames)) != 1:
        raise ValueError("one of --data, --images, --spikes and --frames is needed")
    if frames:
        return read_frames(frames, graph)
    if spikes:
        return read_spikes(spikes, graph)
    if images:
        return image_spikes(graph, read_images(images, shape=graph.input.shape).pixels)
    assert data is not None
    slices, _ = stack_slices(usable_subjects(data, 0)[:subjects], context=graph.meta.context)
    if tuple(slices.shape[1:]) != graph.input.shape:
        raise ScanError(f"slices of {data} are {tuple(slices.shape[1:])}; the network takes {graph.input.shape}")
    return image_spikes(graph, slices)


@commands.command()
def bench(
    name: Annotated[Bench, typer.Argument(help="Which claim to measure.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Measure a claim: ratios taken side by side in one run, some minutes each.

    Example: neuroseg bench lava --json
    """
    module = importlib.import_module(f"benchmarks.{name.value}")
    with errors.status(f"measuring {name.value}; some minutes"):
        result = module.run()
    if as_json:
        console.print_json(data=result)
        return
    console.print((module.__doc__ or "").strip())
    for key, value in result.items():
        console.print(f"  {key}: {value:.4g}" if isinstance(value, float) else f"  {key}: {value}", soft_wrap=True)
