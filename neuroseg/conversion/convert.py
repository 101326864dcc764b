"""A trained ANN, traced to PyTorch's own operations, becomes a `SpikingNetwork`: each ReLU a population of neurons.

What has no spiking counterpart is refused by the name of its operation, and the result is held against the model before
it is returned. Balancing comes after: see `balance`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from export.graph import Graph, Meta, Population, Shape, with_neurons
from neuroseg.conversion.compose import synapses
from neuroseg.conversion.known import Known
from neuroseg.conversion.norms import Frozen, Refusing, Statistics, run_frozen, statistics
from neuroseg.conversion.operations import refuse, visit
from neuroseg.conversion.tracing import ConversionError, evaluating, module_of, parameter_names, results, trace
from neuroseg.metrics import agreement
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.spiking.trainable import operator

__all__ = ["Conversion", "ConversionError", "Row", "convert", "explain"]

FLOAT32 = 1e-6  # of the largest activation: what rounding leaves where outputs ought to be 0
UNSEEN = ("getitem", "alias", "detach", "clone", "view", "_unsafe_view", "reshape", "output")


@dataclass(frozen=True)
class Row:
    """An operation of the model, in which module, what it became, and the neurons and synapses that were added."""

    module: str
    operation: str
    became: str
    neurons: int
    synapses: int


@dataclass(frozen=True, eq=False)
class Conversion:
    """A converted network, and what was done.

    frozen: how far the model decides alike with its norms' statistics frozen and with those of each calibration image
    (`metrics.agreement`, 0 to 1); None where nothing was frozen.
    """

    network: SpikingNetwork
    rows: tuple[Row, ...]
    frozen: float | None = None


def convert(
    model: nn.Module,
    input_shape: Shape,
    *,
    timesteps: int = 8,
    reset: str = "subtract",
    u0: float = 0.0,
    encoder: str = "rate",
    alpha: float = 1.0,
    ternary: bool = False,
    context: int = 0,
    freeze_norms: torch.Tensor | None = None,
) -> SpikingNetwork:
    """Convert a model that maps (B, *input_shape) to logits (B, C, H, W) or (B, C); input_shape is (C, H, W).

    Linear operations become part of the synapses, everything piecewise linear populations; weights are else copied as
    they are and thresholds are 1, so balance the result before use. A model may return several tensors; the first is
    the network's output, the others' potentials can be recorded. A sigmoid or softmax at the end is left out: the
    decision is the same. ternary: where a value that can be below 0 travels from neuron to neuron, one population sends
    it as spikes of -1, 0 and 1 (Loihi 2; Lava's TernaryLIF) instead of two that send spikes of 0 and 1. context: of a
    slice's channels so many on either side are its neighbours, which the network's file then says. freeze_norms:
    calibration images (B, C, H, W), whose mean statistics InstanceNorm, GroupNorm and LayerNorm then use for every
    image (`explain` says what that costs). Raises ConversionError, naming the operation, for anything that has no
    spiking counterpart.
    """
    return explain(
        model,
        input_shape,
        timesteps=timesteps,
        reset=reset,
        u0=u0,
        encoder=encoder,
        alpha=alpha,
        ternary=ternary,
        context=context,
        freeze_norms=freeze_norms,
    ).network


def explain(
    model: nn.Module,
    input_shape: Shape,
    *,
    timesteps: int = 8,
    reset: str = "subtract",
    u0: float = 0.0,
    encoder: str = "rate",
    alpha: float = 1.0,
    ternary: bool = False,
    context: int = 0,
    freeze_norms: torch.Tensor | None = None,
) -> Conversion:
    """`convert`, and what it did: one row for each of the model's operations. Raises the same errors."""
    kept = [] if freeze_norms is None else statistics(model, freeze_norms)
    graph = trace(model, input_shape, norms=Frozen(kept) if kept else Refusing())
    known, rows = Known(parameter_names(model), ternary=ternary), []
    refuse(known, graph)
    for node in graph.graph.nodes:
        before = len(known.draft.nodes)
        try:
            visit(known, graph, node)
        except (KeyError, IndexError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
            if _is_out_of_memory(error):
                raise
            place = f"{type(model).__name__}: {known.place(node)}"
            raise ConversionError(f"{place} is used in a way that has no spiking counterpart ({error!r})") from error
        row = _row(node, known, before)
        rows += [row] if row else []
    drawn = Graph(tuple(known.draft.nodes), meta=Meta(timesteps=timesteps, context=context))
    network = SpikingNetwork(with_neurons(drawn, reset=reset, u0=u0), alpha=alpha).copy(encoder=encoder)
    _check_against(model, network.eval(), input_shape, kept, known.ends)
    return Conversion(network, tuple(rows), _cost_of_freezing(model, kept, freeze_norms) if kept else None)


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch's allocators have no type of their own on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


@torch.no_grad()
def _cost_of_freezing(model: nn.Module, kept: Sequence[Statistics], images: torch.Tensor | None) -> float:
    assert images is not None
    found: list[list[np.ndarray]] = [[], []]
    with evaluating(model):
        for image in images.split(1):
            for k, output in enumerate((run_frozen(model, kept, image), model(image))):
                logits = results(output)[0]
                found[k].append(logits.reshape(*logits.shape, *(1,) * (4 - logits.ndim)).numpy())
    return agreement(*(np.concatenate(each) for each in found))


@torch.no_grad()
def _check_against(
    model: nn.Module, network: SpikingNetwork, input_shape: Shape, kept: Sequence[Statistics], ends: Sequence[Any]
) -> None:
    """The converted network, run as an ANN, must be the model. Raises ConversionError."""
    image = torch.rand(2, *input_shape, generator=torch.Generator().manual_seed(0))
    # A model may have been made for one image at a time.
    expected = [results(run_frozen(model, kept, one)) for one in image.split(1)]
    difference = _difference(expected, network, image, ends)
    if difference:  # 1 - 0.5 - 0.5 of large numbers is rounding in float32
        difference = _difference(expected, copy.deepcopy(network).double(), image.double(), ends)
    if difference:
        raise ConversionError(f"{type(model).__name__}: {difference}: does it read more than its input?")


def _difference(
    expected: Sequence[Sequence[torch.Tensor]], network: SpikingNetwork, image: torch.Tensor, ends: Sequence[Any]
) -> str:
    """What differs, if anything: expected outputs of each image beside the network's."""
    found = network.analog(image)
    noise = FLOAT32 * max(float(layer.abs().max()) for layer in found.values())
    for one, tensors in enumerate(expected):
        for tensor, population, ending in zip(tensors, network.outputs, ends, strict=True):
            result = found[population.name][one].reshape(tensor.shape)
            for left_out in ending:
                result = left_out(result)
            result = result.to(tensor.dtype)
            if not torch.allclose(result, tensor, rtol=1e-3, atol=1e-4 * float(tensor.abs().max()) + noise):
                difference = float((result - tensor).abs().max())
                return f"the converted network differs from the model by up to {difference:.3g} in {population.name}"
    return ""


def _row(node: fx.Node, known: Known, before: int) -> Row | None:
    """What became of an operation; None for parameters and what is computed from them alone."""
    made = known.draft.nodes[before:]
    if node.op in ("get_attr", "placeholder") or node in known.constants or not (made or node in known.values):
        return None
    if node.op != "output" and known.values.get(node) is None:
        return None
    operation = str(getattr(getattr(node.target, "overloadpacket", node.target), "__name__", node.target))
    if operation in UNSEEN and not made:
        return None
    neurons = sum(math.prod(n.shape) for n in made if isinstance(n, Population))
    shapes = known.draft.shapes
    crossing = sum(
        synapses(operator(edge), shapes[edge.source], n.shape)
        for n in made
        if isinstance(n, Population)
        for edge in n.edges
    )
    became = ", ".join(f"{type(n).__name__.lower()} {n.name}" for n in made) or (
        "left out" if node in known.endings else "part of a synapse"
    )
    return Row(module_of(node), operation, became, neurons, crossing)
