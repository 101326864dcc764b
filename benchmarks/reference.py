"""Slice-steps a second of the reference engine against stock Lava, whose spikes it reproduces."""

from __future__ import annotations

from typing import Any

import hardware_sim
from benchmarks.common import best_of, graph_and_spikes, machine
from export.graph import depths
from hardware_sim.comparison.compare import compare

SLICES = 40
STOCK_SLICES = 2


def run() -> dict[str, Any]:
    graph, spikes = graph_and_spikes(SLICES)
    stock = hardware_sim.run(graph, spikes[:STOCK_SLICES], backend="lava", fidelity="stock")
    equal = compare(stock, hardware_sim.run(graph, spikes[:STOCK_SLICES], backend="reference")).equal
    steps = graph.meta.timesteps
    ours = SLICES * steps / best_of(lambda: hardware_sim.run(graph, spikes, backend="reference"), repeats=3)
    theirs = (STOCK_SLICES * steps + max(depths(graph).values())) / stock.seconds["run"]  # its pipeline filled
    return {
        "equal": equal,
        "reference_slice_steps_per_second": ours,
        "stock_slice_steps_per_second": theirs,
        "reference_over_stock": ours / theirs,
        "machine": machine(),
    }
