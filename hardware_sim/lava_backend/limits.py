"""What a Lava run takes of the machine, and whether it has that: disk, open files, shared memory. Knows no Lava."""

from __future__ import annotations

import math
import os
import shutil
import sys
from pathlib import Path

from export.graph import Graph, graded
from hardware_sim.lava_backend.grouping import MAX_PORTS, groups
from hardware_sim.lava_backend.job import FAST, Job
from hardware_sim.record import SimulationError

if sys.platform != "win32":
    import resource

MEMORY = Path("/dev/shm")
# Open files of the worker, measured with chains of 4, 11 and 41 layers: 30, and a group 12, a stock layer 36.
FILES_AT_START = 40
FILES_A_GROUP, FILES_A_LAYER = 12, 36
TAPES = 5  # most of a fused layer
STOCK = ("stock", FAST)
INT32 = 4
MAX_INPUTS = 32  # edges into a population; a network cut into cores has most


def check_room(graph: Graph, job: Job, folder: Path) -> None:
    """Raise SimulationError where the recordings of a job do not fit the disk, or its processes the open files.

    And where more edges feed a population than Lava's layers have ports for.
    """
    _check_ports(graph, job)
    needed, free = recorded_bytes(graph, job), shutil.disk_usage(folder).free
    if needed > free:
        raise SimulationError(
            f"the run records {needed >> 10} KiB in {folder.parent}, which has {free >> 10} KiB left: record less, run "
            "fewer samples at once, or set TMPDIR to a larger place"
        )
    needed, limit = open_files(graph, job), raise_open_files()
    if needed > limit:
        raise SimulationError(
            f"a run of {len(graph.populations)} layers ({job.fidelity}) takes about {needed} open files; the limit is "
            f"{limit}: raise it (ulimit -n {needed})"
        )


def _check_ports(graph: Graph, job: Job) -> None:
    for population in graph.populations:
        if job.fidelity in STOCK and len(population.edges) > MAX_INPUTS:
            raise SimulationError(
                f"{population.name}: {len(population.edges)} synapses feed it; 1 to {MAX_INPUTS} run in stock Lava "
                "(one whose inputs or weights have their own delays counts once for each delay, and what it sends "
                "itself counts)"
            )
        sources = {edge.source for edge in population.edges} - {population.name}
        if len(sources) > MAX_PORTS and not job.copies:
            raise SimulationError(
                f"{population.name}: reads {len(sources)} populations; 1 to {MAX_PORTS} run in fused Lava"
            )


def recorded_bytes(graph: Graph, job: Job) -> int:
    """Size of the array files of a job, its input among them."""
    neurons = {node.name: math.prod(node.shape) for node in graph.nodes}
    steps = job.samples * job.timesteps
    values = graded(graph)
    each = {name: INT32 * n if name in values else -(-n // 8) for name, n in neurons.items()}
    spikes = sum(each[name] for name in (*job.spikes, graph.input.name)) * steps
    potentials = INT32 * steps * sum(neurons[name] for name in job.potentials)
    counts = INT32 * job.samples * sum(neurons[name] for name in (*job.counts, graph.output.name))
    return spikes + potentials + counts


def open_files(graph: Graph, job: Job) -> int:
    """Open files that the worker needs, roughly, or the one of its processes that needs most."""
    if job.fidelity in STOCK:
        edges = sum(len(population.edges) for population in graph.populations)
        return FILES_AT_START + FILES_A_LAYER * max(edges, len(graph.populations))
    made = groups(graph, job.processes, job.copies)
    messages = FILES_A_GROUP * sum(max(len(group.sources), 1) for group in made)
    return FILES_AT_START + messages + TAPES * max(len(group.populations) for group in made)


def raise_open_files() -> int:
    """Raise the soft limit of open files to the hard one, for this process and its children; returns it."""
    if sys.platform == "win32":
        return sys.maxsize
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (soft, resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def memory_of(prefix: str) -> int:
    """Bytes of shared memory whose names begin so; 0 where they cannot be listed."""
    return sum(segment.stat().st_size for segment in MEMORY.glob(f"{prefix}*")) if MEMORY.is_dir() else 0


def memory_size() -> tuple[int, int]:
    """Bytes of shared memory that the machine has, and of those the free ones."""
    found = os.statvfs(MEMORY)
    return found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail
