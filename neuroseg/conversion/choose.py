"""Where channels are mixed: one synapse for all linear operations since the last neurons, or neurons in between."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from export.graph import Shape
from neuroseg.conversion.compose import after, synapses
from neuroseg.conversion.draft import Draft
from neuroseg.conversion.linear import Convolution, Map, Term, Value, layer_shape, mapped, times
from neuroseg.conversion.probe import convolution

# Synapses that a neuron is worth: a core has room for a thousand neurons, or for some ten thousand synapses.
NEURON = 16
GUESS = 4  # synapses to a neuron of a map that is not known yet: of an interpolation


def mixed(draft: Draft, value: Value, g: Map, op: Convolution | None) -> Value:
    """g of a value, g linear; op: g as a synapse on a layer of the value's shape, where it is one.

    Composed with what waits in the value where that makes convolutions no dearer than neurons in between, which are two
    populations where the value can be below 0 and no neurons are ternary.
    """
    if value.is_spikes:
        return _composed(draft, value, g, op)
    target = layer_shape(g(torch.zeros(value.shape, dtype=torch.float64)).shape)
    apart = _cost_apart(draft, value, target, op)
    if op is None or len(value.terms) * synapses(op, layer_shape(value.shape), target) <= apart:  # it costs so at least
        made = _composed(draft, value, g, op)
        if all(term.op is not None for term in made.terms) and _cost(draft, made) <= apart:
            return made
    return _composed(draft, draft.fire(value, signed=True), g, op)


def through(draft: Draft, value: Value, g: Map, op: Convolution | None, *, positive: bool) -> Value:
    """g of a value, each channel by itself; op: g as a synapse, where it is one. Known synapses stay known."""
    made = mapped(value, g, positive=positive, op=op)
    if op is None:
        return made
    target = layer_shape(made.shape)
    terms = tuple(
        replace(new, op=after(op, old.op, new.f, draft.shapes[old.source], target)) if old.op is not None else new
        for old, new in zip(value.terms, made.terms, strict=True)
    )
    return replace(made, terms=terms)


def _composed(draft: Draft, value: Value, g: Map, op: Convolution | None) -> Value:
    made = mapped(value, g)
    target = layer_shape(made.shape)
    here, pairs = layer_shape(value.shape), zip(value.terms, made.terms, strict=True)
    terms = tuple(replace(new, op=_operator(draft, old, new, op, here, target)) for old, new in pairs)
    return replace(made, terms=terms)


def _operator(
    draft: Draft, old: Term, new: Term, op: Convolution | None, here: Shape, target: Shape
) -> Convolution | None:
    """The synapse that a term becomes; from both kernels where they are known, which is quick."""
    source = draft.shapes[old.source]
    if op is None:
        return convolution(new.f, source, target)
    if old.scale is not None:
        return times(op, old.scale)
    before = old.op or convolution(old.f, source, here, work=0)
    together = after(op, before, new.f, source, target) if before is not None else None
    return together or convolution(new.f, source, target)


def _cost(draft: Draft, made: Value) -> int:
    target = layer_shape(made.shape)
    return sum(synapses(term.op, draft.shapes[term.source], target) for term in made.terms if term.op)


def _cost_apart(draft: Draft, value: Value, target: Shape, op: Convolution | None) -> int:
    here = layer_shape(value.shape)
    neurons = math.prod(here)
    into = sum(
        synapses(term.op, draft.shapes[term.source], here) if term.op else neurons * (1 if term.scale else GUESS)
        for term in value.terms
    )
    onwards = synapses(op, here, target) if op else neurons * math.prod(target)
    return (1 if value.nonnegative or draft.ternary else 2) * (into + NEURON * neurons + onwards)
