"""Two convolutions, one after the other, as one: from their kernels, without asking the whole map."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from export.graph import Conv, ConvT, Pair, Shape, Sparse
from neuroseg.conversion.linear import Convolution, Map
from neuroseg.conversion.probe import ROOM, fitted, flat_batch, is_equal


def after(second: Convolution, first: Convolution, f: Map, source: Shape, target: Shape) -> Convolution | None:
    """f = second(first(x)) as one convolution, from both kernels; None where it is none, or not so simple."""
    if isinstance(second, ConvT):
        enlarged = _pointwise_then(first, second)
        return enlarged if enlarged and is_equal(enlarged, flat_batch(f, source, target), source, target) else None
    if isinstance(first, ConvT) and second.stride != (1, 1):
        return None
    if any(op.groups > 1 and not _depthwise(op) for op in (first, second)):
        return None
    if _size_together(first, second) > ROOM:
        return None
    kernel = _kernels_together(first, second)
    strides = _both(lambda k: first.stride[k] * second.stride[k])
    if isinstance(first, Conv):  # y[m] = b[j] z[s2 m + j - p2], z[n] = a[i] x[s1 n + i - p1]
        low = _both(lambda k: -first.padding[k] - first.stride[k] * second.padding[k])
    else:  # y[m] = b[j] z[m + j - p2], z[s1 n + i - p1] = a[i] x[n]
        reach = _both(lambda k: second.dilation[k] * (second.weight.shape[2 + k] - 1))
        low = _both(lambda k: second.padding[k] - first.padding[k] - reach[k])
    groups = first.groups if _depthwise(first) and _depthwise(second) else 1
    op = fitted(type(first), kernel, low, strides, source, target, groups)
    return op if is_equal(op, flat_batch(f, source, target), source, target) else None


def _pointwise_then(first: Convolution, second: ConvT) -> ConvT | None:
    """A 1 x 1 convolution, then a transposed one of each channel: enlarging what was mixed is mixing the enlarged."""
    if isinstance(first, ConvT) or first.weight.shape[2:] != (1, 1) or not _depthwise(second):
        return None
    if (*first.stride, *first.padding, first.groups) != (1, 1, 0, 0, 1):
        return None
    mixing = first.weight.astype(np.float64).swapaxes(0, 1)  # Cin, Cout, 1, 1
    return replace(second, weight=mixing * second.weight[None, :, 0], groups=1)


def _depthwise(op: Convolution) -> bool:
    return op.groups == op.weight.shape[0] and op.weight.shape[1] == 1


def _size_together(first: Convolution, second: Conv) -> int:
    """At least as many numbers as `_kernels_together` holds."""
    reach = [
        1 + sum(op.dilation[k] * (op.weight.shape[2 + k] - 1) * max(first.stride) for op in (first, second))
        for k in range(2)
    ]
    return max(first.weight.shape[:2]) * max(second.weight.shape[:2]) * math.prod(reach)


def _kernels_together(first: Convolution, second: Conv) -> np.ndarray:
    """sum over middle channels of b * a: (Cout, Cin, h, w), (Cin, Cout, h, w) where `first` is transposed."""
    a, b = (torch.from_numpy(_undilated(op)).double() for op in (first, second))
    pad = b.shape[2] - 1, b.shape[3] - 1
    one, other = _depthwise(first), _depthwise(second)
    if isinstance(first, ConvT):  # a: (Cin, middle) or (C, 1); b: (Cout, middle) or (C, 1)
        if one and not other:
            pairs = b.transpose(0, 1).reshape(-1, 1, *b.shape[2:])
            kernel = F.conv2d(a.transpose(0, 1), pairs, padding=pad, groups=len(a))
            return kernel.reshape(len(a), len(b), *kernel.shape[2:]).numpy()
        if one:
            return F.conv2d(a.transpose(0, 1), b, padding=pad, groups=len(a)).transpose(0, 1).numpy()
        return F.conv2d(a, b, padding=pad, groups=second.groups).numpy()
    if other:  # each middle channel goes on alone: (1, C, k, k) through (C, Cin or 1, k, k)
        kernel = F.conv_transpose2d(b.transpose(0, 1), a, stride=first.stride, groups=len(b))
        return kernel.reshape(len(b), -1, *kernel.shape[2:]).numpy()
    return F.conv_transpose2d(b, a, stride=first.stride, groups=first.groups).numpy()


def _both(along: Callable[[int], int]) -> Pair:
    """A number for rows and one for columns."""
    return along(0), along(1)


def _undilated(op: Convolution) -> np.ndarray:
    """The kernel with its holes as zeros."""
    shape = [1 + d * (n - 1) for d, n in zip(op.dilation, op.weight.shape[2:], strict=True)]
    kernel = np.zeros((*op.weight.shape[:2], *shape), op.weight.dtype)
    kernel[:, :, :: op.dilation[0], :: op.dilation[1]] = op.weight
    return kernel


def synapses(op: Conv | ConvT | Sparse, source: Shape, target: Shape) -> int:
    """How many synapses an operator is, borders not counted off."""
    if isinstance(op, Sparse):
        return len(op.weight)
    places = source if isinstance(op, ConvT) else target
    return int(np.count_nonzero(op.weight)) * places[1] * places[2]
