"""SANA-FE's simulation and NeuroBench's package beside ours, on a network that is small enough for both."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from export.graph import Conv, Dense, Edge, Graph, Input, Meta, Neuron, Node, Population
from export.mapping.chips import LOIHI1, Chip
from export.mapping.cost import cost
from export.mapping.energies import SANA_FE
from export.mapping.place import Placement, place
from hardware_sim.lava_backend.synapses import to_sparse
from hardware_sim.record import Record
from hardware_sim.reference import run_reference
from hardware_sim.reporting.metrics import active_steps, ann_metrics, spike_counts, trace_metrics
from hardware_sim.trace import Trace, pack

UNITS = {Conv: "loihi_conv_synapse", Dense: "loihi_dense_synapse"}  # SANA-FE's names
SMALL = replace(LOIHI1, neurons=64)  # so that a small network is spread over many cores


def small_network(*, steps: int = 20, zeros: float = 0.0) -> tuple[Graph, np.ndarray]:
    """Two convolutions and a dense layer with reset to zero, and spikes that end before the run does.

    zeros: share of the weights that are 0; SANA-FE is given none, for what it is not told of it does not count.
    """
    rng = np.random.default_rng(0)
    a, b, c = rng.integers(1, 12, (4, 1, 3, 3)), rng.integers(-8, 16, (8, 4, 3, 3)), rng.integers(-8, 12, (10, 288))
    ops = (Conv(2 * a, padding=(1, 1)), Conv(2 * np.where(b, b, 1), (2, 2), (1, 1)), Dense(2 * np.where(c, c, 1)))
    shapes = ((1, 12, 12), (4, 12, 12), (8, 6, 6), (10, 1, 1))
    nodes: list[Node] = [Input("input", shapes[0], Neuron(1, reset="zero"))]
    for k, (op, shape, threshold) in enumerate(zip(ops, shapes[1:], (41, 121, 301), strict=True)):
        op = replace(op, weight=op.weight * (rng.random(op.weight.shape) >= zeros))
        neuron = Neuron(threshold, reset="zero")  # odd beside even weights: > and >= are the same
        nodes.append(Population(f"layer{k}", shape, (Edge(nodes[-1].name, op),), neuron))
    spikes = (rng.random((1, steps, *shapes[0])) < 0.3).astype(np.uint8)
    spikes[:, -len(ops) :] = 0  # what each layer lags in SANA-FE
    return Graph(tuple(nodes), integer=True, meta=Meta(timesteps=steps)), spikes


def _traced(graph: Graph, spikes: np.ndarray) -> Trace:
    return replace(run_reference(graph, spikes, record=Record(potentials="all")), stimulus=pack(spikes))


def sana_fe(chip: Chip = SMALL) -> dict[str, Any]:
    """Energy by part of one sample, joules: ours, and what SANA-FE's simulation of the same cores adds up."""
    graph, spikes = small_network()
    trace, placement = _traced(graph, spikes), place(graph, chip)
    ours = cost(graph, placement, spike_counts(graph, trace), SANA_FE, active=active_steps(graph, trace))
    mine = {
        "synapse": ours.energy["synapses"],
        "soma": sum(layer.energy["neurons"] for layer in ours.layers if layer.name != "input"),  # theirs costs nothing
        "network": ours.energy["network"],
    }
    theirs = _simulate(graph, placement, spikes[0])
    parts = {part: {"ours": float(mine[part]), "SANA-FE": theirs["energy"][part]} for part in mine}
    fired = int(spikes.sum()) + sum(trace.total(name) for name in trace.packed)
    return {
        "cores": len(placement.cores),
        "spikes": {
            "ours": fired,
            "SANA-FE": theirs["neurons_fired"],
        },
        **{part: {**both, "off": float(both["ours"] / both["SANA-FE"] - 1)} for part, both in parts.items()},
    }


def _simulate(graph: Graph, placement: Placement, spikes: np.ndarray) -> dict[str, Any]:
    """The same network, neuron by neuron and synapse by synapse, on the same cores in SANA-FE."""
    import sanafe

    architecture, net = sanafe.load_loihi(), sanafe.Network()
    groups: dict[str, Any] = {}
    for layer in placement.layers:
        node = graph[layer.name]
        assert isinstance(node, Input | Population) and node.neuron is not None
        groups[layer.name] = net.create_neuron_group(layer.name, math.prod(layer.shape))
        order = np.arange(math.prod(layer.shape)).reshape(layer.shape[::-1]).T  # numbers in (W, H, C) order
        for core in layer.cores:
            for c, h, w in np.argwhere(np.ones(core.tile.shape, bool)) + [start for start, _ in core.tile.spans]:
                neuron = groups[layer.name][int(order[c, h, w])]
                if layer.name == "input":
                    train = spikes[:, c, h, w].astype(bool).tolist()
                    unit = f"loihi_inputs[{order[c, h, w] % 1024}]"
                    neuron.set_attributes(soma_hw_name=unit, model_attributes={"spikes": train})
                else:
                    attributes = {"threshold": float(node.neuron.threshold or 0), "reset": 0.0, "leak_decay": 1.0}
                    assert isinstance(node, Population)
                    neuron.set_attributes(
                        soma_hw_name="loihi_lif",
                        default_synapse_hw_name=UNITS[type(node.edges[0].op)],
                        dendrite_hw_name="loihi_dendrites",
                        model_attributes={**attributes, "input_decay": 0.0, "reset_mode": "hard"},
                    )
                neuron.map_to_core(architecture.tiles[core.number // 4].cores[core.number % 4])
    for population in graph.populations:
        for edge in population.edges:
            matrix = to_sparse(edge.op, graph[edge.source].shape, population.shape).tocoo()
            for target, source, weight in zip(matrix.row, matrix.col, matrix.data, strict=True):
                groups[edge.source][int(source)].connect_to_neuron(
                    groups[population.name][int(target)], {"weight": float(weight)}
                )
    chip = sanafe.SpikingChip(architecture)
    chip.load(net)
    with _stdout_to_stderr():
        return chip.sim(len(spikes), timing_model="simple")


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """What compiled code prints goes to stderr: `bench --json` writes to stdout."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def neurobench() -> dict[str, Any]:
    """Operations and sparsities of a sample of a convolutional chain, with ReLUs and spiking, ours and theirs."""
    graph, spikes = small_network(zeros=0.3)
    floats = replace(graph, integer=False)
    image = np.random.default_rng(1).random((1, *graph.input.shape)) - 0.5  # so that ReLUs have something to cut
    pairs = {
        "ANN": (ann_metrics(floats, image), _package(graph, torch.from_numpy(image)[:, None].float(), nn.ReLU)),
        "SNN": (trace_metrics(graph, _traced(graph, spikes)), _package(graph, torch.from_numpy(spikes).float(), _Fire)),
    }
    found = {}
    for name, (ours, theirs) in pairs.items():
        mine = {
            "Dense": ours.total("dense"),
            "Effective_MACs": ours.total("macs"),
            "Effective_ACs": ours.total("acs"),
            "ActivationSparsity": ours.activation_sparsity,
            "ConnectionSparsity": ours.connection_sparsity,
        }
        found |= {f"{name}, {what}": {"ours": mine[what], "NeuroBench": theirs[what]} for what in mine}
    return found


class _Fire(nn.Module):
    """Neurons that reset to zero."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold, self.potential = threshold, torch.zeros(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.potential = self.potential + x
        fired = (self.potential > self.threshold).float()
        self.potential = self.potential * (1 - fired)
        return fired


class _Chain(nn.Module):
    """A chain of a graph's synapses as modules, each followed by a neuron; a sample is (B, T, C, H, W)."""

    def __init__(self, graph: Graph, neuron: type[nn.Module]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for population in graph.populations:
            op = population.edges[0].op
            weight = torch.from_numpy(op.weight).float()
            if isinstance(op, Conv):
                cout, cin, kernel, _ = weight.shape
                synapse: nn.Module = nn.Conv2d(cin, cout, kernel, op.stride, op.padding, bias=False)
            else:
                layers.append(nn.Flatten())
                synapse = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            synapse.weight.data = weight
            layers += [synapse, nn.ReLU() if neuron is nn.ReLU else neuron(population.neuron.threshold)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.layers(step) for step in x.unbind(1)], 1)


@torch.no_grad()
def _package(graph: Graph, sample: torch.Tensor, neuron: type[nn.Module]) -> dict[str, float]:
    from neurobench.metrics.static import ConnectionSparsity
    from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
    from neurobench.models import TorchModel

    model = TorchModel(_Chain(graph, neuron))
    model.add_activation_module(neuron)
    model.register_hooks()
    output = model(sample)
    data = (sample, torch.zeros(len(sample)))
    operations = SynapticOperations()(model, output, data)
    sparsity = ActivationSparsity()(model, output, data)
    return {**operations, "ActivationSparsity": sparsity, "ConnectionSparsity": ConnectionSparsity()(model)}
