"""An integer graph as connected Lava processes: a source, and a Layer per population."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from lava.magma.core.process.process import AbstractProcess
from lava.proc.io.source import RingBuffer

from export.graph import Graph, depths, has_sigma_delta
from hardware_sim.lava_backend.layout import LayerFiles, Window
from hardware_sim.lava_backend.parts.processes import Layer, SpikeSource, ValueSource, make_layer
from hardware_sim.trace import unpack


@dataclass(frozen=True)
class LavaNetwork:
    """The processes of a run; layers by population."""

    source: AbstractProcess
    layers: dict[str, Layer]
    windows: dict[str, Window]

    @property
    def steps(self) -> int:
        """Steps until the last population has done the last sample."""
        return max(w.samples * w.timesteps + w.depth for w in self.windows.values())


def build(
    graph: Graph,
    source: AbstractProcess,
    *,
    samples: int,
    timesteps: int,
    files: Mapping[str, LayerFiles],
    stream: bool = False,
) -> LavaNetwork:
    """Connect the graph's layers to a source of spikes. files: what each fused layer records, by population.

    stream: every layer begins at the first step, and steps are Lava's.
    """
    depth = dict.fromkeys(depths(graph), 0) if stream else depths(graph)
    values = has_sigma_delta(graph)
    outputs = {graph.input.name: source.s_out}
    layers: dict[str, Layer] = {}
    windows: dict[str, Window] = {}
    for population in graph.populations:
        window = Window(depth=depth[population.name], samples=samples, timesteps=timesteps)
        shapes = tuple(graph[edge.source].shape for edge in population.edges)
        layer = make_layer(population, shapes, window, files.get(population.name, LayerFiles()), graded=values)
        outputs[population.name] = layer.s_out
        for k, edge in enumerate(population.edges):
            outputs[edge.source].connect(layer.in_port(k))
        layers[population.name], windows[population.name] = layer, window
    return LavaNetwork(source, layers, windows)


def ring_buffer(graph: Graph, bits: np.ndarray) -> RingBuffer:
    """Lava's own source, holding all frames and zeros while the last sample drains.

    bits: (samples, T, bytes), or values (samples, T, C, H, W).
    """
    spikes = unpack(bits, graph.input.shape)
    frames = spikes.reshape(-1, *graph.input.shape).transpose(3, 2, 1, 0)  # W, H, C, samples * T
    quiet = np.zeros((*frames.shape[:3], max(depths(graph).values())), frames.dtype)
    return RingBuffer(data=np.concatenate([frames, quiet], axis=-1).astype(np.int32))


def file_source(graph: Graph, path: str) -> SpikeSource:
    """A source that reads its frames from a mapped file."""
    kind = ValueSource if has_sigma_delta(graph) else SpikeSource
    return kind(path=path, shape=graph.input.shape)
