"""What the nodes of a NIR graph hand on: spikes, or what weights make of them; summed, scaled, delayed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from export.graph import Conv, Dense, Edge, GraphError, Operator, Shape, Sparse
from export.limits import DELAY_MAX
from export.nir.nodes import Each, numbers, scaled

WHOLE = 1e-4  # of a step: what rounding leaves of a delay that is whole steps


@dataclass(frozen=True, eq=False)
class Signal:
    """Spikes with a factor, by the node that emits them, or weighted edges; with a bias.

    A factor is one number, or one for each channel, (C, 1, 1), or neuron, (C, H, W). late: steps that its spikes wait
    before they are read. flattened: the node that laid its axes out anew, if one did: what follows may not ask for
    channels and pixels, since files differ in whether they count an axis of batches.
    """

    shape: Shape
    spikes: tuple[tuple[str, Each], ...] = ()
    edges: tuple[Edge, ...] = ()
    bias: np.ndarray | float = 0.0
    late: int = 0
    flattened: str = ""

    @property
    def weighted(self) -> tuple[Edge, ...]:
        """All of it as edges: of spikes, each neuron to its own like."""
        alone = (Edge(source, _alone(gain, self.shape)) for source, gain in self.spikes)
        return self.edges + tuple(waiting(edge, self.late, self.shape) for edge in alone)


def _alone(gain: Each, shape: Shape) -> Operator:
    """Each neuron to its own like, (C, H, W), with a factor."""
    if isinstance(gain, np.ndarray) and (gain != gain[:, :1, :1]).any():
        return _in_order(gain, shape, shape)
    by_channel = gain[:, :1, :1] if isinstance(gain, np.ndarray) else gain
    return scaled(Conv(np.ones((shape[0], 1, 1, 1)), groups=shape[0]), by_channel)


def _in_order(gain: Each, source: Shape, target: Shape) -> Sparse:
    """Each neuron of a source to that of its number in a target of as many, with a factor."""
    place = np.arange(math.prod(source))
    return Sparse(np.broadcast_to(gain, source).ravel(), place, place, target)


def waiting(edge: Edge, steps: np.ndarray | int, shape: Shape) -> Edge:
    """An edge onto neurons (C, H, W) whose spikes arrive some steps later."""
    if not np.any(steps):
        return edge
    before = 0 if edge.target_delay is None else edge.target_delay
    return replace(edge, target_delay=(before + np.broadcast_to(steps, shape)).astype(np.int32))


def total(name: str, arriving: list[Signal]) -> Signal:
    """The sum of what arrives at a node. Raises GraphError."""
    if len({signal.shape for signal in arriving}) > 1:
        arriving = [_in_a_row(signal) for signal in arriving]
    shapes, lates = {signal.shape for signal in arriving}, {signal.late for signal in arriving if signal.spikes}
    if len(shapes) > 1:
        raise GraphError(f"{name}: its in-edges have shapes {sorted(shapes)}; one shape is allowed")
    if len(lates) > 1:
        raise GraphError(f"{name}: its in-edges come {sorted(lates)} steps late; weights before the sum are needed")
    return Signal(
        shapes.pop(),
        spikes=tuple(spike for signal in arriving for spike in signal.spikes),
        edges=tuple(edge for signal in arriving for edge in signal.edges),
        bias=sum(signal.bias for signal in arriving),
        late=lates.pop() if lates else 0,
        flattened=next((signal.flattened for signal in arriving if signal.flattened), ""),
    )


def flatten(name: str, _node: Any, signal: Signal) -> Signal:
    """NIR's Flatten: the neurons keep their order, and dense synapses read them so."""
    return signal if signal.shape[1:] == (1, 1) else replace(signal, flattened=name)


def _in_a_row(signal: Signal) -> Signal:
    """Spikes that were flattened, as edges to (N, 1, 1); anything else as it is."""
    if not signal.flattened or signal.edges:
        return signal
    row = (math.prod(signal.shape), 1, 1)
    edges = (Edge(source, _in_order(gain, signal.shape, row)) for source, gain in signal.spikes)
    return Signal(row, edges=tuple(waiting(edge, signal.late, row) for edge in edges))


def scale(name: str, node: Any, signal: Signal) -> Signal:
    """NIR's Scale: one factor for all, or one a channel; of spikes that no weights follow, one a neuron."""
    factor = laid_out(name, numbers(name, node, "scale"), "scale", signal)
    if signal.edges:
        factor = by_channel(name, factor, "scale differs")
    spikes = tuple((source, gain * factor) for source, gain in signal.spikes)
    edges = tuple(replace(edge, op=scaled(edge.op, factor)) for edge in signal.edges)
    return replace(signal, spikes=spikes, edges=edges, bias=signal.bias * factor)


def reading(name: str, op: Operator, factor: Each, source: Shape) -> Operator:
    """A synapse that reads spikes with a factor, from a source (C, H, W)."""
    if not isinstance(factor, np.ndarray):
        return scaled(op, factor)
    if isinstance(op, Dense):
        return replace(op, weight=op.weight * np.broadcast_to(factor, source).ravel())
    assert isinstance(op, Conv)
    factor = by_channel(name, factor, "the scale of what it reads differs")
    assert isinstance(factor, np.ndarray)
    weight = op.weight.reshape(op.groups, -1, *op.weight.shape[1:])  # groups, Cout/groups, Cin/groups, kH, kW
    weight = weight * factor.reshape(op.groups, 1, -1, 1, 1)
    return replace(op, weight=weight.reshape(op.weight.shape))


def delay(name: str, node: Any, signal: Signal, *, dt: float) -> Signal:
    """NIR's Delay, whole steps: of weighted edges one for each neuron, of spikes one for all."""
    seconds = laid_out(name, numbers(name, node, "delay"), "delay", signal)
    steps = np.round(np.asarray(seconds) / dt)
    if (abs(seconds - steps * dt) > WHOLE * dt).any() or steps.min() < 0 or steps.max() > DELAY_MAX:
        raise GraphError(
            f"{name}: delay is {np.min(seconds):g} to {np.max(seconds):g}; whole steps of dt = {dt:g}, {DELAY_MAX} at "
            "most, are allowed"
        )
    if np.any(signal.bias) and steps.any():
        raise GraphError(f"{name}: delays a bias of the weights before it; no bias is allowed there")
    if signal.spikes and steps.min() != steps.max():
        raise GraphError(f"{name}: delays of single neurons' spikes; one for all, or weights before it, are allowed")
    edges = tuple(waiting(edge, steps.astype(np.int32), signal.shape) for edge in signal.edges)
    return replace(signal, edges=edges, late=signal.late + int(steps.max()) if signal.spikes else 0)


def by_channel(name: str, factor: Each, differing: str) -> Each:
    """A factor as the weights of a synapse can have it: one number a channel, (C, 1, 1), or one for all.

    differing: what does so where it is another within a channel, for the GraphError.
    """
    if not isinstance(factor, np.ndarray):
        return factor
    if (factor != factor[:, :1, :1]).any():
        raise GraphError(
            f"{name}: {differing} within a channel, so that weights of a convolution would; one factor a channel is "
            "allowed"
        )
    return factor[:, :1, :1]


def laid_out(name: str, found: np.ndarray, field: str, signal: Signal) -> Each:
    """One number, or one for each neuron (C, H, W), of a field that has one for all, for each channel or neuron."""
    shape = channels, rows, columns = signal.shape
    by_each_channel = {(channels,), (channels, 1), (channels, 1, 1)}
    by_each_neuron = {shape, (math.prod(shape),)} | ({(channels, columns)} if rows == 1 else set())
    if signal.flattened and found.size == math.prod(shape):
        found = found.ravel()
    if found.size > 1 and found.shape not in by_each_channel | by_each_neuron:
        raise GraphError(
            f"{name}: {field} has shape {found.shape}; one number, one for each of {channels} channels or of neurons "
            f"{shape} is allowed"
        )
    if (found == found.flat[0]).all():
        return float(found.flat[0])
    if found.shape in by_each_channel:
        return np.broadcast_to(found.reshape(-1, 1, 1), shape)
    return found.reshape(shape)
