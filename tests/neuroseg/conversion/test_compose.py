"""Maps found as synapses, against the matrices that they are."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from export.graph import Conv, ConvT, Sparse
from neuroseg.conversion.compose import after
from neuroseg.conversion.probe import convolution, sparse
from tests.examples import examples

SOURCE = (2, 6, 5)


def matrix(f, source) -> np.ndarray:
    """(targets, sources), a column for each neuron."""
    units = torch.eye(int(np.prod(source)), dtype=torch.float64).reshape(-1, *source)
    return torch.cat([f(unit[None]).reshape(1, -1) for unit in units]).numpy().T


def applied(op):
    """An operator as PyTorch computes it."""
    weight = torch.from_numpy(np.asarray(op.weight, np.float64))
    if isinstance(op, ConvT):
        return lambda x: F.conv_transpose2d(
            x, weight, None, op.stride, op.padding, op.output_padding, op.groups, op.dilation
        )
    return lambda x: F.conv2d(x, weight, None, op.stride, op.padding, op.dilation, op.groups)


@st.composite
def convolutions(draw, channels: int, *, transposed: bool) -> Conv | ConvT:
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    depthwise = draw(st.booleans())
    width = channels if depthwise else draw(st.integers(1, 3))
    padding = tuple(draw(st.integers(0, (k - 1) // 2)) for k in kernel)
    into = 1 if depthwise else channels
    shape = (channels, 1 if depthwise else width) if transposed else (width, into)
    weight = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(*shape, *kernel))
    groups = channels if depthwise else 1
    if transposed:
        return ConvT(weight, stride, padding, (0, 0), (1, 1), groups)
    return Conv(weight, stride, padding, draw(st.sampled_from([(1, 1), (2, 1)])), groups)


@given(st.data())
@examples(60)
def test_two_operators_as_one(data):
    first = data.draw(convolutions(SOURCE[0], transposed=data.draw(st.booleans())))
    middle = applied(first)(torch.zeros(1, *SOURCE, dtype=torch.float64)).shape[1:]
    assume(min(middle[1:]) > 4)
    second = data.draw(convolutions(middle[0], transposed=False))

    def f(x: torch.Tensor) -> torch.Tensor:
        return applied(second)(applied(first)(x))

    target = tuple(f(torch.zeros(1, *SOURCE, dtype=torch.float64)).shape[1:])
    expected = matrix(f, SOURCE)
    for found in (after(second, first, f, SOURCE, target), convolution(f, SOURCE, target), sparse(f, SOURCE, target)):
        if isinstance(found, Sparse):
            dense = np.zeros_like(expected)
            dense[found.target, found.source] = found.weight
            np.testing.assert_allclose(dense, expected, atol=1e-12)
        elif found is not None:  # where padding lies between, no kernel says it
            np.testing.assert_allclose(matrix(applied(found), SOURCE), expected, atol=1e-9)
    assert isinstance(sparse(f, SOURCE, target), Sparse)
    if isinstance(first, Conv) and second.padding == (0, 0) and first.dilation == second.dilation == (1, 1):
        assert convolution(f, SOURCE, target) is not None


def test_a_map_of_rows_and_columns_is_single_synapses():
    """Bicubic resizing to an odd size is no convolution."""

    def f(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, size=(7, 9), mode="bicubic")

    target = (2, 7, 9)
    assert convolution(f, SOURCE, target) is None
    found = sparse(f, SOURCE, target)
    dense = np.zeros((2 * 7 * 9, 60))
    dense[found.target, found.source] = found.weight
    np.testing.assert_allclose(dense, matrix(f, SOURCE), atol=1e-12)
