"""What each of PyTorch's operations becomes: a linear map waits for its ReLU, a ReLU is a population. `convert` walks.

Most operations are linear, and PyTorch itself computes them on what `linear` and `compose` ask; rules of their own have
those that mix channels, where neurons between may be cheaper than one large synapse, and those that are not linear.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Container
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.fx.node import map_arg

from export.graph import Conv, ConvT, Dropout, Input, Pool
from neuroseg.conversion import rectify
from neuroseg.conversion.choose import mixed, through
from neuroseg.conversion.draft import Draft
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
from neuroseg.conversion.refusals import PRODUCT, refusal
from neuroseg.conversion.tracing import ConversionError, module_of, results, shape_of

INPUT = "input"
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
SAME = {aten.alias, aten.detach, aten.clone, aten.contiguous, aten._to_copy, aten.lift_fresh_copy}
SHAPES = {aten.view, aten._unsafe_view, aten.reshape, aten.squeeze, aten.unsqueeze, aten.flatten}
SEVERAL = {aten.split, aten.split_with_sizes, aten.unbind, aten.chunk}
ENDS = {aten.sigmoid, aten._softmax, aten._log_softmax, aten.tanh}  # monotonous: the decision is the same without
EMPTY = {aten.empty, aten.empty_like, aten.new_empty}


class Mask:
    """What dropout multiplies with: kept with this probability."""

    def __init__(self, keep: float) -> None:
        self.keep = keep


class Builder:
    """Walks the traced operations once; `values` maps each to what it yields, `constants` those that read no image."""

    def __init__(self, graph: fx.GraphModule, names: dict[int, str], *, ternary: bool = False) -> None:
        self.graph, self.names = graph, names
        self.values: dict[fx.Node, Any] = {}  # Value, a tuple of them, Mask or None
        self.constants: dict[fx.Node, Any] = {}
        self.endings: dict[fx.Node, Callable[[torch.Tensor], torch.Tensor]] = {}
        self.ends: list[list[Callable[[torch.Tensor], torch.Tensor]]] = []  # what was left out after each output
        self.draft = Draft(ternary=ternary)

    def refuse(self) -> None:
        """Raise ConversionError for the first operation that has no rule, before any is converted, which takes long."""
        constant: set[fx.Node] = set()
        for node in self.graph.graph.nodes:
            if node.op == "get_attr":
                self.constants[node] = getattr(self.graph, str(node.target))
                constant.add(node)
            elif node.op == "call_function":
                if self._is_constant(node, constant):
                    constant.add(node)
                elif node.target is not operator.getitem and self._rule(_kind(node)) is None:
                    raise self._refusal(node)

    def visit(self, node: fx.Node) -> None:
        match node.op:
            case "placeholder":
                shape = shape_of(node)
                self.draft.add(Input(INPUT, layer_shape(shape)))
                self.values[node] = spikes(INPUT, shape)
            case "get_attr":
                self.constants[node] = getattr(self.graph, str(node.target))
            case "output":
                for result in results(node.args[0]):
                    self._output(result)
            case _:
                self._operation(node)

    def _operation(self, node: fx.Node) -> None:
        if self._is_constant(node, self.constants):
            self.constants[node] = node.target(*self._filled(node.args), **self._filled(node.kwargs))  # type: ignore
            return
        arguments: Any = node.args
        if node.target is operator.getitem:
            source = self.values.get(arguments[0])
            self.values[node] = source[arguments[1]] if isinstance(source, tuple) else None
            return
        rule = self._rule(_kind(node))
        if rule is None:
            raise self._refusal(node)
        self.values[node] = rule(node, *arguments)

    @staticmethod
    def _is_constant(node: fx.Node, constants: Container[fx.Node]) -> bool:
        """Whether it reads constants alone, and draws nothing."""
        drawn = _kind(node) is aten.bernoulli or _kind(node) in EMPTY
        return not drawn and all(n in constants for n in node.all_input_nodes)

    def _refusal(self, node: fx.Node) -> ConversionError:
        kind = _kind(node)
        return ConversionError(f"{self.place(node)}: {refusal(getattr(kind, '__name__', str(kind)))}")

    def _rule(self, kind: Any) -> Callable[..., Any] | None:
        rules: dict[Any, Callable[..., Any]] = {  # an operation's node, and its arguments
            aten.convolution: self._convolution,
            **dict.fromkeys((aten.mm, aten.addmm, aten.bmm, aten.matmul), self._product),
            aten._native_batch_norm_legit_no_training: self._batch_norm,
            aten.native_batch_norm: lambda n, x, w, b, m, v, training, *rest: self._batch_norm(n, x, w, b, m, v, *rest),
            aten.relu: lambda n, x: self.draft.fire(self._value(x, n)),
            aten.leaky_relu: lambda n, x, slope=0.01: self._leaky(n, x, slope),
            aten._prelu_kernel: lambda n, x, slope: self._leaky(n, x, self._constant(slope, n)),
            aten.rrelu_with_noise: lambda n, x, noise, low=1 / 8, high=1 / 3, *_: self._leaky(n, x, (low + high) / 2),
            aten.hardtanh: lambda n, x, low=-1.0, high=1.0: self._clamp(n, x, low, high),
            aten.clamp: lambda n, x, low=None, high=None: self._clamp(n, x, low, high),
            aten.clamp_min: lambda n, x, low: self._clamp(n, x, low, None),
            aten.clamp_max: lambda n, x, high: self._clamp(n, x, None, high),
            aten.hardsigmoid: self._hardsigmoid,
            aten.abs: lambda n, x: rectify.absolute(self._value(x, n), self.draft.fire),
            aten.maximum: lambda n, a, b: rectify.maximum(*self._both(n, a, b), self.draft.fire),
            aten.minimum: lambda n, a, b: rectify.minimum(*self._both(n, a, b), self.draft.fire),
            aten.max_pool2d_with_indices: self._max_pool,
            aten.adaptive_max_pool2d: self._adaptive_max_pool,
            aten.amax: self._amax,
            aten.avg_pool2d: self._pool,
            aten._adaptive_avg_pool2d: self._pool,
            aten.mean: self._pool,
            aten.cat: self._concat,
            aten.stack: self._stack,
            aten.add: lambda n, a, b: self._sum(n, a, b, n.kwargs.get("alpha", 1)),
            aten.sub: lambda n, a, b: self._sum(n, a, b, -n.kwargs.get("alpha", 1)),
            aten.rsub: lambda n, a, b, alpha=1: self._sum(n, b, a, -alpha),
            aten.neg: lambda n, x: scaled(self._value(x, n), -1),
            aten.mul: self._times,
            aten.div: self._over,
            aten.constant_pad_nd: self._pad,
            aten.index: self._index,
            aten.bernoulli: lambda n, x, keep, *_: Mask(keep),
            aten.zeros_like: lambda n, x, *_: None,
            **dict.fromkeys(SAME, lambda n, x, *_: self._seen_through(n, x)),
            **dict.fromkeys(SHAPES, lambda n, x, *_: reshaped(self._seen_through(n, x), shape_of(n))),
            **dict.fromkeys(SEVERAL, self._several),
            **dict.fromkeys(ENDS, self._ending),
            **dict.fromkeys(EMPTY, lambda *_: None),  # dropout's
        }
        return rules.get(kind) or (self._linear if kind in LINEAR else None)

    # Linear operations

    def _linear(self, node: fx.Node, x: Any, *rest: Any) -> Value | None:
        """Whatever PyTorch computes, on what it is asked."""
        if self.values.get(x, x) is None:  # dropout's
            return None
        value = self._value(x, node)
        kind = _kind(node)
        if kind in CUTTING and shape_of(node) == value.shape:
            return value
        if any(n not in self.constants for n in node.all_input_nodes if n is not x):
            raise ConversionError(f"{self.place(node)}: {kind.__name__} of more than one activation")
        given, rest = self._filled(node.kwargs), self._filled(rest)
        if kind in BLENDING and not value.is_spikes and not self._is_last(node):
            # Composed with what mixes channels it were synapses by millions.
            value = self.draft.fire(value, signed=True)

        def g(x: torch.Tensor) -> torch.Tensor:
            return node.target(x, *rest, **given)  # type: ignore[operator]

        positive = kind in POSITIVE
        if value.parts and kind in CHANNELWISE:
            parts = [
                through(self.draft, part, g, _depthwise(kind, part, shape_of(node), rest), positive=positive)
                for part in value.parts
            ]
            return joined(parts, value.name)
        if kind in CHANNELWISE:
            op = _depthwise(kind, value, shape_of(node), rest)
            return through(self.draft, value, g, op, positive=positive)
        return mapped(value, g, positive=positive, channels=kind in MOVING and bool(rest) and rest[0] == 1)

    def _convolution(
        self,
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
        name, w = self._name(weight, node), self._constant(weight, node)
        value = self._value(x, node)
        if w.ndim > 4:
            raise ConversionError(f"{name}: a convolution over {w.ndim - 2} axes; two are supported")

        def part(w: torch.Tensor) -> tuple[Map, Conv | ConvT | None]:
            w64 = w.double()

            def g(x: torch.Tensor) -> torch.Tensor:
                return aten.convolution(x, w64, None, stride, padding, dilation, transposed, output_padding, groups)

            if w.ndim < 4:
                return g, None
            geometry = _pair(stride), _pair(padding)
            if transposed:
                return g, ConvT(array(w), *geometry, _pair(output_padding), _pair(dilation), groups)
            return g, Conv(array(w), *geometry, _pair(dilation), groups)

        if value.parts and groups == 1 and all(len(p.shape) == 4 for p in value.parts):
            slices = w.split([p.shape[1] for p in value.parts], dim=0 if transposed else 1)
            pairs = [(p, *part(each)) for p, each in zip(value.parts, slices, strict=True)]
        else:
            pairs = [(value, *part(w))]
        total = added([mixed(self.draft, p, g, op) for p, g, op in pairs])
        total = replace(total, name=name, nonnegative=False)
        return total if bias is None else self._offset(total, self._constant(bias, node))

    def _product(self, node: fx.Node, *arguments: Any) -> Value:
        """mm(x, w), addmm(bias, x, w) or bmm(x, w), one side a constant."""
        *bias, a, b = arguments
        if (a in self.constants) == (b in self.constants):
            raise ConversionError(f"{self.place(node)}: {PRODUCT}")
        left = a in self.constants
        w = self._constant(a if left else b, node).double()
        x = b if left else a
        value, name = self._value(x, node), self._name(a if left else b, node)

        def g(x: torch.Tensor) -> torch.Tensor:
            return torch.matmul(w, x) if left else torch.matmul(x, w)

        op = None
        layer = value.layer
        if layer and not left and len(value.shape) == 2:
            op = Conv(array(self._constant(b, node).t().reshape(w.shape[1], *self.draft.shapes[layer])))
        total = replace(mixed(self.draft, value, g, op), name=name, nonnegative=False)
        return self._offset(total, self._constant(bias[0], node), axis=-1) if bias else total

    def _batch_norm(
        self, node: fx.Node, x: Any, weight: Any, offset: Any, mean: Any, variance: Any, momentum: float, eps: float
    ) -> tuple[Value, None, None]:
        """y = x * gain + offset, float64."""
        value = self._value(x, node)
        gain = torch.rsqrt(self._constant(variance, node).double() + eps)
        gain = gain * self._constant(weight, node).double() if weight is not None else gain
        bias = -self._constant(mean, node).double() * gain
        bias = bias + self._constant(offset, node).double() if offset is not None else bias
        shape = (1, -1, *(1,) * (len(value.shape) - 2))
        return shifted(scaled(value, gain.reshape(shape)), bias.reshape(shape)), None, None

    def _offset(self, value: Value, bias: torch.Tensor, axis: int = 1) -> Value:
        shape = [1] * len(value.shape)
        shape[axis] = -1
        return shifted(value, bias.double().reshape(shape))

    def _pool(self, node: fx.Node, x: Any, *rest: Any) -> Value:
        """The mean of equal blocks of a layer is a node of its own; every other average is a linear map."""
        value = self._value(x, node)
        layer = self.draft.as_layer(value)
        made = self._linear(node, x, *rest)
        assert made is not None
        if layer is None or len(value.shape) != 4:
            return made
        shape = layer_shape(shape_of(node))
        (_, height, width), (channels, rows, columns) = self.draft.shapes[layer], shape
        if channels != value.shape[1] or height % rows or width % columns:
            return made
        pool = Pool(self.draft.unique(node.name), shape, layer, (height // rows, width // columns))
        probe = torch.rand(value.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        blocks = torch.nn.functional.avg_pool2d(probe, pool.kernel)
        if not torch.allclose(made.terms[0].f(probe).reshape(blocks.shape), blocks, rtol=1e-9):
            return made
        return spikes(self.draft.add(pool), shape_of(node), called=value.name, signed=not value.nonnegative)

    def _concat(self, node: fx.Node, tensors: Any, dim: int = 0) -> Value:
        parts = [self._value(x, node) for x in tensors]
        axis = dim % len(parts[0].shape)
        if axis == 1 and all(self.draft.as_layer(part) for part in parts):
            return self.draft.join(parts, self.draft.unique(node.name))
        flat = [each for part in parts for each in (part.parts or (part,))] if axis == 1 else parts
        return joined(flat, node.name, axis=axis)

    def _stack(self, node: fx.Node, tensors: Any, dim: int = 0) -> Value:
        axis = dim % len(shape_of(node))
        parts = [self._value(x, node) for x in tensors]
        parts = [reshaped(part, (*part.shape[:axis], 1, *part.shape[axis:])) for part in parts]
        return joined(parts, node.name, axis=axis)

    def _sum(self, node: fx.Node, a: Any, b: Any, alpha: float) -> Value:
        """a + alpha * b; either may be a constant."""
        if a in self.constants or not isinstance(a, fx.Node):
            return shifted(scaled(self._value(b, node), alpha), self._number(a))
        if b in self.constants or not isinstance(b, fx.Node):
            return shifted(self._value(a, node), alpha * self._number(b))
        first, second = self._both(node, a, b)
        total = added([first, scaled(second, alpha) if alpha != 1 else second])
        return total if len(total.terms) <= TERMS_MAX else self.draft.fire(total, signed=True)

    def _times(self, node: fx.Node, a: Any, b: Any) -> Any:
        mask = next((m for m in (self._masking(a), self._masking(b)) if m), None)
        if mask:
            return self._dropout(node, a if self._masking(b) else b, mask)
        for x, factor in ((a, b), (b, a)):
            if factor in self.constants or not isinstance(factor, fx.Node):
                return scaled(expanded(self._value(x, node), shape_of(node)), self._number(factor))
        raise ConversionError(f"{self.place(node)}: {PRODUCT}")

    def _over(self, node: fx.Node, a: Any, b: Any) -> Any:
        if isinstance(self.values.get(a), Mask):
            return self.values[a]
        if b in self.constants or not isinstance(b, fx.Node):
            return scaled(expanded(self._value(a, node), shape_of(node)), 1 / self._number(b))
        raise ConversionError(
            f"{self.place(node)}: divides by an activation; neurons add, so only constants can divide"
        )

    def _pad(self, node: fx.Node, x: Any, sides: Any, fill: float = 0) -> Value:
        if not any(sides):
            return self._value(x, node)
        value = mapped(
            self._value(x, node),
            lambda x: torch.nn.functional.pad(x, list(sides)),
            positive=True,
            channels=len(sides) > 4 and not any(sides[:4]) and not any(sides[6:]),
        )
        border = torch.nn.functional.pad(torch.zeros(shape_of(x), dtype=torch.float64), list(sides), value=float(fill))
        return shifted(value, border)

    def _index(self, node: fx.Node, x: Any, indices: Any) -> Value:
        given = self._filled(list(indices))
        return mapped(self._value(x, node), lambda x: aten.index(x, given), positive=True)

    def _several(self, node: fx.Node, x: Any, *rest: Any) -> tuple[Value, ...]:
        value = self._value(x, node)
        count = len(node.meta["val"])

        def take(k: int) -> Map:
            return lambda x: node.target(x, *rest)[k]  # type: ignore[operator]

        axis = rest[1] if len(rest) > 1 else 0
        return tuple(mapped(value, take(k), positive=True, channels=axis == 1) for k in range(count))

    # ReLUs, and what is made of them

    def _leaky(self, node: fx.Node, x: Any, slope: Any) -> Value:
        value = self._value(x, node)
        if torch.is_tensor(slope) and slope.numel() > 1 and slope.ndim != len(value.shape):
            slope = slope.reshape(1, -1, *(1,) * (len(value.shape) - 2))
        return rectify.leaky(value, slope, self.draft.fire)

    def _clamp(self, node: fx.Node, x: Any, low: Any, high: Any) -> Value:
        return rectify.clamp(self._value(x, node), low, high, self.draft.fire)

    def _hardsigmoid(self, node: fx.Node, x: Any) -> Value:
        if self._is_last(node):
            return self._ending(node, x)
        value = scaled(shifted(self._value(x, node), 3.0), 1 / 6)
        return rectify.clamp(value, 0.0, 1.0, self.draft.fire)

    def _max_pool(
        self,
        node: fx.Node,
        x: Any,
        kernel: Any,
        stride: Any = (),
        padding: Any = (0, 0),
        dilation: Any = (1, 1),
        ceil_mode: bool = False,
    ) -> tuple[Value, None]:
        value, kernel = self._value(x, node), _pair(kernel)
        height, width = node.meta["val"][0].shape[-2:]
        geometry = kernel, _pair(stride) if stride else kernel, _pair(padding), _pair(dilation)
        return self._named(node, rectify.max_pool(value, *geometry, (height, width), self._fire(node))), None

    def _adaptive_max_pool(self, node: fx.Node, x: Any, size: Any) -> tuple[Value, None]:
        value, (rows, columns) = self._value(x, node), _pair(size)
        height, width = value.shape[-2:]
        if height % rows or width % columns:
            raise ConversionError(
                f"{self.place(node)}: adaptive max pooling of {(height, width)} to {(rows, columns)}; "
                "whole factors are supported"
            )
        kernel = height // rows, width // columns
        pooled = rectify.max_pool(value, kernel, kernel, (0, 0), (1, 1), (rows, columns), self._fire(node))
        return self._named(node, pooled), None

    def _amax(self, node: fx.Node, x: Any, axes: Any, keepdim: bool = False) -> Value:
        value = self._value(x, node)
        for axis in axes or range(1, len(value.shape)):
            axis = axis % len(value.shape)
            value = rectify.largest(value, axis, [list(range(value.shape[axis]))], self._fire(node))
        return reshaped(value, shape_of(node))

    def _dropout(self, node: fx.Node, x: Any, mask: Mask) -> Value:
        """Of a layer, a node for training; of a current it is left out."""
        value = self._value(x, node)
        layer = value.layer
        if mask.keep == 1 or layer is None:
            return value
        drop = Dropout(self.draft.unique("dropout"), self.draft.shapes[layer], layer, 1 - mask.keep)
        return spikes(self.draft.add(drop), value.shape, called=value.name, signed=not value.nonnegative)

    def _ending(self, node: fx.Node, x: Any, *rest: Any) -> Value:
        """At the end of a model left out: larger logits stay larger. Inside it is a curve."""
        if not self._is_last(node):
            users = [user for user in node.users if getattr(user.target, "overloadpacket", None) is aten.mul]
            kind: Any = node.target
            name = kind.overloadpacket.__name__.strip("_")
            raise ConversionError(f"{self.place(node)}: {f'{name} {PRODUCT}' if users else refusal(name)}")
        self.endings[node] = lambda y: node.target(y, *rest)  # type: ignore[operator]
        return self._value(x, node)

    def _is_last(self, node: fx.Node) -> bool:
        """Whether nothing follows but views."""
        views = SAME | SHAPES
        return all(
            user.op == "output" or (getattr(user.target, "overloadpacket", None) in views and self._is_last(user))
            for user in node.users
        )

    def _seen_through(self, node: fx.Node, x: Any) -> Any:
        """The value itself; what was left out before it is left out after it."""
        if x in self.endings:
            left_out, shape = self.endings[x], shape_of(x)
            self.endings[node] = lambda y: left_out(y.reshape(shape)).reshape(y.shape)
        return self.values[x]

    def _output(self, node: Any) -> None:
        value = self.values.get(node) if isinstance(node, fx.Node) else None
        if not isinstance(value, Value):
            raise ConversionError(f"output: {node} depends on no image; return what the model makes of its input")
        self.ends.append([self.endings[node]] if node in self.endings else [])
        self.draft.population(value, self.draft.unique(value.name), fires=False)

    # Help

    def _fire(self, node: fx.Node) -> rectify.Fire:
        """Neurons that are called as the operation that needs them."""
        return partial(self.draft.fire, name=self._called(node))

    def _called(self, node: fx.Node) -> str:
        return module_of(node).replace(".", "_") or str(node.name)

    def _named(self, node: fx.Node, value: Value) -> Value:
        return replace(value, name=self._called(node))

    def _both(self, node: fx.Node, a: Any, b: Any) -> tuple[Value, Value]:
        first, second = expanded(self._value(a, node), shape_of(node)), expanded(self._value(b, node), shape_of(node))
        return first, second

    def _value(self, x: Any, node: fx.Node) -> Value:
        if isinstance(x, fx.Node) and x in self.constants:
            constant = self._constant(x, node).double()
            return Value(node.name, tuple(constant.shape), (), constant, bool((constant >= 0).all()))
        value = self.values.get(x) if isinstance(x, fx.Node) else None
        if not isinstance(value, Value):
            raise ConversionError(f"{self.place(node)}: reads something that is no activation ({x})")
        return value

    def _constant(self, x: Any, node: fx.Node) -> torch.Tensor:
        if x not in self.constants:
            raise ConversionError(f"{self.place(node)}: {PRODUCT}")
        return self.constants[x].detach()

    def _number(self, x: Any) -> torch.Tensor:
        number = self.constants[x] if isinstance(x, fx.Node) else x
        return torch.as_tensor(number).detach().double()

    def _masking(self, x: Any) -> Mask | None:
        value = self.values.get(x) if isinstance(x, fx.Node) else None
        return value if isinstance(value, Mask) else None

    def _filled(self, arguments: Any) -> Any:
        """Arguments with constants in place of their nodes."""
        return map_arg(arguments, lambda n: self.constants[n])

    def _name(self, parameter: Any, node: fx.Node) -> str:
        """A layer's name: the path of the module whose parameter it is, or was before it was turned."""
        name, read = self.names.get(id(self.constants.get(parameter))), [parameter]
        while name is None and len(read) == 1 and isinstance(read[0], fx.Node):
            name, read = self.names.get(id(self.constants.get(read[0]))), read[0].all_input_nodes
        return name or module_of(node).replace(".", "_") or str(node.name)

    def place(self, node: fx.Node) -> str:
        """Where an operation is, as its user wrote it: the module, or the last one with weights before it."""
        module = module_of(node)
        if module:
            return f"{module} ({node.name})"
        before = [self.names[id(c)] for c in self.constants.values() if id(c) in self.names]
        return f"{node.name} (after {before[-1]})" if before else str(node.name)


def _kind(node: fx.Node) -> Any:
    """An operation whatever its overload."""
    return getattr(node.target, "overloadpacket", node.target)


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
        kernel = _pair(rest[0])
        stride = _pair(rest[1]) if len(rest) > 1 and rest[1] else kernel
        mean = np.full((channels, 1, *kernel), 1 / (kernel[0] * kernel[1]))
        return Conv(mean, stride, _pair(rest[2]) if len(rest) > 2 else (0, 0), groups=channels)
    return None


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))
