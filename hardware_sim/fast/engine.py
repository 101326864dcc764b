"""The fast engine: the same exact integers as `reference`, without Lava; several times faster.

Synapses run in 8-bit arithmetic where the processor has it and the weights allow it, else in floats that hold every
sum (`synapses`); neurons in one compiled pass over memory (`kernels`). A few samples at a time, so that what one layer
made is still in the cache for the next, and its memory is used again. The reference is held against it. Threads that
share out the samples, each computing by itself, were tried: they are slower than PyTorch's and numba's own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from export.graph import Concat, Dropout, Graph, GraphError, Neuron, Pool, Shape
from export.limits import POTENTIAL_SHIFT, THRESHOLD_MAX, beyond
from hardware_sim.fast import kernels
from hardware_sim.fast.synapses import Part, parts_of
from hardware_sim.record import Progress, Record
from hardware_sim.reference import delayed, run_reference
from hardware_sim.trace import Trace

TOGETHER = 10 * 2**20  # bytes of the largest layer's currents: larger arrays are fetched from the system, page by page
MOST = 48  # samples at a time


def run_fast(
    graph: Graph,
    spikes: np.ndarray,
    *,
    record: Record = Record(),
    on_step: Progress | None = None,
    stream: bool = False,
) -> Trace:
    """Run an integer graph on spikes (samples, T, C, H, W); see `hardware_sim.run`.

    Left to the reference: what may exceed Loihi's range by a bound, and so all spikes that carry values but an
    encoder's and ternary ones; recurrent networks; a stream. Trace.seconds has what each layer took. Raises GraphError
    for a graph that is not integer or has pools left.
    """
    if not graph.integer or any(isinstance(node, Pool | Concat | Dropout) for node in graph.nodes):
        raise GraphError("the graph holds floats, or a pool, a concatenation or dropout; quantize it first")
    if stream or beyond(graph) or any(population.recurrent for population in graph.populations):
        return run_reference(graph, spikes, record=record, on_step=on_step, stream=stream)
    start = time.perf_counter()
    chunk, steps = _chunk(graph), graph.meta.timesteps
    plan = _plan(graph, record, chunk)
    parts = []
    for first in range(0, len(spikes), chunk):
        parts.append(_run(plan, spikes[first : first + chunk]))
        if on_step:
            on_step(min(first + chunk, len(spikes)) * steps, len(spikes) * steps)
    return _trace(plan, parts, time.perf_counter() - start)


def _chunk(graph: Graph) -> int:
    """Samples at a time."""
    largest = max(math.prod(population.shape) for population in graph.populations)
    return max(1, min(MOST, TOGETHER // (4 * largest * graph.meta.timesteps)))


@dataclass(frozen=True, eq=False)
class _Plan:
    """How a graph is run. wanted: names of populations by what is recorded of them."""

    graph: Graph
    wanted: Mapping[str, tuple[str, ...]]
    layers: tuple[_Layer, ...]
    output: str


@dataclass(frozen=True, eq=False)
class _Layer:
    """A population. done_with: the nodes that none reads after it."""

    name: str
    shape: Shape
    parts: tuple[Part, ...]
    neurons: _Neurons
    done_with: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Neurons:
    """What the kernels take. each: what a spike subtracts, bias and decays of every neuron, int32 (n,), or None.

    ternary: what is fired is a byte, the spike and 1.
    """

    u0: int
    threshold: int
    subtract: bool
    fires: bool
    ternary: bool
    each: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None


@dataclass
class _Kept:
    """Of some samples: what is recorded, by population; the output's last potentials; seconds by population.

    spikes: bits; values: spikes that have a sign.
    """

    spikes: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    potentials: dict[str, np.ndarray] = field(default_factory=dict)
    output: np.ndarray | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def _plan(graph: Graph, record: Record, chunk: int) -> _Plan:
    last = {edge.source: population.name for population in graph.populations for edge in population.edges}
    layers = tuple(
        _Layer(
            name=population.name,
            shape=population.shape,
            parts=parts_of(graph, population, chunk * graph.meta.timesteps),
            neurons=_neurons(population.cuba, population.shape),
            done_with=tuple(source for source, reader in last.items() if reader == population.name),
        )
        for population in graph.populations
    )
    wanted = {what: record.names(graph, what) for what in ("spikes", "counts", "potentials")}
    return _Plan(graph, wanted, layers, graph.output.name)


def _neurons(neuron: Neuron, shape: Shape) -> _Neurons:
    threshold = int(THRESHOLD_MAX if neuron.threshold is None else neuron.threshold) << POTENTIAL_SHIFT
    each = None
    if neuron.leaks or neuron.bias is not None or neuron.drop is not None or neuron.ternary:
        drop, bias = threshold if neuron.drop is None else neuron.drop, 0 if neuron.bias is None else neuron.bias
        decays = neuron.current_decay, neuron.voltage_decay
        each = (_flat(drop, shape), _flat(bias, shape), _flat(decays[0], shape), _flat(decays[1], shape))
    subtract, fires = neuron.reset == "subtract", neuron.threshold is not None
    return _Neurons(int(neuron.u0), threshold, subtract, fires, neuron.ternary, each)


def _flat(value: float | np.ndarray, shape: Shape) -> np.ndarray:
    """One number for every neuron: int32 (n,), in (H, W, C) order."""
    return np.broadcast_to(np.asarray(value, np.int32), shape).transpose(1, 2, 0).flatten()


def _run(plan: _Plan, spikes: np.ndarray) -> _Kept:
    """Run some samples, 0 to 255 (B, T, C, H, W)."""
    kept, name = _Kept(), plan.graph.input.name
    frames = torch.from_numpy(np.ascontiguousarray(spikes.swapaxes(0, 1), np.uint8)).flatten(0, 1)
    values = {name: frames.contiguous(memory_format=torch.channels_last)}  # (T * B, C, H, W)
    for layer in plan.layers:
        start = time.perf_counter()
        currents = _currents(layer, values, len(spikes))
        fired, potentials = _scan(currents, layer.neurons, every=layer.name in plan.wanted["potentials"])
        _keep(plan, kept, layer, fired, potentials)
        c, h, w = layer.shape
        values[layer.name] = torch.from_numpy(fired).view(-1, h, w, c).permute(0, 3, 1, 2)
        for source in layer.done_with:
            del values[source]
        kept.seconds[layer.name] = time.perf_counter() - start
    return kept


def _currents(layer: _Layer, values: Mapping[str, torch.Tensor], samples: int) -> np.ndarray:
    """Input of a population: float32 (T, B, n), n in (H, W, C) order."""
    total = None
    for part in layer.parts:
        inputs = [values[name] for name in part.sources]
        x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)
        y = part.apply(x.contiguous(memory_format=torch.channels_last))
        if part.late is not None:
            steps = torch.from_numpy(part.late.astype(np.int64))
            y = delayed(y.unflatten(0, (-1, samples)), steps).flatten(0, 1)
        total = y if total is None else total.add_(y)
    assert total is not None
    return total.permute(0, 2, 3, 1).contiguous().view(-1, samples, math.prod(layer.shape)).numpy()


def _scan(currents: np.ndarray, neurons: _Neurons, *, every: bool) -> tuple[np.ndarray, np.ndarray]:
    """Spikes uint8 (T, B, n) and potentials int32, after each step if `every`, else after the last: (1, B, n).

    Of ternary neurons what they send and 1.
    """
    steps, samples, n = currents.shape
    fired = np.empty(currents.shape, np.uint8)
    potentials = np.empty((steps if every else 1, samples, n), np.int32)
    u0, threshold, subtract, fires = neurons.u0, neurons.threshold, neurons.subtract, neurons.fires
    with kernels.ALONE:
        if neurons.each is None:
            kernels.integrate_fire(currents, u0, threshold, subtract, fires, every, fired, potentials)
        else:
            drop, bias, du, dv = neurons.each
            signs = neurons.ternary
            kernels.cuba(currents, u0, threshold, drop, bias, du, dv, subtract, fires, signs, every, fired, potentials)
    return fired, potentials


def _keep(plan: _Plan, kept: _Kept, layer: _Layer, fired: np.ndarray, potentials: np.ndarray) -> None:
    name, shape = layer.name, layer.shape
    steps, samples, n = fired.shape
    ternary = layer.neurons.ternary
    if name in plan.wanted["spikes"] and ternary:
        kept.values[name] = _channels_first(fired.swapaxes(0, 1).astype(np.int32) - 1, shape)
    elif name in plan.wanted["spikes"]:
        kept.spikes[name] = np.zeros((samples, steps, -(-n // 8)), np.uint8)
        with kernels.ALONE:
            kernels.pack_spikes(fired, shape[0], shape[1], shape[2], kept.spikes[name])
    if name in plan.wanted["counts"]:
        emitted = fired != 1 if ternary else fired
        kept.counts[name] = _channels_first(emitted.sum(0, dtype=np.int32), shape)
    if name in plan.wanted["potentials"]:
        kept.potentials[name] = _channels_first(potentials.swapaxes(0, 1), shape)
    if name == plan.output:
        kept.output = _channels_first(potentials[-1], shape)


def _trace(plan: _Plan, parts: Sequence[_Kept], seconds: float) -> Trace:
    def each(what: str) -> dict[str, np.ndarray]:
        kept = [getattr(part, what) for part in parts]
        return {name: np.concatenate([found[name] for found in kept]) for name in kept[0]}

    layers = {f"layer {layer.name}": sum(part.seconds[layer.name] for part in parts) for layer in plan.layers}
    return Trace(
        packed=each("spikes"),
        graded=each("values"),
        shapes={name: plan.graph[name].shape for name in plan.wanted["spikes"]},
        potentials=each("potentials"),
        tallied=each("counts"),
        output=np.concatenate([part.output for part in parts if part.output is not None]),
        output_name=plan.graph.output.name,
        timesteps=plan.graph.meta.timesteps,
        engine="fast",
        seconds={"run": seconds, **layers},
    )


def _channels_first(values: np.ndarray, shape: Shape) -> np.ndarray:
    """(..., n) in (H, W, C) order to (..., C, H, W)."""
    c, h, w = shape
    return np.ascontiguousarray(np.moveaxis(values.reshape(*values.shape[:-1], h, w, c), -1, -3))
