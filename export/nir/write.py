"""Write NIR, the exchange format of snnTorch, Norse, SpikingJelly, Sinabs and others: `nodes` has the equations.

Layers are simultaneous in NIR, so the delays that `align_delays` made are left out, and made again by `read`.
Weights are written as they stand, integers as integers. A synapse K of a population P is the node `P:K`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from export import files
from export.graph import (
    CURRENT_DECAY_NONE,
    VOLTAGE_DECAY_NONE,
    Conv,
    ConvT,
    Decay,
    Dense,
    Edge,
    Graph,
    GraphError,
    Node,
    Population,
    Shape,
    Sparse,
    same,
    ternary,
    without_recurrence,
)
from export.limits import DECAY_MAX, POTENTIAL_SHIFT
from export.nir.frameworks import DT
from export.nir.nodes import SILENT, SPIKING, Each, load_nir
from export.operators import to_dense
from export.passes import align_delays, fold_pool, split_concat

LOG = logging.getLogger(__name__)
MATRIX_MAX = 2**24  # numbers in the matrix that single synapses are written as


def write(graph: Graph, path: Path | str, *, dt: float = DT) -> Path:
    """Write a graph, integer or float; the file appears complete or not at all.

    dt: seconds that a step is said to last. Biases of an integer graph come << 6 and are written without. Pools and
    concatenations are folded into the weights. NIR has no reset by subtraction and no start potential: they go into
    the metadata of the neurons, which `read` obeys and others ignore, and a warning is logged.
    Single synapses into flat neurons are written as dense ones. Raises GraphError naming the population for what NIR
    cannot say: transposed convolutions, other single synapses, delays beyond those that align layers, input neurons, a
    bias beside a current that decays.
    """
    nir, path = load_nir(), Path(path)
    network = _network(nir, _plain(graph), dt)
    with files.replacing(path) as (scratch,), open(scratch, "w+b") as file:  # not by name, which HDF5 would lock
        nir.write(file, network)
    silent = sorted(p.name for p in graph.populations if p.neuron.threshold is not None and _beyond_nir(p))
    if silent:
        LOG.warning(
            "%s: NIR cannot say reset by subtraction or a start potential; metadata do: %s", path, ", ".join(silent)
        )
    return path


def _beyond_nir(population: Population) -> bool:
    return population.cuba.reset == "subtract" or bool(population.cuba.u0)


def _plain(graph: Graph) -> Graph:
    """The graph as NIR can say it, without pools, concatenations and delays; GraphError where it cannot."""
    if graph.input.neuron is not None:
        raise GraphError(f"{graph.input.name}: has neurons, which NIR's Input has not; encode images instead")
    if graph.input.levels > 1:
        raise GraphError(
            f"{graph.input.name}: graded spikes of {graph.input.levels} levels, which NIR does not tell; the encoders "
            "rate and poisson are allowed"
        )
    if signed := ternary(graph):
        raise GraphError(f"{signed[0]}: ternary spikes, which NIR does not tell; spikes of 0 and 1 are allowed")
    for node in graph.nodes:
        if "/" in node.name:
            raise GraphError(f"{node.name}: a name with '/', which HDF5 splits; others are allowed")
    for population in without_recurrence(graph, "NIR, as it is written here,").populations:
        for edge in population.edges:
            if isinstance(edge.op, ConvT):
                raise GraphError(
                    f"{population.name}: a transposed convolution from {edge.source}, which NIR has not; convolutions "
                    "and dense synapses are allowed"
                )
            if edge.target_delay is not None:
                raise GraphError(f"{population.name}: delays by target neuron from {edge.source}; none are allowed")
    graph = _filled(fold_pool(split_concat(graph)))
    aligned = align_delays(graph)
    if any(edge.delay for p in graph.populations for edge in p.edges) and not same(graph, aligned):
        for given, due in zip(graph.populations, aligned.populations, strict=True):
            found, allowed = ([edge.delay for edge in p.edges] for p in (given, due))
            if found != allowed:
                raise GraphError(f"{given.name}: delays {found}; {allowed}, which align its layers, are allowed")
    return graph


def _filled(graph: Graph) -> Graph:
    """Single synapses as dense ones, whose target is (C, 1, 1). Raises GraphError for other and for large ones."""

    def filled(population: Population, edge: Edge) -> Edge:
        if not isinstance(edge.op, Sparse):
            return edge
        size = math.prod(edge.op.shape) * math.prod(graph[edge.source].shape)
        if edge.op.shape[1:] != (1, 1) or size > MATRIX_MAX:
            raise GraphError(
                f"{population.name}: single synapses from {edge.source} into {edge.op.shape}, a matrix of {size:,} "
                f"numbers, which NIR has not; into flat neurons, up to {MATRIX_MAX:,} numbers, are allowed"
            )
        return dataclasses.replace(edge, op=Dense(to_dense(edge.op, graph[edge.source].shape)))

    def rewritten(node: Node) -> Node:
        if not isinstance(node, Population):
            return node
        return dataclasses.replace(node, edges=tuple(filled(node, edge) for edge in node.edges))

    return dataclasses.replace(graph, nodes=tuple(rewritten(node) for node in graph.nodes))


def _network(nir: ModuleType, graph: Graph, dt: float) -> Any:
    flat = _flat_nodes(graph)
    nodes: dict[str, Any] = {}
    links: list[tuple[str, str]] = []

    def add(name: str, node: Any, *, after: str | None = None) -> str:
        if name in nodes:
            raise GraphError(f"{name}: the name is used twice; ours end in ':' and a number")
        nodes[name] = node
        if after is not None:
            links.append((after, name))
        return name

    for node in graph.nodes:
        shape = node.shape[:1] if node.name in flat else node.shape
        if not isinstance(node, Population):
            add(node.name, nir.Input(np.array(shape)))
            continue
        add(node.name, _neurons(nir, node, shape, dt=dt, integer=graph.integer))
        for k, edge in enumerate(node.edges):
            name, source = edge.source, graph[edge.source].shape
            if node.name in flat and name not in flat:
                name = add(f"{node.name}:{k}:flat", nir.Flatten(np.array(source), 0, -1), after=name)
            bias = _bias(node, integer=graph.integer) if k == 0 else None
            name = add(f"{node.name}:{k}", _synapse(nir, edge, source, bias, flat=node.name in flat), after=name)
            links.append((name, node.name))
    ends = {p.name for p in graph.populations} - {edge.source for p in graph.populations for edge in p.edges}
    for end in sorted(ends):
        shape = graph[end].shape[:1] if end in flat else graph[end].shape
        name = "output" if len(ends) == 1 and "output" not in nodes else f"{end}:output"
        add(name, nir.Output(np.array(shape)), after=end)
    return nir.NIRGraph(nodes, links, metadata=_metadata(graph, dt), type_check=False)


def _metadata(graph: Graph, dt: float) -> dict[str, Any]:
    unit = 2**POTENTIAL_SHIFT if graph.integer else 1
    return {
        "logit_scale": graph.meta.logit_scale * unit,
        "class_names": json.dumps(list(graph.meta.class_names)),
        "dt": dt,
        **({"context": graph.meta.context} if graph.meta.context else {}),
    }


def _flat_nodes(graph: Graph) -> set[str]:
    """Nodes (C, 1, 1) that are (C) in NIR: neither convolutions nor what must be written as one make or read them."""
    flat = {node.name for node in graph.nodes if node.shape[1:] == (1, 1)}
    for population in reversed(graph.populations):
        if population.name not in flat or any(not isinstance(edge.op, Dense) for edge in population.edges):
            flat -= {population.name, *(edge.source for edge in population.edges)}
    return flat


def _synapse(nir: ModuleType, edge: Edge, source: Shape, bias: np.ndarray | None, *, flat: bool) -> Any:
    """Linear or Affine into flat neurons, else Conv2d; dense synapses as a kernel as large as their source."""
    op = edge.op
    if isinstance(op, Dense) and flat:
        weight = _compact(op.weight)
        return nir.Linear(weight) if bias is None else nir.Affine(weight, _compact(bias))
    if isinstance(op, Dense):
        op = Conv(op.weight.reshape(-1, *source))
    assert isinstance(op, Conv)
    return nir.Conv2d(
        input_shape=tuple(source[1:]),
        weight=_compact(op.weight),
        stride=op.stride,
        padding=op.padding,
        dilation=op.dilation,
        groups=op.groups,
        bias=_compact(np.zeros(len(op.weight)) if bias is None else bias),
    )


def _bias(population: Population, *, integer: bool) -> np.ndarray | None:
    """One number a channel (C,), in weight units."""
    neuron = population.cuba
    if neuron.bias is None:
        return None
    if neuron.gathers:
        raise GraphError(f"{population.name}: a bias, and a current decay of {neuron.current_decay}; either is allowed")
    bias = np.broadcast_to(neuron.bias, population.shape).reshape(population.shape[0], -1)
    if (bias != bias[:, :1]).any():
        raise GraphError(f"{population.name}: a bias for every neuron; one number a channel is allowed")
    return bias[:, 0] / (2**POTENTIAL_SHIFT if integer else 1)


def _neurons(nir: ModuleType, population: Population, shape: Shape, *, dt: float, integer: bool) -> Any:
    """The NIR node of a population's neurons, whose parameters get `shape`. Raises GraphError for what NIR has not."""
    neuron = population.cuba

    def tau(decay: Decay) -> Each:
        if not np.all(decay):
            raise GraphError(
                f"{population.name}: current decay {neuron.current_decay}, voltage decay {neuron.voltage_decay}; "
                f"above 0 are allowed in NIR, or {CURRENT_DECAY_NONE} and {VOLTAGE_DECAY_NONE} for no leak"
            )
        return dt * DECAY_MAX / decay

    if neuron.drop is not None:
        raise GraphError(f"{population.name}: a spike subtracts another number than the threshold; NIR cannot say that")
    fields: dict[str, Each] = {"r": 1.0}
    kind = "IF"
    if neuron.gathers:
        kind = "CubaLIF"
        fields = {"tau_syn": tau(neuron.current_decay), "tau_mem": tau(neuron.voltage_decay), "v_leak": 0.0}
        fields |= {"r": fields["tau_mem"] / dt, "w_in": fields["tau_syn"] / dt}
    elif neuron.leaks:
        kind = "LIF"
        fields = {"tau": tau(neuron.voltage_decay), "v_leak": 0.0, "r": tau(neuron.voltage_decay) / dt}
    if neuron.threshold is None:
        kind = dict(zip(SPIKING, SILENT, strict=True))[kind]
    else:
        fields["v_reset"] = 0.0
    said = {
        "reset": neuron.reset,
        "u0": neuron.u0 / (2**POTENTIAL_SHIFT if integer else 1) or None,  # in weight units
        "scale": 1.0 if integer else population.scale,  # what comes back as integers is those integers
    }
    # 12 bits of a decay survive in float32.
    arrays = {field: _laid_out(value, population.shape, shape) for field, value in fields.items()}
    if neuron.threshold is not None:
        arrays["v_threshold"] = _compact(np.full(shape, float(neuron.threshold)))
    return getattr(nir, kind)(metadata={key: value for key, value in said.items() if value is not None}, **arrays)


def _laid_out(value: Each, neurons: Shape, shape: Shape) -> np.ndarray:
    """A number for each of the neurons (C, H, W), laid out in `shape`."""
    return np.broadcast_to(value, neurons).reshape(shape).astype(np.float32)


def _compact(values: np.ndarray) -> np.ndarray:
    """As float32, which other frameworks expect, where that alters no number; else as float64."""
    return values.astype(np.float32 if (values.astype(np.float32) == values).all() else np.float64)
