"""A trained ANN, traced to PyTorch's own operations, becomes a `SpikingNetwork`: each ReLU a population of neurons.

What has no spiking counterpart is refused by the name of its operation, and the result is held against the model before
it is returned. Balancing comes after: see `balance`.
"""

from __future__ import annotations

import torch
from torch import nn

from export.graph import Graph, Meta, Shape, with_neurons
from neuroseg.conversion.operations import Builder
from neuroseg.conversion.tracing import ConversionError, evaluating, parameter_names, results, trace
from neuroseg.spiking.network import SpikingNetwork

__all__ = ["ConversionError", "convert"]


def convert(
    model: nn.Module,
    input_shape: Shape,
    *,
    timesteps: int = 8,
    reset: str = "subtract",
    u0: float = 0.0,
    encoder: str = "rate",
    alpha: float = 1.0,
) -> SpikingNetwork:
    """Convert a model that maps (B, *input_shape) to logits (B, C, H, W) or (B, C); input_shape is (C, H, W).

    Batch norms are folded into the weights before them, which are else copied as they are; thresholds are 1; balance
    the result before use. A model may return several tensors; the first is the network's output, the others' potentials
    can be recorded. Raises ConversionError, naming the operation, for anything that has no spiking counterpart.
    """
    graph = trace(model, input_shape)
    builder = Builder(graph, parameter_names(model))
    for node in graph.graph.nodes:
        try:
            builder.visit(node)
        except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
            place = f"{type(model).__name__}: {builder.place(node)}"
            raise ConversionError(f"{place} is used in a way that has no spiking counterpart ({error!r})") from error
    drawn = Graph(tuple(builder.draft.nodes), meta=Meta(timesteps=timesteps, encoder=encoder))
    network = SpikingNetwork(with_neurons(drawn, reset=reset, u0=u0), alpha=alpha)
    _check_against(model, network.eval(), input_shape)
    return network


@torch.no_grad()
def _check_against(model: nn.Module, network: SpikingNetwork, input_shape: Shape) -> None:
    """The converted network, run as an ANN, must be the model. Raises ConversionError."""
    image = torch.rand(2, *input_shape, generator=torch.Generator().manual_seed(0))
    with evaluating(model):
        expected = model(image)
    found = network.analog(image)
    for tensor, population in zip(results(expected), network.outputs, strict=True):
        result = found[population.name].reshape(tensor.shape)
        if not torch.allclose(result, tensor, rtol=1e-3, atol=1e-4 * float(tensor.abs().max())):
            raise ConversionError(
                f"{type(model).__name__}: the converted network differs from the model by up to "
                f"{float((result - tensor).abs().max()):.3g} in {population.name}: does it read more than its input?"
            )
