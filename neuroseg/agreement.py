"""PyTorch against an engine on images of any kind: every spike of every layer, and what each stage decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from export.graph import Graph
from hardware_sim.comparison.compare import Comparison, compare
from hardware_sim.comparison.diagnose import Diagnosis
from neuroseg.data.images import Images
from neuroseg.engine import Engine, logits
from neuroseg.metrics import decide, label_scores
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.validation import Runs, explain, software_trace

BATCH = 64  # images in one run of an engine

OnImages = Callable[[int, int], None]  # images done, images in all


@dataclass(frozen=True, eq=False)
class Agreement:
    """What was found. comparisons: one a batch of `sizes` images. labels: that each stage decides on, int64 (N, H, W).

    (N,) of a classifier. shown: the first batch that differs, or just the first. diagnosis: why it differs, if that
    could be told. seconds: of the engine's runs, and of all.
    """

    graph: Graph
    engine: Engine
    images: Images
    comparisons: tuple[Comparison, ...]
    sizes: tuple[int, ...]
    labels: Mapping[str, np.ndarray]
    shown: Runs
    diagnosis: Diagnosis | None
    seconds: Mapping[str, float]

    @property
    def equal(self) -> bool:
        return all(comparison.equal for comparison in self.comparisons)

    def scores(self, truth: np.ndarray | None = None) -> dict[str, dict[str, float]]:
        """Of each stage the share of labels that are the ANN's; with true ones accuracy, and Dice by class of maps."""
        classes, ann = self.graph.output.shape[0], self.labels["ann"]
        found = {stage: {"as the ANN": float(np.mean(labels == ann))} for stage, labels in self.labels.items()}
        if truth is not None:
            for stage, labels in self.labels.items():
                found[stage] |= label_scores(labels, truth, classes)
        return found


@torch.no_grad()
def validate_images(
    network: SpikingNetwork,
    graph: Graph,
    images: Images,
    engine: Engine = Engine(backend="lava"),
    *,
    ann: SpikingNetwork,
    on_step: OnImages | None = None,
) -> Agreement:
    """Run a network with integer scales in PyTorch, its graph in an engine, on the same images, and compare them.

    ann: the network before it was balanced, whose activations are the ANN's. Raises ValueError without images,
    GraphError and SimulationError as the engine does.
    """
    if not len(images):
        raise ValueError("no image to validate on")
    start = time.perf_counter()
    comparisons, sizes, seconds, done = [], [], 0.0, 0
    labels: dict[str, list[np.ndarray]] = {"ann": [], "quantized": [], "hardware": []}
    shown: Runs | None = None
    for part in images.pixels.split(BATCH):

        def show(step: int, steps: int, size: int = len(part), before: int = done) -> None:
            if on_step:
                on_step(before + size * step // max(steps, 1), len(images))

        spikes = network.encode(part)
        runs = Runs(spikes, software_trace(network, spikes), engine.run(graph, spikes, on_step=show))
        comparisons.append(compare(runs.software, runs.hardware))
        labels["ann"].append(decide(ann.analog(part)[ann.output.name].numpy()))
        labels["quantized"].append(decide(logits(graph, runs.software)))
        labels["hardware"].append(decide(logits(graph, runs.hardware)))
        seconds += runs.hardware.seconds["run"]
        sizes.append(len(part))
        done += len(part)
        if shown is None or (not comparisons[-1].equal and all(c.equal for c in comparisons[:-1])):
            shown = runs
    assert shown is not None
    equal = all(comparison.equal for comparison in comparisons)
    return Agreement(
        graph=graph,
        engine=engine,
        images=images,
        comparisons=tuple(comparisons),
        sizes=tuple(sizes),
        labels={stage: np.concatenate(parts) for stage, parts in labels.items()},
        shown=shown,
        diagnosis=None if equal else explain(network, graph, engine, shown),
        seconds={"run": seconds, "all": time.perf_counter() - start},
    )
