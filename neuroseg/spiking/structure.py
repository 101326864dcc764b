"""The structure of a network apart from its numbers: a graph whose arrays are zeros, and the same as JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from export import graph as ir
from export.graph import Graph

KINDS = {
    kind.__name__: kind
    for kind in (ir.Input, ir.Population, ir.Pool, ir.Concat, ir.Dropout, ir.Edge, ir.Conv, ir.ConvT, ir.Dense)
} | {kind.__name__: kind for kind in (ir.Neuron, ir.Meta, ir.Graph)}


def without_numbers(graph: Graph) -> Graph:
    """The graph with zeros for all weights and biases; they take no memory."""
    return _arrays_as_zeros(graph)


def describe(graph: Graph) -> dict[str, Any]:
    """The structure as JSON: every dataclass with its kind, every array as its shape."""
    return _encode(graph)


def parse(description: Any) -> Graph:
    """The graph, without numbers, that `describe` described. Raises ValueError for anything else."""
    try:
        graph = _decode(description)
    except (TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"the description of the network is broken ({error})") from error
    if not isinstance(graph, Graph):
        raise ValueError("the description is of no network")
    return graph


def _arrays_as_zeros(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _zeros(value.shape)
    if isinstance(value, tuple):
        return tuple(_arrays_as_zeros(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: _arrays_as_zeros(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changed)
    return value


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.float32(0), shape)


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"array": list(value.shape)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return dict(value) if hasattr(value, "items") else value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the description of the network holds {value}")
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return _zeros(tuple(int(side) for side in value["array"]))
    if "kind" not in value:
        return {str(key): item for key, item in value.items()}
    if value["kind"] not in KINDS:
        raise ValueError(f"the description of the network holds a {value['kind']!r}; {', '.join(KINDS)} are allowed")
    return KINDS[value["kind"]](**{key: _decode(item) for key, item in value.items() if key != "kind"})
