"""An engine as PyTorch sees it: time-major tensors in, a trace out; and images as the spikes that a graph takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

import hardware_sim
from export.graph import Graph
from hardware_sim.record import Progress, Record
from hardware_sim.reference import input_spikes
from hardware_sim.trace import Trace
from neuroseg.spiking.encode import encode

STALL_TIMEOUT = 120.0  # seconds


@dataclass(frozen=True)
class Engine:
    """Which engine runs a graph, and how; see `hardware_sim.run`."""

    backend: str = "reference"
    fidelity: str = "fused"
    stall_timeout: float = STALL_TIMEOUT

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
        )


def image_spikes(graph: Graph, images: torch.Tensor) -> torch.Tensor:
    """Spikes (T, B, C, H, W) of images (B, C, H, W) in [0, 1], by the graph's input neurons or its encoder."""
    if graph.input.neuron is not None:
        return torch.from_numpy(input_spikes(graph, images.numpy())).transpose(0, 1)
    return encode(images, timesteps=graph.meta.timesteps, encoder=graph.meta.encoder)
