"""Have a Lava run done by a `LavaWorker`, watch it, and collect its trace. Imports no Lava itself."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from export import netx
from export.graph import Graph, graded
from hardware_sim.lava_backend.grouping import share
from hardware_sim.lava_backend.job import FLOOR, Files, Job
from hardware_sim.lava_backend.layout import windows_of
from hardware_sim.lava_backend.limits import check_room
from hardware_sim.lava_backend.process import LavaWorker
from hardware_sim.record import Progress, Record, SimulationError
from hardware_sim.trace import Trace, pack

POLL_SECONDS = 0.05
STARTUP_SECONDS = 300.0  # at least, to import Lava and to build the network; a first run compiles kernels too


def run_lava(
    graph: Graph,
    spikes: np.ndarray,
    *,
    backend: str,
    fidelity: str,
    record: Record,
    stall_timeout: float,
    on_step: Progress | None = None,
    worker: LavaWorker | None = None,
    stream: bool = False,
) -> Trace:
    """Run an integer graph in Lava; see `hardware_sim.run`."""
    start = time.perf_counter()
    job = _job(graph, spikes, backend=backend, fidelity=fidelity, record=record, stream=stream)
    with _files(worker) as (given, files):
        _prepare(files, job, graph, spikes)
        _watch(given, files, job, graph, stall_timeout, on_step)
        return _collect(files, job, graph, start)


def time_lava(
    graph: Graph,
    spikes: np.ndarray,
    *,
    fidelity: str,
    record: Record,
    processes: int | None = None,
    copies: int | None = None,
) -> dict[str, float]:
    """Run and return the seconds and steps only; also for job.FLOOR, which computes no results. For benchmarks.

    processes: that fused layers share; as many as there are cores by default. copies: of the network in each of these,
    or 0: they share one.
    """
    job = _job(graph, spikes, backend="lava", fidelity=fidelity, record=record)
    job = replace(job, processes=job.processes if processes is None else processes)
    job = replace(job, copies=job.copies if copies is None else copies)
    with _files(None) as (worker, files):
        _prepare(files, job, graph, spikes)
        _watch(worker, files, job, graph, 600.0, None)
        return json.loads(files.seconds.read_text())


@contextmanager
def _files(worker: LavaWorker | None) -> Iterator[tuple[LavaWorker, Files]]:
    """A worker, by default one for this run alone, and a place in its folder for one run's files."""
    if worker is None:
        with LavaWorker() as alone, _files(alone) as found:
            yield found
        return
    with tempfile.TemporaryDirectory(prefix="run-", dir=worker.folder) as folder:
        yield worker, Files(Path(folder))


def _job(graph: Graph, spikes: np.ndarray, *, backend: str, fidelity: str, record: Record, stream: bool = False) -> Job:
    processes, copies = share(graph, len(spikes)) if fidelity in ("fused", FLOOR) else (1, 0)
    return Job(
        backend=backend,
        fidelity=fidelity,
        samples=len(spikes),
        timesteps=spikes.shape[1],
        spikes=record.names(graph, "spikes"),
        counts=record.names(graph, "counts"),
        potentials=record.names(graph, "potentials"),
        stream=stream,
        processes=processes,
        copies=copies,
    )


def _prepare(files: Files, job: Job, graph: Graph, spikes: np.ndarray) -> None:
    """Write the network and its input. Raises SimulationError where the machine lacks room for the run."""
    check_room(graph, job, files.folder)
    job.save(files.folder)
    netx.write(graph, files.network, sealed=False)
    np.save(files.input, pack(spikes))
    np.save(files.progress, np.full((job.processes, len(graph.populations)), -1))


def _watch(
    worker: LavaWorker, files: Files, job: Job, graph: Graph, stall_timeout: float, on_step: Progress | None
) -> None:
    """Have the job done and stay until it is; raise SimulationError when it fails or stalls."""
    progress = np.load(files.progress, mmap_mode="r")
    total, steps = job.samples * job.timesteps, max(window.steps for window in windows_of(graph, job).values())
    with worker.doing(files.folder):
        seen, since = progress.copy(), time.monotonic()
        started = False
        while not worker.is_done(within=POLL_SECONDS):
            if not started and files.started.exists():
                started, since = True, time.monotonic()
            patience = stall_timeout if started else max(stall_timeout, STARTUP_SECONDS)
            if (progress != seen).any():
                seen, since = progress.copy(), time.monotonic()
                if on_step:
                    on_step(total * int(seen[seen >= 0].min()) // steps, total)
            elif time.monotonic() - since > patience:
                raise SimulationError(_stalled(graph, seen, patience))
    if on_step:
        on_step(total, total)


def _stalled(graph: Graph, progress: np.ndarray, seconds: float) -> str:
    """progress: last step of each population in each process, -1 for those that report nothing."""
    if (progress < 0).all():
        return f"no progress for {seconds:g} s before the first step"
    last = progress[progress >= 0].min()
    waiting = [p.name for p, steps in zip(graph.populations, progress.T, strict=True) if last in steps]
    return f"no progress for {seconds:g} s at step {last}; still waiting: {', '.join(waiting)}"


def _collect(files: Files, job: Job, graph: Graph, start: float) -> Trace:
    worker = json.loads(files.seconds.read_text())

    def read(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        return np.fromfile(path, dtype).reshape(job.samples, *shape)

    def each(names: tuple[str, ...], file: Callable[[int], Path], shape: Callable[[str], tuple]) -> dict:
        return {name: read(file(k), np.int32, shape(name)) for k, name in enumerate(names)}

    values = graded(graph)
    return Trace(
        packed={
            name: read(files.spikes(k), np.uint8, (job.timesteps, -1))
            for k, name in enumerate(job.spikes)
            if name not in values
        },
        graded={
            name: read(files.spikes(k), np.int32, (job.timesteps, *graph[name].shape))
            for k, name in enumerate(job.spikes)
            if name in values
        },
        shapes={name: graph[name].shape for name in job.spikes},
        tallied=each(job.counts, files.counts, lambda name: graph[name].shape),
        potentials=each(job.potentials, files.potentials, lambda name: (job.timesteps, *graph[name].shape)),
        output=read(files.output, np.int32, graph.output.shape),
        output_name=graph.output.name,
        timesteps=job.timesteps,
        engine=f"{job.backend}/{job.fidelity}",
        seconds={"build": worker["build"], "run": worker["run"], "all": time.perf_counter() - start},
    )
