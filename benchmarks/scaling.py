"""How the cost of a fused run in Lava, and of the fast engine, grows with time steps, slices and spikes.

Times runs over T (4 to 64), slices (1 to 80) and firing rate (1 to 30 %), fits exponents on a log-log scale, and draws
them into results/scaling.png. The floor of messaging is drawn too: what is above it follows the spikes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

import hardware_sim
from benchmarks.common import best_of, graph_and_spikes, machine
from hardware_sim.lava_backend.job import FLOOR
from hardware_sim.lava_backend.launch import time_lava

RESULTS = Path(__file__).with_name("results")
TIMES, SLICES, RATES = (4, 8, 16, 32, 64), (1, 5, 10, 20, 40, 80), (0.01, 0.03, 0.1, 0.2, 0.3)
RECORD = hardware_sim.Record(spikes=())


def run() -> dict[str, Any]:
    """Fitted exponents, and the points: (x, seconds, seconds of the floor, seconds of the fast engine)."""
    points = {
        "timesteps": [(t, *_seconds(20, t, 0.15)) for t in TIMES],
        "slices": [(n, *_seconds(n, 8, 0.15)) for n in SLICES],
        "spikes": [_spikes_point(rate) for rate in RATES],
    }
    fits = {name: fit([row[:3] for row in rows], less_floor=name == "spikes") for name, rows in points.items()}
    fast = {name: fit([(x, y, 0.0) for x, _, _, y in rows], less_floor=False) for name, rows in points.items()}
    _draw(points, fits, fast)
    return {"fits": fits, "fits_of_fast": fast, "points": points, "machine": machine()}


def _seconds(slices: int, timesteps: int, rate: float) -> tuple[float, float, float]:
    graph, spikes = graph_and_spikes(slices, timesteps=timesteps, rate=rate)
    fused, floor = (
        min(time_lava(graph, spikes, fidelity=fidelity, record=RECORD)["run"] for _ in range(2))
        for fidelity in ("fused", FLOOR)
    )
    return fused, floor, best_of(lambda: hardware_sim.run(graph, spikes, record=RECORD), 3)


def _spikes_point(rate: float) -> tuple[float, float, float, float]:
    """The x of a rate is the spikes that the run really had."""
    graph, spikes = graph_and_spikes(40, rate=rate)
    trace = hardware_sim.run(graph, spikes)
    return (sum(trace.total(name) for name in trace.packed), *_seconds(40, 8, rate))


def fit(rows: list[tuple[float, float, float]], *, less_floor: bool) -> dict[str, float]:
    """Exponent on a log-log scale (over the floor, where x leaves the messages alone), and R^2 of a straight line.

    A constant share (the pipeline's depth, the scan for spikes) makes the exponent less than 1.
    """
    x, y, floor = np.array(rows).T
    above = y - floor if less_floor else y
    line = np.polyval(np.polyfit(x, y, 1), x)
    return {
        "exponent": float(np.polyfit(np.log(x[above > 0]), np.log(above[above > 0]), 1)[0]),
        "straight_line_r2": float(1 - ((y - line) ** 2).sum() / ((y - y.mean()) ** 2).sum()),
    }


def _draw(points: dict[str, list], fits: dict[str, dict[str, float]], fast: dict[str, dict[str, float]]) -> None:
    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    units = {"timesteps": "time steps per slice", "slices": "slices", "spikes": "spikes"}
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    for axis, (name, rows) in zip(axes, points.items(), strict=True):
        x, y, floor, engine = np.array(rows).T
        axis.plot(x, y, "o-", color="#0072B2", label="Lava, fused")
        axis.plot(x, floor, "s--", color="#E69F00", label="its steps alone")
        axis.plot(x, engine, "^-", color="#009E73", label="fast engine")
        title = "exponent {exponent:.2f}, straight line $R^2$ {straight_line_r2:.3f}".format(**fits[name])
        title += "\nfast engine: exponent {exponent:.2f}".format(**fast[name])
        axis.set(xscale="log", yscale="log", xlabel=units[name], ylabel="seconds")
        axis.set_title(title, fontsize=10)
        for each in (axis.xaxis, axis.yaxis):
            each.set_minor_formatter(NullFormatter())
        if name != "spikes":
            axis.set_xticks(x, labels=[f"{value:g}" for value in x])
        axis.legend()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / "scaling.png", dpi=120)
    plt.close(figure)
