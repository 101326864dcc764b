"""A trained network as sigma-delta neurons of Loihi 2: graded spikes, and one wave of them for a still image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from export.graph import Graph
from export.limits import check
from export.passes import fold_pool, split_concat
from export.quantize import quantize_sigma_delta
from hardware_sim.analog import peaks
from hardware_sim.record import Record
from neuroseg.conversion.lower import lower
from neuroseg.engine import Engine, image_spikes, logits
from neuroseg.metrics import agreement
from neuroseg.spiking.network import SpikingNetwork


@dataclass(frozen=True, eq=False)
class SigmaDeltaConversion:
    """An integer graph, how far it decides as the ANN on the calibration images (`metrics.agreement`), and messages.

    messages: spikes that carry a value, an image, of all layers.
    """

    graph: Graph
    agreement: float
    messages: float


def explain_sigma_delta(
    network: SpikingNetwork,
    images: torch.Tensor,
    *,
    threshold: float = 0.0,
    class_names: tuple[str, ...] = (),
    notes: Mapping[str, str] | None = None,
) -> SigmaDeltaConversion:
    """`to_sigma_delta`, and what it does on the calibration images."""
    graph = to_sigma_delta(network, images, threshold=threshold, class_names=class_names, notes=notes)
    trace = Engine().run(graph, image_spikes(graph, images), record=Record(spikes=(), counts="all"))
    with torch.no_grad():
        expected = network.eval().analog(images)[graph.output.name].numpy()
    told = sum(int(counts.sum(dtype="int64")) for counts in trace.tallied.values())
    return SigmaDeltaConversion(graph, agreement(logits(graph, trace), expected), told / len(images))


def to_sigma_delta(
    network: SpikingNetwork,
    images: torch.Tensor,
    *,
    threshold: float = 0.0,
    class_names: tuple[str, ...] = (),
    notes: Mapping[str, str] | None = None,
) -> Graph:
    """The ReLU network that was converted, unbalanced, as an integer graph of sigma-delta neurons.

    images: calibration images (B, C, H, W), which tell how far sums reach; on images whose sums reach twice as far a
    run may end with an error. threshold: a change that is not told; of a still image there is none but the first.
    Raises GraphError for what does not fit.
    """
    graph = fold_pool(split_concat(lower(network, class_names=class_names, notes=notes)))
    return check(quantize_sigma_delta(graph, peaks(graph, images.numpy()), threshold=threshold))
