"""The nodes of a NIR graph, one after the other, as nodes of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from export.graph import (
    Conv,
    Dense,
    Edge,
    GraphError,
    Input,
    Neuron,
    Node,
    Operator,
    Pool,
    Population,
    Shape,
    Sparse,
    output_shape,
)
from export.limits import DECAY_MAX
from export.nir import loops, signals
from export.nir.file import Links
from export.nir.frameworks import Framework
from export.nir.loops import PASSING, Unrolled
from export.nir.nodes import (
    SILENT,
    SPIKING,
    Each,
    bounded,
    conv,
    dense,
    from_nir,
    line,
    note,
    numbers,
    pair,
    pooled,
    scaled,
)
from export.nir.signals import Signal

POOLS = ("SumPool2d", "AvgPool2d")
INTEGRATOR = Neuron(threshold=None, reset="zero")


@dataclass(frozen=True)
class Options:
    """What `read` was told."""

    timesteps: int
    framework: Framework | None
    dt: float
    encoder: str
    reset: str
    reset_delay: bool
    input_shape: Shape | None
    loops: str


class Reader:
    """Turns the nodes of one flat NIR graph, in topological order, into ours."""

    def __init__(self, nodes: dict[str, Any], links: Links, options: Options) -> None:
        self.nodes = nodes
        self.feeds: dict[str, list[str]] = {name: [] for name in nodes}
        for source, target in links:
            if source in self.feeds[target]:
                raise GraphError(f"{target}: two edges come from {source}; one is allowed")
            self.feeds[target].append(source)
        self.read = {source for source, _ in links}
        self.options, self.input_shape = options, options.input_shape
        self.made: dict[str, Node] = {}

    def graph(self) -> tuple[Node, ...]:
        unrolled = loops.unroll(self.nodes, self.feeds)
        if unrolled.late:  # first without what comes back, of whose neurons this tells the shapes
            known = self._walk(unrolled, {})
            for neuron in (name for found in unrolled.late.values() for name in found):
                if neuron not in known:
                    raise GraphError(f"{neuron}: only feeds itself; a path from the input must feed it")
                kind = type(self.nodes[neuron]).__name__
                if kind in SILENT:
                    raise GraphError(f"{neuron}: a {kind} in a loop, which never fires; {', '.join(SPIKING)} may be")
            self.made = {}
            self._walk(unrolled, known)
        else:
            self._walk(unrolled, {})
        inputs = [node.name for node in self.made.values() if isinstance(node, Input)]
        if len(inputs) != 1:
            raise GraphError(f"its inputs are {', '.join(inputs) or 'none'}; one is allowed")
        if len(self.made) < 2:
            raise GraphError(f"nothing but the input {inputs[0]}; neurons or weights behind it are needed")
        return tuple(self.made.values())

    def _walk(self, unrolled: Unrolled, late: Mapping[str, Signal]) -> dict[str, Signal]:
        """What nodes hand on, those that anything reaches. late: what neurons do of which something comes back."""
        known: dict[str, Signal] = {}
        for name in unrolled.order:
            arriving = [known[source] for source in unrolled.feeds[name] if source in known]
            back = unrolled.late.get(name, [])
            arriving += [late[neuron] for neuron in back if neuron in late]
            if arriving or not (back or unrolled.feeds[name]):
                known[name] = self._node(name, arriving)
        return known

    def _node(self, name: str, arriving: list[Signal]) -> Signal:
        node = self.nodes[name]
        kind = type(node).__name__
        readers: dict[str, Callable[[str, Any, Signal], Signal]] = {
            "Input": lambda _name, _node, signal: signal,  # of a nested graph
            "Output": self._output,
            "Flatten": signals.flatten,
            "Conv2d": self._conv2d,
            "Conv1d": self._conv1d,
            "Linear": lambda name, node, signal: self._weighted(name, dense(name, node), None, signal),
            "Affine": lambda name, node, signal: self._weighted(name, dense(name, node), node, signal),
            **dict.fromkeys(POOLS, self._pool),
            "Scale": signals.scale,
            "Delay": partial(signals.delay, dt=self.options.dt),
            "Threshold": self._threshold,
            **dict.fromkeys((*SPIKING, *SILENT), self._neuron),
        }
        if kind not in readers:
            raise GraphError(f"{name}: a {kind}; {', '.join(readers)} are allowed")
        if kind == "Input" and not arriving:
            return self._add(Input(name, self._input_shape(name, node)))
        if not arriving:
            raise GraphError(f"{name}: nothing feeds it; a path from the input must")
        signal = signals.total(name, arriving)
        for source, _ in signal.spikes:
            made = self.made.get(source)  # none yet, of what it comes back to
            if isinstance(made, Population) and made.neuron.threshold is None and kind not in PASSING:
                raise GraphError(f"{name}: reads {source}, which never fires; only an output may")
        return readers[kind](name, node, signal)

    def _input_shape(self, name: str, node: Any) -> Shape:
        found = np.asarray(self.input_shape or node.input_type["input"]).ravel()
        kinds = {type(node).__name__ for node in self.nodes.values()}
        if "Conv1d" in kinds:
            lines = kinds.isdisjoint(("Conv2d", *POOLS))
            found = found[1:] if lines and len(found) == 3 and found[0] == 1 else found
            found = np.insert(found, 1, 1) if len(found) == 2 else found  # (C, L)
        elif len(found) in (2, 4) and found[0] == 1:  # a batch, or a step, of one
            found = found[1:]
        if len(found) not in (1, 3) or found.dtype.kind not in "iu" or (found < 1).any():
            raise GraphError(
                f"{name}: shape is {found[:8].tolist()}; (N), (C, H, W), or (C, L) of a Conv1d, is allowed, without "
                "batch or time: give input_shape"
            )
        shape = tuple(int(side) for side in found)
        return bounded(name, shape if len(shape) == 3 else (*shape, 1, 1))

    def _weighted(self, name: str, op: Operator, biased: Any, signal: Signal) -> Signal:
        if signal.edges:
            raise GraphError(f"{name}: weights follow weights of {signal.edges[0].source}; neurons between are needed")
        shape = _output_shape(name, op, signal.shape)
        bias = np.zeros(shape[0]) if biased is None else numbers(name, biased, "bias")
        if bias.shape != shape[:1]:
            raise GraphError(f"{name}: bias has shape {bias.shape}; {shape[:1]} is allowed")
        made = (Edge(source, signals.reading(name, op, factor, signal.shape)) for source, factor in signal.spikes)
        edges = tuple(signals.waiting(edge, signal.late, shape) for edge in made)
        return Signal(shape, edges=edges, bias=bias.reshape(-1, 1, 1))

    def _conv2d(self, name: str, node: Any, signal: Signal) -> Signal:
        _check_pixels(name, signal)
        return self._weighted(name, conv(name, node, signal.shape), node, signal)

    def _conv1d(self, name: str, node: Any, signal: Signal) -> Signal:
        """Along the last of (C, 1, L)."""
        _check_pixels(name, signal)
        return self._weighted(name, conv(name, line(name, node), signal.shape), node, signal)

    def _pool(self, name: str, node: Any, signal: Signal) -> Signal:
        _check_pixels(name, signal)
        kernel, stride = pair(name, node, "kernel_size", 1), pair(name, node, "stride", 1)
        padding = pair(name, node, "padding")
        factor = float(np.prod(kernel)) if type(node).__name__ == "SumPool2d" else 1.0
        if padding != (0, 0) or (signal.spikes and stride != kernel):
            allowed = "stride = kernel" if signal.spikes else "any stride"
            raise GraphError(
                f"{name}: kernel {kernel}, stride {stride}, padding {padding}; {allowed} and no padding are allowed"
            )
        if signal.spikes and any(n % side for n, side in zip(signal.shape[1:], kernel, strict=True)):
            raise GraphError(
                f"{name}: pools spikes of {signal.shape[1]} x {signal.shape[2]} pixels by {kernel}; sides that divide "
                "them are allowed, or weights before it"
            )
        pools = []
        for source, gain in signal.spikes:
            if source not in self.made:
                raise GraphError(f"{name}: pools in a recurrent loop; weights are allowed there")
            c, h, w = self.made[source].shape
            pool_name = name if len(signal.spikes) == 1 else f"{name}.{source}"
            pool = Pool(pool_name, (c, h // kernel[0], w // kernel[1]), source, kernel)
            self._add(pool)
            pools.append((pool.name, signals.by_channel(name, gain, "the scale of what it pools differs") * factor))
        mean = Conv(np.ones((signal.shape[0], 1, *kernel)), stride, groups=signal.shape[0])
        edges = tuple(replace(e, op=scaled(pooled(name, e.op, mean), factor)) for e in signal.edges)
        shape = _output_shape(name, mean, signal.shape)
        if any(edge.target_delay is not None for edge in edges):
            raise GraphError(f"{name}: pools what comes late, each neuron by itself; a delay behind it is allowed")
        return Signal(shape, tuple(pools), edges, signal.bias * factor, signal.late)

    def _neuron(self, name: str, node: Any, signal: Signal) -> Signal:
        options, kind = self.options, type(node).__name__
        if options.framework and kind in options.framework.refused:
            raise GraphError(f"{name}: a {kind} of this framework: {options.framework.refused[kind]}")
        neuron, factor = from_nir(
            name,
            node,
            signal.shape,
            flattened=bool(signal.flattened),
            dt=options.dt,
            reset=options.reset,
            exponential=bool(options.framework and options.framework.exponential),
            reset_delay=options.reset_delay,
        )
        if options.reset_delay and neuron.reset == "zero" and neuron.gathers:
            raise GraphError(f"{name}: a reset to zero a step late loses an input; no reset_delay is allowed")
        return self._population(name, signal, neuron, factor, scale=note(name, node, "scale"))

    def _threshold(self, name: str, node: Any, signal: Signal) -> Signal:
        """Fires where what arrives in a step exceeds its threshold; nothing is kept."""
        threshold = numbers(name, node, "threshold")
        if (threshold <= 0).any():
            raise GraphError(f"{name}: threshold is {threshold.min():g}; a positive number is allowed")
        forgets = Neuron(1.0, reset="zero", voltage_decay=DECAY_MAX)
        inverse = signals.laid_out(name, 1 / threshold, "threshold", signal)
        return self._population(name, signal, forgets, inverse, scale=None)

    def _output(self, name: str, node: Any, signal: Signal) -> Signal:
        if name in self.read:  # of a nested graph
            return signal
        if not signal.edges:
            (source, gain), *further = signal.spikes
            if further or np.any(gain != 1) or signal.late or isinstance(self.made[source], Pool):
                found = f"{len(signal.spikes)} nodes" if further else "a pool, a scale or a delay"
                raise GraphError(
                    f"{name}: reads spikes of {found}; those of one node of neurons, or weights, are allowed"
                )
            return signal
        return self._population(name, signal, INTEGRATOR, 1.0, scale=None)

    def _population(self, name: str, signal: Signal, neuron: Neuron, factor: Each, *, scale: float | None) -> Signal:
        if scale is not None and scale <= 0:
            raise GraphError(f"{name}: scale in its metadata is {scale:g}; a positive number is allowed")
        factor = signals.by_channel(name, factor, "r, time constants or thresholds differ")
        edges = tuple(replace(edge, op=scaled(edge.op, factor)) for edge in signal.weighted)
        edges = tuple(edge if edge.source in self.made else _recurrent(name, edge) for edge in edges)
        if np.any(signal.bias) and neuron.gathers:
            edges += (self._always(name, signal.shape, signal.bias * factor),)
        elif np.any(signal.bias):
            own = 0.0 if neuron.bias is None else neuron.bias
            neuron = replace(neuron, bias=np.asarray(signal.bias * factor + own))
        made = self._add(Population(name, signal.shape, edges, neuron, scale=scale))
        return replace(made, flattened=signal.flattened)

    def _always(self, name: str, shape: Shape, bias: np.ndarray | float) -> Edge:
        """A bias of a current that decays, which no neuron has: an edge from neurons that fire at every step."""
        place = (1, *shape[1:])
        source = next(node.name for node in self.made.values() if isinstance(node, Input))
        silent = Sparse(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), place)
        neuron = Neuron(1.0, reset="zero", bias=np.full((1, 1, 1), 2.0))
        self._add(Population(f"{name}.bias", place, (Edge(source, silent),), neuron))
        weight = np.broadcast_to(bias, (shape[0], 1, 1)).reshape(-1, 1, 1, 1)
        op: Operator = Dense(weight.reshape(-1, 1)) if shape[1:] == (1, 1) else Conv(weight)
        return Edge(f"{name}.bias", op)

    def _add(self, node: Node) -> Signal:
        if node.name in self.made:
            raise GraphError(f"{node.name}: the name is used twice; names must be unique")
        self.made[node.name] = node
        return Signal(node.shape, spikes=((node.name, 1.0),))


def _check_pixels(name: str, signal: Signal) -> None:
    if signal.flattened:
        raise GraphError(
            f"{name}: reads what {signal.flattened} flattened, of {signal.shape}; Linear, Affine, Scale, Delay and "
            "neurons may, convolutions and pools only what keeps its axes"
        )


def _recurrent(name: str, edge: Edge) -> Edge:
    """An edge of a population to itself or an earlier one, which has one delay for all its neurons.

    A loop without a Delay takes a step, since it takes some; one with Delays takes these.
    """
    late = edge.target_delay
    edge = replace(edge, feedback=edge.source != name)
    if late is None:
        return edge
    if late.min() != late.max():
        what = f"is fed back by {edge.source}" if edge.feedback else "feeds itself"
        raise GraphError(f"{name}: {what} with delays by neuron; one delay for all is allowed")
    return replace(edge, delay=edge.delay + max(int(late.max()) - 1, 0), target_delay=None)


def _output_shape(name: str, op: Operator, shape: Shape) -> Shape:
    try:
        return bounded(name, output_shape(op, shape))
    except GraphError as error:
        raise GraphError(f"{name}: {error}") from None
