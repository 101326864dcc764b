"""The structure of a network apart from its numbers: a graph whose arrays are zeros, and the same as JSON.

What sparse synapses join is structure, too: their indices stay, and are in JSON as packed text.
"""

from __future__ import annotations

import base64
import dataclasses
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from export.checked import Fields, fields, refuse
from export.graph import (
    ENCODERS,
    LEVELS_MAX,
    Concat,
    Conv,
    ConvT,
    Dense,
    Dropout,
    Edge,
    Graph,
    Input,
    Meta,
    Neuron,
    Node,
    Operator,
    Pool,
    Population,
    Shape,
    Sparse,
)
from export.limits import DECAY_MAX, RESETS

MAX_NODES, MAX_EDGES, MAX_ELEMENTS = 2**12, 2**10, 2**26  # more is no network, but a broken file
GEOMETRY_MAX, STEPS_MAX, VALUE_MAX = 2**15, 2**20, 1e30
AXES_MAX = 4


def without_numbers(graph: Graph) -> Graph:
    """The graph with zeros for all weights and biases; they take no memory."""
    return _arrays_as_zeros(graph)


def describe(graph: Graph) -> dict[str, Any]:
    """The structure as JSON: every dataclass with its kind, every array as its shape."""
    return _encode(graph)


def parse(description: Any) -> Graph:
    """The graph, without numbers, that `describe` described.

    Raises ValueError naming the field, what was found and what is allowed.
    """
    given = _kind(fields(description, "graph"), ("Graph",), Graph)
    nodes = tuple(_node(node) for node in given.subs("nodes", MAX_NODES))
    if sum(isinstance(node, Input) for node in nodes) != 1 or not any(isinstance(node, Population) for node in nodes):
        refuse("graph.nodes", given.get("nodes"), "one Input and at least one Population among them")
    return Graph(nodes, given.flag("integer"), _meta(given.sub("meta")))


def _arrays_as_zeros(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _zeros(value.shape)
    if isinstance(value, tuple):
        return tuple(_arrays_as_zeros(item) for item in value)
    if isinstance(value, Sparse):
        return dataclasses.replace(value, weight=_zeros(value.weight.shape))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: _arrays_as_zeros(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changed)
    return value


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.float32(0), shape)


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"array": list(value.shape)}
    if isinstance(value, Sparse):
        ends = {"target": _packed(value.target), "source": _packed(value.source)}
        return {"kind": "Sparse", "weight": _encode(value.weight), **ends, "shape": list(value.shape)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        encoded = {field.name: _encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, Edge) and not value.feedback:  # files of before there was such are the same
            del encoded["feedback"]
        return {"kind": type(value).__name__, **encoded}
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return dict(value) if hasattr(value, "items") else value


def _kind(given: Fields, kinds: tuple[str, ...], made: type) -> Fields:
    """The fields, if they are those of a dataclass; what it has a value for may be missing, as in older files."""
    given.text("kind", kinds)
    defaults: dict[str, Any] = {}
    for field in dataclasses.fields(made):
        if field.default is not dataclasses.MISSING:
            defaults[field.name] = _encode(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
    given.only(("kind", *(field.name for field in dataclasses.fields(made))))
    return Fields({**defaults, **given.value}, given.where)


def _node(given: Fields) -> Node:
    kinds: dict[str, Callable[[Fields], Node]] = {
        "Input": _input,
        "Population": _population,
        "Pool": _pool,
        "Concat": _concat,
        "Dropout": _dropout,
    }
    return kinds[given.text("kind", kinds)](given)


def _input(given: Fields) -> Input:
    given = _kind(given, ("Input",), Input)
    neuron = _neuron(given.sub("neuron")) if "neuron" in given else None
    gain, offset = (given.number(name, -VALUE_MAX, VALUE_MAX) for name in ("gain", "offset"))
    levels = given.integer("levels", 1, LEVELS_MAX)
    return Input(given.text("name"), _shape(given), neuron, gain, offset, levels)


def _population(given: Fields) -> Population:
    given = _kind(given, ("Population",), Population)
    edges = tuple(_edge(edge) for edge in given.subs("edges", MAX_EDGES))
    scale = given.number("scale", 0, VALUE_MAX) if "scale" in given else None
    return Population(given.text("name"), _shape(given), edges, _neuron(given.sub("neuron")), scale)


def _pool(given: Fields) -> Pool:
    given = _kind(given, ("Pool",), Pool)
    return Pool(given.text("name"), _shape(given), given.text("source"), _pair(given, "kernel", 1))


def _concat(given: Fields) -> Concat:
    given = _kind(given, ("Concat",), Concat)
    given.items("sources", MAX_EDGES, 1)
    return Concat(given.text("name"), _shape(given), given.texts("sources"))


def _dropout(given: Fields) -> Dropout:
    given = _kind(given, ("Dropout",), Dropout)
    return Dropout(given.text("name"), _shape(given), given.text("source"), given.number("p", 0, 1))


def _edge(given: Fields) -> Edge:
    given = _kind(given, ("Edge",), Edge)
    delays = _array(given, "target_delay") if "target_delay" in given else None
    delay, late = given.integer("delay", 0, STEPS_MAX), given.flag("feedback")
    return Edge(given.text("source"), _operator(given.sub("op")), delay, delays, late)


def _operator(given: Fields) -> Operator:
    kind = given.text("kind", ("Conv", "ConvT", "Dense", "Sparse"))
    if kind == "Sparse":
        given = _kind(given, ("Sparse",), Sparse)
        weight = _array(given, "weight")
        target, source = (_unpacked(given, name, weight.size) for name in ("target", "source"))
        return Sparse(weight, target, source, _shape(given))
    if kind == "Dense":
        return Dense(_array(_kind(given, ("Dense",), Dense), "weight"))
    given = _kind(given, (kind,), ConvT if kind == "ConvT" else Conv)
    weight, stride, padding = _array(given, "weight"), _pair(given, "stride", 1), _pair(given, "padding", 0)
    dilation, groups = _pair(given, "dilation", 1), given.integer("groups", 1, GEOMETRY_MAX)
    if kind == "ConvT":
        return ConvT(weight, stride, padding, _pair(given, "output_padding", 0), dilation, groups)
    return Conv(weight, stride, padding, dilation, groups)


def _neuron(given: Fields) -> Neuron:
    given = _kind(given, ("Neuron",), Neuron)
    given.get("threshold")
    if "drop" in given and given.get("drop") is not None:
        raise ValueError(
            f"{given.path('drop')} is given; what a spike subtracts is the threshold in networks of PyTorch"
        )
    return Neuron(
        threshold=given.number("threshold", 0, VALUE_MAX) if "threshold" in given else None,
        reset=given.text("reset", RESETS),
        u0=given.number("u0", -VALUE_MAX, VALUE_MAX),
        current_decay=given.integer("current_decay", 0, DECAY_MAX),
        voltage_decay=given.integer("voltage_decay", 0, DECAY_MAX),
        bias=_array(given, "bias") if "bias" in given else None,
        ternary=given.flag("ternary"),
    )


def _meta(given: Fields) -> Meta:
    given = _kind(given, ("Meta",), Meta)
    notes = given.sub("notes")
    return Meta(
        timesteps=given.integer("timesteps", 1, STEPS_MAX),
        encoder=given.text("encoder", ENCODERS),
        logit_scale=given.number("logit_scale", -VALUE_MAX, VALUE_MAX),
        class_names=given.texts("class_names"),
        notes={name: notes.text(name) for name in notes.value},
        context=given.integer("context", 0, GEOMETRY_MAX),
    )


def _pair(given: Fields, name: str, least: int) -> tuple[int, int]:
    first, second = given.integers(name, (2, 2), least, GEOMETRY_MAX)
    return first, second


def _shape(given: Fields) -> Shape:
    return _bounded(given, "shape", given.integers("shape", (3, 3), 1, MAX_ELEMENTS))


def _array(given: Fields, name: str) -> np.ndarray:
    array = given.sub(name)
    array.only(("array",))
    return _zeros(_bounded(array, "array", array.integers("array", (0, AXES_MAX), 1, MAX_ELEMENTS)))


def _packed(indices: np.ndarray) -> str:
    """Indices as text: their differences, which repeat, packed."""
    steps = np.diff(indices.astype("<i8"), prepend=0)
    return base64.b64encode(zlib.compress(steps.tobytes(), 9)).decode()


def _unpacked(given: Fields, name: str, size: int) -> np.ndarray:
    unpack, bytes_needed = zlib.decompressobj(), 8 * size
    try:
        raw = unpack.decompress(base64.b64decode(given.text(name), validate=True), bytes_needed + 1)
    except (ValueError, zlib.error):
        raw = b""
    if len(raw) != bytes_needed or not unpack.eof:
        raise ValueError(f"{given.path(name)} is no packed list of {size} indices; write the run again")
    return np.frombuffer(raw, "<i8").cumsum()


def _bounded(given: Fields, name: str, sides: Shape) -> Shape:
    if math.prod(sides) > MAX_ELEMENTS:
        raise ValueError(f"{given.path(name)} is {list(sides)}; {MAX_ELEMENTS} numbers at most are allowed")
    return sides
