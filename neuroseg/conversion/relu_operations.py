"""What operations that are piecewise linear become: populations (`rectify`); and what is left out at the end.

A rule takes what is known, the operation's node and its arguments.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from neuroseg.conversion import rectify
from neuroseg.conversion.known import Known, pair
from neuroseg.conversion.linear import Value, reshaped, scaled, shifted
from neuroseg.conversion.refusals import PRODUCT, refusal
from neuroseg.conversion.tracing import ConversionError, shape_of

aten = torch.ops.aten


def leaky(known: Known, node: fx.Node, x: Any, slope: Any) -> Value:
    value = known.value(x, node)
    if torch.is_tensor(slope) and slope.numel() > 1 and slope.ndim != len(value.shape):
        slope = slope.reshape(1, -1, *(1,) * (len(value.shape) - 2))
    return rectify.leaky(value, slope, known.draft.fire)


def clamp(known: Known, node: fx.Node, x: Any, low: Any, high: Any) -> Value:
    return rectify.clamp(known.value(x, node), low, high, known.draft.fire)


def hardsigmoid(known: Known, node: fx.Node, x: Any) -> Value:
    if known.is_last(node):
        return ending(known, node, x)
    value = scaled(shifted(known.value(x, node), 3.0), 1 / 6)
    return rectify.clamp(value, 0.0, 1.0, known.draft.fire)


def maximum(known: Known, node: fx.Node, a: Any, b: Any) -> Value:
    return rectify.maximum(*known.both(node, a, b), known.draft.fire)


def minimum(known: Known, node: fx.Node, a: Any, b: Any) -> Value:
    return rectify.minimum(*known.both(node, a, b), known.draft.fire)


def max_pool(
    known: Known,
    node: fx.Node,
    x: Any,
    kernel: Any,
    stride: Any = (),
    padding: Any = (0, 0),
    dilation: Any = (1, 1),
    ceil_mode: bool = False,
) -> tuple[Value, None]:
    value, kernel = known.value(x, node), pair(kernel)
    height, width = node.meta["val"][0].shape[-2:]
    geometry = kernel, pair(stride) if stride else kernel, pair(padding), pair(dilation)
    return known.named(node, rectify.max_pool(value, *geometry, (height, width), known.fire(node))), None


def adaptive_max_pool(known: Known, node: fx.Node, x: Any, size: Any) -> tuple[Value, None]:
    value, (rows, columns) = known.value(x, node), pair(size)
    height, width = value.shape[-2:]
    if height % rows or width % columns:
        raise ConversionError(
            f"{known.place(node)}: adaptive max pooling of {(height, width)} to {(rows, columns)}; "
            "whole factors are supported"
        )
    kernel = height // rows, width // columns
    pooled = rectify.max_pool(value, kernel, kernel, (0, 0), (1, 1), (rows, columns), known.fire(node))
    return known.named(node, pooled), None


def amax(known: Known, node: fx.Node, x: Any, axes: Any, keepdim: bool = False) -> Value:
    value = known.value(x, node)
    for axis in axes or range(1, len(value.shape)):
        axis = axis % len(value.shape)
        value = rectify.largest(value, axis, [list(range(value.shape[axis]))], known.fire(node))
    return reshaped(value, shape_of(node))


def ending(known: Known, node: fx.Node, x: Any, *rest: Any) -> Value:
    """At the end of a model left out: larger logits stay larger. Inside it is a curve."""
    if not known.is_last(node):
        users = [user for user in node.users if getattr(user.target, "overloadpacket", None) is aten.mul]
        kind: Any = node.target
        name = kind.overloadpacket.__name__.strip("_")
        raise ConversionError(f"{known.place(node)}: {f'{name} {PRODUCT}' if users else refusal(name)}")
    known.endings[node] = lambda y: node.target(y, *rest)  # type: ignore[operator]
    return known.value(x, node)
