"""The chip's grid of cores, coloured by layer, each filled as far as its fullest resource."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Patch, Rectangle

from export.mapping.chips import CORES_A_ROUTER, GRID
from export.mapping.cost import router
from export.mapping.place import Core, Placement
from export.text import printable
from hardware_sim.reporting.pictures import STYLE, save

MOST_CHIPS = 32  # that a picture shows
ACROSS = 4  # chips side by side
SIDE = 2  # a router's cores are a square
EMPTY = "#EEEEEE"


def draw_chip(placement: Placement, path: Path) -> None:
    """Every core of the chips that a placement takes, PNG or SVG: colour is the layer, height of the fill the share."""
    shown = min(placement.chips, MOST_CHIPS)
    across = min(shown, ACROSS)
    down = -(-shown // across)
    colours = _colours(placement)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            down, across, figsize=(4.6 * across + 2.2, 2.6 * down + 0.4), squeeze=False, layout="constrained"
        )
        for axis in axes.flat:
            axis.set_axis_off()
        for number in range(shown):
            _empty(axes.flat[number], number, placement)
        for core in placement.cores:
            chip, x, y = _place(core, placement.chip.cores)
            if chip < shown:
                _fill(axes.flat[chip], x, y, max(core.shares(placement.chip).values()), colours[core.layer])
        handles = [
            Patch(color=colours[layer.name], label=printable(f"{layer.name}, {len(layer.cores)}"))
            for layer in placement.layers
        ]
        legend = figure.legend(handles=handles, loc="outside right center", fontsize=7, title="layer, cores")
        for text in legend.get_texts():
            text.set_parse_math(False)  # names are foreign
        save(figure, path)


def _place(core: Core, cores: int) -> tuple[int, float, float]:
    chip, x, y = router(core.number, cores)
    within = core.number % CORES_A_ROUTER
    return chip, x * SIDE + within % SIDE, y * SIDE + within // SIDE


def _empty(axis: Axes, number: int, placement: Placement) -> None:
    width, height = GRID[0] * SIDE, GRID[1] * SIDE
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)
    axis.set_aspect("equal")
    axis.set_title(f"{placement.chip.title}, chip {number + 1} of {placement.chips}", fontsize=8)
    for core in range(placement.chip.cores):
        x, y = math.floor(core % width), core // width
        axis.add_patch(Rectangle((x + 0.06, y + 0.06), 0.88, 0.88, facecolor=EMPTY, edgecolor="none"))


def _fill(axis: Axes, x: float, y: float, share: float, colour: str) -> None:
    axis.add_patch(Rectangle((x + 0.06, y + 0.06), 0.88, 0.88, facecolor="none", edgecolor=colour, linewidth=1))
    axis.add_patch(Rectangle((x + 0.06, y + 0.94 - 0.88 * share), 0.88, 0.88 * share, facecolor=colour))


def _colours(placement: Placement) -> dict[str, str]:
    palette = [to_hex(colour) for colour in plt.get_cmap("tab20").colors]  # type: ignore[attr-defined]
    return {layer.name: palette[k % len(palette)] for k, layer in enumerate(placement.layers)}
