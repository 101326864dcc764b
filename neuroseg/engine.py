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
from export.graph import Graph
from hardware_sim import LavaWorker, npz
from hardware_sim.record import Progress, Record, SimulationError
from hardware_sim.reference import input_spikes
from hardware_sim.trace import Trace, unpack
from neuroseg.spiking.encode import encode

STALL_TIMEOUT = 120.0  # seconds


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
        self, graph: Graph, spikes: torch.Tensor, *, record: Record = Record(), on_step: Progress | None = None
    ) -> Trace:
        """Run spikes (T, B, C, H, W) of 0 and 1. Raises GraphError and SimulationError as `hardware_sim.run` does."""
        return hardware_sim.run(
            graph,
            spikes.transpose(0, 1).numpy().astype(np.uint8),
            backend=self.backend,
            fidelity=self.fidelity,
            record=record,
            stall_timeout=self.stall_timeout,
            on_step=on_step,
            worker=self.worker,
        )


def image_spikes(graph: Graph, images: torch.Tensor) -> torch.Tensor:
    """Spikes (T, B, C, H, W) of images (B, C, H, W) in [0, 1], by the graph's input neurons or its encoder."""
    if graph.input.neuron is not None:
        return torch.from_numpy(input_spikes(graph, images.numpy())).transpose(0, 1)
    return encode(images, timesteps=graph.meta.timesteps, encoder=graph.meta.encoder)


def read_spikes(path: Path, graph: Graph) -> torch.Tensor:
    """Spikes (T, B, C, H, W) for a graph out of a .npy (B, T, C, H, W) of 0 and 1, or the input of a trace, TRACE.npz.

    Raises FileNotFoundError, TraceError, and SimulationError saying what was found and is allowed.
    """
    if path.suffix == ".npz":
        bits = Trace.load(path).stimulus
        if bits is None or bits.shape[2] != -(-math.prod(graph.input.shape) // 8):
            raise SimulationError(f"{path}: its input is not of {graph.input.shape}, as the network takes it")
        spikes = unpack(bits, graph.input.shape)
    else:
        try:
            spikes = npz.load_npy(path)
        except ValueError as error:
            raise SimulationError(f"{path}: no array of spikes ({error})") from error
    if spikes.dtype.kind not in "biuf" or spikes.ndim != 5 or not np.isin(spikes, (0, 1)).all():
        expected = f"0 and 1 of (samples, {graph.meta.timesteps}, {', '.join(map(str, graph.input.shape))})"
        raise SimulationError(f"{path}: {spikes.dtype} of {spikes.shape}; {expected} are allowed")
    return torch.from_numpy(spikes.astype(np.uint8)).transpose(0, 1)


def logits(graph: Graph, trace: Trace) -> np.ndarray:
    """What an engine's output potentials mean: float32 (samples, C, H, W)."""
    return (trace.output * graph.meta.logit_scale).astype(np.float32)
