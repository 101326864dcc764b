"""An engine as PyTorch sees it: time-major tensors in, a trace out; and images as the spikes that a graph takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import hardware_sim
from export.graph import Graph, GraphError, SigmaDelta, graded
from export.limits import POTENTIAL_MAX
from hardware_sim import LavaWorker, npz
from hardware_sim.record import Progress, Record, SimulationError
from hardware_sim.reference import input_spikes
from hardware_sim.trace import Trace, unpack
from neuroseg.cluster import Cluster, each
from neuroseg.spiking.encode import encode

STALL_TIMEOUT = 120.0  # seconds
PARTS_A_PROCESS = 4  # of a shared run, so that processes end together


@dataclass(frozen=True)
class Engine:
    """Which engine runs a graph, and how; see `hardware_sim.run`."""

    backend: str = "fast"
    fidelity: str = "fused"
    stall_timeout: float = STALL_TIMEOUT
    worker: LavaWorker | None = None

    @contextmanager
    def warm(self) -> Iterator[Engine]:
        """This engine for many runs: Lava is imported once for all of them, and not for each."""
        if self.backend not in ("lava", "loihi") or self.worker:
            yield self
            return
        with LavaWorker() as worker:
            yield replace(self, worker=worker)

    def run(
        self,
        graph: Graph,
        spikes: torch.Tensor,
        *,
        record: Record = Record(),
        on_step: Progress | None = None,
        stream: bool = False,
    ) -> Trace:
        """Run spikes (T, B, C, H, W) of 0 and 1, or values, int32.

        Raises GraphError and SimulationError as `hardware_sim.run` does.
        """
        return hardware_sim.run(
            graph,
            spikes.transpose(0, 1).numpy(),
            backend=self.backend,
            fidelity=self.fidelity,
            record=record,
            stall_timeout=self.stall_timeout,
            on_step=on_step,
            worker=self.worker,
            stream=stream,
        )


@dataclass(frozen=True)
class _Part:
    """A run of some samples, as a process of a cluster does it."""

    engine: Engine
    graph: Graph
    record: Record

    def __call__(self, spikes: torch.Tensor) -> Trace | str:
        """The trace, or why there is none."""
        try:
            return self.engine.run(self.graph, spikes, record=self.record)
        except (ValueError, RuntimeError, OSError) as error:
            return str(error)


def run_shared(
    engine: Engine,
    graph: Graph,
    spikes: torch.Tensor,
    *,
    cluster: Cluster,
    record: Record = Record(),
    on_samples: Progress | None = None,
) -> Trace:
    """`Engine.run` of spikes (T, B, C, H, W), samples shared out among processes; the trace is that of one.

    on_samples: called with parts done and parts in all. Raises SimulationError for a part that fails.
    """
    shares = cluster.workers * (1 if engine.backend in ("lava", "loihi") else PARTS_A_PROCESS)  # Lava comes up for each
    size = max(1, -(-spikes.shape[1] // shares))
    parts = [part.clone() for part in spikes.split(size, dim=1)]  # a view would be sent with all that it is of
    work = _Part(replace(engine, worker=None), graph, record)
    found = each(cluster, work, parts, failed=lambda _, why: why, on_done=on_samples)
    failures = [part for part in found if isinstance(part, str)]
    if failures:
        raise SimulationError(failures[0])
    return Trace.joined([part for part in found if isinstance(part, Trace)])


def image_spikes(graph: Graph, images: torch.Tensor) -> torch.Tensor:
    """Spikes (T, B, C, H, W) of images (B, C, H, W) in [0, 1], by the graph's input neurons or its encoder.

    Raises GraphError for a graph that reads values, and has no neurons that make them of images.
    """
    if graph.input.neuron is not None:
        return torch.from_numpy(input_spikes(graph, images.numpy())).transpose(0, 1)
    levels = graph.input.levels
    if graph.input.name in graded(graph) and levels == 1:
        raise GraphError(f"{graph.input.name}: reads values, and the file has no neurons that make them of images")
    return encode(images, timesteps=graph.meta.timesteps, encoder=graph.meta.encoder, levels=levels)


def read_spikes(path: Path, graph: Graph) -> torch.Tensor:
    """Spikes (T, B, C, H, W) for a graph out of a .npy (B, T, C, H, W) of 0 and 1, or the input of a trace, TRACE.npz.

    Where they carry values these are integers. Raises FileNotFoundError, TraceError, and SimulationError saying what
    was found and is allowed.
    """
    values = graph.input.name in graded(graph)
    if path.suffix == ".npz":
        bits = Trace.load(path).stimulus
        expects = graph.input.shape if values else (-(-math.prod(graph.input.shape) // 8),)
        if bits is None or bits.shape[2:] != expects:
            raise SimulationError(f"{path}: its input is not of {graph.input.shape}, as the network takes it")
        spikes = unpack(bits, graph.input.shape)
    else:
        try:
            spikes = npz.load_npy(path)
        except ValueError as error:
            raise SimulationError(f"{path}: no array of spikes ({error})") from error
    good = spikes.dtype.kind in "biuf" and spikes.ndim == 5
    if not good or not (spikes == np.round(spikes) if values else np.isin(spikes, (0, 1))).all():
        what = "integers" if values else "0 and 1"
        expected = f"{what} of (samples, {graph.meta.timesteps}, {', '.join(map(str, graph.input.shape))})"
        raise SimulationError(f"{path}: {spikes.dtype} of {spikes.shape}; {expected} are allowed")
    low, high = spikes.min(initial=0), spikes.max(initial=0)
    if low < -POTENTIAL_MAX or high > POTENTIAL_MAX:
        raise SimulationError(f"{path}: values from {low:g} to {high:g}; +-{POTENTIAL_MAX} is what 24 bits hold")
    return torch.from_numpy(spikes.astype(np.int32 if values else np.uint8)).transpose(0, 1)


def read_frames(path: Path, graph: Graph) -> torch.Tensor:
    """Messages (T, B, C, H, W) of frames in a .npy (B, T, C, H, W), which a graph's input neurons tell.

    Raises FileNotFoundError, GraphError for a graph whose input has no sigma-delta neurons, SimulationError.
    """
    if not isinstance(graph.input.neuron, SigmaDelta):
        raise GraphError(f"{graph.input.name}: has no sigma-delta neurons, which frames are for; give images or spikes")
    try:
        frames = npz.load_npy(path)
    except ValueError as error:
        raise SimulationError(f"{path}: no array of frames ({error})") from error
    expected = (graph.meta.timesteps, *graph.input.shape)
    if frames.dtype.kind not in "biuf" or frames.shape[1:] != expected or not np.isfinite(frames).all():
        sides = ", ".join(map(str, expected))
        raise SimulationError(f"{path}: {frames.dtype} of {frames.shape}; numbers of (samples, {sides}) are allowed")
    try:
        return torch.from_numpy(input_spikes(graph, frames)).transpose(0, 1)
    except SimulationError as error:
        raise SimulationError(f"{path}: {error}") from None


def logits(graph: Graph, trace: Trace) -> np.ndarray:
    """What an engine's output potentials mean: float32 (samples, C, H, W)."""
    return (trace.output * graph.meta.logit_scale).astype(np.float32)


def class_names(graph: Graph) -> tuple[str, ...]:
    """What each channel of the output is, by the file or by number."""
    channels, names = graph.output.shape[0], graph.meta.class_names
    return names if len(names) == channels else tuple(str(k) for k in range(channels))
