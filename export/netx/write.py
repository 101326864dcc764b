"""The writing half of `netx`: lava-dl's NetX HDF5 of a graph.

`layer/0`, `layer/1`, ... in topological order with the fields of lava/lib/dl/slayer/block/base.py (export_hdf5).
Beyond lava-dl: `inputs` and `delay` of a concat layer, the layer types `add` (a neuron that sums synapse layers),
`sparse` (single synapses) and `feedback` (what a population sends itself or another), `neuron/reset`,
`neuron/u0`, `name`, `scale`, and the group `meta` with its checksum.

A chain with reset zero is what stock NetX runs, and one of sigma-delta neurons at its scale. What it would run wrongly,
it must not load: skips pass through `concat`, which it refuses, as do single synapses, and neurons that it has not got
carry a type that it does not know.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from export import files
from export.graph import (
    Conv,
    ConvT,
    Dense,
    Edge,
    Graph,
    GraphError,
    Input,
    Neuron,
    Operator,
    Population,
    Sparse,
    levels,
)
from export.netx import checksum
from export.netx.neurons import stock_bias, write_neuron
from export.netx.parts import FORMAT_VERSION
from export.netx.stock import keeps


def write(graph: Graph, path: Path | str, *, sealed: bool = True) -> Path:
    """Write an integer graph of inputs and populations; the file appears complete or not at all.

    sealed: with its checksum. Raises GraphError for a float graph or one with pools or concatenations left.
    """
    if not graph.integer:
        raise GraphError("the graph holds floats; quantize it before writing")
    # No lock: nobody else knows the scratch file, and a child that another thread forks would keep it locked.
    with files.replacing(path) as (scratch,), h5py.File(scratch, "w", locking=False) as file:
        _Writer(file.create_group("layer")).graph(graph)
        _write_meta(file.create_group("meta"), graph)
        if sealed:
            checksum.seal(file)
    return Path(path)


class _Writer:
    """Appends layers; `index` maps a node's name to the layer that holds its neurons."""

    def __init__(self, group: h5py.Group) -> None:
        self.group = group
        self.index: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.graded: frozenset[str] = frozenset()  # whose spikes carry values of an encoder
        self.open: list[tuple[h5py.Group, str]] = []  # feedback layers, and whose spikes: maybe of a layer to come

    def graph(self, graph: Graph) -> None:
        self.graded = frozenset(levels(graph))
        self.shapes = {node.name: node.shape for node in graph.nodes}
        for node in graph.nodes:
            match node:
                case Input():
                    layer = self.layer("input", node.shape)
                    layer["name"] = node.name
                    if node.levels > 1:
                        layer["levels"] = node.levels
                    if node.neuron is not None:
                        write_neuron(layer.create_group("neuron"), node.neuron, node.shape)
                        layer["weight"], layer["bias"] = node.gain, node.offset
                case Population():
                    layer = self.population(node)
                case _:
                    raise GraphError(f"{node.name}: a {type(node).__name__} is left; run the passes before writing")
            self.index[node.name] = len(self.group) - 1
        for layer, source in self.open:
            layer["inputs"] = np.array([self.index[source]], np.int64)

    def layer(self, kind: str, shape: Sequence[int]) -> h5py.Group:
        layer = self.group.create_group(str(len(self.group)))
        layer.create_dataset("type", (1,), "S10", [kind.encode("ascii")])
        layer["shape"] = np.array(shape, np.int64)
        return layer

    def population(self, population: Population) -> h5py.Group:
        edges = population.edges
        # Stock NetX would run a convolution without its delays by target neuron, one of graded spikes as one of bits,
        # a network without layers of a type that it does not know, and some dense layers with other weights: a concat
        # keeps it from that.
        first = edges[0].op
        dense = isinstance(first, Dense)
        plain = dense or (edges[0].target_delay is None and not isinstance(first, Sparse))
        plain = plain and edges[0].source not in self.graded
        bias = stock_bias(population)
        plain = plain and (population.neuron.bias is None or bias is not None)
        plain = plain and not edges[0].delay and self.index.get(edges[0].source) == len(self.group) - 1
        if plain and len(edges) == 1 and (not dense or keeps(first.weight)):
            layer = self.synapse(edges[0], population.shape, self.shapes[edges[0].source])
        elif plain and _is_dense_recurrent(population):
            layer = self.synapse(edges[0], population.shape, self.shapes[edges[0].source], recurrent=edges[1])
        elif not population.recurrent and (joined := _join(edges, self.shapes)) is not None:
            op, shape = joined
            self.concat(edges, shape)
            layer = self.synapse(replace(edges[0], op=op), population.shape, shape)
        else:
            layer = self.sum(population)
        write_neuron(layer.create_group("neuron"), population.neuron, population.shape, with_bias=bias is None)
        if bias is not None:
            layer["bias"] = bias
        layer["name"] = population.name
        if population.scale is not None:
            layer["scale"] = population.scale
        return layer

    def sum(self, population: Population) -> h5py.Group:
        """An add layer, of a synapse layer for every edge; the first of them stands behind a concat."""
        parts = []
        for edge in (*population.forward, *population.recurrent):
            if population.hears_late(edge):
                layer = self.layer("feedback", self.shapes[edge.source])
                layer["delay"] = edge.delay
                if edge.feedback:
                    self.open.append((layer, edge.source))
            else:
                self.concat([edge], self.shapes[edge.source])
            self.synapse(edge, population.shape, self.shapes[edge.source])
            parts.append(len(self.group) - 1)
        layer = self.layer("add", population.shape)
        layer["inputs"] = np.array(parts, np.int64)
        return layer

    def concat(self, edges: Sequence[Edge], shape: Sequence[int]) -> None:
        layer = self.layer("concat", shape)
        layer["inputs"] = np.array([self.index[edge.source] for edge in edges], np.int64)
        layer["delay"] = np.array([edge.delay for edge in edges], np.int64)

    def synapse(
        self, edge: Edge, shape: Sequence[int], source: Sequence[int], *, recurrent: Edge | None = None
    ) -> h5py.Group:
        op = edge.op
        if isinstance(op, Dense):
            if source[1:] != (1, 1):
                self.layer("flatten", (int(np.prod(source)), 1, 1))
            layer = self.layer("dense" if recurrent is None else "dense_rec", shape)
            layer["inFeatures"], layer["outFeatures"] = op.weight.shape[1], op.weight.shape[0]
        elif isinstance(op, Sparse):
            layer = self.layer("sparse", shape)
            for name, places in (("target", op.target), ("source", op.source)):
                layer.create_dataset(name, data=places.astype(np.int32), compression="gzip", shuffle=True)
        else:
            transposed = isinstance(op, ConvT)
            layer = self.layer("convT" if transposed else "conv", shape)
            layer["inChannels"], layer["outChannels"] = source[0], shape[0]
            layer["kernelSize"] = np.array(op.weight.shape[2:], np.int64)
            fields: dict[str, Any] = {"stride": op.stride, "padding": op.padding, "dilation": op.dilation}
            if isinstance(op, ConvT):
                fields["outputPadding"] = op.output_padding
            for name, value in fields.items():
                layer[name] = np.array(value, np.int64)
            layer["groups"] = op.groups
        if edge.target_delay is not None:
            if (edge.target_delay != edge.target_delay[:, :1, :1]).any():
                raise GraphError("delays by target neuron differ within a channel; the file has one for each channel")
            layer["delay"] = edge.target_delay[:, 0, 0].astype(np.int64)
        weights = {"weight": op.weight} | ({} if recurrent is None else {"weight_rec": recurrent.op.weight})
        for name, weight in weights.items():
            layer.create_dataset(name, data=weight.astype(np.int16), compression="gzip", shuffle=True)
        return layer


def _is_dense_recurrent(population: Population) -> bool:
    """Whether it is what lava-dl calls dense_rec: all to all from one source and from itself, a step late."""
    if len(population.edges) != 2 or len(population.recurrent) != 1 or population.edges[1].source != population.name:
        return False
    first, again = population.edges
    whole = isinstance(first.op, Dense) and isinstance(again.op, Dense) and first.target_delay is None
    plain = whole and not again.delay and isinstance(population.neuron, Neuron)
    return plain and keeps(first.op.weight, again.op.weight)


def _join(edges: Sequence[Edge], shapes: dict[str, tuple[int, ...]]) -> tuple[Operator, tuple[int, ...]] | None:
    """The one operator on the concatenated sources that equals the sum of the edges, if there is one."""
    first = edges[0].op
    sides = {shapes[edge.source][1:] for edge in edges}
    if len(sides) > 1 or any(type(edge.op) is not type(first) for edge in edges):
        return None
    if any(not _same(edge.target_delay, edges[0].target_delay) for edge in edges):
        return None
    shape = (sum(shapes[edge.source][0] for edge in edges), *next(iter(sides)))
    if len(edges) == 1:
        return first, shape
    if isinstance(first, Dense):
        return Dense(np.concatenate([edge.op.weight for edge in edges], axis=1)), shape
    if isinstance(first, Sparse):
        return _join_sparse(edges, shapes), shape
    ops = [edge.op for edge in edges if isinstance(edge.op, Conv | ConvT)]
    geometries = {(op.stride, op.padding, op.dilation, op.groups, op.weight.shape[2:]) for op in ops}
    if len(geometries) > 1 or first.groups > 1:
        return None
    if isinstance(first, ConvT):
        if len({op.output_padding for op in ops if isinstance(op, ConvT)}) > 1:
            return None
        weight = np.concatenate([op.weight for op in ops], axis=0)
        return (
            ConvT(weight, first.stride, first.padding, first.output_padding, first.dilation, first.groups),
            shape,
        )
    weight = np.concatenate([op.weight for op in ops], axis=1)
    return Conv(weight, first.stride, first.padding, first.dilation, first.groups), shape


def _join_sparse(edges: Sequence[Edge], shapes: dict[str, tuple[int, ...]]) -> Sparse:
    """The neurons of each source are numbered on from those of the sources before it."""
    ops = [edge.op for edge in edges if isinstance(edge.op, Sparse)]
    starts = np.cumsum([0, *(math.prod(shapes[edge.source]) for edge in edges)])
    return Sparse(
        np.concatenate([op.weight for op in ops]),
        np.concatenate([op.target for op in ops]),
        np.concatenate([op.source + start for op, start in zip(ops, starts, strict=False)]),
        ops[0].shape,
    )


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))


def _write_meta(group: h5py.Group, graph: Graph) -> None:
    meta = graph.meta
    group.attrs["format"] = "neuroseg"
    group.attrs["version"] = FORMAT_VERSION
    group.attrs["timesteps"] = meta.timesteps
    group.attrs["encoder"] = meta.encoder
    group.attrs["logit_scale"] = meta.logit_scale
    group.attrs["class_names"] = json.dumps(list(meta.class_names))
    group.attrs["notes"] = json.dumps(dict(meta.notes))
    if meta.context:
        group.attrs["context"] = meta.context
