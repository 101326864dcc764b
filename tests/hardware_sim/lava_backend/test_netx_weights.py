"""Dense layers whose weights stock NetX does not keep: which they are, and that files of ours are refused there."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from export import netx
from export.graph import Dense, Edge, Graph, Input, Meta, Neuron, Population
from export.netx.stock import keeps, run_weights
from hardware_sim.engines import run
from tests.hardware_sim.lava_backend.test_lava import run_stock

LEAST = {"all": np.full((3, 4), -32), "some": np.where(np.arange(12).reshape(3, 4) % 3, 0, -64)}


def drawn(seed: int) -> np.ndarray:
    """Weights of one sign or of both, all even or not, some of them 0."""
    rng = np.random.default_rng(seed)
    most = 2 ** int(rng.integers(1, 8))
    kinds = (
        rng.integers(-most, most, (3, 4)) * 2,
        -rng.integers(0, most + 1, (3, 4)) * 2,
        -rng.integers(0, 256, (3, 4)),
        rng.integers(0, 256, (3, 4)),
        -(2 ** rng.integers(1, 9)) * np.ones((3, 4), int),
        rng.integers(-2, 2, (3, 4)) * 64,
    )
    weight = kinds[seed % len(kinds)] * (rng.random((3, 4)) < rng.choice([0.5, 1.0]))
    return weight if weight.any() else weight - 2


def test_weights_are_those_that_netx_and_lava_make(tmp_path):
    matrices = {str(seed): drawn(seed) for seed in range(1200)}
    np.savez(tmp_path / "in.npz", **matrices)
    script = Path(__file__).with_name("netx_weights.py")
    subprocess.run([sys.executable, script, tmp_path / "in.npz", tmp_path / "out.npz"], check=True, timeout=120)
    found, kept = np.load(tmp_path / "out.npz"), {"one": 0, "two": 0}
    for name, weight in matrices.items():
        for number, parts in (("one", [weight]), ("two", np.hsplit(weight, 2))):
            stock = found[f"{number} {name}"]
            np.testing.assert_array_equal(np.hstack(run_weights(parts)), stock, err_msg=f"{number} {weight}")
            legal = weight.max() <= 0 or weight.min() >= 0 or not (weight % 2).any()
            if legal:
                assert keeps(*parts) == (stock == weight).all(), (number, weight)
            kept[number] += keeps(*parts)
    assert 200 < kept["two"] < kept["one"] < 1100


def test_weights_that_no_synapse_holds_are_not_kept():
    assert not keeps(np.array([[300, -2]]), np.array([[4]])) and not keeps(np.array([[-300, -2]]))


def inhibited(weight: np.ndarray) -> Graph:
    """Neurons that fire by their bias."""
    bias = np.array([100, 90, 110], np.int32).reshape(-1, 1, 1) << 6
    layer = Population("a", (3, 1, 1), (Edge("input", Dense(weight)),), Neuron(300, reset="zero", bias=bias))
    return Graph((Input("input", (4, 1, 1)), layer), integer=True, meta=Meta(timesteps=12))


def test_a_file_of_ours_that_netx_keeps_runs_there(tmp_path):
    spikes = np.ones((1, 12, 4, 1, 1), np.uint8)
    plain = netx.write(inhibited(np.full((3, 4), -34)), tmp_path / "plain.net")
    assert run_stock(plain, spikes, tmp_path).returncode == 0


@pytest.mark.parametrize("name", LEAST)
def test_a_file_of_ours_that_netx_would_alter_is_refused_there(name, tmp_path):
    graph = inhibited(LEAST[name])
    spikes = (np.random.default_rng(0).random((1, 12, 4, 1, 1)) < 0.5).astype(np.uint8)
    path = netx.write(graph, tmp_path / "n.net")
    refused = run_stock(path, spikes, tmp_path)
    assert refused.returncode and "concat" in refused.stderr
    again = netx.read(path)
    assert (again["a"].edges[0].op.weight == LEAST[name]).all() and run(again, spikes).total("a")


@pytest.mark.parametrize("name", LEAST)
def test_a_file_of_others_that_netx_alters_is_told(name, tmp_path, caplog):
    kept = inhibited(np.full((3, 4), 32))
    path = netx.write(kept, tmp_path / "n.net", sealed=False)
    with h5py.File(path, "r+") as file:
        del file["meta"]
        file["layer/1/weight"][:] = LEAST[name]
    graph = netx.read(path)
    assert "layer 1: stock NetX alters weights" in caplog.text
    assert (graph["a"].edges[0].op.weight == LEAST[name]).all()
    caplog.clear()
    netx.read(netx.write(replace(kept, meta=Meta(timesteps=3)), tmp_path / "ours.net"))
    assert not caplog.text
