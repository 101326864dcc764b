"""The process in which Lava runs: `python -m hardware_sim.lava_backend.worker FOLDER`.

It never loads torch (whose threads do not survive Lava's forks), and whatever happens to it, it ends its actors
and frees its shared memory.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2HwCfg, Loihi2SimCfg, RunConfig
from lava.magma.runtime.mgmt_token_enums import MGMT_RESPONSE, enum_equal
from lava.utils import loihi

from export import netx
from hardware_sim.lava_backend.job import Files, Job
from hardware_sim.lava_backend.network import LavaNetwork, build_stock
from hardware_sim.lava_backend.parts.processes import PotentialRecorder, SpikeRecorder

POLL_SECONDS = 0.01
LAST_WORDS_SECONDS = 2.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(folder: Path) -> None:
    """Run the job in a folder; its results are array files there."""
    _end_with_parent()
    files, job = Files(folder), Job.load(folder)
    start = time.perf_counter()
    config = _run_config(job.backend)
    graph = netx.read(files.network)
    bits = np.load(files.input, mmap_mode="r")
    spikes = np.unpackbits(bits, axis=-1, count=int(np.prod(graph.input.shape)))
    network = build_stock(graph, spikes.reshape(job.samples, job.timesteps, *graph.input.shape))
    _attach_recorders(network, job, files, output=graph.output.name)
    steps = job.samples * job.timesteps + max(network.depth.values())
    with _running(network.source, steps, config, files) as runtime:
        built = time.perf_counter()
        _wait(runtime)
        done = time.perf_counter()
    files.seconds.write_text(json.dumps({"build": built - start, "run": done - built, "steps": steps}))


def _run_config(backend: str) -> RunConfig:
    if backend == "lava":
        return Loihi2SimCfg(select_tag="fixed_pt")
    if not loihi.is_installed():
        raise SystemExit("backend 'loihi' needs a Loihi chip and Intel's lava-loihi extension; none was found")
    return Loihi2HwCfg(select_tag="fixed_pt")  # never tried: no chip was at hand


def _attach_recorders(network: LavaNetwork, job: Job, files: Files, *, output: str) -> None:
    for k, name in enumerate(job.spikes):
        neurons = network.neurons[name]
        recorder = SpikeRecorder(
            shape=neurons.s_out.shape,
            depth=network.depth[name],
            samples=job.samples,
            timesteps=job.timesteps,
            path=str(files.spikes(k)),
            progress=str(files.progress),
            slot=k,
        )
        neurons.s_out.connect(recorder.s_in)
    wanted = [(name, files.potentials(k), False) for k, name in enumerate(job.potentials)]
    for name, path, last_only in [*wanted, (output, files.output, True)]:
        PotentialRecorder(
            potential=network.neurons[name].v,
            depth=network.depth[name],
            samples=job.samples,
            timesteps=job.timesteps,
            path=str(path),
            last_only=last_only,
        )


@contextmanager
def _running(source: AbstractProcess, steps: int, config: RunConfig, files: Files) -> Iterator[Any]:
    """Start the run without waiting for it; on the way out end every actor and free the shared memory."""
    try:
        source.run(condition=RunSteps(num_steps=steps, blocking=False), run_cfg=config)
        infrastructure = source.runtime._messaging_infrastructure
        names = [handle.name for handle in infrastructure.smm._shared_memory_handles]
        files.shared_memory.write_text(json.dumps(names))
        yield source.runtime
        source.runtime.wait()
        source.stop()
    except BaseException:
        _teardown(source.runtime)
        raise


def _wait(runtime: Any) -> None:
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
                raise RuntimeError(f"a Lava process ended with exit code {dead[0].exitcode}")
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


def _end_with_parent() -> None:
    """On SIGTERM kill all children and leave at once; ask for a SIGTERM when the parent dies.

    The shared memory is then unlinked by multiprocessing's resource tracker, which outlives everyone else.
    """
    owner = os.getpid()

    def leave(_signal: int, _frame: object) -> None:
        if os.getpid() == owner:  # not an actor, which inherited the handler
            for child in multiprocessing.active_children():
                child.kill()
        os._exit(1)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1:
            raise SystemExit("its parent is gone")


if __name__ == "__main__":
    job_folder = Path(sys.argv[1])
    try:
        main(job_folder)
    except BaseException as error:
        reason = str(error) if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        Files(job_folder).error.write_text(reason)
        raise
