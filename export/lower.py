"""Spiking module to graph: the only file here that knows torch."""

from __future__ import annotations

from collections.abc import Mapping

from export.graph import (
    Concat,
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
    Pool,
    Population,
)
from export.limits import check
from export.passes import align_delays, fold_pool, split_concat
from export.quantize import largest_scale, quantize
from neuroseg.spec import ConcatSpec, DropoutSpec, InputSpec, PoolSpec, PopulationSpec
from neuroseg.spiking import SpikingNetwork


def lower(
    network: SpikingNetwork, *, class_names: tuple[str, ...] = (), notes: Mapping[str, str] | None = None
) -> Graph:
    """The network as a float graph, as it stands: pools and concatenations are nodes, dropout is gone."""
    names: dict[str, str] = {}  # dropout layers are seen through
    nodes: list[Node] = []
    for layer in network.spec.layers:
        match layer:
            case DropoutSpec():
                names[layer.name] = names[layer.source]
                continue
            case InputSpec():
                nodes.append(Input(layer.name, layer.shape))
            case PopulationSpec():
                nodes.append(_population(network, layer, names))
            case PoolSpec():
                nodes.append(Pool(layer.name, layer.shape, names[layer.source], layer.kernel))
            case ConcatSpec():
                nodes.append(Concat(layer.name, layer.shape, tuple(names[s] for s in layer.sources)))
        names[layer.name] = layer.name
    meta = Meta(
        timesteps=network.spec.timesteps,
        encoder=network.spec.encoder,
        logit_scale=float(network.logit_scale),
        class_names=class_names,
        notes=dict(notes or {}),
    )
    return Graph(tuple(nodes), meta=meta)


def export(
    network: SpikingNetwork, *, class_names: tuple[str, ...] = (), notes: Mapping[str, str] | None = None
) -> Graph:
    """All steps from the module to the integer graph that Loihi can hold."""
    graph = lower(network, class_names=class_names, notes=notes)
    graph = split_concat(graph)
    graph = fold_pool(graph)
    graph = align_delays(graph)
    graph = quantize(graph)
    return check(graph)


def integer_scales(network: SpikingNetwork) -> dict[str, float]:
    """The largest integer scale of every population, by name: what `finetune` asks for."""
    graph = fold_pool(split_concat(lower(network)))
    return {
        population.name: largest_scale(population, timesteps=network.spec.timesteps) for population in graph.populations
    }


def _population(network: SpikingNetwork, spec: PopulationSpec, names: Mapping[str, str]) -> Population:
    shapes = {layer.name: layer.shape for layer in network.spec.layers}
    edges = []
    for k, s in enumerate(spec.synapses):
        weight = network.weights[f"{spec.name}:{k}"].detach().double().numpy().copy()
        op: Operator
        if s.kind == "conv" and s.groups == 1 and s.padding == (0, 0) and s.kernel == shapes[s.source][1:]:
            op = Dense(weight.reshape(len(weight), -1))  # one place for the kernel: all to all
        elif s.kind == "conv":
            op = Conv(weight, s.stride, s.padding, s.dilation, s.groups)
        else:
            op = ConvT(weight, s.stride, s.padding, s.output_padding, s.dilation, s.groups)
        edges.append(Edge(names[s.source], op))
    bias = network.bias(spec)
    neuron = Neuron(
        threshold=1.0 if spec.fires else None,
        reset=network.spec.reset,
        u0=network.spec.u0 if spec.fires else 0.0,
        bias=None if bias is None else bias.detach().numpy().reshape(-1, 1, 1),
    )
    scale = network.scale(spec)
    return Population(spec.name, spec.shape, tuple(edges), neuron, scale=scale if scale > 0 else None)
