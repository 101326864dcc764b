"""The shipped network as sigma-delta neurons, one step a slice, beside itself as integrate-and-fire, eight steps.

On the template of a package, whose mask is an atlas's: Dice against it counts the ANN and both networks alike. Messages
are spikes; those of sigma-delta neurons carry a value, so that each is a multiplication where a spike is an addition.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hardware_sim
from benchmarks.common import machine
from export.graph import Graph
from hardware_sim.comparison.compare import compare
from hardware_sim.reporting.metrics import trace_metrics
from hardware_sim.trace import Trace
from neuroseg import runs
from neuroseg.data import stack_slices, template
from neuroseg.engine import image_spikes, logits
from neuroseg.metrics import agreement
from neuroseg.pretrained import copy_pretrained
from neuroseg.runs import Run
from neuroseg.steps import export_run, sigma_delta_run


def run() -> dict[str, Any]:
    """Agreement with ANN and mask, messages and operations a slice, and spikes that differ in Lava."""
    images, masks = stack_slices([template.subject()])
    with tempfile.TemporaryDirectory() as folder:
        shipped = Run(Path(folder) / "run")
        copy_pretrained(shipped)
        with torch.no_grad():
            ann = runs.load_ann(shipped.ann).eval()(images).numpy()
        spiking, graded = export_run(shipped), sigma_delta_run(shipped, images).graph
    truth = np.where(masks.numpy() > 0, 1.0, -1.0).reshape(ann.shape)
    return {
        "ANN": {"dice": agreement(ann, truth)},
        "integrate-and-fire": _row(spiking, images, ann, truth),
        "sigma-delta": _row(graded, images, ann, truth),
        "slices": len(images),
        "machine": machine(),
    }


def _row(graph: Graph, images: torch.Tensor, ann: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    spikes = image_spikes(graph, images).transpose(0, 1).numpy()
    spikes = spikes if spikes.dtype == np.int32 else spikes.astype(np.uint8)
    trace = hardware_sim.run(graph, spikes, record=hardware_sim.Record(potentials="all"))
    lava = hardware_sim.run(graph, spikes, backend="lava")
    return {
        "timesteps": graph.meta.timesteps,
        "dice": agreement(logits(graph, trace), truth),
        "agreement with the ANN": agreement(logits(graph, trace), ann),
        "differing in Lava": compare(trace, lava).mismatched,
        **_counted(graph, trace),
    }


def _counted(graph: Graph, trace: Trace) -> dict[str, float]:
    """A slice's."""
    found = trace_metrics(graph, trace)
    messages = sum(trace.total(name) for name in trace.spikes) / trace.samples
    return {"messages": messages, "multiplications": found.total("macs"), "additions": found.total("acs")}
