"""Spiking module to graph: its parameters back into its structure, and all steps from there to Loihi's integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from export.bounds import input_bound
from export.graph import Edge, Graph, Node, Population, spans
from export.limits import check
from export.passes import align_delays, flatten_convolutions, fold_pool, remove_dropout, split_concat
from export.quantize import largest_scale, quantize
from neuroseg.spiking.channels import per_input_channel
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.spiking.population import in_place
from neuroseg.spiking.trainable import operator


def to_graph(
    network: SpikingNetwork, *, class_names: tuple[str, ...] = (), notes: Mapping[str, str] | None = None
) -> Graph:
    """The network as a float graph, as it stands: its structure with its parameters."""

    def with_numbers(node: Node) -> Node:
        return _population(network, node) if isinstance(node, Population) else node

    meta = replace(
        network.graph.meta, logit_scale=float(network.logit_scale), class_names=class_names, notes=dict(notes or {})
    )
    return replace(network.graph, nodes=tuple(with_numbers(node) for node in network.graph.nodes), meta=meta)


def lower(
    network: SpikingNetwork, *, class_names: tuple[str, ...] = (), notes: Mapping[str, str] | None = None
) -> Graph:
    """The network as a float graph without what training alone needs: pools and concatenations are still nodes."""
    return flatten_convolutions(remove_dropout(to_graph(network, class_names=class_names, notes=notes)))


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
    graph = _folded(network)
    values = spans(graph)
    return {
        population.name: largest_scale(population, timesteps=network.timesteps, values=values)
        for population in graph.populations
    }


def largest_inputs(network: SpikingNetwork) -> dict[str, float]:
    """What a neuron of each population can get in a step at most, of either sign, in thresholds: from the weights."""
    graph = _folded(network)
    values = spans(graph)
    return {p.name: max(abs(bound) for bound in input_bound(p, values)) for p in graph.populations}


def _folded(network: SpikingNetwork) -> Graph:
    """The network as a float graph whose edges join populations alone."""
    return fold_pool(split_concat(lower(network)))


def _population(network: SpikingNetwork, population: Population) -> Population:
    def with_weight(k: int, edge: Edge) -> Edge:
        op = operator(edge)
        weight = network.weights[f"{population.name}:{k}"].detach().cpu().double()
        levels = per_input_channel(network.levels[edge.source], op, network.graph[edge.source].shape)
        return replace(edge, op=replace(op, weight=(weight / levels).numpy()))

    bias = network.bias(population)
    scale = network.scale(population)
    return replace(
        population,
        edges=tuple(with_weight(k, edge) for k, edge in enumerate(population.edges)),
        neuron=replace(population.neuron, bias=None if bias is None else in_place(bias.detach()).cpu().numpy()),
        scale=scale if scale > 0 else None,
    )
