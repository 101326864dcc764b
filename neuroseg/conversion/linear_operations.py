"""What linear operations become: parts of synapses, which wait for their ReLU.

PyTorch itself computes most of them, on what `linear` and `compose` ask; rules of their own have those that mix
channels, where neurons between may be cheaper than one large synapse. A rule takes what is known, the operation's node
and its arguments.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx

from export.graph import Conv, ConvT, Dropout, Pool
from neuroseg.conversion.choose import mixed, through
from neuroseg.conversion.known import Known, Mask, kind_of, pair
from neuroseg.conversion.linear import (
    Map,
    Value,
    added,
    array,
    expanded,
    joined,
    layer_shape,
    mapped,
    reshaped,
    scaled,
    shifted,
    spikes,
)
from neuroseg.conversion.refusals import PRODUCT
from neuroseg.conversion.tracing import ConversionError, shape_of

TERMS_MAX = 8  # of a sum; each of its readers has a synapse for every one of them
aten = torch.ops.aten

CHANNELWISE = {  # linear, positive, each channel by itself
    aten.avg_pool2d,
    aten._adaptive_avg_pool2d,
    aten.upsample_nearest2d,
    aten._upsample_nearest_exact2d,
    aten.upsample_bilinear2d,
    aten.reflection_pad2d,
    aten.replication_pad2d,
}
POSITIVE = CHANNELWISE | {  # linear, and nothing comes out below 0 that was not before
    aten.slice,
    aten.select,
    aten.index_select,
    aten.permute,
    aten.transpose,
    aten.flip,
    aten.roll,
    aten.expand,
    aten.repeat,
    aten.sum,
    aten.mean,
    aten.cumsum,
    aten.pixel_shuffle,
    aten.pixel_unshuffle,
    aten.channel_shuffle,
    aten.native_channel_shuffle,
    aten.reflection_pad1d,
    aten.replication_pad1d,
    aten.upsample_linear1d,
    aten.upsample_nearest1d,
}
CUTTING = {  # what leaves all as it is where it leaves the shape
    aten.slice,
    aten.expand,
    aten.reflection_pad1d,
    aten.reflection_pad2d,
    aten.replication_pad1d,
    aten.replication_pad2d,
}
MOVING = {aten.slice, aten.index_select, aten.narrow}  # of channels, where they are on axis 1
BLENDING = {aten.upsample_bilinear2d, aten.upsample_bicubic2d, aten._adaptive_avg_pool2d}  # no convolutions
LINEAR = POSITIVE | {aten.upsample_bicubic2d}


def linear(known: Known, node: fx.Node, x: Any, *rest: Any) -> Value | None:
    """Whatever PyTorch computes, on what it is asked."""
    if known.values.get(x, x) is None:  # dropout's
        return None
    value = known.value(x, node)
    kind = kind_of(node)
    if kind in CUTTING and shape_of(node) == value.shape:
        return value
    if any(n not in known.constants for n in node.all_input_nodes if n is not x):
        raise ConversionError(f"{known.place(node)}: {kind.__name__} of more than one activation")
    given, rest = known.filled(node.kwargs), known.filled(rest)
    if kind in BLENDING and not value.is_spikes and not known.is_last(node):
        # Composed with what mixes channels it were synapses by millions.
        value = known.draft.fire(value, signed=True)

    def g(x: torch.Tensor) -> torch.Tensor:
        return node.target(x, *rest, **given)  # type: ignore[operator]

    positive = kind in POSITIVE
    if value.parts and kind in CHANNELWISE:
        parts = [
            through(known.draft, part, g, _depthwise(kind, part, shape_of(node), rest), positive=positive)
            for part in value.parts
        ]
        return joined(parts, value.name)
    if kind in CHANNELWISE:
        op = _depthwise(kind, value, shape_of(node), rest)
        return through(known.draft, value, g, op, positive=positive)
    return mapped(value, g, positive=positive, channels=kind in MOVING and bool(rest) and rest[0] == 1)


def convolution(
    known: Known,
    node: fx.Node,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Value:
    name, w = known.name(weight, node), known.constant(weight, node)
    value = known.value(x, node)
    if w.ndim > 4:
        raise ConversionError(f"{name}: a convolution over {w.ndim - 2} axes; two are supported")

    def part(w: torch.Tensor) -> tuple[Map, Conv | ConvT | None]:
        w64 = w.double()

        def g(x: torch.Tensor) -> torch.Tensor:
            return aten.convolution(x, w64, None, stride, padding, dilation, transposed, output_padding, groups)

        if w.ndim < 4:
            return g, None
        geometry = pair(stride), pair(padding)
        if transposed:
            return g, ConvT(array(w), *geometry, pair(output_padding), pair(dilation), groups)
        return g, Conv(array(w), *geometry, pair(dilation), groups)

    if value.parts and groups == 1 and all(len(p.shape) == 4 for p in value.parts):
        slices = w.split([p.shape[1] for p in value.parts], dim=0 if transposed else 1)
        pairs = [(p, *part(each)) for p, each in zip(value.parts, slices, strict=True)]
    else:
        pairs = [(value, *part(w))]
    total = added([mixed(known.draft, p, g, op) for p, g, op in pairs])
    total = replace(total, name=name, nonnegative=False)
    return total if bias is None else _offset(total, known.constant(bias, node))


def product(known: Known, node: fx.Node, *arguments: Any) -> Value:
    """mm(x, w), addmm(bias, x, w) or bmm(x, w), one side a constant."""
    *bias, a, b = arguments
    if (a in known.constants) == (b in known.constants):
        raise ConversionError(f"{known.place(node)}: {PRODUCT}")
    left = a in known.constants
    w = known.constant(a if left else b, node).double()
    x = b if left else a
    value, name = known.value(x, node), known.name(a if left else b, node)

    def g(x: torch.Tensor) -> torch.Tensor:
        return torch.matmul(w, x) if left else torch.matmul(x, w)

    op = None
    layer = value.layer
    if layer and not left and len(value.shape) == 2:
        op = Conv(array(known.constant(b, node).t().reshape(w.shape[1], *known.draft.shapes[layer])))
    total = replace(mixed(known.draft, value, g, op), name=name, nonnegative=False)
    return _offset(total, known.constant(bias[0], node), axis=-1) if bias else total


def batch_norm(
    known: Known, node: fx.Node, x: Any, weight: Any, offset: Any, mean: Any, variance: Any, momentum: float, eps: float
) -> tuple[Value, None, None]:
    """y = x * gain + offset, float64."""
    value = known.value(x, node)
    gain = torch.rsqrt(known.constant(variance, node).double() + eps)
    gain = gain * known.constant(weight, node).double() if weight is not None else gain
    bias = -known.constant(mean, node).double() * gain
    bias = bias + known.constant(offset, node).double() if offset is not None else bias
    shape = (1, -1, *(1,) * (len(value.shape) - 2))
    return shifted(scaled(value, gain.reshape(shape)), bias.reshape(shape)), None, None


def _offset(value: Value, bias: torch.Tensor, axis: int = 1) -> Value:
    shape = [1] * len(value.shape)
    shape[axis] = -1
    return shifted(value, bias.double().reshape(shape))


def pool(known: Known, node: fx.Node, x: Any, *rest: Any) -> Value:
    """The mean of equal blocks of a layer is a node of its own; every other average is a linear map."""
    value = known.value(x, node)
    layer = known.draft.as_layer(value)
    made = linear(known, node, x, *rest)
    assert made is not None
    if layer is None or len(value.shape) != 4:
        return made
    shape = layer_shape(shape_of(node))
    (_, height, width), (channels, rows, columns) = known.draft.shapes[layer], shape
    if channels != value.shape[1] or height % rows or width % columns:
        return made
    pool = Pool(known.draft.unique(node.name), shape, layer, (height // rows, width // columns))
    probe = torch.rand(value.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    blocks = torch.nn.functional.avg_pool2d(probe, pool.kernel)
    if not torch.allclose(made.terms[0].f(probe).reshape(blocks.shape), blocks, rtol=1e-9):
        return made
    return spikes(known.draft.add(pool), shape_of(node), called=value.name, signed=not value.nonnegative)


def concat(known: Known, node: fx.Node, tensors: Any, dim: int = 0) -> Value:
    parts = [known.value(x, node) for x in tensors]
    axis = dim % len(parts[0].shape)
    if axis == 1 and all(known.draft.as_layer(part) for part in parts):
        return known.draft.join(parts, known.draft.unique(node.name))
    flat = [each for part in parts for each in (part.parts or (part,))] if axis == 1 else parts
    return joined(flat, node.name, axis=axis)


def stack(known: Known, node: fx.Node, tensors: Any, dim: int = 0) -> Value:
    axis = dim % len(shape_of(node))
    parts = [known.value(x, node) for x in tensors]
    parts = [reshaped(part, (*part.shape[:axis], 1, *part.shape[axis:])) for part in parts]
    return joined(parts, node.name, axis=axis)


def total(known: Known, node: fx.Node, a: Any, b: Any, alpha: float) -> Value:
    """a + alpha * b; either may be a constant."""
    if a in known.constants or not isinstance(a, fx.Node):
        return shifted(scaled(known.value(b, node), alpha), known.number(a))
    if b in known.constants or not isinstance(b, fx.Node):
        return shifted(known.value(a, node), alpha * known.number(b))
    first, second = known.both(node, a, b)
    total = added([first, scaled(second, alpha) if alpha != 1 else second])
    return total if len(total.terms) <= TERMS_MAX else known.draft.fire(total, signed=True)


def times(known: Known, node: fx.Node, a: Any, b: Any) -> Any:
    mask = next((m for m in (known.masking(a), known.masking(b)) if m), None)
    if mask:
        return _dropout(known, node, a if known.masking(b) else b, mask)
    for x, factor in ((a, b), (b, a)):
        if factor in known.constants or not isinstance(factor, fx.Node):
            return scaled(expanded(known.value(x, node), shape_of(node)), known.number(factor))
    raise ConversionError(f"{known.place(node)}: {PRODUCT}")


def over(known: Known, node: fx.Node, a: Any, b: Any) -> Any:
    if isinstance(known.values.get(a), Mask):
        return known.values[a]
    if b in known.constants or not isinstance(b, fx.Node):
        return scaled(expanded(known.value(a, node), shape_of(node)), 1 / known.number(b))
    raise ConversionError(f"{known.place(node)}: divides by an activation; neurons add, so only constants can divide")


def pad(known: Known, node: fx.Node, x: Any, sides: Any, fill: float = 0) -> Value:
    if not any(sides):
        return known.value(x, node)
    value = mapped(
        known.value(x, node),
        lambda x: torch.nn.functional.pad(x, list(sides)),
        positive=True,
        channels=len(sides) > 4 and not any(sides[:4]) and not any(sides[6:]),
    )
    border = torch.nn.functional.pad(torch.zeros(shape_of(x), dtype=torch.float64), list(sides), value=float(fill))
    return shifted(value, border)


def index(known: Known, node: fx.Node, x: Any, indices: Any) -> Value:
    given = known.filled(list(indices))
    return mapped(known.value(x, node), lambda x: aten.index(x, given), positive=True)


def several(known: Known, node: fx.Node, x: Any, *rest: Any) -> tuple[Value, ...]:
    value = known.value(x, node)
    count = len(node.meta["val"])

    def take(k: int) -> Map:
        return lambda x: node.target(x, *rest)[k]  # type: ignore[operator]

    axis = rest[1] if len(rest) > 1 else 0
    return tuple(mapped(value, take(k), positive=True, channels=axis == 1) for k in range(count))


def _dropout(known: Known, node: fx.Node, x: Any, mask: Mask) -> Value:
    """Of a layer, a node for training; of a current it is left out."""
    value = known.value(x, node)
    layer = value.layer
    if mask.keep == 1 or layer is None:
        return value
    drop = Dropout(known.draft.unique("dropout"), known.draft.shapes[layer], layer, 1 - mask.keep)
    return spikes(known.draft.add(drop), value.shape, called=value.name, signed=not value.nonnegative)


def _depthwise(kind: Any, value: Value, shape: tuple[int, ...], rest: Any) -> Conv | ConvT | None:
    """Pixels averaged, or repeated a whole number of times, as a convolution of each channel."""
    if len(value.shape) != 4 or len(shape) != 4:
        return None
    _, channels, height, width = value.shape
    if kind in (aten.upsample_nearest2d, aten._upsample_nearest_exact2d):
        factor = shape[2] // height, shape[3] // width
        if (height * factor[0], width * factor[1]) != shape[2:]:
            return None
        return ConvT(np.ones((channels, 1, *factor), np.float32), stride=factor, groups=channels)
    if kind is aten.avg_pool2d and len(rest) <= 3:  # kernel, stride, padding; what else there is, changes borders
        kernel = pair(rest[0])
        stride = pair(rest[1]) if len(rest) > 1 and rest[1] else kernel
        mean = np.full((channels, 1, *kernel), 1 / (kernel[0] * kernel[1]))
        return Conv(mean, stride, pair(rest[2]) if len(rest) > 2 else (0, 0), groups=channels)
    return None
