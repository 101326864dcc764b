"""The rows of `inspect` against counting, its bits, and its drawings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from export.graph import Conv, ConvT, Dense, Edge, Graph, Input, Neuron, Population, Sparse, output_shape
from export.inspect import draw, inspect, synapse_count
from tests.export.test_graph import chain


@st.composite
def operators(draw_):
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw_(pair), draw_(pair), draw_(pair)
    padding = tuple(draw_(st.integers(0, 2)) for _ in range(2))
    groups = draw_(st.sampled_from([1, 2]))
    if draw_(st.booleans()):
        return Conv(np.ones((4, 2 // groups, *kernel)), stride, padding, dilation, groups)
    return ConvT(np.ones((2, 4 // groups, *kernel)), stride, (0, 0), (0, 0), dilation, groups)


@given(operators(), st.integers(5, 9), st.integers(5, 9))
def test_synapses_are_what_ones_make_of_ones(op, height, width):
    x = torch.ones(1, 2, height, width)
    weight = torch.from_numpy(op.weight).float()
    try:
        target = output_shape(op, (2, height, width))
    except ValueError:
        return  # a kernel larger than its input
    if isinstance(op, Conv):
        y = F.conv2d(x, weight, None, op.stride, op.padding, op.dilation, op.groups)
    else:
        y = F.conv_transpose2d(x, weight, None, op.stride, op.padding, op.output_padding, op.groups, op.dilation)
    assert tuple(y.shape[1:]) == target
    assert synapse_count(op, (2, height, width), target) == int(y.sum())


@pytest.mark.parametrize(("low", "high", "bits"), [(-256, 254, 8), (-2, 2, 2), (-4, 2, 2), (0, 254, 8), (-3, 3, 3)])
def test_bits_hold_every_weight(low, high, bits):
    dense = Population("a", (2, 1, 1), (Edge("input", Dense(np.array([[low], [high]]))),), Neuron(1))
    assert inspect(Graph((Input("input", (1, 1, 1)), dense), integer=True))[1].bits == bits


def test_rows_of_single_synapses():
    """Some, and none."""
    some = Sparse(np.array([-4, 8]), np.array([0, 2]), np.array([1, 1]), (1, 1, 3))
    none = Sparse(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), (1, 1, 3))
    edges = (Edge("input", some), Edge("input", none))
    graph = Graph((Input("input", (2, 1, 1)), Population("a", (1, 1, 3), edges, Neuron(1))), integer=True)
    _, first, second = inspect(graph)
    assert (first.kind, first.kernel, first.stride, first.weights, first.synapses) == ("sparse", None, None, (-4, 8), 2)
    assert (second.weights, second.bits, second.synapses, second.neurons) == ((0, 0), 1, 0, 0)


def test_rows_and_drawings(tmp_path):
    graph = chain()
    rows = inspect(graph)
    assert [row.layer for row in rows] == ["input", *(p.name for p in graph.populations for _ in p.edges)]
    assert sum(row.neurons for row in rows) == sum(int(np.prod(node.shape)) for node in graph.nodes)
    for name in ("net.png", "net.svg"):
        draw(graph, tmp_path / name)
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "net.svg").read_text()
    assert len(list(tmp_path.iterdir())) == 2
