"""Masks side by side, as a picture; and how pictures of this project look and are saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only: no display is needed
from matplotlib import pyplot as plt

from export import files

# Okabe and Ito's palette: told apart by colour-blind readers.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
STYLE: dict[Any, Any] = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10, "figure.dpi": 150}
OPACITY = 0.65


def draw_masks(rows: Sequence[Mapping[str, np.ndarray]], path: Path) -> None:
    """Slices, one a row: the first column an image (X, Y) in [0, 1], the others its masks, drawn over it.

    Masks differing from the second column, the ground truth, show where: blue is missed, orange too much, purple
    another class.
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
        legend = "green: as the ground truth; blue: missed; orange: too much"
        classes = max(int(mask.max()) for row in rows for name, mask in row.items() if name != columns[0])
        figure.supxlabel(legend + ("; purple: another class" if classes > 1 else ""), fontsize=8)
        save(figure, path)


def mask_rows(
    image: np.ndarray, truth: np.ndarray, masks: Mapping[str, np.ndarray], *, slices: int = 4
) -> list[dict[str, np.ndarray]]:
    """Rows for `draw_masks`: slices of an image (X, Y, Z) spread along x over the true mask, with it and each mask."""
    inside = np.flatnonzero(truth.any(axis=(1, 2)))
    inside = inside if len(inside) else np.arange(len(image))
    chosen = inside[np.linspace(0, len(inside) - 1, slices + 2)[1:-1].round().astype(int)]
    return [{"image": image[x], "ground truth": truth[x], **{name: m[x] for name, m in masks.items()}} for x in chosen]


def _overlay(mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """RGBA (Y, X, 4) of a mask against the truth."""
    image = np.zeros((*mask.shape, 4))
    for colour, where in against(mask, truth).items():
        image[where] = matplotlib.colors.to_rgba(colour, OPACITY)
    return image.transpose(1, 0, 2)


def against(mask: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Where labels (of any equal shapes, 0 for background) are right, missed, too much or another class, by colour."""
    return {
        GREEN: (mask == truth) & (truth != 0),
        BLUE: (truth != 0) & (mask == 0),
        ORANGE: (mask != 0) & (truth == 0),
        PURPLE: (mask != 0) & (truth != 0) & (mask != truth),
    }


def save(figure: plt.Figure, path: Path) -> None:
    """Save a figure in the format of its ending, and close it."""
    try:
        with files.replacing(path) as (scratch,):
            figure.savefig(scratch, format=path.suffix[1:], bbox_inches="tight")
    finally:
        plt.close(figure)
