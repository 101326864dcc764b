"""The structure of a network: what a graph must be to be trained; without its numbers; and as JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from export import graph as ir
from export.graph import CURRENT_DECAY_NONE, VOLTAGE_DECAY_NONE, Conv, ConvT, Edge, Graph, Population
from neuroseg.spiking.neuron import check_neuron

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


def fires(population: Population) -> bool:
    """Whether its neurons spike; those of an output only integrate."""
    return population.neuron.threshold is not None


def operator(edge: Edge) -> Conv | ConvT:
    """The convolution of a synapse; all-to-all synapses are convolutions over the whole of their source here."""
    assert isinstance(edge.op, Conv | ConvT)
    return edge.op


def check_trainable(graph: Graph) -> None:
    """Raise ValueError unless a graph is what PyTorch can run and train: float, without leak and delays."""
    if graph.integer:
        raise ValueError("the graph holds integers; a float one is needed")
    shared = None
    for population in graph.populations:
        neuron = population.neuron
        check_neuron(threshold=1.0, reset=neuron.reset)
        if neuron.reset == "zero" and neuron.u0:
            raise ValueError(f"u0 is {neuron.u0} with reset 'zero'; stock Lava neurons start from 0")
        if neuron.threshold not in (1.0, None):
            raise ValueError(f"{population.name}: threshold is {neuron.threshold}; 1 is needed, scale the weights")
        leak = neuron.current_decay != CURRENT_DECAY_NONE or neuron.voltage_decay != VOLTAGE_DECAY_NONE
        if leak or any(edge.delay or edge.target_delay is not None for edge in population.edges):
            raise ValueError(f"{population.name}: leaks and delays are not trained here")
        if not all(isinstance(edge.op, Conv | ConvT) for edge in population.edges):
            raise ValueError(f"{population.name}: only convolutions are trained here; write dense synapses as those")
        if neuron.threshold is not None:
            shared = shared or neuron
            if (neuron.reset, neuron.u0) != (shared.reset, shared.u0):
                raise ValueError(f"{population.name}: all neurons that fire need the same reset and start potential")


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
