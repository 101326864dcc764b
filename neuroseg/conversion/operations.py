"""What each of PyTorch's operations becomes: a linear map waits for its ReLU, a ReLU is a population; for `convert`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import fx

from export.graph import Input
from neuroseg.conversion import linear_operations, rectify, relu_operations
from neuroseg.conversion.known import SAME, SHAPES, Known, Mask, kind_of
from neuroseg.conversion.linear import Value, layer_shape, reshaped, scaled, spikes
from neuroseg.conversion.linear_operations import LINEAR
from neuroseg.conversion.refusals import refusal
from neuroseg.conversion.tracing import ConversionError, results, shape_of

INPUT = "input"
aten = torch.ops.aten

SEVERAL = {aten.split, aten.split_with_sizes, aten.unbind, aten.chunk}
ENDS = {aten.sigmoid, aten._softmax, aten._log_softmax, aten.tanh}  # monotonous: the decision is the same without
EMPTY = {aten.empty, aten.empty_like, aten.new_empty}

RULES: dict[Any, Callable[..., Any]] = {  # of what is known, an operation's node, and its arguments
    aten.convolution: linear_operations.convolution,
    **dict.fromkeys((aten.mm, aten.addmm, aten.bmm, aten.matmul), linear_operations.product),
    aten._native_batch_norm_legit_no_training: linear_operations.batch_norm,
    aten.native_batch_norm: lambda k, n, x, w, b, m, v, training, *rest: linear_operations.batch_norm(
        k, n, x, w, b, m, v, *rest
    ),
    aten.relu: lambda k, n, x: k.draft.fire(k.value(x, n)),
    aten.leaky_relu: lambda k, n, x, slope=0.01: relu_operations.leaky(k, n, x, slope),
    aten._prelu_kernel: lambda k, n, x, slope: relu_operations.leaky(k, n, x, k.constant(slope, n)),
    aten.rrelu_with_noise: lambda k, n, x, noise, low=1 / 8, high=1 / 3, *_: relu_operations.leaky(
        k, n, x, (low + high) / 2
    ),
    aten.hardtanh: lambda k, n, x, low=-1.0, high=1.0: relu_operations.clamp(k, n, x, low, high),
    aten.clamp: lambda k, n, x, low=None, high=None: relu_operations.clamp(k, n, x, low, high),
    aten.clamp_min: lambda k, n, x, low: relu_operations.clamp(k, n, x, low, None),
    aten.clamp_max: lambda k, n, x, high: relu_operations.clamp(k, n, x, None, high),
    aten.hardsigmoid: relu_operations.hardsigmoid,
    aten.abs: lambda k, n, x: rectify.absolute(k.value(x, n), k.draft.fire),
    aten.maximum: relu_operations.maximum,
    aten.minimum: relu_operations.minimum,
    aten.max_pool2d_with_indices: relu_operations.max_pool,
    aten.adaptive_max_pool2d: relu_operations.adaptive_max_pool,
    aten.amax: relu_operations.amax,
    aten.avg_pool2d: linear_operations.pool,
    aten._adaptive_avg_pool2d: linear_operations.pool,
    aten.mean: linear_operations.pool,
    aten.cat: linear_operations.concat,
    aten.stack: linear_operations.stack,
    aten.add: lambda k, n, a, b: linear_operations.total(k, n, a, b, n.kwargs.get("alpha", 1)),
    aten.sub: lambda k, n, a, b: linear_operations.total(k, n, a, b, -n.kwargs.get("alpha", 1)),
    aten.rsub: lambda k, n, a, b, alpha=1: linear_operations.total(k, n, b, a, -alpha),
    aten.neg: lambda k, n, x: scaled(k.value(x, n), -1),
    aten.mul: linear_operations.times,
    aten.div: linear_operations.over,
    aten.constant_pad_nd: linear_operations.pad,
    aten.index: linear_operations.index,
    aten.bernoulli: lambda k, n, x, keep, *_: Mask(keep),
    aten.zeros_like: lambda k, n, x, *_: None,
    **dict.fromkeys(SAME, lambda k, n, x, *_: k.seen_through(n, x)),
    **dict.fromkeys(SHAPES, lambda k, n, x, *_: reshaped(k.seen_through(n, x), shape_of(n))),
    **dict.fromkeys(SEVERAL, linear_operations.several),
    **dict.fromkeys(ENDS, relu_operations.ending),
    **dict.fromkeys(EMPTY, lambda *_: None),  # dropout's
}


def refuse(known: Known, graph: fx.GraphModule) -> None:
    """Raise ConversionError for the first operation that has no rule, before any is converted, which takes long."""
    constant: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            known.constants[node] = getattr(graph, str(node.target))
            constant.add(node)
        elif node.op == "call_function":
            if _is_constant(node, constant):
                constant.add(node)
            elif node.target is not operator.getitem and _rule(kind_of(node)) is None:
                raise _refusal(known, node)


def visit(known: Known, graph: fx.GraphModule, node: fx.Node) -> None:
    """Convert the next of a traced model's operations."""
    match node.op:
        case "placeholder":
            shape = shape_of(node)
            known.draft.add(Input(INPUT, layer_shape(shape)))
            known.values[node] = spikes(INPUT, shape)
        case "get_attr":
            known.constants[node] = getattr(graph, str(node.target))
        case "output":
            for result in results(node.args[0]):
                _output(known, result)
        case _:
            _operation(known, node)


def _operation(known: Known, node: fx.Node) -> None:
    if _is_constant(node, known.constants):
        known.constants[node] = node.target(*known.filled(node.args), **known.filled(node.kwargs))  # type: ignore
        return
    arguments: Any = node.args
    if node.target is operator.getitem:
        source = known.values.get(arguments[0])
        known.values[node] = source[arguments[1]] if isinstance(source, tuple) else None
        return
    rule = _rule(kind_of(node))
    if rule is None:
        raise _refusal(known, node)
    known.values[node] = rule(known, node, *arguments)


def _is_constant(node: fx.Node, constants: Container[fx.Node]) -> bool:
    """Whether it reads constants alone, and draws nothing."""
    drawn = kind_of(node) is aten.bernoulli or kind_of(node) in EMPTY
    return not drawn and all(n in constants for n in node.all_input_nodes)


def _refusal(known: Known, node: fx.Node) -> ConversionError:
    kind = kind_of(node)
    return ConversionError(f"{known.place(node)}: {refusal(getattr(kind, '__name__', str(kind)))}")


def _rule(kind: Any) -> Callable[..., Any] | None:
    return RULES.get(kind) or (linear_operations.linear if kind in LINEAR else None)


def _output(known: Known, node: Any) -> None:
    value = known.values.get(node) if isinstance(node, fx.Node) else None
    if not isinstance(value, Value):
        raise ConversionError(f"output: {node} depends on no image; return what the model makes of its input")
    known.ends.append([known.endings[node]] if node in known.endings else [])
    known.draft.population(value, known.draft.unique(value.name), fires=False)
