"""What a graph must be for PyTorch to run and train it."""

from __future__ import annotations

from export.graph import Conv, ConvT, Edge, Graph, Population, Sparse, without_recurrence
from neuroseg.spiking.neuron import check_neuron

Trainable = Conv | ConvT | Sparse


def fires(population: Population) -> bool:
    """Whether its neurons spike; those of an output only integrate."""
    return population.cuba.threshold is not None


def rectifies(population: Population) -> bool:
    """Whether its neurons stand for a ReLU: those that spike, but for ternary ones, whose spikes have a sign."""
    return fires(population) and not population.cuba.ternary


def operator(edge: Edge) -> Trainable:
    """The linear map of a synapse; all-to-all synapses are convolutions over the whole of their source here."""
    assert isinstance(edge.op, Trainable)
    return edge.op


def check_trainable(graph: Graph) -> None:
    """Raise ValueError unless a graph is what PyTorch can run and train: float, without leak and delays."""
    if graph.integer:
        raise ValueError("the graph holds integers; a float one is needed")
    shared = None
    without_recurrence(graph, "PyTorch's training here")
    for population in graph.populations:
        neuron = population.cuba
        check_neuron(threshold=1.0, reset=neuron.reset)
        if neuron.reset == "zero" and neuron.u0:
            raise ValueError(f"u0 is {neuron.u0} with reset 'zero'; stock Lava neurons start from 0")
        if neuron.threshold not in (1.0, None):
            raise ValueError(f"{population.name}: threshold is {neuron.threshold}; 1 is needed, scale the weights")
        if (
            neuron.leaks
            or neuron.drop is not None
            or any(edge.delay or edge.target_delay is not None for edge in population.edges)
        ):
            raise ValueError(f"{population.name}: leaks and delays are not trained here")
        if not all(isinstance(edge.op, Trainable) for edge in population.edges):
            raise ValueError(f"{population.name}: dense synapses are trained as convolutions over their whole source")
        if neuron.threshold is not None:
            if neuron.ternary and neuron.u0:
                raise ValueError(f"{population.name}: u0 is {neuron.u0}; ternary neurons start from 0")
            before = shared or neuron
            started_alike = neuron.u0 == before.u0 or neuron.ternary or before.ternary
            shared = neuron if before.ternary else before
            if neuron.reset != before.reset or not started_alike:
                raise ValueError(f"{population.name}: all neurons that fire need the same reset and start potential")
