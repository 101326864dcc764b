"""The mapper beside what is public: Intel's tables of core counts, SANA-FE's energies, NeuroBench's operations.

Rows `layer`: cores and synaptic words (mean of the layer's cores), ours and in the logs of Intel's compiler that
lava-dl's notebooks keep. PilotNet LIF is the file that lava-dl ships; of the others only geometry and fill are public,
so the bits of their weights are those that come nearest to the fill. SANA-FE and NeuroBench run where `make bench`
has installed them.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import hardware_sim
from benchmarks.common import machine
from benchmarks.mapping_peers import neurobench, sana_fe
from benchmarks.peers import FOLDER as PEERS_FOLDER
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
    Node,
    Operator,
    Pair,
    Population,
    Shape,
    output_shape,
    with_timesteps,
)
from export.mapping.chips import LOIHI2, Chip
from export.mapping.cost import cost
from export.mapping.energies import SANA_FE
from export.mapping.memory import LOIHI2_CONV_HEADER_BITS, LOIHI2_DENSE_BITS, list_words, words
from export.mapping.place import Placement, place
from export.partition import assemble, partition
from export.passes import align_delays
from hardware_sim.record import Record
from hardware_sim.reference import input_spikes, run_reference
from hardware_sim.reporting.metrics import active_steps, spike_counts
from hardware_sim.trace import pack
from neuroseg.conversion.lower import export
from neuroseg.pretrained import FOLDER as PRETRAINED
from neuroseg.runs import load_snn

RANDOM_NETWORKS = 25


@dataclass(frozen=True)
class Row:
    """A layer of a public table. kernel: None for dense. words: of a core, on average; of neurons, in a dense layer.

    whole: words of all the layer on one core, where the log has it in a line "Violation".
    """

    shape: Shape
    kernel: int | None
    stride: Pair
    padding: Pair
    cores: int
    words: float
    neurons: int = 0
    whole: float | None = None
    divided: int = 1  # into how many the channels are, in the log

    @property
    def tile_channels(self) -> int:
        return self.shape[0] // self.divided

    @property
    def name(self) -> str:
        c, h, w = self.shape
        return f"dense {c}" if self.kernel is None else f"conv {w}x{h}x{c}"


def conv(shape: Shape, stride: Pair, padding: Pair, cores: int, taken: float, divided: int = 1) -> Row:
    return Row(shape, 3, stride, padding, cores, taken, divided=divided)


def dense(neurons: int, cores: int, taken: float, whole: float | None = None) -> Row:
    return Row((neurons, 1, 1), None, (1, 1), (0, 0), cores, taken, -(-neurons // cores), whole)


PILOTNET_CONVS = (
    conv((24, 32, 99), (2, 2), (0, 0), 25, 81),
    conv((36, 15, 49), (2, 2), (0, 0), 13, 864),
    conv((48, 7, 24), (2, 2), (0, 0), 3, 1620),
    conv((64, 4, 22), (2, 1), (1, 0), 3, 2160),
    conv((64, 2, 20), (1, 1), (0, 0), 2, 2880),
)
PILOTNET_LIF = (*PILOTNET_CONVS, dense(100, 12, 7253), dense(50, 1, 1300), dense(10, 1, 150), dense(1, 1, 10))
PILOTNET_LIF_INPUT = 13  # cores
PILOTNET_STEPS, PILOTNET_JOULES, PILOTNET_STEP = 16, 1.094e-3, 153e-6  # measured, from the same notebook
PILOTNET_SDNN = (
    *PILOTNET_CONVS[:3],
    replace(PILOTNET_CONVS[3], words=2592),
    PILOTNET_CONVS[4],
    dense(100, 12, 7253, whole=66_560),
    dense(50, 1, 1500),
    dense(10, 1, 150),
    dense(1, 1, 10),
)
SAME, HALF = (1, 1), (2, 2)
YOLO_KP = (
    conv((16, 224, 224), HALF, SAME, 224, 0.0034 * LOIHI2.words),
    conv((32, 112, 112), HALF, SAME, 112, 0.036 * LOIHI2.words),
    conv((64, 56, 56), HALF, SAME, 56, 0.108 * LOIHI2.words),
    conv((128, 28, 28), HALF, SAME, 28, 0.396 * LOIHI2.words),
    conv((256, 28, 28), SAME, SAME, 56, 0.792 * LOIHI2.words, 2),
    conv((256, 14, 14), HALF, SAME, 16, 0.72 * LOIHI2.words, 4),
    conv((512, 14, 14), SAME, SAME, 32, 0.864 * LOIHI2.words, 8),
    Row((256, 14, 14), 1, SAME, (0, 0), 14, 0.672 * LOIHI2.words),
    conv((512, 14, 14), SAME, SAME, 32, 0.864 * LOIHI2.words, 8),
    Row((48, 14, 14), 1, SAME, (0, 0), 4, 0.192 * LOIHI2.words),
)
MNIST = (dense(128, 3, 9408), dense(64, 1, 2016), dense(10, 1, 192))
OXFORD = (dense(256, 3, 5400, whole=16_200), dense(200, 2, 8064, whole=16_128))


def run() -> dict[str, Any]:
    """All comparisons. What lacks its peer says so."""
    lif = netx.read(pilotnet_file())
    tables = {
        "PilotNet LIF": compare(place(lif, LOIHI2), PILOTNET_LIF, given=(PILOTNET_LIF_INPUT, "input 200x66x3")),
        "PilotNet SDNN": compare(place(network((3, 66, 200), PILOTNET_SDNN), LOIHI2), PILOTNET_SDNN),
        "YOLO-KP": compare(place(network((3, 448, 448), YOLO_KP), LOIHI2), YOLO_KP),
        "MNIST": compare(place(network((784, 1, 1), MNIST), LOIHI2), MNIST),
        "Oxford": compare(place(network((200, 1, 1), OXFORD), LOIHI2), OXFORD),
    }
    sys.path.append(str(PEERS_FOLDER))
    return {
        **tables,
        "PilotNet LIF, measured": measured(lif),
        "partitioned": partitioned(lif),
        "SANA-FE": sana_fe() if importlib.util.find_spec("sanafe") else f"not in {PEERS_FOLDER}",
        "NeuroBench": neurobench() if importlib.util.find_spec("neurobench") else f"not in {PEERS_FOLDER}",
        "machine": machine(),
    }


def pilotnet_file() -> Path:
    """PilotNet LIF among lava-dl's own tests. Raises FileNotFoundError without lava-dl."""
    spec = importlib.util.find_spec("lava.lib.dl.netx")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("lava-dl is not installed; make setup installs it")
    tests = Path(spec.submodule_search_locations[0]).parents[3] / "tests" / "lava" / "lib" / "dl" / "netx"
    return tests / "gts" / "pilotnet_lif" / "network.net"


def measured(graph: Graph) -> dict[str, Any]:
    """PilotNet LIF's energy and time on one Oheo Gulch, as measured, beside the estimate by Loihi 1's figures.

    The image is the one that lava-dl keeps with the network, not the one that was measured.
    """
    image = np.load(pilotnet_file().with_name("image.npy")).T[None]
    graph = with_timesteps(graph, PILOTNET_STEPS)
    spikes = input_spikes(graph, image)
    trace = replace(run_reference(graph, spikes, record=Record(potentials="all")), stimulus=pack(spikes))
    counts, active = spike_counts(graph, trace), active_steps(graph, trace)
    found = cost(graph, place(graph, LOIHI2), counts, SANA_FE, active=active)
    return {
        "dynamic joules": {"estimate": float(found.dynamic), "measured": PILOTNET_JOULES},
        "seconds a step": {"estimate": float(found.step), "measured": PILOTNET_STEP},
    }


def partitioned(pilotnet: Graph) -> dict[str, Any]:
    """Networks with one population a core beside the whole: spikes, and how many differ in reference and Lava."""
    shipped = with_timesteps(export(load_snn(PRETRAINED / "snn.safetensors")[0]), 4)
    image = np.load(pilotnet_file().with_name("image.npy")).T[None]
    lif = with_timesteps(pilotnet, 6)
    spikes = (np.random.default_rng(0).random((1, 4, *shipped.input.shape)) < 0.6).astype(np.uint8)
    found = {
        "shipped": _differing(shipped, spikes, LOIHI2),
        "PilotNet LIF": _differing(lif, input_spikes(lif, image), LOIHI2),
    }
    for number in range(RANDOM_NETWORKS):
        graph, spikes = random_network(number)
        most = max(math.prod(population.shape) for population in graph.populations)
        found[f"random {number}"] = _differing(graph, spikes, replace(LOIHI2, neurons=max(16, most // 2)))
    return found


def _differing(graph: Graph, spikes: np.ndarray, chip: Chip) -> dict[str, int]:
    placement = place(graph, chip)
    pieces, whole = partition(graph, placement), run_reference(graph, spikes)
    row = {"cores": len(placement.cores), "spikes": sum(whole.total(name) for name in whole.packed)}
    for backend in ("reference", "lava"):
        trace = hardware_sim.run(pieces, spikes, backend=backend)
        found = assemble(placement, dict(trace.spikes))
        row[f"differing, {backend}"] = sum(int((found[name] != whole.spikes[name]).sum()) for name in whole.packed)
    return row


def random_network(seed: int) -> tuple[Graph, np.ndarray]:
    """Three layers of both kinds of convolution, a skip and a dense output; and spikes for it."""
    rng = np.random.default_rng(seed)
    channels = rng.integers(2, 6, 3)
    side = 2 * int(rng.integers(3, 6))

    def weight(*sides: int) -> np.ndarray:
        return 2 * rng.integers(-12, 20, sides)

    a, b, c = (int(n) for n in channels)
    up = ConvT(weight(b, c, 2, 2), stride=(2, 2))
    soft = ("subtract", "zero")[seed % 2]
    nodes = (
        Input("input", (1, side, side)),
        Population("a", (a, side, side), (Edge("input", Conv(weight(a, 1, 3, 3), padding=(1, 1))),), Neuron(40, soft)),
        Population(
            "b",
            (b, side // 2, side // 2),
            (Edge("a", Conv(weight(b, a, 3, 3), stride=(2, 2), padding=(1, 1))),),
            Neuron(90, soft),
        ),
        Population(
            "c",
            (c, side, side),
            (Edge("b", up), Edge("a", Conv(weight(c, a, 3, 3), padding=(1, 1)))),
            Neuron(120, soft),
        ),
        Population("d", (3, 1, 1), (Edge("c", Dense(weight(3, c * side * side) // 4 * 2)),), Neuron(None, soft)),
    )
    graph = align_delays(Graph(nodes, integer=True, meta=Meta(timesteps=5)))
    return graph, (rng.random((2, 5, 1, side, side)) < 0.5).astype(np.uint8)


def compare(placement: Placement, rows: Sequence[Row], given: tuple[int, str] | None = None) -> dict[str, Any]:
    """Row by row: cores and mean words, ours and Intel's; and the totals."""
    layers = list(placement.layers)
    found: dict[str, Any] = {}
    if given:
        found[given[1]] = {"cores": len(layers.pop(0).cores), "Intel": given[0]}
    for number, (layer, row) in enumerate(zip(layers, rows, strict=True), start=1):
        mean = sum(core.words for core in layer.cores) / len(layer.cores)
        cores = {"cores": len(layer.cores), "Intel": row.cores}
        found[f"{number} {row.name}"] = {**cores, "words": round(mean), "Intel's words": round(row.words)}
    total = sum(row.cores for row in rows) + (given[0] if given else 0)
    found["total"] = {"cores": len(placement.cores), "Intel": total, "off": len(placement.cores) / total - 1}
    return found


def network(shape: Shape, rows: Sequence[Row]) -> Graph:
    """A chain with a public table's geometry; all weights alike, of the bits that come nearest to its fill."""
    nodes: list[Node] = [Input("input", shape)]
    for number, row in enumerate(rows):
        source = nodes[-1]
        inputs = source.shape[0] if row.kernel else math.prod(source.shape)
        sides = (row.shape[0], inputs, row.kernel, row.kernel) if row.kernel else (row.shape[0], inputs)
        weight = np.full([side for side in sides if side], 2 ** (fitted_bits(row, inputs) - 1), np.int32)
        op: Operator = Conv(weight, row.stride, row.padding) if row.kernel else Dense(weight)
        assert output_shape(op, source.shape) == row.shape
        nodes.append(Population(f"{number}", row.shape, (Edge(source.name, op),), Neuron(1, reset="zero")))
    return Graph(tuple(nodes), integer=True)


def fitted_bits(row: Row, inputs: int) -> int:
    """Bits of a weight whose words come nearest to a public row; of two as near, the greater."""

    def taken(bits: int) -> int:
        if row.kernel is None:
            together = row.neurons if row.whole is None else row.shape[0]
            return inputs * list_words(together, bits + LOIHI2_DENSE_BITS)
        return inputs * row.kernel**2 * words(row.tile_channels * bits + LOIHI2_CONV_HEADER_BITS)

    return min(range(10, 1, -1), key=lambda bits: abs(taken(bits) - (row.whole or row.words)))
