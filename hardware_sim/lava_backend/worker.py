"""What the process of Lava runs does, once `entry` has set it up: build the network, run it, record it.

It never loads torch, whose threads do not survive Lava's forks.
"""

from __future__ import annotations

import errno
import importlib
import json
import mmap
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hardware_sim.lava_backend import compat
from hardware_sim.lava_backend.limits import memory_of, memory_size

compat.mend()  # before Lava is imported for the first time

from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2HwCfg, Loihi2SimCfg, RunConfig
from lava.magma.runtime.mgmt_token_enums import MGMT_RESPONSE, enum_equal
from lava.utils import loihi

from export import netx
from export.graph import Graph, graded
from hardware_sim.lava_backend.job import FAST, FLOOR, Files, Job
from hardware_sim.lava_backend.layout import LayerFiles, windows_of
from hardware_sim.lava_backend.network import (
    LavaNetwork,
    build,
    build_fused,
    ring_buffer,
)
from hardware_sim.lava_backend.parts.fast_models import FAST_MODELS
from hardware_sim.lava_backend.parts.groups import FUSED_MODELS, IDLE_MODELS
from hardware_sim.lava_backend.parts.processes import PotentialRecorder, SpikeRecorder, ValueRecorder

compat.remember_models()

POLL_SECONDS = 0.01
LAST_WORDS_SECONDS = 2.0


def get_ready(folder: Path) -> None:
    """Import what the job in a folder needs, before the process forks for it."""
    if Job.load(folder).fidelity in ("stock", FAST):
        importlib.import_module(compat.SIGNAL)  # see `compat.import_without_signal`


def run(folder: Path, memory: str) -> None:
    """Run the job in a folder; its results are array files there. memory: prefix of its shared memory's names."""
    files, job = Files(folder), Job.load(folder)
    start = time.perf_counter()
    config = _run_config(job)
    graph = netx.read(files.network, trusted=True)
    if job.fidelity in ("stock", FAST):
        source = ring_buffer(graph, np.load(files.input, mmap_mode="r"))
        network = build(graph, source, windows_of(graph, job))
        _attach_recorders(network, job, files, graph)
    else:
        recording = _layer_files(graph, job, files)
        network = build_fused(graph, str(files.input), job, files=recording)
    with _said_if_full(folder, memory), _running(network.first, network.steps, config) as runtime:
        built = time.perf_counter()
        files.started.touch()
        _wait(runtime, memory)
        done = time.perf_counter()
    seconds = {"build": built - start, "run": done - built, "steps": network.steps}
    files.seconds.write_text(json.dumps(seconds))


def _run_config(job: Job) -> RunConfig:
    if job.backend == "lava" and job.fidelity in ("stock", FAST):
        models = FAST_MODELS if job.fidelity == FAST else None
        return Loihi2SimCfg(select_tag="fixed_pt", select_sub_proc_model=True, exception_proc_model_map=models)
    if job.backend == "lava":
        models = IDLE_MODELS if job.fidelity == FLOOR else FUSED_MODELS
        return Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map=models)
    if not loihi.is_installed():
        raise SystemExit("backend 'loihi' needs a Loihi chip and Intel's lava-loihi extension; none was found")
    return Loihi2HwCfg(select_sub_proc_model=True)  # never tried: no chip was at hand


def _layer_files(graph: Graph, job: Job, files: Files) -> dict[str, LayerFiles]:
    """What each fused layer writes; its slot in the progress is its place in the graph."""

    def path(names: tuple[str, ...], name: str, file: Callable[[int], Path]) -> str:
        return str(file(names.index(name))) if name in names else ""

    return {
        population.name: LayerFiles(
            spikes=path(job.spikes, population.name, files.spikes),
            counts=path(job.counts, population.name, files.counts),
            potentials=path(job.potentials, population.name, files.potentials),
            output=str(files.output) if population.name == graph.output.name else "",
            progress=str(files.progress),
            slot=slot,
        )
        for slot, population in enumerate(graph.populations)
    }


def _attach_recorders(network: LavaNetwork, job: Job, files: Files, graph: Graph) -> None:
    values = graded(graph)
    for slot, (name, layer) in enumerate(network.layers.items()):
        window = network.windows[name]
        recorded = LayerFiles(
            spikes=str(files.spikes(job.spikes.index(name))) if name in job.spikes else "",
            counts=str(files.counts(job.counts.index(name))) if name in job.counts else "",
            progress=str(files.progress),
            slot=slot,
        )
        if recorded.spikes or recorded.counts:
            kind = ValueRecorder if name in values else SpikeRecorder
            recorder = kind(shape=layer.s_out.shape, window=window, files=recorded)
            layer.s_out.connect(recorder.s_in)
        if name in job.potentials:
            kept = LayerFiles(potentials=str(files.potentials(job.potentials.index(name))))
            PotentialRecorder(potential=layer.v, window=window, files=kept)
        if name == graph.output.name:
            kept = LayerFiles(output=str(files.output), progress=str(files.progress), slot=slot)
            PotentialRecorder(potential=layer.v, window=window, files=kept)


@contextmanager
def _running(first: AbstractProcess, steps: int, config: RunConfig) -> Iterator[Any]:
    """Start the run without waiting for it; on the way out end every actor and free the shared memory."""
    try:
        first.run(condition=RunSteps(num_steps=steps, blocking=False), run_cfg=config)
        yield first.runtime
        first.runtime.wait()
        first.stop()
    except BaseException:
        _teardown(first.runtime)
        raise


def _wait(runtime: Any, memory: str) -> None:
    """Wait until the runtime services report; raise if an actor fails first (the others would wait for ever)."""
    actors = runtime._messaging_infrastructure.actors
    first_death = None
    while True:
        for actor in actors:
            if actor.exception is not None:
                raise actor.exception[0]
        dead = [actor for actor in actors if not actor.is_alive()]
        if dead:  # another one may still have to say why
            first_death = first_death or time.monotonic()
            if time.monotonic() - first_death > LAST_WORDS_SECONDS:
                raise RuntimeError(_ended(dead[0].exitcode, memory))
        reports = [port.peek() for port in runtime.service_to_runtime if port.probe()]
        failed = any(enum_equal(report, MGMT_RESPONSE.ERROR) for report in reports)  # the actor will say why
        if len(reports) == len(runtime.service_to_runtime) and not failed:
            return
        time.sleep(POLL_SECONDS)


def _teardown(runtime: Any) -> None:
    infrastructure = getattr(runtime, "_messaging_infrastructure", None)
    if infrastructure is None:
        return
    runtime._is_started = False  # else its destructor talks to actors that are gone
    for actor in infrastructure.actors:
        actor.kill()
        actor.join()
    if infrastructure.smm is not None:
        infrastructure.smm.shutdown()


@contextmanager
def _said_if_full(folder: Path, memory: str) -> Iterator[None]:
    """Lava's "no space left on device" names none: it is the shared memory's, unless the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC or shutil.disk_usage(folder).free < mmap.PAGESIZE:
            raise
        raise RuntimeError(_full(memory)) from error


def _full(memory: str) -> str:
    needed, (size, free) = memory_of(memory), memory_size()
    return (
        f"shared memory is full: this run takes {needed >> 10} KiB of /dev/shm, which has {size >> 10} KiB, "
        f"{free >> 10} of them free; give more (docker run --shm-size=1g), or run with fidelity fused, which takes "
        "least"
    )


def _ended(code: int, memory: str) -> str:
    """What the exit code of an actor means."""
    if code == -signal.SIGBUS:  # a page of shared memory that could not be had
        return _full(memory)
    if code == -signal.SIGKILL:
        return "a Lava process was killed; was the memory full?"
    return f"a Lava process ended with exit code {code}"
