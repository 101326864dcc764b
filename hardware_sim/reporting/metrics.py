"""NeuroBench's metrics by its definitions (Yik et al., Nature Communications 2025), from a graph and what it did.

Effective operations: a nonzero input times a nonzero weight, bias left out; an accumulate (AC) where all that a layer
gets is -1, 0 or 1, else a multiply-accumulate (MAC). Dense: the same with ones for both. All are per sample, over its
steps. The package hangs on modules; here transposed convolutions and networks without modules count too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from export.graph import (
    STEPS_UNKNOWN,
    Conv,
    ConvT,
    Dense,
    Edge,
    Graph,
    Population,
    SigmaDelta,
    Sparse,
    graded,
    ternary,
)
from export.inspect import synapse_count
from export.limits import POTENTIAL_SHIFT
from export.mapping.geometry import taps
from hardware_sim.trace import Trace, TraceError, unpack

INTEGER_WEIGHT_BYTES, FLOAT_BYTES, INT32_BYTES = 1, 4, 4


@dataclass(frozen=True)
class LayerMetrics:
    """One population. activations: that its neurons may emit in a sample, nonzero: of these; None where it emits none.

    dense, macs, acs: synaptic operations into it, a sample. updates: of its potentials, a sample, where known.
    """

    name: str
    weights: int
    zeros: int
    bytes: int
    activations: float | None
    nonzero: float | None
    dense: float
    macs: float
    acs: float
    updates: float | None

    @property
    def activation_sparsity(self) -> float | None:
        if self.nonzero is None or not self.activations:
            return None
        return 1 - self.nonzero / self.activations


@dataclass(frozen=True)
class Metrics:
    """NeuroBench's metrics of a network, all layers together."""

    layers: tuple[LayerMetrics, ...]

    @property
    def footprint(self) -> int:
        """Bytes of parameters."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def connection_sparsity(self) -> float:
        return sum(layer.zeros for layer in self.layers) / max(1, sum(layer.weights for layer in self.layers))

    @property
    def activation_sparsity(self) -> float:
        firing = [layer for layer in self.layers if layer.activations]
        return 1 - sum(layer.nonzero or 0.0 for layer in firing) / sum(layer.activations or 0.0 for layer in firing)

    @property
    def updates(self) -> float | None:
        """Membrane updates a sample; None where the potentials of a layer are not known."""
        known = [layer.updates for layer in self.layers]
        return None if any(value is None for value in known) else sum(value for value in known if value is not None)

    def total(self, what: str) -> float:
        """Of all layers: `dense`, `macs` or `acs`."""
        return sum(getattr(layer, what) for layer in self.layers)


def metrics(
    graph: Graph,
    events: Mapping[str, np.ndarray],
    *,
    samples: int,
    steps: int,
    binary: Collection[str] = (),
    updates: Mapping[str, float] | None = None,
) -> Metrics:
    """The metrics of a graph, integer or float, from how often each of its values was not zero.

    events: times that each neuron (C, H, W) of a node gave a nonzero value, over all samples and steps. binary: nodes
    whose values are only -1, 0 and 1. updates: membrane updates by population, over all samples. Raises TraceError for
    a node that another reads and whose events are not there.
    """
    layers = []
    for population in graph.populations:
        dense, macs, acs = 0.0, 0.0, 0.0
        for edge in population.edges:
            if edge.source not in events:
                raise TraceError(f"{edge.source}: the run kept no spikes of it; {population.name} reads them")
            done = effective_operations(edge, events[edge.source], population) / samples
            dense += synapse_count(edge.op, graph[edge.source].shape, population.shape) * steps
            macs, acs = (macs, acs + done) if edge.source in binary else (macs + done, acs)
        emits = population.neuron.threshold is not None and population.name in events
        weights = [edge.op.weight for edge in population.edges]
        made = None if updates is None else updates.get(population.name)
        layers.append(
            LayerMetrics(
                name=population.name,
                weights=sum(weight.size for weight in weights),
                zeros=sum(int((weight == 0).sum()) for weight in weights),
                bytes=footprint(population, integer=graph.integer),
                activations=float(math.prod(population.shape) * steps) if emits else None,
                nonzero=float(events[population.name].sum()) / samples if emits else None,
                dense=dense,
                macs=macs,
                acs=acs,
                updates=None if made is None else made / samples,
            )
        )
    return Metrics(tuple(layers))


def footprint(population: Population, *, integer: bool) -> int:
    """Bytes of a population's parameters: weights of 8 bits and a threshold of 32, or floats; of neurons' own, 32."""
    weights = sum(edge.op.weight.size for edge in population.edges)
    neuron, own = population.neuron, [population.neuron.bias]
    if not isinstance(neuron, SigmaDelta):
        own += [neuron.current_decay, neuron.voltage_decay, neuron.drop]  # type: ignore[list-item]
    bias = sum(value.size for value in own if isinstance(value, np.ndarray)) * INT32_BYTES
    if not integer:
        return weights * FLOAT_BYTES + bias
    threshold = INT32_BYTES if neuron.threshold is not None else 0
    return weights * INTEGER_WEIGHT_BYTES + bias + threshold


def effective_operations(edge: Edge, events: np.ndarray, target: Population) -> float:
    """Nonzero inputs, counted in `events` (C, H, W) of the source, times the nonzero weights that each meets."""
    op, counts = edge.op, events.astype(np.float64)
    if isinstance(op, Dense):
        return float(counts.ravel() @ (op.weight != 0).sum(0))
    if isinstance(op, Sparse):
        return float(counts.ravel()[op.source[op.weight != 0]].sum())
    rows = taps(op, 0, events.shape[1], (0, target.shape[1])).astype(np.float64)
    columns = taps(op, 1, events.shape[2], (0, target.shape[2])).astype(np.float64)
    meeting = np.einsum("chw,hy,wx->cyx", counts, rows, columns, optimize=True)
    return float((meeting * _nonzero_outputs(op, events.shape[0])).sum())


def _nonzero_outputs(op: Conv | ConvT, cin: int) -> np.ndarray:
    """Nonzero weights of each input channel and tap (Cin, kH, kW)."""
    there = op.weight != 0
    if isinstance(op, ConvT):
        return there.sum(1)
    per_group = there.reshape(op.groups, -1, *there.shape[1:]).sum(1)  # groups, Cin/groups, kH, kW
    return per_group.reshape(cin, *there.shape[2:])


def trace_metrics(graph: Graph, trace: Trace) -> Metrics:
    """The metrics of a spiking run; membrane updates need its potentials. Raises TraceError where some are missing."""
    values, signs = graded(graph), ternary(graph)  # a sign multiplies nothing: it adds or subtracts
    made = {population.name: membrane_updates(population, trace) for population in graph.populations}
    return metrics(
        graph,
        spike_counts(graph, trace),
        samples=trace.samples,
        steps=trace.timesteps,
        binary=[node.name for node in graph.nodes if node.name not in values or node.name in signs],
        updates={name: value for name, value in made.items() if value is not None},
    )


def spike_counts(graph: Graph, trace: Trace) -> dict[str, np.ndarray]:
    """Spikes (C, H, W) of the input and of every population that the trace has, over all samples. Raises TraceError."""
    if trace.timesteps != graph.meta.timesteps and STEPS_UNKNOWN not in graph.meta.notes:
        raise TraceError(f"the trace has {trace.timesteps} steps a sample; the network {graph.meta.timesteps}")
    if trace.stimulus is None:
        raise TraceError("the trace has no input spikes; run the network again with this version")
    values, shape = graded(graph), graph.input.shape
    if graph.input.name in values:
        fits = trace.stimulus.dtype == np.int32 and trace.stimulus.shape[2:] == shape
    else:
        fits = trace.stimulus.dtype == np.uint8 and trace.stimulus.shape[2:] == (-(-math.prod(shape) // 8),)
    if not fits or set(trace.graded) != {name for name in trace.spikes if name in values}:
        raise TraceError("the trace is of another network: its input or spikes are of another shape or kind")
    found = {graph.input.name: (unpack(trace.stimulus, shape) != 0).sum((0, 1), dtype=np.int64)}
    for population in graph.populations:
        if population.name in trace.counts:
            found[population.name] = trace.counts[population.name].sum(0, dtype=np.int64)
            if found[population.name].shape != population.shape:
                shape = found[population.name].shape
                raise TraceError(
                    f"{population.name}: the trace's shape is {shape}; the network's is {population.shape}"
                )
    return found


def membrane_updates(population: Population, trace: Trace) -> float | None:
    """Neuron steps in which a potential before firing differs from that after the step before; the first step counts.

    None where the trace has no potentials. A potential that was reset to zero is known to have changed.
    """
    after, fired = trace.potentials.get(population.name), trace.spikes.get(population.name)
    if after is None:
        return None
    threshold = population.neuron.threshold
    if threshold is None or fired is None or isinstance(population.neuron, SigmaDelta):
        changed = after[:, 1:] != after[:, :-1]
    elif population.neuron.reset == "subtract":
        given = population.neuron.drop
        drop = np.asarray(int(threshold) << POTENTIAL_SHIFT if given is None else given)
        before_reset = after[:, 1:] + fired[:, 1:].astype(np.int32) * drop
        changed = before_reset != after[:, :-1]
    else:
        changed = (after[:, 1:] != after[:, :-1]) | (fired[:, 1:] != 0)
    return float(changed.sum()) + after[:, 0].size


def active_steps(graph: Graph, trace: Trace) -> dict[str, float]:
    """Neuron steps in which a neuron was not at rest (a potential before or after the step, or a spike), by population.

    Of the populations whose potentials the trace has; over all samples.
    """
    found = {}
    for population in graph.populations:
        after = trace.potentials.get(population.name)
        if after is not None:
            before = np.concatenate([np.full_like(after[:, :1], int(population.cuba.u0)), after[:, :-1]], axis=1)
            fired = trace.spikes.get(population.name, np.zeros_like(after, np.uint8))
            found[population.name] = float(((before != 0) | (after != 0) | (fired != 0)).sum())
    return found


def ann_metrics(graph: Graph, images: np.ndarray) -> Metrics:
    """The metrics of the ReLU network that a float graph stands for, on images (samples, C, H, W): one step a sample.

    Pools and concatenations are nodes still. Scaling a layer by a positive number leaves them as they are.
    """
    from hardware_sim.analog import analog  # noqa: PLC0415 - torch, which the spiking half needs not

    values = analog(graph, images)
    events = {name: (value != 0).sum(0).numpy() for name, value in values.items()}
    binary = [name for name, value in values.items() if bool(((value == 0) | (value.abs() == 1)).all())]
    return metrics(graph, events, samples=len(images), steps=1, binary=binary)


def as_json(found: Metrics) -> dict[str, Any]:
    """Plain values, for report.json."""
    return {
        "footprint": found.footprint,
        "connection_sparsity": found.connection_sparsity,
        "activation_sparsity": found.activation_sparsity,
        "synaptic_operations": {what: found.total(what) for what in ("dense", "macs", "acs")},
        "membrane_updates": found.updates,
        "layers": [asdict(layer) | {"activation_sparsity": layer.activation_sparsity} for layer in found.layers],
    }
