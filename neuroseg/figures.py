"""Pictures of an experiment: masks side by side, firing rates and thresholds by layer, Dice against time steps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only: no display is needed
from matplotlib import pyplot as plt

from neuroseg.data.volume import Subject

# Okabe and Ito's palette: told apart by colour-blind readers.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10, "figure.dpi": 150}


@dataclass(frozen=True)
class Curve:
    """Dice (in percent) at each number of time steps."""

    label: str
    timesteps: Sequence[int]
    dice: Sequence[float]
    dashed: bool = False


def draw_masks(rows: Sequence[Mapping[str, np.ndarray]], path: Path) -> None:
    """Slices, one a row: the first column an image (X, Y) in [0, 1], the others its masks, drawn over it.

    Masks differing from the second column, the ground truth, show where: blue is missed, orange too much.
    """
    columns = list(rows[0])
    with plt.rc_context(STYLE):
        size = (1.7 * len(columns), 1.55 * len(rows) + 0.5)
        figure, axes = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False, layout="constrained")
        for row, line in zip(rows, axes, strict=True):
            image, truth = row[columns[0]], row[columns[1]]
            for name, axis in zip(columns, line, strict=True):
                axis.imshow(image.T, cmap="gray", origin="lower", vmin=0, vmax=1)
                if name != columns[0]:
                    axis.imshow(_overlay(row[name], truth), origin="lower")
                axis.set_axis_off()
        for name, axis in zip(columns, axes[0], strict=True):
            axis.set_title(name, fontsize=9)
        figure.supxlabel("green: as the ground truth; blue: missed; orange: too much", fontsize=8)
        _save(figure, path)


def mask_rows(subject: Subject, masks: Mapping[str, np.ndarray], *, slices: int = 4) -> list[dict[str, np.ndarray]]:
    """Rows for `draw_masks`: sagittal slices spread over a subject's hippocampus, with the truth and each mask."""
    inside = np.flatnonzero(subject.mask.any(axis=(1, 2)))
    chosen = inside[np.linspace(0, len(inside) - 1, slices + 2)[1:-1].round().astype(int)]
    return [
        {"image": subject.image[x], "ground truth": subject.mask[x], **{name: m[x] for name, m in masks.items()}}
        for x in chosen
    ]


def _overlay(mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """RGBA (Y, X, 4) of a mask against the truth."""
    image = np.zeros((*mask.shape, 4))
    for where, colour in ((mask & truth, GREEN), (truth & ~mask, BLUE), (mask & ~truth, ORANGE)):
        image[where.astype(bool)] = matplotlib.colors.to_rgba(colour, 0.65)
    return image.transpose(1, 0, 2)


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
        _save(figure, path)


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
        _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    """Write beside the place, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    try:
        figure.savefig(scratch, format=path.suffix[1:], bbox_inches="tight")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
        plt.close(figure)
