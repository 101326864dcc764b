"""The reading half of `netx`: every field is checked before it is used.

One exception type, GraphError, naming the file, the layer, the field, what was found and what is allowed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from export.graph import (
    Conv,
    ConvT,
    Dense,
    Edge,
    Graph,
    GraphError,
    Input,
    Meta,
    Neuron,
    Node,
    Operator,
    Population,
    Shape,
)
from export.limits import BIAS_MANTISSA_MAX, BIAS_MAX, DELAY_MAX
from export.netx_fields import Fields, sub_group
from export.passes import slice_channels

LAYER_TYPES = ("input", "conv", "convT", "dense", "concat", "flatten", "add", "average")
FORMAT_VERSION = 1
HARD_RESET, SOFT_RESET = "CUBA", "CUBA_SOFT_RESET"  # stock NetX knows the first only
NEURON_TYPES = {HARD_RESET: "zero", "LOIHI": "zero", SOFT_RESET: "subtract"}
MAX_LAYERS = 10_000
INPUT_GAIN = 64.0  # of an input block that has none: lava/lib/dl/netx/hdf5.py, create_input
NETX_BIAS_EXPONENT = 6  # lava/lib/dl/netx/hdf5.py, get_neuron_params
# What NetX gives a dense layer without a neuron (create_dense): its current sums up, its voltage is its current.
INTEGRATOR = Neuron(threshold=None, reset="zero", current_decay=0, voltage_decay=4096)


@dataclass(frozen=True)
class _Stream:
    """What a layer hands to the next: node names with delays, their joint shape; or edges waiting for a sum."""

    parts: tuple[tuple[str, int], ...]
    shape: Shape
    edges: tuple[Edge, ...] = ()


def read(path: Path | str) -> Graph:
    """Read a NetX file as an integer graph. Raises GraphError for anything it does not understand."""
    path = Path(path)
    if not path.is_file():
        raise GraphError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            return _read(file)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise GraphError(f"{path}: cannot be read as NetX HDF5 ({error})") from error


def _read(file: h5py.File) -> Graph:
    layers = file.get("layer")
    if not isinstance(layers, h5py.Group):
        raise GraphError("no group 'layer'; a NetX file has one")
    if not 0 < len(layers) <= MAX_LAYERS:
        raise GraphError(f"{len(layers)} layers; 1 to {MAX_LAYERS} are allowed")
    reader = _Reader()
    for k in range(len(layers)):
        group = layers.get(str(k))
        if not isinstance(group, h5py.Group):
            raise GraphError(f"layer {k} is missing; {len(layers)} layers must be numbered from 0")
        reader.layer(Fields(group, f"layer {k}"))
    reader.finish(ours="meta" in file)
    meta = _meta(file.get("meta")) if "meta" in file else Meta(timesteps=_sample_steps(file), notes=reader.notes)
    graph = Graph(tuple(reader.nodes), integer=True, meta=meta)
    if not graph.populations:
        raise GraphError("no layer with neurons; at least one is needed")
    return graph


class _Reader:
    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.streams: list[_Stream] = []
        self.summed: set[int] = set()  # synapse layers that an add layer reads
        self.notes: dict[str, str] = {}

    def layer(self, fields: Fields) -> None:
        kind = fields.text("type")
        readers: dict[str, Callable[[Fields], _Stream]] = {
            "input": self._input,
            "conv": lambda f: self._synapse(f, _conv),
            "convT": lambda f: self._synapse(f, _conv_transposed),
            "dense": lambda f: self._synapse(f, _dense),
            "concat": self._concat,
            "flatten": self._previous,
            "add": self._add,
            "average": self._average,
        }
        if kind not in readers:
            raise fields.error("type", repr(kind), ", ".join(LAYER_TYPES))
        if self.notes:
            raise GraphError(f"{fields.where}: follows an average, which must be the last layer")
        self.streams.append(readers[kind](fields))

    def _input(self, fields: Fields) -> _Stream:
        if self.streams:
            raise GraphError(f"{fields.where}: a second input; one, as layer 0, is allowed")
        shape, name = fields.shape(), self._name(fields, "input")
        if "neuron" not in fields:
            return self._node(Input(name, shape))
        neuron = _neuron(Fields(sub_group(fields, "neuron"), f"{fields.where}: neuron"), shape)
        gain, offset = (fields.number(field, default) for field, default in (("weight", INPUT_GAIN), ("bias", 0.0)))
        return self._node(Input(name, shape, neuron, gain, offset))

    def _synapse(self, fields: Fields, build: Callable[[Fields], Operator]) -> _Stream:
        source = self._previous(fields)
        if not source.parts:
            raise GraphError(f"{fields.where}: reads a layer without neurons; an add layer must follow it")
        if "inputs" in fields:
            raise GraphError(f"{fields.where}: field 'inputs' is read on concat and add layers only")
        edges, start = [], 0
        op = build(fields)
        target_delay = self._target_delay(fields, op)
        for name, delay in source.parts:
            shape = next(node.shape for node in self.nodes if node.name == name)
            try:
                part = op if len(source.parts) == 1 else slice_channels(op, start, shape, source.shape)
            except (GraphError, ValueError) as error:
                raise GraphError(f"{fields.where}: weight does not fit its inputs: {error}") from None
            edges.append(Edge(name, part, delay, target_delay))
            start += shape[0]
        if "neuron" not in fields:
            return _Stream((), fields.shape(), tuple(edges))
        return self._population(fields, tuple(edges))

    @staticmethod
    def _target_delay(fields: Fields, op: Operator) -> np.ndarray | None:
        """lava-dl's axonal delay, which its NetX applies to the synapses into each neuron: (C, 1, 1)."""
        if "delay" not in fields:
            return None
        if not isinstance(op, Dense):
            raise GraphError(f"{fields.where}: field 'delay' on a {fields.text('type')}; dense layers may have it")
        delays = fields.integers("delay", 0, DELAY_MAX, counts=(1, len(op.weight)))
        return np.broadcast_to(np.array(delays, np.int32).reshape(-1, 1, 1), (len(op.weight), 1, 1))

    def _average(self, fields: Fields) -> _Stream:
        """lava-dl's readout: the mean over groups of output neurons, which the host takes."""
        source = self._previous(fields)
        self.notes["average"] = str(int(np.prod(fields.shape())))
        return source

    def finish(self, *, ours: bool) -> None:
        """What comes last without a neuron integrates in a file of lava-dl, as in NetX; else something must sum it."""
        for k, stream in enumerate(self.streams):
            if not stream.edges or k in self.summed:
                continue
            if ours or k < len(self.streams) - 1:
                raise GraphError(f"layer {k}: has no neuron, and no add layer sums it")
            self.nodes.append(Population(f"layer_{k}", stream.shape, stream.edges, INTEGRATOR))

    def _concat(self, fields: Fields) -> _Stream:
        inputs = fields.integers("inputs", 0, len(self.streams) - 1, counts=tuple(range(1, MAX_LAYERS)))
        streams = [self.streams[k] for k in inputs]
        delays = fields.integers("delay", 0, 2**16, counts=(len(inputs),)) if "delay" in fields else (0,) * len(inputs)
        if any(len(stream.parts) != 1 for stream in streams):
            raise GraphError(f"{fields.where}: inputs {inputs} are not all layers with neurons")
        parts = tuple((s.parts[0][0], s.parts[0][1] + d) for s, d in zip(streams, delays, strict=True))
        shape = (sum(s.shape[0] for s in streams), *streams[0].shape[1:])
        if len({s.shape[1:] for s in streams}) > 1 or fields.shape() != shape:
            raise fields.error("shape", str(fields.shape()), f"{shape}, of inputs with equal sides,")
        return _Stream(parts, shape)

    def _add(self, fields: Fields) -> _Stream:
        inputs = fields.integers("inputs", 0, len(self.streams) - 1, counts=tuple(range(1, MAX_LAYERS)))
        if not all(self.streams[k].edges for k in inputs):
            raise GraphError(f"{fields.where}: inputs {inputs} are not all synapse layers without neurons")
        self.summed.update(inputs)
        return self._population(fields, tuple(edge for k in inputs for edge in self.streams[k].edges))

    def _population(self, fields: Fields, edges: tuple[Edge, ...]) -> _Stream:
        shape = fields.shape()
        neuron = _neuron(Fields(sub_group(fields, "neuron"), f"{fields.where}: neuron"), shape)
        if "bias" in fields:
            mantissa = fields.integers("bias", -BIAS_MANTISSA_MAX, BIAS_MANTISSA_MAX, counts=(1, shape[0]))
            bias = np.array(mantissa, np.int32).reshape(-1, 1, 1) << NETX_BIAS_EXPONENT
            neuron = replace(neuron, bias=bias if neuron.bias is None else neuron.bias + bias)
        scale = fields.number("scale", 0.0) if "scale" in fields else None
        if scale is not None and scale <= 0:
            raise fields.error("scale", f"{scale:g}", "a positive number")
        name = self._name(fields, f"layer_{len(self.streams)}")
        return self._node(Population(name, shape, edges, neuron, scale=scale))

    def _node(self, node: Node) -> _Stream:
        self.nodes.append(node)
        return _Stream(((node.name, 0),), node.shape)

    def _previous(self, fields: Fields) -> _Stream:
        if not self.streams:
            raise GraphError(f"{fields.where}: nothing comes before it; layer 0 must be the input")
        return self.streams[-1]

    @staticmethod
    def _name(fields: Fields, default: str) -> str:
        return fields.text("name") if "name" in fields else default


def _weight(fields: Fields, ndim: int, flat: tuple[int, int] | None = None) -> np.ndarray:
    """Integer weights with `ndim` axes; SLAYER writes a dense layer of one output flat."""
    weight = fields.numbers("weight")
    if flat and weight.ndim == 1 and weight.size % flat[0] == 0:
        weight = weight.reshape(flat)
    if ndim == 4 and weight.ndim == 5 and weight.shape[4] == 1:  # SLAYER keeps an axis for time
        weight = weight[..., 0]
    if weight.ndim != ndim or not weight.size:
        raise fields.error("weight", f"of shape {weight.shape}", f"{ndim} axes, none empty,")
    if (weight != np.round(weight)).any() or (np.abs(weight) > 2**15).any():
        raise fields.error("weight", "fractional or beyond 16 bits", "integers")
    return weight.astype(np.int32)


def _conv(fields: Fields) -> Conv:
    return Conv(_weight(fields, 4), **_geometry(fields))


def _conv_transposed(fields: Fields) -> ConvT:
    padding = fields.pair("outputPadding", 0, 2**15, default=(0, 0))
    return ConvT(_weight(fields, 4), output_padding=padding, **_geometry(fields))


def _geometry(fields: Fields) -> dict[str, Any]:
    return {
        "stride": fields.pair("stride", 1, 2**15, default=(1, 1)),
        "padding": fields.pair("padding", 0, 2**15, default=(0, 0)),
        "dilation": fields.pair("dilation", 1, 2**15, default=(1, 1)),
        "groups": fields.integer("groups", 1, 2**15, default=1),
    }


def _dense(fields: Fields) -> Dense:
    outputs = fields.shape()[0]
    return Dense(_weight(fields, 2, flat=(outputs, -1)))


def _neuron(fields: Fields, shape: Shape) -> Neuron:
    kind = fields.text("type")
    if kind not in NEURON_TYPES:
        raise fields.error("type", repr(kind), ", ".join(NEURON_TYPES))
    reset = fields.text("reset") if "reset" in fields else NEURON_TYPES[kind]
    if reset != NEURON_TYPES[kind]:
        raise fields.error("reset", repr(reset), f"{NEURON_TYPES[kind]!r} with type {kind}")
    bias = None
    if "bias" in fields:
        bias = fields.numbers("bias")
        if (bias != np.round(bias)).any() or (np.abs(bias) > BIAS_MAX).any():
            raise fields.error("bias", "fractional or too large", f"integers up to +-{BIAS_MAX}")
        bias = bias.astype(np.int32)
        if bias.ndim > 3 or any(n not in (1, m) for n, m in zip(bias.shape[::-1], shape[::-1], strict=False)):
            raise fields.error("bias", f"of shape {bias.shape}", f"one that broadcasts to {shape}")
    fixed = {"refDelay": 1, "gradedSpike": 0, "wgtExp": 0}  # what nothing here simulates otherwise
    for field, value in fixed.items():
        fields.integer(field, value, value, default=value)
    fires = bool(fields.integer("fires", 0, 1, default=1))
    return Neuron(
        threshold=fields.integer("vThMant", 0, 2**31 - 1) if fires else None,
        reset=reset,
        u0=fields.integer("u0", -(2**31), 2**31 - 1, default=0),
        current_decay=fields.integer("iDecay", 0, 4096),
        voltage_decay=fields.integer("vDecay", 0, 4096),
        bias=bias,
    )


def _sample_steps(file: h5py.File) -> int:
    """Steps a sample in a file of lava-dl, which SLAYER calls tSample; 8 where nothing says."""
    simulation = file.get("simulation")
    if not isinstance(simulation, h5py.Group) or "tSample" not in simulation:
        return Meta().timesteps
    return Fields(simulation, "simulation").integer("tSample", 1, 2**20)


def _meta(group: Any) -> Meta:
    if not isinstance(group, h5py.Group):
        return Meta()
    attrs = group.attrs
    try:
        if attrs.get("format") != "neuroseg" or int(attrs["version"]) != FORMAT_VERSION:
            raise GraphError(
                f"meta: format {attrs.get('format')!r} {attrs.get('version')}; neuroseg {FORMAT_VERSION} is allowed"
            )
        meta = Meta(
            timesteps=int(attrs["timesteps"]),
            encoder=str(attrs["encoder"]),
            logit_scale=float(attrs["logit_scale"]),
            class_names=tuple(str(name) for name in json.loads(attrs["class_names"])),
            notes={str(k): str(v) for k, v in json.loads(attrs["notes"]).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GraphError(f"meta: missing or broken attribute ({error})") from None
    if not 1 <= meta.timesteps <= 2**20 or not np.isfinite(meta.logit_scale):
        raise GraphError(f"meta: timesteps {meta.timesteps}, logit_scale {meta.logit_scale}; out of range")
    return meta
