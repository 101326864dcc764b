"""The fast engine: the same exact integers as `reference`, without Lava; several times faster.

Synapses run in 8-bit arithmetic where the processor has it and the weights allow it, else in floats that hold every
sum (`synapses`); neurons in one compiled pass over memory (`kernels`). A few samples at a time, so that what one layer
made is still in the cache for the next, and memory does not grow with the samples. The reference is held against it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from export.graph import Concat, Dropout, Graph, GraphError, Neuron, Pool, Population, Shape
from export.limits import POTENTIAL_SHIFT, THRESHOLD_MAX, beyond
from hardware_sim.fast import kernels
from hardware_sim.fast.synapses import Part, parts_of
from hardware_sim.record import Progress, Record
from hardware_sim.reference import delayed, run_reference
from hardware_sim.trace import Trace

CHUNK = 2  # samples at a time
SMALL = 2**18  # neurons of all layers, up to which more samples go together


def run_fast(graph: Graph, spikes: np.ndarray, *, record: Record = Record(), on_step: Progress | None = None) -> Trace:
    """Run an integer graph on spikes uint8 (samples, T, C, H, W); see `hardware_sim.run`.

    What may exceed Loihi's range by a bound is left to the reference, which watches it. Trace.seconds has the share of
    each layer. Raises GraphError for a graph that is not integer or has pools left.
    """
    if not graph.integer or any(isinstance(node, Pool | Concat | Dropout) for node in graph.nodes):
        raise GraphError("the graph holds floats, or a pool, a concatenation or dropout; quantize it first")
    if beyond(graph):
        return run_reference(graph, spikes, record=record, on_step=on_step)
    start = time.perf_counter()
    layers = _Layers(graph, record, _chunk(graph))
    for first in range(0, len(spikes), layers.chunk):
        layers.run(spikes[first : first + layers.chunk])
        if on_step:
            done = min(first + layers.chunk, len(spikes))
            on_step(done * graph.meta.timesteps, len(spikes) * graph.meta.timesteps)
    return layers.trace(time.perf_counter() - start)


def _chunk(graph: Graph) -> int:
    neurons = sum(int(np.prod(population.shape)) for population in graph.populations)
    return CHUNK * max(1, min(16, SMALL // max(neurons, 1)))


@dataclass
class _Kept:
    """What a run keeps of a population, a part for each chunk of samples."""

    spikes: list[np.ndarray] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)
    potentials: list[np.ndarray] = field(default_factory=list)


class _Layers:
    def __init__(self, graph: Graph, record: Record, chunk: int) -> None:
        self.graph, self.chunk = graph, chunk
        self.wanted = {what: record.names(graph, what) for what in ("spikes", "counts", "potentials")}
        self.kept = {population.name: _Kept() for population in graph.populations}
        self.output: list[np.ndarray] = []
        self.seconds = dict.fromkeys(self.kept, 0.0)
        samples = chunk * graph.meta.timesteps
        self.parts: dict[str, tuple[Part, ...]] = {p.name: parts_of(graph, p, samples) for p in graph.populations}
        self.last = {source: population.name for population in graph.populations for source in _sources(population)}

    def run(self, spikes: np.ndarray) -> None:
        """Some samples, uint8 (B, T, C, H, W)."""
        name = self.graph.input.name
        frames = torch.from_numpy(np.ascontiguousarray(spikes.swapaxes(0, 1))).flatten(0, 1)
        values = {name: frames.contiguous(memory_format=torch.channels_last)}  # (T * B, C, H, W)
        for population in self.graph.populations:
            start = time.perf_counter()
            currents = self._currents(population, values, len(spikes))
            fired, potentials = _scan(currents, population, every=population.name in self.wanted["potentials"])
            self._keep(population, fired, potentials)
            c, h, w = population.shape
            values[population.name] = torch.from_numpy(fired).view(-1, h, w, c).permute(0, 3, 1, 2)
            for source in [source for source, reader in self.last.items() if reader == population.name]:
                del values[source]
            self.seconds[population.name] += time.perf_counter() - start

    def _currents(self, population: Population, values: Mapping[str, torch.Tensor], samples: int) -> np.ndarray:
        """Input of a population: float32 (T, B, n), n in (H, W, C) order."""
        total = None
        for part in self.parts[population.name]:
            inputs = [values[name] for name in part.sources]
            x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)
            y = part.apply(x.contiguous(memory_format=torch.channels_last))
            if part.late is not None:
                steps = torch.from_numpy(part.late.astype(np.int64))
                y = delayed(y.unflatten(0, (-1, samples)), steps).flatten(0, 1)
            total = y if total is None else total.add_(y)
        assert total is not None
        flat = total.permute(0, 2, 3, 1).contiguous().view(-1, samples, int(np.prod(population.shape)))
        return flat.numpy()

    def _keep(self, population: Population, fired: np.ndarray, potentials: np.ndarray) -> None:
        name, shape, kept = population.name, population.shape, self.kept[population.name]
        steps, samples, n = fired.shape
        if name in self.wanted["spikes"]:
            bits = np.zeros((samples, steps, -(-n // 8)), np.uint8)
            kernels.pack_spikes(fired, shape[0], shape[1], shape[2], bits)
            kept.spikes.append(bits)
        if name in self.wanted["counts"]:
            kept.counts.append(_channels_first(fired.sum(0, dtype=np.int32), shape))
        if name in self.wanted["potentials"]:
            kept.potentials.append(_channels_first(potentials.swapaxes(0, 1), shape))
        if name == self.graph.output.name:
            self.output.append(_channels_first(potentials[-1], shape))

    def trace(self, seconds: float) -> Trace:
        def each(what: str) -> dict[str, np.ndarray]:
            return {name: np.concatenate(getattr(self.kept[name], what)) for name in self.wanted[what]}

        return Trace(
            packed=each("spikes"),
            shapes={name: self.graph[name].shape for name in self.wanted["spikes"]},
            potentials=each("potentials"),
            tallied=each("counts"),
            output=np.concatenate(self.output),
            output_name=self.graph.output.name,
            timesteps=self.graph.meta.timesteps,
            engine="fast",
            seconds={"run": seconds, **{f"layer {name}": share for name, share in self.seconds.items()}},
        )


def _sources(population: Population) -> Collection[str]:
    return [edge.source for edge in population.edges]


def _channels_first(values: np.ndarray, shape: Shape) -> np.ndarray:
    """(..., n) in (H, W, C) order to (..., C, H, W)."""
    c, h, w = shape
    return np.ascontiguousarray(np.moveaxis(values.reshape(*values.shape[:-1], h, w, c), -1, -3))


def _scan(currents: np.ndarray, population: Population, *, every: bool) -> tuple[np.ndarray, np.ndarray]:
    """Spikes uint8 (T, B, n) and potentials int32, after each step if `every`, else after the last: (1, B, n)."""
    neuron = population.neuron
    steps, samples, n = currents.shape
    fired = np.empty(currents.shape, np.uint8)
    potentials = np.empty((steps if every else 1, samples, n), np.int32)
    threshold = int(THRESHOLD_MAX if neuron.threshold is None else neuron.threshold) << POTENTIAL_SHIFT
    u0, subtract, fires = int(neuron.u0), neuron.reset == "subtract", neuron.threshold is not None
    if neuron.leaks or neuron.bias is not None or neuron.drop is not None:
        drop, bias, du, dv = _parameters(neuron, population.shape, threshold)
        kernels.cuba(currents, u0, threshold, drop, bias, du, dv, subtract, fires, every, fired, potentials)
    else:
        kernels.integrate_fire(currents, u0, threshold, subtract, fires, every, fired, potentials)
    return fired, potentials


def _parameters(neuron: Neuron, shape: Shape, threshold: int) -> list[np.ndarray]:
    """What a spike subtracts, bias and decays of every neuron: int32 (n,), in (H, W, C) order."""
    values = (
        threshold if neuron.drop is None else neuron.drop,
        0 if neuron.bias is None else neuron.bias,
        neuron.current_decay,
        neuron.voltage_decay,
    )
    whole = [np.broadcast_to(np.asarray(value, np.int32), shape) for value in values]
    return [value.transpose(1, 2, 0).flatten() for value in whole]
