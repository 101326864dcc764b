"""What the networks of a cross-validation reach: Dice on test subjects; spikes, operations and energy of a slice."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from export.graph import Graph, GraphError
from export.mapping.chips import LOIHI2
from hardware_sim.record import Record
from hardware_sim.reporting.deployment import deploy
from hardware_sim.reporting.metrics import trace_metrics
from neuroseg.calibration import sample
from neuroseg.conversion.lower import export
from neuroseg.data.volume import Subject, stack_slices
from neuroseg.engine import Engine, image_spikes, logits
from neuroseg.metrics import mean_dice, subject_dice
from neuroseg.spiking.activity import measure
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.training.loop import Epoch
from neuroseg.training.train import predict

log = logging.getLogger(__name__)

SAMPLE_SLICES = 100  # test slices whose spikes are counted
CONVERGED = 0.002  # within this of the best validation Dice


def measured(
    network: SpikingNetwork, subjects: Sequence[Subject], classes: Sequence[str], *, quantized: bool
) -> dict[str, Any]:
    """Dice on the test subjects; of a sample of their slices firing rate, operations and, of integers, energy."""
    context = network.graph.meta.context
    images = _sample(subjects, context)
    forward = functools.partial(network.predict, quantized=quantized)
    activity = measure(network, images, quantized=quantized)
    return {
        **scores(predict(forward, subjects, context=context), subjects, classes),
        "rate": activity.rate,
        "rates": activity.rates,
        "operations": activity.operations,
        **({"energy": _energy(network, images)} if quantized else {}),
    }


def _energy(network: SpikingNetwork, images: torch.Tensor) -> dict[str, float | None] | None:
    """Dynamic and static joules a slice by the first table of `export.mapping.energies`; None of what no chip takes."""
    try:
        graph = export(network)
        cost = deploy(graph, LOIHI2, Engine().run(graph, image_spikes(graph, images))).costs[0]
    except GraphError as error:
        log.warning("no energy: %s", error)
        return None
    return {"dynamic": float(cost.dynamic), "static": None if cost.static is None else float(cost.static)}


def measured_sigma_delta(graph: Graph, subjects: Sequence[Subject], classes: Sequence[str]) -> dict[str, Any]:
    """As `measured`, of messages; what energy one takes that carries a value is not published."""

    def forward(images: torch.Tensor) -> torch.Tensor:
        trace = Engine().run(graph, image_spikes(graph, images), record=Record(spikes=()))
        return torch.from_numpy(logits(graph, trace))

    context = graph.meta.context
    images = _sample(subjects, context)
    trace = Engine().run(graph, image_spikes(graph, images))
    found = trace_metrics(graph, trace)
    steps = len(images) * graph.meta.timesteps
    neurons = {name: math.prod(shape) for name, shape in trace.shapes.items()}
    told = {name: trace.total(name) for name in trace.spikes}
    return {
        **scores(predict(forward, subjects, context=context), subjects, classes),
        "rate": sum(told.values()) / sum(neurons[name] * steps for name in told),
        "rates": {name: number / (neurons[name] * steps) for name, number in told.items()},
        "operations": found.total("macs") + found.total("acs"),
    }


def _sample(subjects: Sequence[Subject], context: int) -> torch.Tensor:
    """Test slices whose spikes are counted."""
    return sample(stack_slices(subjects, context=context)[0], SAMPLE_SLICES, seed=0)


def scores(masks: Sequence[np.ndarray], subjects: Sequence[Subject], classes: Sequence[str]) -> dict[str, Any]:
    """Mean Dice, and that of each subject."""
    truths = [subject.mask for subject in subjects]
    each = zip(subjects, masks, truths, strict=True)
    return {
        "dice": mean_dice(masks, truths, classes),
        "subjects": {subject.id: subject_dice(mask, truth, classes) for subject, mask, truth in each},
    }


def converged(history: Sequence[Epoch]) -> int:
    """The first epoch within 0.2 points of the best validation Dice."""
    best = max(row.validation_dice for row in history)
    return next(row.epoch for row in history if row.validation_dice >= best - CONVERGED)
