"""Synapses as sparse matrices in Lava's neuron order. Knows no Lava, so that it can be tested without."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from export.graph import Conv, ConvT, Dense, Operator, Shape, Sparse


def to_sparse(op: Operator, source: Shape, target: Shape) -> sparse.csr_matrix:
    """The matrix (target neurons, source neurons) of a synapse.

    source, target: (C, H, W); neurons are numbered in (W, H, C) order, as Lava flattens its arrays.
    """
    if isinstance(op, Dense):
        rows, columns = np.nonzero(op.weight)
        values = op.weight[rows, columns]
        out = np.stack(np.unravel_index(rows, target))
        inp = np.stack(np.unravel_index(columns, source))
    elif isinstance(op, Sparse):
        there = op.weight != 0
        values = op.weight[there]
        out = np.stack(np.unravel_index(op.target[there], target))
        inp = np.stack(np.unravel_index(op.source[there], source))
    elif isinstance(op, ConvT):
        out, inp, values = _transposed(op, source, target)
    else:  # the transpose of a transposed convolution with the same weights
        inp, out, values = _transposed(_adjoint(op), target, source)
    shape = (int(np.prod(target)), int(np.prod(source)))
    matrix = sparse.coo_matrix((values, (_number(out, target), _number(inp, source))), shape=shape, dtype=np.int32)
    return matrix.tocsr()


def _adjoint(op: Conv) -> ConvT:
    return ConvT(op.weight, op.stride, op.padding, dilation=op.dilation, groups=op.groups)


def _transposed(op: ConvT, source: Shape, target: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each source pixel y reaches y * stride - padding + tap * dilation, where that lies in the target."""
    cin, per_group, kh, kw = op.weight.shape
    i, o, ky, kx, y, x = np.meshgrid(
        *map(np.arange, (cin, per_group, kh, kw, source[1], source[2])), indexing="ij", sparse=True
    )
    group = i // (cin // op.groups)
    channel = group * per_group + o
    row = y * op.stride[0] - op.padding[0] + ky * op.dilation[0]
    column = x * op.stride[1] - op.padding[1] + kx * op.dilation[1]
    weight = op.weight[i, o, ky, kx]
    inside = (row >= 0) & (row < target[1]) & (column >= 0) & (column < target[2]) & (weight != 0)
    everywhere = np.broadcast_arrays(channel, row, column, i, y, x, weight)
    channel, row, column, i, y, x, weight = (a[inside] for a in everywhere)
    return np.stack([channel, row, column]), np.stack([i, y, x]), weight


def _number(place: np.ndarray, shape: Shape) -> np.ndarray:
    """Number of the neurons at (C, H, W) places, in (W, H, C) order."""
    c, y, x = place
    return (x * shape[1] + y) * shape[0] + c
