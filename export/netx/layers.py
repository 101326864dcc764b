"""The layers of a NetX file, one after the other, as nodes of a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from export.graph import (
    LEVELS_MAX,
    Dense,
    Edge,
    GraphError,
    Input,
    Neuron,
    Node,
    Operator,
    Population,
    Shape,
    SigmaDelta,
    Sparse,
)
from export.limits import BIAS_MANTISSA_MAX, INPUT_MAX, POTENTIAL_MAX
from export.netx import neurons, parts, stock
from export.netx.fields import Fields
from export.passes import slice_channels

MAX_LAYERS = 1000
MAX_EDGES = 2**14  # more come of layers that read each other over and over, not of a network
MAX_SYNAPSES = 2**24  # single ones, counted in each edge that they are looked through for
SCALE_MAX = 1e30
WAIT_MAX = 2**16  # steps that a whole edge waits; `check` knows what runs
SELF = ""  # the population that is being read, as a source; a name in a file may not be empty
LATER = "\0"  # what the names begin with that stand for layers by index, which those in a file may not
INPUT_GAIN = 64.0  # of an input block that has none: lava/lib/dl/netx/hdf5.py, create_input
SYNAPSES: dict[str, Callable[[Fields, Shape], Operator]] = {
    "conv": parts.conv,
    "convT": parts.conv_transposed,
    "dense": parts.dense,
    "dense_rec": parts.dense,
    "sparse": parts.sparse,
    "pool": parts.pool,
    "unpool": parts.unpool,
}
# What NetX gives a dense layer without a neuron (create_dense): its current sums up, its voltage is its current.
INTEGRATOR = Neuron(threshold=None, reset="zero", current_decay=0, voltage_decay=4096)


@dataclass(frozen=True)
class Stream:
    """What a layer hands to the next: node names with delays, their joint shape; or edges waiting for a sum."""

    parts: tuple[tuple[str, int], ...]
    shape: Shape
    edges: tuple[Edge, ...] = ()


class Reader:
    """Takes the layers of a file in their order; then `finish`. ours: whether the program wrote it."""

    def __init__(self, input_shape: Shape | None, *, ours: bool) -> None:
        self.input_shape, self.ours = input_shape, ours
        self.outside: Stream | None = None  # what comes in, of a file without an input layer
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {}
        self.edges = self.synapses = 0
        self.streams: list[Stream] = []
        self.summed: set[int] = set()  # synapse layers that an add layer reads
        self.unread: set[int] = set()  # feedback layers that no synapse layer follows
        self.later: dict[str, int] = {}  # what stands for the neurons of a layer, maybe one to come, and its index
        self.holders: dict[int, str] = {}  # layers with neurons, and their names
        self.notes: dict[str, str] = {}
        self.cut: list[str] = []  # dense layers whose weights stock NetX would not keep

    def layer(self, fields: Fields) -> None:
        kind = fields.text("type")
        readers: dict[str, Callable[[Fields], Stream]] = {
            "input": self._input,
            "concat": self._concat,
            "flatten": self._flatten,
            "add": self._add,
            "average": self._average,
            "feedback": self._feedback,
        }
        if kind not in readers and kind not in SYNAPSES:
            raise fields.error("type", repr(kind[:40]), ", ".join(("input", *SYNAPSES, *list(readers)[1:])))
        if not self.streams and kind in SYNAPSES:
            self._begin(fields, kind)
        if self.notes:
            raise GraphError(f"{fields.where}: follows an average, which must be the last layer")
        self.streams.append(self._synapse(fields, SYNAPSES[kind]) if kind in SYNAPSES else readers[kind](fields))

    def _input(self, fields: Fields) -> Stream:
        if self.streams:
            raise GraphError(f"{fields.where}: a second input; one, as layer 0, is allowed")
        shape, name = fields.shape(), self._name(fields, "input")
        if self.input_shape not in (None, shape):
            raise fields.error("shape", str(shape), f"{self.input_shape}, which was given,")
        most = fields.integer("levels", 1, LEVELS_MAX, default=1)
        if "neuron" not in fields:
            return self._node(Input(name, shape, levels=most))
        if most > 1:
            raise fields.error("levels", str(most), "1 with neurons")
        gain, offset = fields.number("weight", INPUT_GAIN, INPUT_MAX), fields.number("bias", 0.0, INPUT_MAX)
        if not self.ours:  # netx/hdf5.py, create_input: int()
            gain, offset = float(int(gain)), float(int(offset))
        return self._node(
            Input(name, shape, neurons.read_neuron(fields.sub("neuron"), shape, of_input=True), gain, offset)
        )

    def _begin(self, fields: Fields, kind: str) -> None:
        """The input of a file that begins with a synapse, as lava-dl writes networks that others feed."""
        shape = self.input_shape
        if shape is None and kind in ("dense", "dense_rec"):
            shape = (parts.dense(fields, (1, 1, 1)).weight.shape[1], 1, 1)
        elif shape is None and kind == "conv":
            shape = parts.source_of(parts.conv(fields, (1, 1, 1)), fields.shape())
        if shape is None:
            raise GraphError(
                f"{fields.where}: the file has no input layer, and this one ({kind}) does not say what comes in; give "
                "it, (C, H, W): netx.read(path, input_shape=...)"
            )
        self.outside = self._node(Input("input", shape))

    def _synapse(self, fields: Fields, build: Callable[[Fields, Shape], Operator]) -> Stream:
        source = self._previous(fields)
        if not source.parts:
            raise GraphError(f"{fields.where}: reads a layer without neurons; an add layer must follow it")
        if "inputs" in fields:
            raise GraphError(f"{fields.where}: field 'inputs' is read on concat and add layers only")
        edges = []
        op = build(fields, source.shape)
        if not self.ours and fields.text("type") == "dense" and not stock.keeps(op.weight):
            self.cut.append(fields.where)
        by_delay = parts.by_delay(fields, op)
        self._count(fields, [op for op, _ in by_delay] * len(source.parts))
        for op, target_delay in by_delay:
            start = 0
            for name, delay in source.parts:
                shape = self.shapes[name]
                try:
                    part = op if len(source.parts) == 1 else slice_channels(op, start, shape, source.shape)
                except (GraphError, ValueError) as error:
                    raise GraphError(f"{fields.where}: weight does not fit its inputs: {error}") from None
                if part.weight.size or not isinstance(part, Sparse) or len(by_delay) == 1:
                    edges.append(Edge(name, part, delay, target_delay, feedback=name in self.later))
                start += shape[0]
        if fields.text("type") == "dense_rec":
            edges.append(self._recurrent(fields, edges[0].op))
        self.unread.discard(len(self.streams) - 1)
        if "neuron" not in fields:
            return Stream((), fields.shape(), tuple(edges))
        return self._population(fields, tuple(edges))

    @staticmethod
    def _recurrent(fields: Fields, forward: Operator) -> Edge:
        """What a `dense_rec` layer sends itself; NetX runs that of CUBA neurons alone (create_dense, message bits)."""
        assert isinstance(forward, Dense)
        told = (neurons.SIGMA_DELTA, neurons.FINE_SIGMA_DELTA)
        if "neuron" not in fields or fields.sub("neuron").text("type") in told:
            raise GraphError(f"{fields.where}: a dense_rec layer without CUBA neurons of its own; these are needed")
        return Edge(SELF, parts.recurrent(fields, forward))

    def _flatten(self, fields: Fields) -> Stream:
        place = len(self.streams)
        if place - 1 in self.unread:  # what follows reads it through this
            self.unread.remove(place - 1)
            self.unread.add(place)
        return self._previous(fields)

    def _feedback(self, fields: Fields) -> Stream:
        """The spikes of neurons some steps late: those of `inputs`, or that the add layer behind it makes.

        A synapse layer follows.
        """
        name, place = SELF, len(self.streams)
        if "inputs" in fields:
            (index,) = fields.integers("inputs", 0, MAX_LAYERS - 1, counts=(1,))
            name = f"{LATER}{index}"
            if self.shapes.get(name, fields.shape()) != fields.shape():
                raise fields.error("shape", str(fields.shape()), f"{self.shapes[name]}, as another of layer {index},")
            self.later[name] = index
        self.shapes[name] = fields.shape()
        self.unread.add(place)
        return Stream(((name, fields.integer("delay", 0, WAIT_MAX, default=0)),), fields.shape())

    def _count(self, fields: Fields, ops: Sequence[Operator]) -> None:
        """Before more is made of the operators of edges."""
        self.edges += len(ops)
        self.synapses += sum(op.weight.size for op in ops if isinstance(op, Sparse))
        if self.edges > MAX_EDGES:
            raise GraphError(f"{fields.where}: the layers so far make more than {MAX_EDGES} synapses between layers")
        if self.synapses > MAX_SYNAPSES:
            raise GraphError(f"{fields.where}: the layers so far make more than {MAX_SYNAPSES} single synapses")

    def _average(self, fields: Fields) -> Stream:
        """lava-dl's readout: the mean over groups of output neurons, which the host takes."""
        source = self._previous(fields)
        self.notes["average"] = str(int(np.prod(fields.shape())))
        return source

    def finish(self) -> None:
        """What comes last without a neuron integrates in a file of lava-dl, as in NetX; else something must sum it."""
        if self.unread:
            raise GraphError(f"layer {min(self.unread)}: a feedback that no synapse layer follows")
        for k, stream in enumerate(self.streams):
            if not stream.edges or k in self.summed:
                continue
            if self.ours or k < len(self.streams) - 1:
                raise GraphError(f"layer {k}: has no neuron, and no add layer sums it")
            self.nodes.append(Population(f"layer_{k}", stream.shape, stream.edges, INTEGRATOR))
        self._close_loops()

    def _close_loops(self) -> None:
        """Put the names of neurons in place of what stands for them."""
        names = {}
        for stands, index in self.later.items():
            if index not in self.holders:
                raise GraphError(f"layer {index}: has no neurons, and a feedback of it; a layer with neurons is needed")
            names[stands] = self.holders[index]
            found, shape = self.shapes[stands], self.shapes[names[stands]]
            if found != shape:
                raise GraphError(f"layer {index}: has shape {shape}, and a feedback of it {found}; the same is needed")

        def closed(node: Node) -> Node:
            if not isinstance(node, Population):
                return node
            edges = tuple(replace(edge, source=names.get(edge.source, edge.source)) for edge in node.edges)
            return replace(node, edges=edges)

        self.nodes = [closed(node) for node in self.nodes]

    def _concat(self, fields: Fields) -> Stream:
        inputs = fields.integers("inputs", 0, len(self.streams) - 1, counts=tuple(range(1, MAX_LAYERS)))
        streams = [self.streams[k] for k in inputs]
        delays = (
            fields.integers("delay", 0, WAIT_MAX, counts=(len(inputs),)) if "delay" in fields else (0,) * len(inputs)
        )
        if any(len(stream.parts) != 1 or stream.parts[0][0] in (SELF, *self.later) for stream in streams):
            raise GraphError(f"{fields.where}: inputs {inputs} are not all layers with neurons")
        joined = tuple((s.parts[0][0], s.parts[0][1] + d) for s, d in zip(streams, delays, strict=True))
        shape = (sum(s.shape[0] for s in streams), *streams[0].shape[1:])
        if len({s.shape[1:] for s in streams}) > 1 or fields.shape() != shape:
            raise fields.error("shape", str(fields.shape()), f"{shape}, of inputs with equal sides,")
        return Stream(joined, shape)

    def _add(self, fields: Fields) -> Stream:
        inputs = fields.integers("inputs", 0, len(self.streams) - 1, counts=tuple(range(1, MAX_LAYERS)))
        if not all(self.streams[k].edges for k in inputs):
            raise GraphError(f"{fields.where}: inputs {inputs} are not all synapse layers without neurons")
        for k in inputs:
            fed_back = any(edge.source == SELF for edge in self.streams[k].edges)
            if fed_back and self.streams[k - 1].shape != fields.shape():
                raise GraphError(
                    f"layer {k - 1}: a feedback of {self.streams[k - 1].shape}; {fields.shape()} is summed"
                )
        twice = [k for k in inputs if k in self.summed and any(edge.source == SELF for edge in self.streams[k].edges)]
        if twice:
            raise GraphError(f"{fields.where}: sums layer {twice[0]}, a feedback of another; one add may sum it")
        self.summed.update(inputs)
        edges = tuple(edge for k in inputs for edge in self.streams[k].edges)
        self._count(fields, [edge.op for edge in edges])
        return self._population(fields, edges)

    def _population(self, fields: Fields, edges: tuple[Edge, ...]) -> Stream:
        shape = fields.shape()
        neuron = neurons.read_neuron(fields.sub("neuron"), shape)
        if "bias" in fields:
            sigma_delta = isinstance(neuron, SigmaDelta)
            most = POTENTIAL_MAX >> neurons.NETX_SHIFT if sigma_delta else BIAS_MANTISSA_MAX
            mantissa = fields.truncated("bias", -most, most, counts=(1, shape[0]))
            shift = neurons.NETX_SHIFT if sigma_delta else neurons.NETX_BIAS_EXPONENT
            bias = mantissa.reshape(-1, 1, 1) << shift
            neuron = replace(neuron, bias=bias if neuron.bias is None else neuron.bias + bias)
        scale = fields.number("scale", 0.0, SCALE_MAX) if "scale" in fields else None
        if scale is not None and scale <= 0:
            raise fields.error("scale", f"{scale:g}", "a positive number")
        name = self._name(fields, f"layer_{len(self.streams)}")
        edges = tuple(replace(edge, source=name) if edge.source == SELF else edge for edge in edges)
        return self._node(Population(name, shape, edges, neuron, scale=scale))

    def _node(self, node: Node) -> Stream:
        self.nodes.append(node)
        self.holders[len(self.streams)] = node.name
        self.shapes[node.name] = node.shape
        return Stream(((node.name, 0),), node.shape)

    def _previous(self, fields: Fields) -> Stream:
        if self.streams:
            return self.streams[-1]
        if self.outside is None:
            raise GraphError(f"{fields.where}: nothing comes before it; layer 0 must be the input, or have synapses")
        return self.outside

    @staticmethod
    def _name(fields: Fields, default: str) -> str:
        name = fields.text("name") if "name" in fields else default
        if not name or name.startswith(LATER):
            raise fields.error("name", repr(name[:40]) if name else "empty", "a name of at least one character")
        return name
