"""Sound network files that `mutations` breaks."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from export import netx
from export.graph import (
    Conv,
    ConvT,
    Dense,
    Edge,
    Graph,
    Input,
    Meta,
    Neuron,
    Population,
    SigmaDelta,
    Sparse,
    with_encoder,
)
from export.passes import align_delays


@dataclass(frozen=True)
class Original:
    """A sound file and the names of what it holds."""

    data: bytes
    datasets: tuple[str, ...]
    groups: tuple[str, ...]


def originals(folder: Path) -> list[Original]:
    """Sound files: our own of every shape that there is, and the smallest that lava-dl ships."""
    files = [
        netx.write(graph, folder / f"{graph.populations[0].name}.net")
        for graph in (_chain(), _skips(), _delays(), _single(), loops(), far_loops(), values())
    ]
    spec = importlib.util.find_spec("lava.lib.dl.netx")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("lava-dl is not installed; `make setup` installs it")
    shipped = Path(spec.submodule_search_locations[0]).parents[3] / "tests" / "lava" / "lib" / "dl" / "netx"
    return [_original(path) for path in (*files, _without_input(_row(), folder), shipped / "tiny.net")]


def _without_input(graph: Graph, folder: Path) -> Path:
    """A network in a row as lava-dl writes one that is fed from outside: no input layer, nothing beside the layers."""
    path = netx.write(graph, folder / "fed.net")
    with h5py.File(path, "r+") as file:
        del file["meta"], file["layer/0"]
        for k in range(len(file["layer"])):
            file["layer"].move(str(k + 1), str(k))
    return path


def _original(path: Path) -> Original:
    names: dict[type, list[str]] = {h5py.Dataset: [], h5py.Group: []}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: names[type(item)].append(name))
    return Original(path.read_bytes(), tuple(names[h5py.Dataset]), tuple(names[h5py.Group]))


def _chain() -> Graph:
    """Reset by subtraction, a start potential, biases, a pooling folded into a strided convolution, all of meta."""
    rng = np.random.default_rng(0)
    first = Conv(2 * rng.integers(-20, 30, (3, 2, 3, 3)), padding=(1, 1))
    pooled = Conv(2 * rng.integers(-20, 30, (4, 3, 4, 4)), stride=(2, 2), padding=(1, 1))
    nodes = (
        Input("input", (2, 6, 6)),
        Population("a", (3, 6, 6), (Edge("input", first),), Neuron(40, u0=1280), scale=40.0),
        Population("b", (4, 3, 3), (Edge("a", pooled),), Neuron(50, bias=np.full((4, 1, 1), 64, np.int32))),
        Population("out", (1, 3, 3), (Edge("b", Conv(2 * rng.integers(-9, 9, (1, 4, 1, 1)))),), Neuron(None)),
    )
    meta = Meta(timesteps=4, encoder="poisson", logit_scale=0.5, class_names=("x", "y"), notes={"made": "by hand"})
    return Graph(nodes, integer=True, meta=meta)


def _skips() -> Graph:
    """A concatenation, an addition of unlike synapses, a transposed convolution; graded spikes come in."""
    rng = np.random.default_rng(1)
    up = ConvT(2 * rng.integers(-20, 30, (3, 2, 2, 2)), stride=(2, 2))
    down = Conv(2 * rng.integers(-20, 30, (3, 1, 2, 2)), stride=(2, 2))
    nodes = (
        Input("input", (1, 4, 4)),
        Population("down", (3, 2, 2), (Edge("input", down),), Neuron(20)),
        Population("up", (2, 4, 4), (Edge("down", up),), Neuron(20)),
        Population(
            "both",
            (2, 4, 4),
            (Edge("up", Conv(np.full((2, 2, 1, 1), 8))), Edge("input", Conv(np.full((2, 1, 1, 1), 4)))),
            Neuron(30),
        ),
        Population(
            "sum",
            (2, 4, 4),
            (Edge("both", Conv(np.full((2, 2, 3, 3), 8), padding=(1, 1))), Edge("down", up)),
            Neuron(30),
        ),
    )
    return with_encoder(align_delays(Graph(nodes, integer=True)), "graded")


def _row() -> Graph:
    """Dense synapses alone."""
    rng = np.random.default_rng(4)
    nodes = (
        Input("input", (9, 1, 1)),
        Population("first", (5, 1, 1), (Edge("input", Dense(2 * rng.integers(-9, 20, (5, 9)))),), Neuron(30)),
        Population("last", (3, 1, 1), (Edge("first", Dense(2 * rng.integers(-9, 20, (3, 5)))),), Neuron(20)),
    )
    return Graph(nodes, integer=True)


def _delays() -> Graph:
    """Reset to zero, leaks of all neurons, which are ternary, and of each, delays by target neuron."""
    rng = np.random.default_rng(2)
    wait = np.arange(5, dtype=np.int32).reshape(5, 1, 1)
    leaky = Neuron(30, reset="zero", current_decay=1024, voltage_decay=128, ternary=True)
    each = Neuron(30, reset="zero", current_decay=700 * wait, voltage_decay=100 * (wait + 1))
    nodes = (
        Input("input", (1, 3, 3)),
        Population("wait", (5, 1, 1), (Edge("input", Dense(2 * rng.integers(-9, 20, (5, 9))), 0, wait),), each),
        Population("b", (2, 1, 1), (Edge("wait", Dense(2 * rng.integers(-9, 20, (2, 5)))),), leaky),
    )
    return Graph(nodes, integer=True)


def loops() -> Graph:
    """Populations that feed themselves: as lava-dl has it, and through a convolution, some steps late."""
    rng = np.random.default_rng(5)
    again = Edge("first", Dense(2 * rng.integers(-9, 9, (4, 4))))
    later = Edge("image", Conv(2 * rng.integers(-9, 9, (2, 2, 3, 3)), padding=(1, 1)), 2)
    up = Sparse(2 * rng.integers(1, 20, 18), np.arange(18), np.arange(18) % 4, (2, 3, 3))
    nodes = (
        Input("input", (9, 1, 1)),
        Population(
            "first",
            (4, 1, 1),
            (Edge("input", Dense(2 * rng.integers(-9, 20, (4, 9)))), again),
            Neuron(30, reset="zero", voltage_decay=128),
        ),
        Population("image", (2, 3, 3), (Edge("first", up), later), Neuron(20)),
    )
    return Graph(nodes, integer=True)


def far_loops() -> Graph:
    """Later populations that feed earlier ones: one through a convolution, one through a dense synapse, later still."""
    rng = np.random.default_rng(7)
    conv = [Conv(2 * rng.integers(-9, 14, (2, 2, 3, 3)), padding=(1, 1)) for _ in range(3)]
    dense = Dense(2 * rng.integers(-9, 14, (3, 32)))
    flat = Sparse(2 * rng.integers(-9, 14, 32), np.arange(32), np.arange(32) % 3, (2, 4, 4))
    again = Edge("b", conv[2], 1, feedback=True), Edge("c", flat, 4, feedback=True)
    nodes = (
        Input("input", (2, 4, 4)),
        Population("a", (2, 4, 4), (Edge("input", conv[0]), *again), Neuron(20)),
        Population("b", (2, 4, 4), (Edge("a", conv[1]),), Neuron(24, reset="zero", voltage_decay=128)),
        Population("c", (3, 1, 1), (Edge("b", dense), Edge("c", Dense(2 * rng.integers(-9, 9, (3, 3))))), Neuron(40)),
        Population("head", (2, 1, 1), (Edge("c", Dense(2 * rng.integers(-9, 14, (2, 3)))),), Neuron(None)),
    )
    return Graph(nodes, integer=True)


def values() -> Graph:
    """Sigma-delta neurons, at the scale that NetX knows and at another, and an output that sums."""
    rng = np.random.default_rng(6)
    bias = 4096 * rng.integers(-3, 4, (3, 1, 1), dtype=np.int32)
    kernel = Conv(2 * rng.integers(-9, 20, (3, 2, 3, 3)), padding=(1, 1))
    nodes = (
        Input("input", (2, 4, 4), SigmaDelta(4096), gain=64.0, offset=3.0),
        Population("told", (3, 4, 4), (Edge("input", kernel),), SigmaDelta(8192, bias)),
        Population(
            "fine", (5, 1, 1), (Edge("told", Dense(2 * rng.integers(-9, 20, (5, 48)))),), SigmaDelta(99, None, 9)
        ),
        Population("sums", (2, 1, 1), (Edge("fine", Dense(2 * rng.integers(-9, 20, (2, 5)))),), SigmaDelta(None)),
    )
    return Graph(nodes, integer=True)


def _single() -> Graph:
    """Single synapses: by themselves, joined by a concatenation, added to a convolution; ternary neurons."""
    rng = np.random.default_rng(3)

    def sparse(source: tuple[int, ...], target: tuple[int, ...]) -> Sparse:
        places = np.sort(rng.choice(math.prod(target) * math.prod(source), 20, replace=False))
        return Sparse(2 * rng.integers(-9, 20, 20), *np.divmod(places, math.prod(source)), target)

    nodes = (
        Input("input", (2, 4, 4)),
        Population("single", (3, 4, 4), (Edge("input", sparse((2, 4, 4), (3, 4, 4))),), Neuron(20, ternary=True)),
        Population(
            "joined",
            (2, 3, 5),
            (Edge("single", sparse((3, 4, 4), (2, 3, 5))), Edge("input", sparse((2, 4, 4), (2, 3, 5)))),
            Neuron(20),
        ),
        Population(
            "added",
            (2, 3, 5),
            (Edge("joined", Conv(np.full((2, 2, 1, 1), 8))), Edge("single", sparse((3, 4, 4), (2, 3, 5)))),
            Neuron(30),
        ),
    )
    return align_delays(Graph(nodes, integer=True))
