"""An integer graph as connected Lava processes: a source and a Layer a population, or Groups of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from lava.magma.core.process.ports.ports import OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.proc.io.source import RingBuffer

from export.graph import (
    Graph,
    Population,
    SigmaDelta,
    depths,
    graded,
    has_sigma_delta,
    in_lava_steps,
    levels,
    ternary,
)
from export.limits import beyond
from hardware_sim.lava_backend.grouping import groups
from hardware_sim.lava_backend.job import Job
from hardware_sim.lava_backend.layers import Member
from hardware_sim.lava_backend.layout import Frames, LayerFiles, Window, windows_of
from hardware_sim.lava_backend.parts.processes import (
    GRADED_GROUPS,
    GROUPS,
    Layer,
    make_layer,
)
from hardware_sim.trace import unpack


@dataclass(frozen=True)
class LavaNetwork:
    """The processes of a run: `first`, and what is connected to it. layers: of stock parts, by population."""

    first: AbstractProcess
    layers: dict[str, Layer]
    windows: dict[str, Window]

    @property
    def steps(self) -> int:
        """Steps until the last population has done the last sample."""
        return max(window.steps for window in self.windows.values())


def build(graph: Graph, source: AbstractProcess, windows: Mapping[str, Window]) -> LavaNetwork:
    """Connect the graph's layers, as stock parts, to a source of spikes."""
    graph = in_lava_steps(graph)
    values = graded(graph)
    outputs = {graph.input.name: source.s_out}
    layers: dict[str, Layer] = {}
    for population in graph.populations:
        shapes = tuple(graph[edge.source].shape for edge in population.edges)
        ends = {population.name, *(edge.source for edge in population.edges)}
        carries = isinstance(population.neuron, SigmaDelta) or not values.isdisjoint(ends)
        layer = make_layer(population, shapes, windows[population.name], graded=carries)
        outputs[population.name] = layer.s_out
        layers[population.name] = layer
    for population in graph.populations:
        for k, edge in enumerate(population.edges):
            outputs[edge.source].connect(layers[population.name].in_port(k))
    return LavaNetwork(source, layers, dict(windows))


def build_fused(
    graph: Graph,
    path: str,
    job: Job,
    *,
    files: Mapping[str, LayerFiles],
) -> LavaNetwork:
    """Connect the graph's layers, fused, in groups that share a process, or processes with the whole network each.

    path: of the input, see `layout.Frames`. files: what each layer records, by population.
    """
    windows, graph = windows_of(graph, job), in_lava_steps(graph)
    wide, most = _are_wide(graph), levels(graph)
    kinds = GRADED_GROUPS if wide else GROUPS
    populations = {population.name: population for population in graph.populations}
    outputs: dict[str, OutPort] = {}
    made = []
    for group in groups(graph, job.processes, job.copies):
        members = tuple(
            Member(
                population=populations[name],
                sources=tuple(graph[edge.source].shape for edge in populations[name].edges),
                levels=tuple(1 if wide else most.get(edge.source, 1) for edge in populations[name].edges),
                late=_late(populations[name], windows),
                window=windows[name],
                files=files[name],
                copies=group.copies,
            )
            for name in group.populations
        )
        shapes = {name: graph[name].shape for name in group.sources}
        frames = Frames(graph.input.name, path, graph.input.shape, group.copies, job.side_by_side)
        process = kinds[max(group.ports, 1)](
            members=members, sources=shapes, sends=group.sends, frames=frames if group.input else None
        )
        outputs |= {name: process.out_port(k) for k, name in enumerate(group.sends)}
        made.append((group, process))
    for group, process in made:
        for k, name in enumerate(group.sources):
            outputs[name].connect(process.in_port(k))
    if job.copies:  # what is not connected Lava would not run
        for (_, process), (_, following) in pairwise(made):
            process.out_port(0).connect(following.in_port(0))
    return LavaNetwork(made[0][1], {}, windows)


def _late(population: Population, windows: Mapping[str, Window]) -> tuple[int, ...]:
    """Of what comes back to a population by each edge, how many steps of a sample late; 0 of all others."""
    own, late = windows[population.name].depth, population.hears_late
    return tuple(1 + e.delay + windows[e.source].depth - own if late(e) else 0 for e in population.edges)


def ring_buffer(graph: Graph, bits: np.ndarray) -> RingBuffer:
    """Lava's own source, holding all frames and zeros while the last sample drains.

    bits: (samples, T, bytes), or values (samples, T, C, H, W).
    """
    spikes = unpack(bits, graph.input.shape)
    frames = spikes.reshape(-1, *graph.input.shape).transpose(3, 2, 1, 0)  # W, H, C, samples * T
    quiet = np.zeros((*frames.shape[:3], max(depths(graph).values())), frames.dtype)
    return RingBuffer(data=np.concatenate([frames, quiet], axis=-1).astype(np.int32))


def _are_wide(graph: Graph) -> bool:
    """Whether fused layers need 32 bits for spikes: sigma-delta and ternary neurons, or no bound holds 16 bits."""
    return has_sigma_delta(graph) or bool(ternary(graph)) or (bool(graded(graph)) and bool(beyond(graph)))
