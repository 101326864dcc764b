"""Pictures of an experiment: firing rates and thresholds by layer, Dice against time steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from hardware_sim.reporting.pictures import BLUE, GREEN, ORANGE, PURPLE, STYLE, save

COLOURS = (BLUE, ORANGE, GREEN, PURPLE)


@dataclass(frozen=True)
class Curve:
    """Dice (in percent) at each number of time steps."""

    label: str
    timesteps: Sequence[int]
    dice: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True)
class Priced:
    """A network's Dice (in percent), and what a slice costs. energy: joules, None where none is published."""

    label: str
    dice: float
    operations: float
    energy: float | None


def draw_costs(networks: Sequence[Priced], *, ann: Priced, path: Path) -> None:
    """Dice against energy and against synaptic operations of a slice, a dot a network, with the ANN's as a line."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
        costs = {
            "dynamic energy a slice (mJ, estimate)": [(n, 1e3 * n.energy) for n in networks if n.energy is not None],
            "operations a slice (millions; of the ANN multiplications)": [
                (n, n.operations / 1e6) for n in (*networks, ann)
            ],
        }
        for axis, (label, dots) in zip(axes, costs.items(), strict=True):
            for network, cost in dots:
                colour = GREEN if network is ann else ORANGE if network.energy is None else BLUE
                axis.plot(cost, network.dice, "o", color=colour)
                at = (cost, network.dice)
                axis.annotate(network.label, at, xytext=(5, -10), textcoords="offset points", fontsize=8)
            axis.axhline(ann.dice, color="black", linewidth=1, linestyle=":")
            axis.set_xlim(0, 1.3 * max((cost for _, cost in dots), default=1.0))  # from nothing, with room for names
            axis.set_xlabel(label)
        axes[0].set_ylabel("3D Dice (%); dotted: ANN")
        figure.tight_layout()
        save(figure, path)


def draw_layers(
    before: Mapping[str, float], after: Mapping[str, float], thresholds: Mapping[str, Sequence[float]], path: Path
) -> None:
    """Firing rate of each layer before and after fine-tuning, and its integer threshold, before and after."""
    names = list(before)
    x = np.arange(len(names))
    with plt.rc_context(STYLE):
        figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), sharex=True)
        for axis, values in (
            (top, (list(before.values()), [after[name] for name in names])),
            (bottom, tuple([thresholds[name][k] for name in names] for k in range(2))),
        ):
            for k, (label, height) in enumerate(zip(("converted", "fine-tuned"), values, strict=True)):
                axis.bar(x + (k - 0.5) * 0.4, height, 0.4, label=label, color=COLOURS[k])
        top.set_ylabel("firing rate\n(spikes per neuron and step)")
        top.legend(frameon=False)
        bottom.set_ylabel("threshold\n(integer weight units)")
        bottom.set_xticks(x, names, rotation=45, ha="right")
        save(figure, path)


def draw_curves(curves: Sequence[Curve], *, ann: float, path: Path) -> None:
    """Dice against time steps, on a logarithmic axis, with the ANN's as a line."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7, 4.5))
        labels = list(dict.fromkeys(curve.label for curve in curves))
        for curve in curves:
            colour, mark = COLOURS[labels.index(curve.label)], "os^D"[labels.index(curve.label)]
            code = "Poisson" if curve.dashed else "rate code"
            axis.plot(
                curve.timesteps,
                curve.dice,
                color=colour,
                marker=mark,
                linestyle="--" if curve.dashed else "-",
                label=f"{curve.label}, {code}",
            )
        axis.axhline(ann, color="black", linewidth=1, linestyle=":", label="ANN")
        ticks = sorted({t for curve in curves for t in curve.timesteps})
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
        axis.set_xlabel("time steps a slice")
        axis.set_ylabel("3D Dice (%)")
        axis.legend(frameon=False, fontsize=8)
        save(figure, path)
