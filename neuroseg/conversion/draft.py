"""A graph under construction: the nodes made so far, and populations of values."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from export.graph import Concat, ConvT, Dropout, Edge, Neuron, Node, Pool, Population, Shape, Sparse, sources
from neuroseg.conversion.linear import (
    Convolution,
    Map,
    Term,
    Value,
    added,
    identity,
    layer_shape,
    scaled,
    spikes,
)
from neuroseg.conversion.probe import PROBING, convolution, sparse
from neuroseg.conversion.rectify import leaky
from neuroseg.conversion.tracing import ConversionError

WORK, SYNAPSES = 2**27, 2**21  # of single synapses, where neurons in between may do
PATIENT = 2**29  # of a convolution's probing, where nothing else is left
EMPTY = 1 / 8  # of a kernel's taps that are not 0: with fewer it is single synapses


class Draft:
    """Nodes in the order in which they are made.

    ternary: whether a value that can be below 0 travels as spikes of -1, 0 and 1, of one population, not of two.
    """

    def __init__(self, *, ternary: bool = False) -> None:
        self.ternary = ternary
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {}
        self._made: dict[str, Node] = {}

    def add(self, node: Node) -> str:
        self.nodes.append(node)
        self.shapes[node.name] = node.shape
        self._made[node.name] = node
        return node.name

    def fire(self, value: Value, *, name: str = "", signed: bool = False) -> Value:
        """The ReLU of a value: spikes of neurons that it drives; signed: the value itself. Joined are joined layers."""
        if signed and not value.nonnegative:
            return self._signed(value, name)
        if value.nonnegative and value.layer:
            return value
        if value.parts:
            return self.join([self.fire(part, name=name) for part in value.parts], "cat")
        layer = self.population(value, name or value.name, fires=True)
        return spikes(layer, value.shape, called=value.name)

    def _signed(self, value: Value, name: str) -> Value:
        """A value that can be below 0, as spikes: of ternary neurons, or of two populations, above 0 and below."""
        if not self.ternary:
            return leaky(value, 1.0, partial(self.fire, name=name))
        if value.layer:
            return value
        if value.parts:
            return self.join([self.fire(part, name=name, signed=True) for part in value.parts], "cat")
        layer = self.population(value, name or value.name, fires=True, ternary=True)
        return spikes(layer, value.shape, called=value.name, signed=True)

    def join(self, parts: list[Value], name: str) -> Value:
        """Layers joined by their channels: one layer."""
        layers = []
        for part in parts:
            layer = self.as_layer(part)
            assert layer is not None
            layers.append(layer)
        rest = parts[0].shape[2:]
        shape = (sum(self.shapes[layer][0] for layer in layers), *self.shapes[layers[0]][1:])
        joined = self.add(Concat(self.unique(name), shape, tuple(layers)))
        signed = not all(part.nonnegative for part in parts)
        return spikes(joined, (1, shape[0], *rest), called=name, signed=signed)

    def as_layer(self, value: Value) -> str | None:
        """The layer that a value is, in the layer's own shape."""
        layer = value.layer
        return layer if layer and layer_shape(value.shape) == self.shapes[layer] else None

    def population(self, value: Value, name: str, *, fires: bool, ternary: bool = False) -> str:
        """Neurons that a value drives. Raises ConversionError where that takes more synapses than can be."""
        shape = layer_shape(value.shape)
        edges = tuple(edge for term in value.terms for edge in self._edges(term, shape, name))
        if not edges:  # a constant; something has to reach it
            source = value.terms[0].source if value.terms else self.nodes[0].name
            edges = (Edge(source, Sparse(np.zeros(1), np.zeros(1, np.int64), np.zeros(1, np.int64), shape)),)
        bias = None if value.constant is None else _bias(value.constant.reshape(shape))
        neuron = Neuron(threshold=1.0 if fires else None, bias=bias, ternary=ternary)
        return self.add(Population(self.unique(name), shape, edges, neuron))

    def operator(self, term: Term, shape: Shape, *, patient: bool = False) -> Convolution | Sparse | None:
        """The synapse that a term is, onto neurons of a shape; None where it is none, or takes long to be found out.

        patient: however long that takes, within what a machine has.
        """
        source = self.shapes[term.source]
        if term.op is not None:
            return term.op
        if term.scale is not None and source == shape:
            return identity(shape[0], term.scale)
        found = convolution(term.f, source, shape, work=PATIENT if patient else PROBING)
        if found is not None and _filled(found, shape) > EMPTY:
            return found
        if patient:
            return sparse(term.f, source, shape) or found
        return sparse(term.f, source, shape, work=WORK, synapses_max=SYNAPSES) or found

    def unique(self, name: str) -> str:
        """The name, numbered where it is taken."""
        candidate, k = name, 1
        while candidate in self.shapes:
            candidate, k = f"{name}_{k}", k + 1
        return candidate

    def _edges(self, term: Term, shape: Shape, name: str) -> list[Edge]:
        """The synapses that a term is; none where it is 0. Raises ConversionError where they are too many."""
        op = self.operator(term, shape)
        if op is None:
            parts = self._apart(term, name)
            if parts:
                return [edge for part in parts for edge in self._edges(part, shape, name)]
            op = self.operator(term, shape, patient=True)
        if op is None:
            raise ConversionError(f"{name}: its neurons take more synapses than can be found out")
        return [Edge(self._readable(term.source, op), op)] if op.weight.size else []

    def _apart(self, term: Term, name: str) -> tuple[Term, ...]:
        """The same with neurons after the last map before this whose synapse can be found, or as the sum that it is."""
        if term.several:
            return term.several
        earlier, since = term.before, []
        while earlier is not None:
            known, g = earlier
            since.append(g)
            if known.several:
                return tuple(_through(part, since) for part in known.several)
            here = tuple(known.f(torch.zeros(1, *self.shapes[term.source], dtype=torch.float64)).shape)
            op = None if known.scale is not None else self.operator(known, layer_shape(here), patient=True)
            if op is not None and op.weight.size:
                return tuple(_through(part, since) for part in self._carried(known.source, op, here, name).terms)
            earlier = known.before
        return ()

    def _carried(self, source: str, op: Convolution | Sparse, shape: Shape, name: str) -> Value:
        """What a synapse yields, as spikes: as `_signed`."""
        if self.ternary:
            edge, target = Edge(self._readable(source, op), op), layer_shape(shape)
            layer = self.add(Population(self.unique(name), target, (edge,), Neuron(1.0, ternary=True)))
            return spikes(layer, shape, signed=True)
        halves = []
        for sign in (1, -1):
            edge = Edge(self._readable(source, op), replace(op, weight=sign * op.weight))
            layer = self.add(Population(self.unique(name), layer_shape(shape), (edge,), Neuron(1.0)))
            halves.append(scaled(spikes(layer, shape), sign))
        return added(halves)

    def _readable(self, source: str, op: Convolution | Sparse) -> str:
        """A transposed convolution takes no pool in (`passes.fold_pool`), so it reads neurons that do."""
        if not isinstance(op, ConvT) or not self._pooled(source):
            return source
        shape = self.shapes[source]
        edge, signs = Edge(source, identity(shape[0], 1.0)), self._has_signs(source)
        return self.add(Population(self.unique(f"{source}_spikes"), shape, (edge,), Neuron(1.0, ternary=signs)))

    def _has_signs(self, source: str) -> bool:
        """Whether any spikes that a node passes on can be below 0."""
        node = self._made[source]
        if isinstance(node, Population):
            return node.cuba.ternary
        return any(self._has_signs(name) for name in sources(node))

    def _pooled(self, source: str) -> bool:
        node = self._made[source]
        if isinstance(node, Pool):
            return True
        return isinstance(node, Concat | Dropout) and any(self._pooled(name) for name in sources(node))


def _through(term: Term, maps: list[Map]) -> Term:
    """A term through maps, the last of them first."""
    for g in reversed(maps):
        term = term.then(g)
    return term


def _filled(op: Convolution, target: Shape) -> float:
    """The share of a kernel's taps that are not 0; of all weights where it has one place."""
    used = op.weight != 0
    return float((used if target[1:] == (1, 1) else used.any(axis=(0, 1))).mean())


def _bias(constant: torch.Tensor) -> np.ndarray:
    """A constant (C, H, W) as a bias, a number a channel where that is all."""
    bias = constant.numpy().astype(np.float32 if constant.dtype != torch.float64 else np.float64)
    same = bool((constant == constant[:, :1, :1]).all())
    return bias[:, :1, :1].copy() if same else bias
