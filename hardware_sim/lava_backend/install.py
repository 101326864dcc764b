"""Install Lava where its own metadata forbids it, and see that it runs."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np

import hardware_sim
from export.graph import Conv, Dense, Edge, Graph, Input, Meta, Neuron, Population
from hardware_sim.comparison.compare import compare
from hardware_sim.lava_backend import compat
from hardware_sim.record import SimulationError

log = logging.getLogger(__name__)

REQUIREMENTS = Path(__file__).with_name("requirements.txt")  # with its hash
NEEDED = {"networkx": "networkx", "asteval": "asteval", "sklearn": "scikit-learn"}  # modules and their packages
STEPS = 10


def install() -> None:
    """Install lava-nc into this environment by pip, checked against its hash. Raises SimulationError where that fails.

    lava-nc 0.10.0 asks for Python 3.10, numpy 1 and networkx 2.8, and runs without: see `compat`.
    """
    if importlib.util.find_spec("pip") is None:
        raise SimulationError(f"{sys.executable} has no pip; `{sys.executable} -m ensurepip` installs it")
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise SimulationError(f"Lava needs {', '.join(missing)}; `pip install {' '.join(missing)}` installs what lacks")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--ignore-requires-python", "--require-hashes"]
    command = [sys.executable, "-m", "pip", "install", *options, "--only-binary", ":all:", "-r", str(REQUIREMENTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SimulationError(f"pip could not install Lava: {(done.stderr or done.stdout).strip()[-500:]}")
    importlib.invalidate_caches()
    compat.check()


def try_out() -> int:
    """Run a small network for ten steps in Lava, stock and fused; returns its spikes.

    Raises SimulationError unless both do what the reference does.
    """
    rng = np.random.default_rng(0)
    weights = (rng.integers(-40, 60, (3, 1, 3, 3)) * 2, rng.integers(-60, 60, (2, 3 * 36)) * 2)
    graph = Graph(
        (
            Input("input", (1, 6, 6)),
            Population("conv", (3, 6, 6), (Edge("input", Conv(weights[0], padding=(1, 1))),), Neuron(90)),
            Population("dense", (2, 1, 1), (Edge("conv", Dense(weights[1])),), Neuron(None)),
        ),
        integer=True,
        meta=Meta(timesteps=STEPS),
    )
    spikes = (rng.random((1, STEPS, 1, 6, 6)) < 0.5).astype(np.uint8)
    expected = hardware_sim.run(graph, spikes, backend="reference")
    if not (found := compare(expected, hardware_sim.run(graph, spikes, backend="fast"))).equal:
        raise SimulationError(f"the fast engine does not do what the reference does: {found.cause}")
    for fidelity in ("stock", "fused"):
        found = compare(expected, hardware_sim.run(graph, spikes, backend="lava", fidelity=fidelity))
        if not found.equal or not found.total:
            raise SimulationError(f"Lava ({fidelity}) does not do what the reference does: {found.cause}")
        log.info("%s: %d spikes, none differs", fidelity, found.total)
    return expected.total("conv")
