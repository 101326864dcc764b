"""Start a Lava run in a process of its own, watch it, and collect its trace. Imports no Lava itself.

A run of its own process can be ended whatever state Lava is in: no child and no shared memory stays behind. `entry` is
that process's half of it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from export import netx
from export.graph import Graph
from hardware_sim.lava_backend import entry
from hardware_sim.lava_backend.job import Files, Job
from hardware_sim.lava_backend.limits import check_room
from hardware_sim.record import Progress, Record, SimulationError
from hardware_sim.trace import Trace, pack

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
GRACE_SECONDS = 15.0  # for the worker to end its actors
STARTUP_SECONDS = 300.0  # at least, to import Lava and to build the network; a first run compiles kernels too
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
ENDINGS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def run_lava(
    graph: Graph,
    spikes: np.ndarray,
    *,
    backend: str,
    fidelity: str,
    record: Record,
    stall_timeout: float,
    on_step: Progress | None = None,
) -> Trace:
    """Run an integer graph in Lava; see `hardware_sim.run`."""
    start = time.perf_counter()
    job = _job(graph, spikes, backend=backend, fidelity=fidelity, record=record)
    with tempfile.TemporaryDirectory(prefix="neuroseg-") as folder:
        files = Files(Path(folder))
        _prepare(files, job, graph, spikes)
        _watch(files, job, graph, stall_timeout, on_step)
        return _collect(files, job, graph, start)


def time_lava(graph: Graph, spikes: np.ndarray, *, fidelity: str, record: Record) -> dict[str, float]:
    """Run and return the seconds and steps only; also for job.FLOOR, which computes no results. For benchmarks."""
    job = _job(graph, spikes, backend="lava", fidelity=fidelity, record=record)
    with tempfile.TemporaryDirectory(prefix="neuroseg-") as folder:
        files = Files(Path(folder))
        _prepare(files, job, graph, spikes)
        _watch(files, job, graph, 600.0, None)
        return json.loads(files.seconds.read_text())


def _job(graph: Graph, spikes: np.ndarray, *, backend: str, fidelity: str, record: Record) -> Job:
    return Job(
        backend=backend,
        fidelity=fidelity,
        samples=len(spikes),
        timesteps=spikes.shape[1],
        spikes=record.names(graph, "spikes"),
        counts=record.names(graph, "counts"),
        potentials=record.names(graph, "potentials"),
    )


def _prepare(files: Files, job: Job, graph: Graph, spikes: np.ndarray) -> None:
    """Write the network and its input. Raises SimulationError where the machine lacks room for the run."""
    check_room(graph, job, files.folder)
    job.save(files.folder)
    netx.write(graph, files.network, sealed=False)
    np.save(files.input, pack(spikes))
    np.save(files.progress, np.full(len(graph.populations), -1))


def _watch(files: Files, job: Job, graph: Graph, stall_timeout: float, on_step: Progress | None) -> None:
    """Start the worker and stay until it is done; raise SimulationError when it fails or stalls."""
    progress = np.load(files.progress, mmap_mode="r")
    total = job.samples * job.timesteps
    with _worker(files) as (worker, errors):
        seen, since = progress.copy(), time.monotonic()
        started = False
        while (code := worker.poll()) is None:
            time.sleep(POLL_SECONDS)
            if not started and files.started.exists():
                started, since = True, time.monotonic()
            patience = stall_timeout if started else max(stall_timeout, STARTUP_SECONDS)
            if (progress != seen).any():
                seen, since = progress.copy(), time.monotonic()
                if on_step:
                    on_step(min(int(seen[seen >= 0].min()), total), total)
            elif time.monotonic() - since > patience:
                raise SimulationError(_stalled(graph, seen, patience))
        if code:
            raise SimulationError(f"Lava failed: {_cause(files, errors, code)}")
        if on_step:
            on_step(total, total)


@contextlib.contextmanager
def _worker(files: Files) -> Iterator[tuple[subprocess.Popen, int]]:
    """The worker's process, and the end of a pipe on which it says why it failed; ended whatever happens meanwhile."""
    root = str(Path(__file__).resolve().parents[2])
    errors, said = os.pipe()
    worker = None
    try:
        with _uninterrupted(), open(files.log, "wb") as output:
            script = [sys.executable, "-P", str(Path(entry.__file__).resolve())]
            worker = subprocess.Popen(
                [*script, str(files.folder), str(os.getpid()), root, str(said)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process alone, which ends the worker in order
                pass_fds=(said,),
                cwd=files.folder,
                env=_environment(files.folder),
            )
        os.close(said)
        said = -1
        yield worker, errors
    finally:
        if said >= 0:
            os.close(said)
        os.close(errors)
        if worker:
            _end(worker, files)


def _environment(folder: Path) -> dict[str, str]:
    """The worker's: one thread a process, temporary files in the run's folder, relative entries of PYTHONPATH kept."""
    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    # Through /proc the path is short enough for a socket, wherever the folder lies.
    temporary = "/proc/self/cwd" if sys.platform == "linux" else str(folder)
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(paths), "TMPDIR": temporary}


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off signals that would end this process between the start of a child and its name being known."""
    if threading.current_thread() is not threading.main_thread():  # others get none
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stalled(graph: Graph, progress: np.ndarray, seconds: float) -> str:
    """progress: last step of each population, -1 for those that report nothing."""
    reporting = [
        (population.name, step) for population, step in zip(graph.populations, progress, strict=True) if step >= 0
    ]
    if not reporting:
        return f"no progress for {seconds:g} s before the first step"
    last = min(step for _, step in reporting)
    waiting = ", ".join(name for name, step in reporting if step == last)
    return f"no progress for {seconds:g} s at step {last}; still waiting: {waiting}"


def _cause(files: Files, errors: int, code: int) -> str:
    """Why the worker failed, in its own words; everything it wrote goes to the log."""
    output = files.log.read_text(errors="replace").strip()
    log.info("the Lava worker said:\n%s", output)
    reason = os.read(errors, 2**16).decode(errors="replace")
    if reason:
        return reason
    if code == -signal.SIGKILL:
        return "its process was killed; was the memory full? (--verbose shows what it said)"
    return f"its process ended with code {code}: {output.splitlines()[-1] if output else 'it said nothing'}"


def _end(worker: subprocess.Popen, files: Files) -> None:
    """End a worker that still runs; the last resort kills its whole session. Its shared memory is freed."""
    if worker.poll() is None:
        worker.terminate()
        try:
            worker.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    _kill_session(worker.pid)
    entry.unlink_memory(entry.memory_prefix(files.folder, os.getpid()))


def _kill_session(leader: int) -> None:
    """Wait for the rest of the worker's session, its resource tracker among them; then kill what is left."""
    deadline = time.monotonic() + GRACE_SECONDS
    with contextlib.suppress(ProcessLookupError):  # all of them ended by themselves
        while time.monotonic() < deadline:
            os.killpg(leader, 0)
            if sys.platform == "linux" and not _alive(leader):
                return
            time.sleep(POLL_SECONDS)
        os.killpg(leader, signal.SIGKILL)


def _alive(session: int) -> bool:
    """Whether a process of a session still runs. Those that ended may wait for long until init buries them."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, found = file.read_text().rpartition(")")[2].split()[:4]  # proc(5): state, ppid, pgrp, session
            if int(found) == session and state not in "ZX":
                return True
    return False


def _collect(files: Files, job: Job, graph: Graph, start: float) -> Trace:
    worker = json.loads(files.seconds.read_text())

    def read(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        return np.fromfile(path, dtype).reshape(job.samples, *shape)

    def each(names: tuple[str, ...], file: Callable[[int], Path], shape: Callable[[str], tuple]) -> dict:
        return {name: read(file(k), np.int32, shape(name)) for k, name in enumerate(names)}

    return Trace(
        packed={name: read(files.spikes(k), np.uint8, (job.timesteps, -1)) for k, name in enumerate(job.spikes)},
        shapes={name: graph[name].shape for name in job.spikes},
        tallied=each(job.counts, files.counts, lambda name: graph[name].shape),
        potentials=each(job.potentials, files.potentials, lambda name: (job.timesteps, *graph[name].shape)),
        output=read(files.output, np.int32, graph.output.shape),
        output_name=graph.output.name,
        timesteps=job.timesteps,
        engine=f"{job.backend}/{job.fidelity}",
        seconds={"build": worker["build"], "run": worker["run"], "all": time.perf_counter() - start},
    )
