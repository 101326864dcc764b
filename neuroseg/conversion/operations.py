"""What each of PyTorch's operations becomes in a spiking network: one rule each. `convert` walks them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx

from export.graph import Concat, Conv, ConvT, Dropout, Edge, Input, Pool
from neuroseg.conversion.compose import after_enlarging
from neuroseg.conversion.draft import Current, Draft, Enlarged, Mask, Value
from neuroseg.conversion.tracing import ConversionError, refusal, results, shape_of
from neuroseg.spiking.channels import per_output_channel

INPUT = "input"
aten = torch.ops.aten


class Builder:
    """Walks the traced operations once; `values` maps each to what it yields."""

    def __init__(self, graph: fx.GraphModule, names: dict[int, str]) -> None:
        self.graph, self.names = graph, names
        self.values: dict[fx.Node, Value] = {}
        self.tensors: dict[fx.Node, torch.Tensor] = {}  # parameters and buffers
        self.draft = Draft()

    def visit(self, node: fx.Node) -> None:
        match node.op:
            case "placeholder":
                self.values[node] = self.draft.add(Input(INPUT, shape_of(node)))
            case "get_attr":
                self.tensors[node] = getattr(self.graph, str(node.target))
            case "output":
                for result in results(node.args[0]):
                    self._output(result)
            case _:
                self._operation(node)

    def _operation(self, node: fx.Node) -> None:
        rules: dict[Any, Callable[..., Value]] = {  # an operation's node, and its arguments
            aten.convolution: self._convolution,
            **dict.fromkeys((aten.mm, aten.addmm), self._linear),
            aten._native_batch_norm_legit_no_training: self._batch_norm,
            aten.native_batch_norm: lambda n, x, w, b, m, v, training, *rest: self._batch_norm(n, x, w, b, m, v, *rest),
            aten.relu: self._relu,
            aten.avg_pool2d: self._pool,
            aten.mean: self._global_pool,
            aten._adaptive_avg_pool2d: self._adaptive_pool,
            aten.upsample_nearest2d: self._upsample,
            aten.cat: self._concat,
            aten.add: self._sum,
            **dict.fromkeys((aten.constant_pad_nd, aten.replication_pad2d, aten.reflection_pad2d), self._pad),
            aten.bernoulli: lambda _, x, keep: Mask(keep),
            aten.div: self._rescaling,
            aten.mul: self._dropout,
            **dict.fromkeys((aten.view, aten._unsafe_view, aten.reshape), self._flatten),
            **dict.fromkeys((aten.alias, aten.detach, aten.clone), lambda _, x, *options: self.values[x]),
            **dict.fromkeys((aten.empty, aten.expand, aten.empty_like, aten.new_empty), lambda *_: None),  # dropout's
        }
        arguments: Any = node.args
        if node.target is operator.getitem:
            source, index = arguments
            self.values[node] = self.values[source] if index == 0 else None
            return
        kind = getattr(node.target, "overloadpacket", node.target)
        if kind is aten.t:  # a Linear's weight
            self.tensors[node] = self.tensors[arguments[0]].t()
            return
        if kind not in rules:
            raise ConversionError(f"{self.place(node)}: {refusal(getattr(kind, '__name__', str(kind)))}")
        self.values[node] = rules[kind](node, *arguments)

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
        w = self.tensors[weight]
        name = self._name(weight)
        if w.ndim != 4:
            raise ConversionError(f"{name}: a convolution over {w.ndim - 2} axes; two are supported")
        stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
        if transposed:
            op: Conv | ConvT = ConvT(array(w), stride, padding, _pair(output_padding), dilation, groups)
        else:
            op = Conv(array(w), stride, padding, dilation, groups)
        source = self._spikes(x, node, f"{name} takes spikes; put a ReLU before it")
        offset = self.tensors.get(bias)
        return Current(name, shape_of(node), self._edges(source, op, name), None if offset is None else array(offset))

    def _edges(self, source: str | Enlarged, op: Conv | ConvT, name: str) -> tuple[Edge, ...]:
        """A convolution on a layer, or on enlarged layers: one synapse for each of those."""
        if isinstance(source, str):
            return (Edge(source, op),)
        if not isinstance(op, Conv) or op.groups > 1 or (op.stride, op.dilation) != ((1, 1), (1, 1)):
            raise ConversionError(f"{name}: reads an Upsample; stride 1, dilation 1 and groups 1 are supported there")
        made, start = [], 0
        for layer, factor in source.parts:
            stop = start + self.draft.shapes[layer][0]
            part = replace(op, weight=op.weight[:, start:stop])
            start = stop
            try:
                made.append(Edge(layer, part if factor == 1 else after_enlarging(part, factor)))
            except ValueError as error:
                raise ConversionError(f"{name}: {error}") from None
        return tuple(made)

    def _linear(self, node: fx.Node, *arguments: Any) -> Value:
        """mm(x, w) or addmm(bias, x, w): a dense layer is a convolution over the whole of its source."""
        *bias, x, transposed = arguments
        weight = self.tensors[transposed].t()
        name = self._name(transposed.args[0])
        source = self._spikes(x, node, f"{name} takes spikes; put a ReLU before it")
        if not isinstance(source, str) or math.prod(self.draft.shapes[source]) != weight.shape[1]:
            raise ConversionError(f"{name}: reads something else than a flattened layer")
        shape = self.draft.shapes[source]
        op = Conv(array(weight.reshape(len(weight), *shape)))
        return Current(name, (len(weight), 1, 1), (Edge(source, op),), array(self.tensors[bias[0]]) if bias else None)

    def _batch_norm(
        self, node: fx.Node, x: Any, weight: Any, offset: Any, mean: Any, variance: Any, momentum: float, eps: float
    ) -> Value:
        """y = x * gain + offset, folded into the current's weights and bias."""
        current = self.values[x]
        if not isinstance(current, Current):
            raise ConversionError(f"{self.place(node)}: BatchNorm2d on spikes; put it after a convolution")
        if current.shape != shape_of(x):
            raise ConversionError(f"{self.place(node)}: a batch norm after flattening; put it before")
        gain = torch.rsqrt(self.tensors[variance].double() + eps)
        gain = gain * self.tensors[weight].double() if weight else gain
        bias = torch.zeros_like(gain) if current.bias is None else torch.from_numpy(current.bias).double()
        bias = (bias - self.tensors[mean].double()) * gain
        bias = bias + self.tensors[offset].double() if offset else bias
        edges = tuple(_scaled(edge, gain) for edge in current.edges)
        return replace(current, edges=edges, bias=array(bias), rectified=False)

    def _relu(self, node: fx.Node, x: Any) -> Value:
        value = self.values[x]
        return self.draft.population(value, fires=True) if isinstance(value, Current) else value

    def _pool(
        self,
        node: fx.Node,
        x: Any,
        kernel: Any,
        stride: Any = (),
        padding: Any = (0, 0),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> Value:
        kernel, padding = _pair(kernel), _pair(padding)
        stride = _pair(stride) if stride else kernel
        if stride != kernel or padding != (0, 0) or ceil_mode or divisor:
            raise ConversionError(
                f"{self.place(node)}: average pooling of kernel {kernel}, stride {stride}, padding {padding}; "
                "stride = kernel without padding, ceil_mode or divisor_override is supported"
            )
        return self._pooled(node, x, kernel)

    def _adaptive_pool(self, node: fx.Node, x: Any, size: Any) -> Value:
        (height, width), (rows, columns) = shape_of(x)[1:], _pair(size)
        if height % rows or width % columns:
            raise ConversionError(f"{self.place(node)}: pooling {(height, width)} to {(rows, columns)} is uneven")
        return self._pooled(node, x, (height // rows, width // columns))

    def _global_pool(self, node: fx.Node, x: Any, axes: Any, keepdim: bool = False) -> Value:
        if sorted(axis % 4 for axis in axes) != [2, 3]:
            raise ConversionError(f"{self.place(node)}: mean over axes {axes}; over height and width is supported")
        return self._pooled(node, x, _pair(shape_of(x)[1:]))

    def _pooled(self, node: fx.Node, x: Any, kernel: tuple[int, int]) -> Value:
        source = self._layer(x, node, "pools spikes; put it after the ReLU")
        channels, height, width = self.draft.shapes[source]
        if height % kernel[0] or width % kernel[1]:
            raise ConversionError(f"{self.place(node)}: pooling {kernel} does not divide its input {(height, width)}")
        shape = (channels, height // kernel[0], width // kernel[1])
        return self.draft.add(Pool(self.draft.unique(node.name), shape, source, kernel))

    def _upsample(self, node: fx.Node, x: Any, size: Any, *scales: Any) -> Value:
        source = self._layer(x, node, "enlarges spikes; put it after the ReLU")
        before, after = self.draft.shapes[source][1:], shape_of(node)[1:]
        factor = after[0] // before[0]
        if tuple(side * factor for side in before) != after:
            raise ConversionError(f"{self.place(node)}: enlarges {before} to {after}; one whole factor is supported")
        return Enlarged(((source, factor),))

    def _rescaling(self, node: fx.Node, x: Any, divisor: Any) -> Value:
        mask = self.values.get(x)
        if not isinstance(mask, Mask):
            raise ConversionError(f"{self.place(node)}: {refusal('a quotient')}")
        return mask

    def _dropout(self, node: fx.Node, x: Any, factor: Any) -> Value:
        mask = self.values.get(factor) if isinstance(factor, fx.Node) else None
        if not isinstance(mask, Mask):
            raise ConversionError(f"{self.place(node)}: {refusal('a product')}")
        if mask.keep == 1:
            return self.values[x]
        source = self._layer(x, node, "drops spikes; put it after the ReLU")
        return self.draft.add(Dropout(self.draft.unique("dropout"), self.draft.shapes[source], source, 1 - mask.keep))

    def _concat(self, node: fx.Node, tensors: Any, dim: int = 0) -> Value:
        if dim % len(node.meta["tensor_meta"].shape) != 1:
            raise ConversionError(f"{self.place(node)}: concatenates along axis {dim}; channels (1) are supported")
        sources = [self._spikes(x, node, "joins spikes; put a ReLU before it") for x in tensors]
        if any(
            isinstance(s, str) and self.draft.shapes[s] != shape_of(x) for s, x in zip(sources, tensors, strict=True)
        ):
            raise ConversionError(f"{self.place(node)}: joins flattened layers; join them before flattening")
        plain = tuple(source for source in sources if isinstance(source, str))
        if len(plain) == len(sources):
            return self.draft.add(Concat(self.draft.unique(node.name), shape_of(node), plain))
        parts = (source.parts if isinstance(source, Enlarged) else ((source, 1),) for source in sources)
        return Enlarged(tuple(part for some in parts for part in some))

    def _sum(self, node: fx.Node, *terms: Any) -> Value:
        if node.kwargs or len(terms) != 2 or any(self.values.get(term) is None for term in terms):
            raise ConversionError(f"{self.place(node)}: adds something else than two layers")
        if len({shape_of(term) for term in terms}) > 1:
            raise ConversionError(f"{self.place(node)}: broadcasts; only equal shapes can be added")
        currents = [self._as_current(term, node) for term in terms]
        if any(current.shape != shape_of(node) for current in currents):
            raise ConversionError(f"{self.place(node)}: adds flattened layers; add them before flattening")
        named = next((c for c in reversed(currents) if not c.rectified), currents[0])
        biases = [current.bias for current in currents if current.bias is not None]
        return replace(
            named,
            edges=tuple(edge for current in currents for edge in current.edges),
            bias=sum(biases[1:], biases[0]) if biases else None,
            rectified=all(current.rectified for current in currents),
        )

    def _as_current(self, arg: fx.Node, node: fx.Node) -> Current:
        """A current as it is; spikes through identity synapses."""
        value = self.values[arg]
        if isinstance(value, Current):
            return value
        source = self._spikes(arg, node, "adds something else than layers")
        shape = self.draft.shapes[source] if isinstance(source, str) else shape_of(arg)
        parts = source.parts if isinstance(source, Enlarged) else ((source, 1),)
        edges, start = [], 0
        for layer, factor in parts:
            channels = self.draft.shapes[layer][0]
            weight = np.zeros((channels, shape[0], factor, factor), np.float32)
            weight[np.arange(channels), start + np.arange(channels)] = 1
            start += channels
            # where nothing is enlarged a convolution, so that a pooling before it can be folded into it
            op = Conv(weight.transpose(1, 0, 2, 3)) if factor == 1 else ConvT(weight, stride=_pair(factor))
            edges.append(Edge(layer, op))
        return Current("sum", shape, tuple(edges), rectified=True)

    def _flatten(self, node: fx.Node, x: Any, size: Any) -> Value:
        """Seen through: a layer keeps its shape, and what reads it flattened is a dense synapse."""
        before, after = (tuple(n.meta["tensor_meta"].shape) for n in (x, node))
        if after != before and (len(after) != 2 or after[0] != before[0]):
            raise ConversionError(f"{self.place(node)}: reshapes {before} to {after}; flattening is supported")
        return self.values[x]

    def _pad(self, node: fx.Node, x: Any, sides: Any, *value: Any) -> Value:
        """Models that pad what a pooling cut off pad nothing where all sides divide."""
        if any(sides):
            raise ConversionError(f"{self.place(node)}: {refusal('constant_pad_nd')}")
        return self.values[x]

    def _output(self, node: fx.Node) -> None:
        value = self.values.get(node)
        if not isinstance(value, Current):
            raise ConversionError(f"output: {value} is no current; end with a convolution or Linear without ReLU")
        self.draft.population(value, fires=False)

    def _spikes(self, arg: Any, node: fx.Node, hint: str) -> str | Enlarged:
        value = self.values.get(arg)
        if isinstance(value, Current) and value.rectified:  # spikes added to spikes: a ReLU changes nothing
            value = self.values[arg] = self.draft.population(value, fires=True)
        if not isinstance(value, str | Enlarged):
            raise ConversionError(f"{self.place(node)}: {hint}")
        return value

    def _layer(self, arg: Any, node: fx.Node, hint: str) -> str:
        value = self._spikes(arg, node, hint)
        if not isinstance(value, str):
            raise ConversionError(f"{self.place(node)}: reads an Upsample; only a convolution or an addition may")
        return value

    def _name(self, parameter: Any) -> str:
        """A layer's name: its module's path."""
        return self.names.get(id(self.tensors[parameter]), str(parameter.name))

    def place(self, node: fx.Node) -> str:
        """Where an operation is: its name, and the last layer with weights before it."""
        before = [self._name(n) for n in self.tensors if n.op == "get_attr" and id(self.tensors[n]) in self.names]
        return f"{node.name} (after {before[-1]})" if before else node.name


def _scaled(edge: Edge, gain: torch.Tensor) -> Edge:
    """A synapse whose output channels are multiplied by a gain (Cout,), float64."""
    assert isinstance(edge.op, Conv | ConvT)
    weight = edge.op.weight.astype(np.float64) * array(per_output_channel(gain, edge.op))
    return replace(edge, op=replace(edge.op, weight=weight))


def array(tensor: torch.Tensor) -> np.ndarray:
    """A parameter as numpy array, in float32, or float64 where it is."""
    kept = tensor.dtype if tensor.dtype == torch.float64 else torch.float32
    return tensor.detach().to("cpu", kept).numpy()


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))
