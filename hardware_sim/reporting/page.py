"""report.html: what `neuroseg validate` found, to look at. One file, no network, made of a template."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import matplotlib
import matplotlib.image
import numpy as np

from hardware_sim.comparison.diagnose import Diagnosis
from hardware_sim.reporting.pictures import BLUE, GREEN, OPACITY, ORANGE, PURPLE, against
from hardware_sim.trace import Trace

SHARES = (0.5, 0.25, 1.0)  # of the busiest neuron's spikes: the neurons of a population that the raster offers


@dataclass(frozen=True)
class Viewer:
    """A subject's slices: for each panel one image a slice, as data URIs. slices: indexes along X."""

    subject: str
    slices: tuple[int, ...]
    panels: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Raster:
    """Spikes of one neuron in a stream of slices, in software and in hardware: step of each, and what it carries."""

    label: str
    software: tuple[tuple[int, int], ...]
    hardware: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Cell:
    """Neurons that fired so many times over T steps in software, and so many in hardware."""

    software: int
    hardware: int
    neurons: int


def make_viewer(
    subject: str, image: np.ndarray, truth: np.ndarray, masks: Mapping[str, np.ndarray], *, compared: tuple[str, str]
) -> Viewer:
    """Slices of an image (X, Y, Z) in [0, 1] with the true mask and others, uint8 (X, Y, Z), drawn over it.

    compared: the names of two masks; a last panel shows where they differ.
    """
    anything = truth.astype(bool) | np.any([mask > 0 for mask in masks.values()], axis=0)
    seen = np.flatnonzero(anything.any(axis=(1, 2)))
    slices = range(max(0, seen.min() - 1), min(len(image), seen.max() + 2)) if len(seen) else range(len(image))
    differing = (masks[compared[0]] != masks[compared[1]]).astype(np.uint8)
    panels: dict[str, list[str]] = {"input": [], "ground truth": [], **{name: [] for name in masks}, "difference": []}
    for x in slices:
        panels["input"].append(_png(image[x], {}))
        panels["ground truth"].append(_png(image[x], {GREEN: truth[x]}))
        for name, mask in masks.items():
            panels[name].append(_png(image[x], against(mask[x], truth[x])))
        panels["difference"].append(_png(image[x], {PURPLE: differing[x]}))
    return Viewer(subject, tuple(slices), {name: tuple(uris) for name, uris in panels.items()})


def _png(image: np.ndarray, masks: Mapping[str, np.ndarray]) -> str:
    """A slice (Y, Z) with coloured masks as a data URI, superior up."""
    pixels = np.repeat(image[..., None], 3, axis=-1).astype(float)
    for colour, mask in masks.items():
        tint = np.array(matplotlib.colors.to_rgb(colour))
        pixels = np.where(mask.astype(bool)[..., None], (1 - OPACITY) * pixels + OPACITY * tint, pixels)
    buffer = io.BytesIO()
    upright = pixels.transpose(1, 0, 2)[::-1].clip(0, 1)
    matplotlib.image.imsave(buffer, (upright * 255).astype(np.uint8), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _svg(text: str) -> str:
    """A drawing as a data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def rasters(software: Trace, hardware: Trace, diagnosis: Diagnosis | None = None) -> list[Raster]:
    """A few neurons of every population, over all slices; first the one that differs, if one does."""
    chosen: list[tuple[str, tuple[int, ...]]] = []
    if diagnosis and diagnosis.population in software.spikes:
        chosen.append((diagnosis.population, diagnosis.neuron))
    for name in software.spikes:
        counts = software.counts[name].sum(axis=0)
        places = [int(np.abs(counts - share * counts.max()).argmin()) for share in SHARES]
        chosen += [(name, tuple(int(k) for k in np.unravel_index(place, counts.shape))) for place in places]
    return [_raster(software, hardware, name, neuron) for name, neuron in dict.fromkeys(chosen)]


def _raster(software: Trace, hardware: Trace, name: str, neuron: tuple[int, ...]) -> Raster:
    flat = int(np.ravel_multi_index(neuron, software.shapes[name]))
    byte, bit = divmod(flat, 8)

    def sent(trace: Trace) -> tuple[tuple[int, int], ...]:
        if name in trace.graded:
            values = trace.graded[name][:, :, neuron[0], neuron[1], neuron[2]].reshape(-1)  # samples * T
        else:
            values = ((trace.packed[name][..., byte] >> (7 - bit)) & 1).reshape(-1)
        return tuple((int(t), int(values[t])) for t in np.flatnonzero(values))

    return Raster(f"{name}, neuron {neuron}", sent(software), sent(hardware))


def count_cells(software: Trace, hardware: Trace) -> dict[str, list[Cell]]:
    """For every population, how many neurons and slices have which spike counts in software and in hardware.

    Of ternary spikes those of 1 and those of -1 apart.
    """
    cells = {}
    for name in software.spikes:
        if _is_ternary(software, name):
            for sign in (1, -1):
                ours, theirs = ((trace.spikes[name] == sign).sum(1) for trace in (software, hardware))
                cells[f"{name}, spikes of {sign}"] = _cells(ours, theirs, software.timesteps + 1)
        else:
            cells[name] = _cells(software.counts[name], hardware.counts[name], software.timesteps + 1)
    return cells


def _is_ternary(trace: Trace, name: str) -> bool:
    return name in trace.graded and trace.graded[name].min() == -1 and trace.graded[name].max() <= 1


def _cells(ours: np.ndarray, theirs: np.ndarray, size: int) -> list[Cell]:
    places, amounts = np.unique(ours.astype(np.int64) * size + theirs, return_counts=True)
    return [Cell(int(place // size), int(place % size), int(n)) for place, n in zip(places, amounts, strict=True)]


def render(
    report: Mapping[str, Any],
    *,
    viewers: Sequence[Viewer],
    rates: Mapping[str, Mapping[str, float]],
    rasters: Sequence[Raster],
    cells: Mapping[str, Sequence[Cell]],
    stages: Mapping[str, str],
    network_svg: str,
    chip_svg: str | None,
    agreement_svg: str | None,
    samples: int,
    diagnosis: Diagnosis | None,
) -> str:
    """The page. report: content of report.json. rates: spikes per neuron and step by layer, for each network shown.

    rasters, cells and samples (its slices): of the first viewer's subject. stages: what the stages of `report["dice"]`
    are called. network_svg: a drawing of the graph. chip_svg: of the chip's cores, None where none takes the network.
    agreement_svg: of ANN and hardware, None of a single subject.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hardware_sim.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["thousands"] = "{:,}".format
    return environment.get_template("report.html").render(
        report=report,
        viewers=viewers,
        rates=rates,
        highest=max((rate for layers in rates.values() for rate in layers.values()), default=0.0) or 1.0,
        rasters=rasters,
        cells=cells,
        stages=stages,
        drawing=_svg(network_svg),
        chip_drawing=None if chip_svg is None else _svg(chip_svg),
        agreement_drawing=None if agreement_svg is None else _svg(agreement_svg),
        samples=samples,
        diagnosis=diagnosis,
        colours={"green": GREEN, "blue": BLUE, "orange": ORANGE, "purple": PURPLE},
    )
