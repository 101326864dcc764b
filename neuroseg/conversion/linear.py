"""Linear maps of spikes: what stands between two ReLUs, however many operations it is written in.

A value is constant + sum of f(spikes of a layer), f linear. Nothing is computed until a ReLU, or the end of the model,
makes a population of it; `compose` then finds the synapse that is f.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from export.graph import Conv, ConvT, Shape
from export.passes import ungrouped
from neuroseg.spiking.channels import per_output_channel

Map = Callable[[torch.Tensor], torch.Tensor]
Convolution = Conv | ConvT


@dataclass(frozen=True, eq=False)
class Term:
    """f of one layer's spikes.

    f: float64 (1, C, H, W) of the source to the value's shape. scale: where f is nothing but scale * x.reshape(shape).
    op: f as a synapse onto `layer_shape` of the value, where it is known. before: the term that it was made of, and by
    which map; several: the terms that it is a sum of. Both are for maps that are too large to be one synapse.
    """

    source: str
    f: Map
    scale: float | None = None
    op: Convolution | None = None
    before: tuple[Term, Map] | None = None
    several: tuple[Term, ...] = ()

    def then(self, g: Map) -> Term:
        f = self.f
        return Term(self.source, lambda x: g(f(x)), before=(self, g))


@dataclass(frozen=True, eq=False)
class Value:
    """A linear map of layers' spikes, and a constant.

    shape: as in PyTorch, for a batch of one. constant: float64, of that shape. name: what a population of it is called.
    nonnegative: whether it can only be 0 or more, so that a ReLU changes nothing. parts: the values that it joins along
    its channels, if it joins any; terms say the same.
    """

    name: str
    shape: Shape
    terms: tuple[Term, ...]
    constant: torch.Tensor | None = None
    nonnegative: bool = False
    parts: tuple[Value, ...] = ()

    @property
    def layer(self) -> str | None:
        """The layer whose spikes it is, seen in whatever shape."""
        if len(self.terms) == 1 and self.terms[0].scale == 1 and self.constant is None:
            return self.terms[0].source
        return None

    @property
    def is_spikes(self) -> bool:
        """Whether it is spikes of one layer, or of two that stand for what is above and below 0."""
        several = 1 if self.nonnegative else 2
        return len(self.terms) <= several and all(term.scale is not None for term in self.terms)


def spikes(name: str, shape: Shape, *, called: str = "", signed: bool = False) -> Value:
    """The spikes of a layer, in the shape that PyTorch gives them. signed: whether they can be -1."""
    return Value(called or name, shape, (_plain(name, shape, 1.0),), nonnegative=not signed)


def layer_shape(shape: Shape) -> Shape:
    """(C, H, W) of the neurons of a value (1, ...): flat values are channels; more axes than three are made flat."""
    inner = shape[1:] if shape[0] == 1 else shape
    if len(inner) == 2:  # logits that lost their channel
        return (1, *inner)
    if len(inner) > 3:
        return (math.prod(inner), 1, 1)
    return (*inner, *(1,) * (3 - len(inner)))


def mapped(
    value: Value, g: Map, *, positive: bool = False, channels: bool = False, op: Convolution | None = None
) -> Value:
    """g of a value, g linear. positive: whether g keeps what is 0 or more so. channels: it only moves channels about.

    op: g as a synapse on a layer of the value's shape, where it is known.
    """
    constant = None if value.constant is None else g(value.constant)
    shape = tuple(g(torch.zeros(value.shape, dtype=torch.float64)).shape)
    terms = tuple(_rearranged(term, g, value.shape) if channels else term.then(g) for term in value.terms)
    if op is not None:
        pairs = zip(value.terms, terms, strict=True)
        terms = tuple(new if old.scale is None else replace(new, op=times(op, old.scale)) for old, new in pairs)
    return Value(value.name, shape, terms, constant, value.nonnegative and positive)


def times(op: Convolution, factor: float) -> Convolution:
    """A synapse whose weights are multiplied, in float64."""
    return op if factor == 1 else replace(op, weight=op.weight.astype(np.float64) * factor)


def reshaped(value: Value, shape: Shape) -> Value:
    """The same numbers in the same order."""
    if shape == value.shape:
        return value
    kept = layer_shape(shape) == layer_shape(value.shape)
    terms = tuple(
        _plain(term.source, shape, term.scale)
        if term.scale is not None
        else replace(term.then(lambda x: x.reshape(shape)), op=term.op if kept else None)
        for term in value.terms
    )
    constant = None if value.constant is None else value.constant.reshape(shape)
    return replace(value, shape=shape, terms=terms, constant=constant, parts=())


def scaled(value: Value, gain: torch.Tensor | float) -> Value:
    """A value times a number, or times a constant that broadcasts against it."""
    gain = torch.as_tensor(gain, dtype=torch.float64)
    if value.parts:
        parts = tuple(scaled(part, each) for part, each in zip(value.parts, _by_part(gain, value), strict=True))
        return joined(parts, value.name)
    terms = tuple(_scaled(term, gain, value.shape) for term in value.terms)
    constant = None if value.constant is None else value.constant * gain
    positive = value.nonnegative and bool((gain >= 0).all())
    return replace(value, terms=terms, constant=constant, nonnegative=positive)


def shifted(value: Value, offset: torch.Tensor | float) -> Value:
    """A value plus a number, or plus a constant that broadcasts against it."""
    offset = torch.as_tensor(offset, dtype=torch.float64)
    if not bool((offset != 0).any()):
        return value
    if value.parts:
        parts = tuple(shifted(part, each) for part, each in zip(value.parts, _by_part(offset, value), strict=True))
        return joined(parts, value.name)
    constant = offset.expand(value.shape) if value.constant is None else value.constant + offset
    positive = value.nonnegative and bool((offset >= 0).all())
    return replace(value, constant=constant, nonnegative=positive)


def added(values: Sequence[Value]) -> Value:
    """The sum of values of one shape. It is called as the last of them that is more than a sum of spikes."""
    named = next((value for value in reversed(values) if not value.nonnegative), values[0])
    constants = [value.constant for value in values if value.constant is not None]
    return replace(
        named,
        name="sum" if all(value.nonnegative for value in values) else named.name,
        terms=_merged([term for value in values for term in value.terms], named.shape),
        constant=sum(constants[1:], constants[0]) if constants else None,
        nonnegative=all(value.nonnegative for value in values),
        parts=(),
    )


def expanded(value: Value, shape: Shape) -> Value:
    """A value broadcast to a shape."""
    return value if value.shape == shape else mapped(value, lambda x: x.expand(shape), positive=True)


def joined(parts: Sequence[Value], name: str, *, axis: int = 1) -> Value:
    """Values one after the other along an axis."""
    sizes = [part.shape[axis] for part in parts]
    shape = list(parts[0].shape)
    shape[axis] = sum(sizes)
    terms: list[Term] = []
    constants = []
    for k, part in enumerate(parts):
        place = _placing(axis, sum(sizes[:k]), sum(sizes[k + 1 :]))
        terms += [_rearranged(term, place, part.shape) if axis == 1 else term.then(place) for term in part.terms]
        constants.append(torch.zeros(part.shape, dtype=torch.float64) if part.constant is None else part.constant)
    constant = None if all(part.constant is None for part in parts) else torch.cat(constants, axis)
    positive = all(part.nonnegative for part in parts)
    kept = tuple(parts) if axis == 1 else ()
    return Value(name, tuple(shape), tuple(terms), constant, positive, kept)


def array(tensor: torch.Tensor) -> np.ndarray:
    """A parameter as numpy array, in float32, or float64 where it is."""
    kept = tensor.dtype if tensor.dtype == torch.float64 else torch.float32
    return tensor.detach().to("cpu", kept).numpy()


def _plain(source: str, shape: Shape, scale: float) -> Term:
    if scale == 1:
        return Term(source, lambda x: x.reshape(shape), scale)
    return Term(source, lambda x: scale * x.reshape(shape), scale)


def _scaled(term: Term, gain: torch.Tensor, shape: Shape) -> Term:
    if gain.numel() == 1 and term.scale is not None:
        return _plain(term.source, shape, term.scale * float(gain))
    by_channel = gain.ndim == len(shape) and len(shape) > 1 and gain.numel() == gain.shape[1]
    op, channels = term.op, layer_shape(shape)[0]
    if term.scale is not None and len(shape) == 4:
        op = Conv(np.full((channels, 1, 1, 1), term.scale), groups=channels)
    if op is not None and (gain.numel() == 1 or by_channel):
        factor = array(per_output_channel(gain.reshape(-1).expand(channels).contiguous(), op))
        op = replace(op, weight=op.weight.astype(np.float64) * factor)
    else:
        op = None
    return replace(term.then(lambda x: x * gain), op=op)


def _rearranged(term: Term, g: Map, shape: Shape) -> Term:
    """g of a term, where g moves, drops or adds channels of (1, C, H, W): a synapse's output channels move alike."""
    op = term.op if term.scale is None else identity(shape[1], term.scale)
    if len(shape) != 4 or op is None:
        return term.then(g)
    weight = ungrouped(op).weight
    first = weight if isinstance(op, Conv) else weight.swapaxes(0, 1)  # Cout, Cin, kh, kw
    rows = torch.from_numpy(np.ascontiguousarray(first)).reshape(1, len(first), -1, weight.shape[3])
    moved = g(rows).reshape(-1, *first.shape[1:]).numpy()
    weight = moved if isinstance(op, Conv) else np.ascontiguousarray(moved.swapaxes(0, 1))
    return replace(term.then(g), op=replace(op, weight=weight, groups=1))


def identity(channels: int, scale: float) -> Conv:
    """Every neuron to its own like: a convolution, so that a pooling before it can be folded into it."""
    return Conv((scale * np.eye(channels))[:, :, None, None])


def _merged(terms: list[Term], shape: Shape) -> tuple[Term, ...]:
    """One term for each layer, of those whose synapse is not known."""
    kept: list[Term] = []
    for term in terms:
        k = next((k for k, other in enumerate(kept) if term.source == other.source and _mergeable(term, other)), None)
        if k is None:
            kept.append(term)
        elif term.scale is not None and kept[k].scale is not None:
            kept[k] = _plain(term.source, shape, term.scale + (kept[k].scale or 0))
        else:
            both = ((each.several or (each,)) for each in (kept[k], term))
            kept[k] = Term(term.source, _sum(kept[k].f, term.f), several=tuple(itertools.chain(*both)))
    return tuple(kept)


def _mergeable(a: Term, b: Term) -> bool:
    return a.op is None and b.op is None and (a.scale is None) == (b.scale is None)


def _sum(f: Map, g: Map) -> Map:
    return lambda x: f(x) + g(x)


def _placing(axis: int, before: int, after: int) -> Map:
    def place(x: torch.Tensor) -> torch.Tensor:
        zeros = [x.new_zeros([*x.shape[:axis], side, *x.shape[axis + 1 :]]) for side in (before, after)]
        return torch.cat([zeros[0], x, zeros[1]], axis)

    return place


def _by_part(constant: torch.Tensor, value: Value) -> tuple[torch.Tensor, ...]:
    """A constant that broadcasts against joined values, for each of them."""
    channel = constant.ndim - (len(value.shape) - 1)
    if channel < 0 or constant.shape[channel] == 1:
        return (constant,) * len(value.parts)
    return constant.split([part.shape[1] for part in value.parts], dim=channel)
