"""What a synapse does: convolutions, all-to-all and single synapses, over numpy arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]
Pair = tuple[int, int]


class GraphError(ValueError):
    """A graph or a file that cannot be used. Names the layer, the field, what was found and what is allowed."""


@dataclass(frozen=True, eq=False)
class Conv:
    """Convolution as in PyTorch (cross-correlation). weight: (Cout, Cin/groups, kH, kW)."""

    weight: np.ndarray
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, eq=False)
class ConvT:
    """Transposed convolution as in PyTorch. weight: (Cin, Cout/groups, kH, kW)."""

    weight: np.ndarray
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Dense:
    """All-to-all synapses on the source flattened in (C, H, W) order. weight: (out, in)."""

    weight: np.ndarray


@dataclass(frozen=True, eq=False)
class Sparse:
    """Single synapses, where a linear map is no convolution: interpolation, padding by reflection, uneven pooling.

    weight: (n,), the n synapses in any order, no pair twice. target, source: int64 (n,), neurons of the target and of
    the source, each flattened in (C, H, W) order. shape: of the target.
    """

    weight: np.ndarray
    target: np.ndarray
    source: np.ndarray
    shape: Shape


Operator = Conv | ConvT | Dense | Sparse


def channels(op: Conv | ConvT) -> tuple[int, int]:
    """Input and output channels of a convolution."""
    first, second = op.weight.shape[:2]
    return (first, second * op.groups) if isinstance(op, ConvT) else (second * op.groups, first)


def pooled(op: Conv, source: Shape, most: int) -> tuple[Pair, Conv] | None:
    """Mean pooling that was folded into a convolution: rows and columns that are summed first, and the kernel on sums.

    source: (C, H, W). None where the convolution holds no pooling, or a sum more than `most` pixels.
    """
    kernel = op.weight.shape[2:]
    for side in range(min(kernel), 1, -1):
        whole = (*kernel, *op.stride, *op.padding, *source[1:])
        if op.dilation != (1, 1) or side * side > most or any(n % side for n in whole):
            continue
        blocks = op.weight.reshape(*op.weight.shape[:2], kernel[0] // side, side, kernel[1] // side, side)
        if (blocks == blocks[:, :, :, :1, :, :1]).all():
            stride, padding = ((pair[0] // side, pair[1] // side) for pair in (op.stride, op.padding))
            return (side, side), Conv(np.ascontiguousarray(blocks[:, :, :, 0, :, 0]), stride, padding, groups=op.groups)
    return None


def output_shape(op: Operator, shape: Shape) -> Shape:
    """Shape that an operator makes of its source's shape (C, H, W). Raises GraphError when they do not fit."""
    if isinstance(op, Dense):
        if op.weight.ndim != 2 or op.weight.shape[1] != math.prod(shape):
            raise GraphError(f"dense weight {op.weight.shape} does not fit an input of {math.prod(shape)}")
        return (op.weight.shape[0], 1, 1)
    if isinstance(op, Sparse):
        _check_synapses(op, math.prod(shape))
        return op.shape
    if op.weight.ndim != 4:
        raise GraphError(f"weight has {op.weight.ndim} axes; a convolution's has 4")
    transposed = isinstance(op, ConvT)
    channels = op.weight.shape[0] if transposed else op.weight.shape[1] * op.groups
    if len(shape) != 3 or channels != shape[0] or shape[0] % op.groups:
        raise GraphError(f"weight {op.weight.shape} in {op.groups} group(s) does not fit an input of {shape}")
    sides = []
    for axis in range(2):
        reach = op.dilation[axis] * (op.weight.shape[2 + axis] - 1) + 1
        n, s, p = shape[1 + axis], op.stride[axis], op.padding[axis]
        if isinstance(op, ConvT):
            side = (n - 1) * s - 2 * p + reach + op.output_padding[axis]
        else:
            side = (n + 2 * p - reach) // s + 1
        if side < 1:
            raise GraphError(f"kernel reach {reach}, padding {p} leaves nothing of an input of {n}")
        sides.append(side)
    out = op.weight.shape[1] * op.groups if transposed else op.weight.shape[0]
    return (out, *sides)


def to_dense(op: Sparse, source: Shape) -> np.ndarray:
    """All weights (target neurons, source neurons) of single synapses, 0 where there is none."""
    matrix = np.zeros((math.prod(op.shape), math.prod(source)), op.weight.dtype)
    matrix[op.target, op.source] = op.weight
    return matrix


def _check_synapses(op: Sparse, neurons: int) -> None:
    """Raise GraphError unless every synapse leads from a neuron that there is to one that there is, and once."""
    if op.weight.ndim != 1 or not op.weight.shape == op.target.shape == op.source.shape:
        found = f"{op.weight.shape}, {op.target.shape} and {op.source.shape}"
        raise GraphError(f"sparse weights, targets and sources have shapes {found}; one number a synapse is needed")
    for what, index, size in (("target", op.target, math.prod(op.shape)), ("source", op.source, neurons)):
        if len(index) and not 0 <= index.min() <= index.max() < size:
            raise GraphError(f"sparse {what}s reach from {index.min()} to {index.max()}; 0 to {size - 1} is allowed")
    pairs = op.target.astype(np.int64)
    pairs *= neurons
    pairs += op.source
    pairs.sort()  # in place, as a file may hold millions
    if (pairs[1:] == pairs[:-1]).any():
        raise GraphError("sparse synapses join the same two neurons twice; add their weights")
