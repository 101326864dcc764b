"""A trained network as sigma-delta neurons of Loihi 2: graded spikes, and one wave of them for a still image."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from export.graph import Graph
from export.limits import check
from export.passes import fold_pool, split_concat
from export.quantize import quantize_sigma_delta
from hardware_sim.analog import peaks
from neuroseg.conversion.lower import lower
from neuroseg.spiking.network import SpikingNetwork


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
    network = network.copy(encoder="rate")  # sigma-delta neurons tell the image, in levels of their own
    graph = fold_pool(split_concat(lower(network, class_names=class_names, notes=notes)))
    return check(quantize_sigma_delta(graph, peaks(graph, images.numpy()), threshold=threshold))
