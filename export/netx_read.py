"""The reading half of `netx`: every field is checked before it is used.

One exception type, GraphError, naming the file, the layer, the field, what was found and what is allowed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
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
    Pair,
    Population,
    Shape,
)
from export.passes import slice_channels

LAYER_TYPES = ("input", "conv", "convT", "dense", "concat", "flatten", "add")
FORMAT_VERSION = 1
HARD_RESET, SOFT_RESET = "CUBA", "CUBA_SOFT_RESET"  # stock NetX knows the first only
NEURON_TYPES = {HARD_RESET: "zero", "LOIHI": "zero", SOFT_RESET: "subtract"}
MAX_ELEMENTS = 2**28  # of one dataset or one layer; more is a broken file, not a network
MAX_LAYERS = 10_000


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
        reader.layer(_Fields(group, f"layer {k}"))
    for k, stream in enumerate(reader.streams):
        if stream.edges and k not in reader.summed:
            raise GraphError(f"layer {k}: has no neuron, and no add layer sums it")
    graph = Graph(tuple(reader.nodes), integer=True, meta=_meta(file.get("meta")))
    if not graph.populations:
        raise GraphError("no layer with neurons; at least one is needed")
    return graph


class _Fields:
    """Checked access to the datasets of one group."""

    def __init__(self, group: h5py.Group, where: str) -> None:
        self.group = group
        self.where = where

    def error(self, field: str, found: str, allowed: str) -> GraphError:
        return GraphError(f"{self.where}: {field} is {found}; {allowed} is allowed")

    def __contains__(self, field: str) -> bool:
        return field in self.group

    def array(self, field: str) -> np.ndarray:
        dataset = self.group.get(field)
        if not isinstance(dataset, h5py.Dataset):
            raise GraphError(f"{self.where}: field {field!r} is missing")
        if dataset.size is None or dataset.size > MAX_ELEMENTS:
            raise self.error(field, f"{dataset.size} elements", f"1 to {MAX_ELEMENTS}")
        return np.asarray(dataset[()])

    def text(self, field: str) -> str:
        value = self.array(field).ravel()
        if value.size != 1 or not isinstance(value[0], bytes | str):
            raise self.error(field, f"{value.dtype} of {value.size}", "one string")
        return value[0].decode("ascii", "replace") if isinstance(value[0], bytes) else value[0]

    def integers(self, field: str, low: int, high: int, counts: tuple[int, ...] = (1,)) -> tuple[int, ...]:
        value = self.numbers(field).ravel()
        if value.size not in counts:
            raise self.error(field, f"{value.size} numbers", f"{min(counts)} to {max(counts)}")
        if (value != np.round(value)).any() or (value < low).any() or (value > high).any():
            raise self.error(field, str(value.tolist()[:8]), f"integers from {low} to {high}")
        return tuple(int(v) for v in value)

    def integer(self, field: str, low: int, high: int, default: int | None = None) -> int:
        if default is not None and field not in self:
            return default
        return self.integers(field, low, high)[0]

    def numbers(self, field: str) -> np.ndarray:
        value = self.array(field)
        if value.dtype.kind not in "biuf":
            raise self.error(field, str(value.dtype), "real numbers")
        if not np.isfinite(value).all():
            raise self.error(field, "NaN or infinite", "finite numbers")
        return value

    def pair(self, field: str, low: int, high: int, default: Pair | None = None) -> Pair:
        if default is not None and field not in self:
            return default
        value = self.integers(field, low, high, counts=(1, 2))
        return (value[0], value[-1])

    def shape(self) -> Shape:
        sides = self.integers("shape", 1, MAX_ELEMENTS, counts=(1, 3))
        if int(np.prod(sides, dtype=np.float64)) > MAX_ELEMENTS:
            raise self.error("shape", str(sides), f"{MAX_ELEMENTS} neurons at most")
        return sides if len(sides) == 3 else (sides[0], 1, 1)


class _Reader:
    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.streams: list[_Stream] = []
        self.summed: set[int] = set()  # synapse layers that an add layer reads

    def layer(self, fields: _Fields) -> None:
        kind = fields.text("type")
        readers: dict[str, Callable[[_Fields], _Stream]] = {
            "input": self._input,
            "conv": lambda f: self._synapse(f, _conv),
            "convT": lambda f: self._synapse(f, _conv_transposed),
            "dense": lambda f: self._synapse(f, _dense),
            "concat": self._concat,
            "flatten": self._previous,
            "add": self._add,
        }
        if kind not in readers:
            raise fields.error("type", repr(kind), ", ".join(LAYER_TYPES))
        self.streams.append(readers[kind](fields))

    def _input(self, fields: _Fields) -> _Stream:
        if self.streams:
            raise GraphError(f"{fields.where}: a second input; one, as layer 0, is allowed")
        if "neuron" in fields:
            raise GraphError(f"{fields.where}: the input has neurons; an input of spikes without neurons is allowed")
        return self._node(Input(self._name(fields, "input"), fields.shape()))

    def _synapse(self, fields: _Fields, build: Callable[[_Fields], Operator]) -> _Stream:
        source = self._previous(fields)
        if not source.parts:
            raise GraphError(f"{fields.where}: reads a layer without neurons; an add layer must follow it")
        for field in ("bias", "delay", "inputs"):
            if field in fields:
                raise GraphError(
                    f"{fields.where}: field {field!r} is not read on synapse layers; see concat, neuron/bias"
                )
        edges, start = [], 0
        op = build(fields)
        for name, delay in source.parts:
            shape = next(node.shape for node in self.nodes if node.name == name)
            try:
                part = op if len(source.parts) == 1 else slice_channels(op, start, shape, source.shape)
            except (GraphError, ValueError) as error:
                raise GraphError(f"{fields.where}: weight does not fit its inputs: {error}") from None
            edges.append(Edge(name, part, delay))
            start += shape[0]
        if "neuron" not in fields:
            return _Stream((), fields.shape(), tuple(edges))
        return self._population(fields, tuple(edges))

    def _concat(self, fields: _Fields) -> _Stream:
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

    def _add(self, fields: _Fields) -> _Stream:
        inputs = fields.integers("inputs", 0, len(self.streams) - 1, counts=tuple(range(1, MAX_LAYERS)))
        if not all(self.streams[k].edges for k in inputs):
            raise GraphError(f"{fields.where}: inputs {inputs} are not all synapse layers without neurons")
        self.summed.update(inputs)
        return self._population(fields, tuple(edge for k in inputs for edge in self.streams[k].edges))

    def _population(self, fields: _Fields, edges: tuple[Edge, ...]) -> _Stream:
        shape = fields.shape()
        neuron = _neuron(_Fields(_group(fields, "neuron"), f"{fields.where}: neuron"), shape)
        scale = float(fields.numbers("scale").ravel()[0]) if "scale" in fields else None
        name = self._name(fields, f"layer_{len(self.streams)}")
        return self._node(Population(name, shape, edges, neuron, scale=scale))

    def _node(self, node: Node) -> _Stream:
        self.nodes.append(node)
        return _Stream(((node.name, 0),), node.shape)

    def _previous(self, fields: _Fields) -> _Stream:
        if not self.streams:
            raise GraphError(f"{fields.where}: nothing comes before it; layer 0 must be the input")
        return self.streams[-1]

    @staticmethod
    def _name(fields: _Fields, default: str) -> str:
        return fields.text("name") if "name" in fields else default


def _group(fields: _Fields, name: str) -> h5py.Group:
    group = fields.group.get(name)
    if not isinstance(group, h5py.Group):
        raise GraphError(f"{fields.where}: group {name!r} is missing")
    return group


def _weight(fields: _Fields, ndim: int) -> np.ndarray:
    weight = fields.numbers("weight")
    if ndim == 4 and weight.ndim == 5 and weight.shape[4] == 1:  # SLAYER keeps an axis for time
        weight = weight[..., 0]
    if weight.ndim != ndim or not weight.size:
        raise fields.error("weight", f"of shape {weight.shape}", f"{ndim} axes, none empty,")
    if (weight != np.round(weight)).any() or (np.abs(weight) > 2**15).any():
        raise fields.error("weight", "fractional or beyond 16 bits", "integers")
    return weight.astype(np.int32)


def _conv(fields: _Fields) -> Conv:
    return Conv(_weight(fields, 4), **_geometry(fields))


def _conv_transposed(fields: _Fields) -> ConvT:
    padding = fields.pair("outputPadding", 0, 2**15, default=(0, 0))
    return ConvT(_weight(fields, 4), output_padding=padding, **_geometry(fields))


def _geometry(fields: _Fields) -> dict[str, Any]:
    return {
        "stride": fields.pair("stride", 1, 2**15, default=(1, 1)),
        "padding": fields.pair("padding", 0, 2**15, default=(0, 0)),
        "dilation": fields.pair("dilation", 1, 2**15, default=(1, 1)),
        "groups": fields.integer("groups", 1, 2**15, default=1),
    }


def _dense(fields: _Fields) -> Dense:
    return Dense(_weight(fields, 2))


def _neuron(fields: _Fields, shape: Shape) -> Neuron:
    kind = fields.text("type")
    if kind not in NEURON_TYPES:
        raise fields.error("type", repr(kind), ", ".join(NEURON_TYPES))
    reset = fields.text("reset") if "reset" in fields else NEURON_TYPES[kind]
    if reset != NEURON_TYPES[kind]:
        raise fields.error("reset", repr(reset), f"{NEURON_TYPES[kind]!r} with type {kind}")
    bias = None
    if "bias" in fields:
        bias = fields.numbers("bias").astype(np.int32)
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
