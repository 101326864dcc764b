"""Rewrites of the graph, one function each; none changes a spike.

conv(cat(a, b)) = conv_a(a) + conv_b(b), so a concatenation becomes two edges; conv(mean(x)) is a larger, strided
convolution; and an edge that skips k layers must wait k steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from export.graph import (
    Concat,
    Conv,
    ConvT,
    Dense,
    Dropout,
    Edge,
    Graph,
    GraphError,
    Input,
    Node,
    Operator,
    Pool,
    Population,
    Shape,
    Sparse,
)


def remove_dropout(graph: Graph) -> Graph:
    """Let what reads a dropout read what the dropout reads; drop the dropouts, which do nothing outside training."""
    names: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        names[node.name] = names[node.source] if isinstance(node, Dropout) else node.name
        match node:
            case Dropout():
                continue
            case Pool():
                node = replace(node, source=names[node.source])
            case Concat():
                node = replace(node, sources=tuple(names[name] for name in node.sources))
            case Population():
                edges = tuple(replace(e, source=names.get(e.source, e.source)) for e in node.edges)  # later ones stay
                node = replace(node, edges=edges)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def flatten_convolutions(graph: Graph) -> Graph:
    """A convolution over the whole of its source has one place for its kernel: it becomes all-to-all synapses."""

    def flatten(edge: Edge, population: Population) -> list[Edge]:
        op, sides = edge.op, graph[edge.source].shape[1:]
        if not (isinstance(op, Conv) and op.groups == 1 and op.padding == (0, 0) and op.weight.shape[2:] == sides):
            return [edge]
        return [replace(edge, op=Dense(op.weight.reshape(len(op.weight), -1)))]

    return _rewrite_edges(graph, flatten)


def split_concat(graph: Graph) -> Graph:
    """Replace every edge that reads a concatenation by one edge per part; drop the concatenations.

    The groups of a grouped convolution may straddle the parts, so it becomes one of a single group.
    """
    swapped = _pool_before_concat(graph)

    def split(edge: Edge, population: Population) -> list[Edge]:
        source = swapped[edge.source]
        if not isinstance(source, Concat):
            return [edge]
        parts, start = [], 0
        for name in source.sources:
            part = swapped[name]
            try:
                op = slice_channels(edge.op, start, part.shape, source.shape)
            except GraphError as error:
                raise GraphError(f"{population.name}: {error}") from None
            parts += split(replace(edge, source=name, op=op), population)
            start += part.shape[0]
        return parts

    return _rewrite_edges(swapped, split, drop=Concat)


def fold_pool(graph: Graph) -> Graph:
    """Fold average pooling into the synapses that read it; drop the pools.

    A kxk kernel at stride s, padding p on a mean of m x m becomes ((k-1)d+1)m wide at stride s*m, padding p*m,
    weights / m^2; a single synapse m^2 of them. Raises GraphError for a transposed convolution, which has no such form.
    """

    def fold(edge: Edge, population: Population) -> list[Edge]:
        pools, origin = [], graph[edge.source]
        while isinstance(origin, Pool):
            pools.append(origin)
            origin = graph[origin.source]
        if not pools:
            return [edge]
        kernel = (math.prod(p.kernel[0] for p in pools), math.prod(p.kernel[1] for p in pools))
        match edge.op:
            case Conv():
                op: Operator = _fold_conv(edge.op, kernel)
            case Dense():
                op = _fold_dense(edge.op, pools[0].shape, kernel)
            case Sparse():
                op = _fold_sparse(edge.op, pools[0].shape, kernel)
            case _:
                raise GraphError(
                    f"{population.name}: average pooling {pools[0].name} straight into a transposed "
                    "convolution; put a convolution between them"
                )
        return [replace(edge, source=origin.name, op=op)]

    return _rewrite_edges(graph, fold, drop=Pool)


def align_delays(graph: Graph) -> Graph:
    """Give every skip edge the delay at which it arrives together with the longest path.

    Expects a graph without pools and concatenations whose own delays are 0.
    """
    depth: dict[str, int] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Population):
            depth[node.name] = 1 + max(depth[edge.source] for edge in node.forward)
            aligned = (replace(edge, delay=depth[node.name] - 1 - depth[edge.source]) for edge in node.forward)
            node = replace(node, edges=(*aligned, *node.recurrent))
        elif isinstance(node, Input):
            depth[node.name] = 0
        else:
            raise GraphError(f"{node.name}: a {type(node).__name__} is left; split and fold before aligning")
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _rewrite_edges(
    graph: Graph, rewrite: Callable[[Edge, Population], list[Edge]], *, drop: type | tuple[()] = ()
) -> Graph:
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Population):
            edges = tuple(new for edge in node.edges for new in rewrite(edge, node))
            nodes.append(replace(node, edges=edges))
        elif not isinstance(node, drop):
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _pool_before_concat(graph: Graph) -> Graph:
    """mean(cat(a, b)) = cat(mean(a), mean(b))."""
    nodes: list[Node] = []
    done: dict[str, Node] = {}
    for node in graph.nodes:
        source = done.get(node.source) if isinstance(node, Pool) else None
        if isinstance(node, Pool) and isinstance(source, Concat):
            parts = [
                Pool(f"{node.name}.{k}", (done[name].shape[0], *node.shape[1:]), name, node.kernel)
                for k, name in enumerate(source.sources)
            ]
            nodes += parts
            done.update((part.name, part) for part in parts)
            node = Concat(node.name, node.shape, tuple(part.name for part in parts))
        nodes.append(node)
        done[node.name] = node
    rewritten = replace(graph, nodes=tuple(nodes))
    nested = any(isinstance(n, Pool) and isinstance(rewritten[n.source], Concat) for n in nodes)
    return _pool_before_concat(rewritten) if nested else rewritten


def slice_channels(op: Operator, start: int, part: Shape, whole: Shape) -> Operator:
    """The operator on the channels of one part of a concatenation."""
    stop = start + part[0]
    match op:
        case Sparse():
            first, end = (channel * math.prod(whole[1:]) for channel in (start, stop))
            kept = (op.source >= first) & (op.source < end)
            return Sparse(op.weight[kept], op.target[kept], op.source[kept] - first, op.shape)
        case Dense():
            weight = op.weight.reshape(-1, *whole)[:, start:stop].reshape(len(op.weight), -1)
            return Dense(weight)
        case Conv() | ConvT() if op.groups > 1:
            return slice_channels(ungrouped(op), start, part, whole)
        case Conv():
            return replace(op, weight=op.weight[:, start:stop])
        case ConvT():
            return replace(op, weight=op.weight[start:stop])
    raise TypeError(op)


def ungrouped(op: Conv | ConvT) -> Conv | ConvT:
    """The same convolution in one group: zeros between the groups."""
    first, second = op.weight.shape[0] // op.groups, op.weight.shape[1]
    weight = np.zeros((op.weight.shape[0], second * op.groups, *op.weight.shape[2:]), op.weight.dtype)
    for group in range(op.groups):
        rows, columns = slice(group * first, (group + 1) * first), slice(group * second, (group + 1) * second)
        weight[rows, columns] = op.weight[rows]
    return replace(op, weight=weight, groups=1)


def _fold_conv(op: Conv, kernel: tuple[int, int]) -> Conv:
    kh, kw = op.weight.shape[2:]
    (dh, dw), (mh, mw) = op.dilation, kernel
    weight = np.zeros((*op.weight.shape[:2], ((kh - 1) * dh + 1) * mh, ((kw - 1) * dw + 1) * mw))
    share = op.weight.astype(np.float64) / (mh * mw)
    for i in range(kh):
        for j in range(kw):
            y, x = i * dh * mh, j * dw * mw
            weight[:, :, y : y + mh, x : x + mw] = share[:, :, i, j, None, None]
    return Conv(
        weight,
        stride=(op.stride[0] * mh, op.stride[1] * mw),
        padding=(op.padding[0] * mh, op.padding[1] * mw),
        groups=op.groups,
    )


def _fold_dense(op: Dense, pooled: Shape, kernel: tuple[int, int]) -> Dense:
    share = op.weight.reshape(-1, *pooled).astype(np.float64) / (kernel[0] * kernel[1])
    return Dense(share.repeat(kernel[0], axis=2).repeat(kernel[1], axis=3).reshape(len(op.weight), -1))


def _fold_sparse(op: Sparse, pooled: Shape, kernel: tuple[int, int]) -> Sparse:
    """Each synapse on a mean becomes one on each of the neurons that it is taken of."""
    (mh, mw), (c, y, x) = kernel, np.unravel_index(op.source, pooled)
    rows, columns = y[:, None, None] * mh + np.arange(mh)[:, None], x[:, None, None] * mw + np.arange(mw)
    place = (c[:, None, None] * (pooled[1] * mh) + rows) * (pooled[2] * mw) + columns  # n, mh, mw
    weight = (op.weight.astype(np.float64) / (mh * mw)).repeat(mh * mw)
    return Sparse(weight, op.target.repeat(mh * mw), place.reshape(-1), op.shape)
