"""Each mend of Lava: what fails without it, and what is right with it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from lava.magma.core.process.ports.ports import ReshapePort
from lava.proc.conv import utils

import hardware_sim
from export.graph import Conv, Edge, Graph, Input, Meta, Neuron, Population
from hardware_sim.comparison.compare import compare
from hardware_sim.lava_backend import compat


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_dataclass_defaults():
    without = python(f"import {compat.VAR_MODEL}")
    assert "mutable default" in without.stderr  # once this passes, the mend can go
    mended = python(
        "from hardware_sim.lava_backend import compat; compat.mend()\n"
        f"import dataclasses, {compat.VAR_MODEL} as m\n"
        "assert m.CoreEncoder().x == m.ByteEncoder() and dataclasses.dataclass.__module__ == 'dataclasses'\n"
        "assert dataclasses.dataclass.__name__ == 'dataclass'"
    )
    assert mended.returncode == 0, mended.stderr


def test_what_stock_convolutions_need_is_imported_when_it_is_asked_for():
    deferred = python(
        "import sys\n"
        "from hardware_sim.lava_backend import worker\n"
        "assert 'scipy.signal' not in sys.modules\n"
        "from lava.proc.conv import utils\n"
        "assert utils.signal.convolve([1, 2], [3]).tolist() == [3, 6] and 'scipy.signal' in sys.modules\n"
        "import scipy.signal, types\n"
        "assert type(scipy.signal) is types.ModuleType"
    )
    assert deferred.returncode == 0, deferred.stderr


def test_models_are_those_that_lava_finds():
    """Once for a class, and the same: by name, since Lava loads every module anew."""
    done = python(
        "from hardware_sim.lava_backend import compat\n"
        "compat.allow_dataclass_defaults()\n"
        "from lava.magma.compiler.compiler_graphs import ProcGroupDiGraphs as graphs\n"
        "from lava.proc.lif.process import LIF\n"
        "first = graphs._find_proc_models(LIF(shape=(1,)))\n"
        "compat.remember_models()\n"
        "found = [graphs._find_proc_models(LIF(shape=(n,))) for n in (1, 2)]\n"
        "assert [model.__qualname__ for model in first] == [model.__qualname__ for model in found[0]] != []\n"
        "assert found[0] == found[1] and found[0] is not found[1]"
    )
    assert done.returncode == 0, done.stderr


def test_reshaping():
    port = ReshapePort(new_shape=(6,), old_shape=(2, 3))
    there = port.get_transform_func_fwd()(np.arange(6).reshape(2, 3))
    assert there.tolist() == [0, 1, 2, 3, 4, 5]
    assert port.get_transform_func_bwd()(there).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_geometry_beyond_int8():
    small = np.array([100, 100], np.int8)  # 2 * 100 wraps in int8
    image, weight = np.ones((3, 3, 1), np.int32), np.ones((1, 1, 1, 1), np.int32)
    one = np.ones(2, np.int8)
    found = utils.conv(image, weight, one, one, small, one, np.int8(1))
    assert found.shape == (203, 203, 1) and found.sum() == 9


def test_a_wide_input_in_stock_parts():
    rng = np.random.default_rng(0)
    weight = 2 * rng.integers(-20, 40, (2, 1, 3, 3))
    wide = Population("wide", (2, 2, 200), (Edge("input", Conv(weight, padding=(1, 1))),), Neuron(60))
    end = Population("end", (1, 2, 200), (Edge("wide", Conv(2 * rng.integers(-9, 9, (1, 2, 1, 1)))),), Neuron(None))
    graph = Graph((Input("input", (1, 2, 200)), wide, end), integer=True, meta=Meta(timesteps=3))
    spikes = (rng.random((1, 3, 1, 2, 200)) < 0.5).astype(np.uint8)
    lavas = hardware_sim.run(graph, spikes, backend="lava", fidelity="stock")
    assert compare(hardware_sim.run(graph, spikes), lavas).equal


def test_another_release_is_refused(monkeypatch):
    monkeypatch.setattr(compat.importlib.metadata, "version", lambda name: "0.11.0")
    with pytest.raises(compat.LavaError, match=r"lava-nc is 0\.11\.0; 0\.10\.0 is allowed"):
        compat.check()
