"""What does not fit in a NIR file of others, each refused by name."""

from __future__ import annotations

import sys

import nir
import numpy as np
import pytest

from export.graph import (
    GraphError,
)
from export.nir import read as read_nir
from export.nir import write as write_nir
from tests.export.nir.test_nir_others import IMAGE_NODES, PLAIN_NODES, conv2d, lif, saved, spiking
from tests.export.test_graph import chain

SQUARE = np.array([2, 2])


BROKEN = {
    "a batch": ({"in": nir.Input(np.array([3, 2, 4, 4]))}, r"in: shape is \[3, 2, 4, 4\]; .* give input_shape"),
    "no input": ({"in": spiking(4)}, "in: nothing feeds it"),
    "wrong weight": ({"w": nir.Linear(np.ones((4, 5)))}, r"w: dense weight \(4, 5\) does not fit an input of 4"),
    "NaN weight": ({"w": nir.Linear(np.full((4, 4), np.nan))}, "w: weight is float64 and holds .*nan"),
    "deep weight": ({"w": nir.Linear(np.ones((2, 4, 4)))}, r"w: weight has shape \(2, 4, 4\); \(out, in\)"),
    "wrong bias": ({"w": nir.Affine(np.ones((4, 4)), np.ones(3))}, r"w: bias has shape \(3,\); \(4,\)"),
    "wrong neurons": ({"n": spiking(5)}, r"n: v_reset has shape \(5,\); one number, or one for each of \(4, 1, 1\)"),
    "two weights": ({"n": nir.Linear(np.ones((4, 4)))}, "n: weights follow weights of in; neurons between are needed"),
    "mixed thresholds in a channel": (
        {**IMAGE_NODES, "n": nir.IF(np.ones((2, 4, 4)), np.arange(1.0, 33).reshape(2, 4, 4))},
        "n: r, time constants or thresholds differ within a channel",
    ),
    "threshold 0": ({"n": nir.IF(np.ones(4), np.zeros(4))}, "n: v_threshold is 0; a positive number"),
    "v_reset": ({"n": nir.IF(np.ones(4), np.ones(4), np.full(4, 0.5))}, "n: v_reset is 0.5; 0 is allowed"),
    "r": ({"n": nir.IF(np.full(4, 2.0), np.ones(4))}, "n: r is 2; 1 and 1 / dt = 10000 are allowed for an IF"),
    "short tau": ({"n": lif(4, beta=0.5, tau=np.full(4, 1e-5))}, "n: tau is 1e-05; at least dt = 0.0001"),
    "endless r": ({"n": lif(4, beta=0.5, r=np.full(4, np.inf))}, "n: r is infinite and tau is not"),
    "no tau": ({"n": lif(4, beta=0.5, tau=np.zeros(4))}, "n: tau is 0; at least dt = 0.0001"),
    "a silent layer": ({"w": nir.I(np.ones(4))}, "n: reads w, which never fires; only an output may"),
    "a pool of a vector": ({"w": nir.AvgPool2d(SQUARE, SQUARE, SQUARE * 0)}, "w: "),
    "groups": ({**IMAGE_NODES, "w": conv2d(np.ones((3, 1, 3, 3)), groups=2)}, r"w: weight has shape \(3, 1, 3, 3\)"),
    "same": ({**IMAGE_NODES, "w": conv2d(np.ones((2, 1, 2, 2)), padding="same")}, r"w: padding 'same' with kernel \(2"),
    "channels": ({**IMAGE_NODES, "w": conv2d(np.ones((2, 3, 3, 3)))}, r"w: weight \(2, 3, 3, 3\) .* does not fit"),
    "padding -1": (
        {**IMAGE_NODES, "w": conv2d(np.ones((2, 1, 3, 3)), padding=-1)},
        r"w: padding is \[-1\.0, -1\.0\]; 1 or 2",
    ),
    "overlapping pools": (
        {**IMAGE_NODES, "w": nir.AvgPool2d(SQUARE, SQUARE - 1, SQUARE * 0)},
        r"w: kernel \(2, 2\), stride \(1, 1\), padding \(0, 0\); stride = kernel",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_fit_is_named(name, tmp_path):
    changes, message = BROKEN[name]
    path = saved(tmp_path / "b.nir", {**PLAIN_NODES, **changes})
    with pytest.raises(GraphError, match=message) as caught:
        read_nir(path, timesteps=4)
    assert str(path) in str(caught.value)


LOOSE = {
    "a double edge": ([("in", "w"), ("in", "w"), ("w", "n"), ("n", "out")], "w: two edges come from in"),
    "an edge from nowhere": ([("x", "w"), ("w", "n"), ("n", "out")], "an edge from x to w: there is no node x"),
    "a loose end": ([("in", "w"), ("n", "out")], "n: nothing feeds it"),
}


@pytest.mark.parametrize("name", LOOSE)
def test_edges_that_do_not_fit_are_named(name, tmp_path):
    edges, message = LOOSE[name]
    with pytest.raises(GraphError, match=message):
        read_nir(saved(tmp_path / "l.nir", PLAIN_NODES, edges), timesteps=4)


def test_files_that_are_no_nir_and_options_that_are_none(tmp_path):
    with pytest.raises(GraphError, match="no such file"):
        read_nir(tmp_path / "none.nir", timesteps=4)
    (tmp_path / "text.nir").write_text("hello")
    with pytest.raises(GraphError, match=r"text\.nir: cannot be read as NIR"):
        read_nir(tmp_path / "text.nir", timesteps=4)
    path = saved(tmp_path / "a.nir", PLAIN_NODES)
    for options in ({"timesteps": 0}, {"dt": -1.0}, {"encoder": "morse"}, {"reset": "soft"}):
        with pytest.raises(GraphError, match="are allowed"):
            read_nir(path, **{"timesteps": 4, **options})


def test_without_the_package_one_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    for act in (lambda: read_nir(tmp_path / "a.nir", timesteps=1), lambda: write_nir(chain(), "a.nir")):
        with pytest.raises(GraphError, match="pip install nir"):
            act()
