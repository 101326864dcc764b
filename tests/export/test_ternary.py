"""Ternary spikes in bounds and files, and where they are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export import netx, nir
from export.bounds import input_bound, input_bound_in_place
from export.graph import (
    Dense,
    Edge,
    Graph,
    GraphError,
    Input,
    Neuron,
    Population,
    same,
)
from export.inspect import inspect
from export.limits import check
from export.mapping.chips import LOIHI1
from hardware_sim.reporting.deployment import deploy
from neuroseg.conversion.convert import convert
from neuroseg.conversion.lower import export
from neuroseg.conversion.sigma_delta import to_sigma_delta
from tests.ternary import images, model, network, one


@given(weights=st.lists(st.integers(-20, 20).map(lambda n: 2 * n), min_size=1, max_size=6))
def test_bounds_are_the_most_that_signs_can_make(weights):
    """Against every combination of spikes."""
    n = len(weights)
    first = Population("first", (n, 1, 1), (Edge("input", Dense(np.eye(n, dtype=int))),), Neuron(5, ternary=True))
    second = Population("second", (1, 1, 1), (Edge("first", Dense(np.array([weights]))),), Neuron(None))
    graph = Graph((Input("input", (n, 1, 1)), first, second), integer=True)
    sums = np.array(np.meshgrid(*[(-1, 0, 1)] * n)).reshape(n, -1).T @ np.array(weights)
    assert input_bound_in_place(graph, second) == (sums.min(), sums.max())
    assert input_bound(second, {"first": (-1, 1)}) == (sums.min(), sums.max())
    assert check(graph, stock=False) is graph


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_a_file_says_it(reset, tmp_path):
    graph = one(Neuron(3, reset, ternary=True))
    path = netx.write(graph, tmp_path / "signs.net")
    assert same(netx.read(path), graph)
    assert [row.reset for row in inspect(netx.read(path))] == ["", f"{reset}, ternary", ""]


def test_what_knows_no_signs_refuses_them(tmp_path):
    made = network()
    graph = export(made)
    with pytest.raises(GraphError, match="narrow: ternary spikes, which NIR does not tell"):
        nir.write(graph, tmp_path / "net.nir")
    with pytest.raises(GraphError, match=r"narrow: has ternary spikes, .* Loihi 1 knows spikes of 1"):
        deploy(graph, LOIHI1)
    with pytest.raises(GraphError, match="narrow: ternary; sigma-delta neurons"):
        to_sigma_delta(convert(model(), (1, 8, 8), ternary=True), images())
    with pytest.raises(GraphError, match="input: ternary neurons turn images into spikes"):
        Graph((Input("input", (1, 1, 1), Neuron(3, ternary=True)),))
    with pytest.raises(GraphError, match="first: ternary, and has no threshold"):
        check(one(Neuron(None, ternary=True)))
