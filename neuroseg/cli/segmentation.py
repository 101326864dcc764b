"""`neuroseg segment`: a scan in, a mask in the scan's own grid out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer
from rich.markup import escape
from rich.table import Table
from scipy.special import expit

import hardware_sim
from export import netx
from export.graph import Graph, GraphError
from neuroseg import runs
from neuroseg.cli.app import Backend, Fidelity, StallTimeout, app
from neuroseg.cli.console import console, steps_bar
from neuroseg.conversion.lower import export as export_graph
from neuroseg.data.locate import find, is_crop
from neuroseg.data.volume import ScanError, load_nifti
from neuroseg.engine import STALL_TIMEOUT, Engine, image_spikes
from neuroseg.pretrained import FOLDER as PRETRAINED
from neuroseg.runs import Run
from neuroseg.segment import BOX, LABELS, check_name, cut, save
from neuroseg.segment import segment as segment_scan

SHIPPED = "pretrained"
NOTHING = hardware_sim.Record(spikes=())  # only the output is wanted


class Side(StrEnum):
    both, right, left = "both", "right", "left"


SIDE_OF: dict[Side, Literal["right", "left"] | None] = {Side.both: None, Side.right: "right", Side.left: "left"}


@app.command()
def segment(
    network: Annotated[str, typer.Argument(help="Run folder, FILE.net, or `pretrained`, the network that ships.")],
    scan: Annotated[Path, typer.Argument(help="T1-weighted scan, NIfTI: a whole head or a crop of the hippocampus.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Mask to write, .nii or .nii.gz: 1 right, 2 left.")],
    side: Annotated[Side, typer.Option(help="Of the patient. A crop counts as right by default.")] = Side.both,
    at: Annotated[
        list[str] | None,
        typer.Option(help="Centre of a hippocampus, X,Y,Z in mm of the scan's world (RAS); once a side."),
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="NIfTI that roughly covers the hippocampus, one or both.")] = None,
    probability: Annotated[Path | None, typer.Option(help="Write the probability map too.")] = None,
    backend: Annotated[Backend, typer.Option(help="Engine.")] = Backend.reference,
    fidelity: Annotated[Fidelity, typer.Option(help="How Lava runs.")] = Fidelity.fused,
    stall_timeout: StallTimeout = STALL_TIMEOUT,
) -> None:
    """Segment the hippocampus in a scan; mask and probabilities lie in the scan's own grid. Prints volumes in mm3.

    A whole head is aligned to the MNI152 template to find both hippocampi; where that fails no mask is written. --at or
    --mask say where they are instead. The left one is mirrored for the network. For research, not for patients.

    Example: neuroseg segment pretrained head.nii.gz -o mask.nii.gz --probability p.nii.gz --backend lava
    """
    made = [out, *([probability] if probability else ())]
    for path in made:
        check_name(path)
    _check_different(made, [scan, *([mask] if mask else ())])
    graph = _graph(network)
    _check_output(network, graph)
    image = load_nifti(scan)
    region = load_nifti(mask) if mask else None
    centres = [_point(text) for text in at or ()]
    _, height, width = graph.input.shape
    try:
        with console.status("looking for the hippocampus"):
            places = find(image, side=SIDE_OF[side], boxes=centres, mask=region)
        regions = cut(image, places, box=(None if is_crop(image) else BOX[0], height, width))
    except ScanError as error:
        raise ScanError(f"{scan}: {error}") from error
    engine = Engine(backend.value, fidelity.value, stall_timeout)
    with steps_bar(f"{backend.value}, {' and '.join(places)}") as show:

        def predict(slices: torch.Tensor) -> np.ndarray:
            spikes = image_spikes(graph, slices)
            trace = engine.run(graph, spikes, record=NOTHING, on_step=show)
            return expit(trace.output[:, :1] * graph.meta.logit_scale)

        found = segment_scan(image, regions, predict)
    save(found, out, probability)
    table = Table()
    for column in ("side", "label", "volume (mm3)"):
        table.add_column(column, justify="right" if column != "side" else "left")
    for name, volume in found.volumes_mm3.items():
        table.add_row(name, str(LABELS[name]), f"{volume:,.0f}")
    console.print(table)
    console.print(escape(", ".join(str(path) for path in made)))


def _check_different(made: list[Path], read: list[Path]) -> None:
    """Raise ScanError where a file to make is one that is read, or two are one file."""
    for k, path in enumerate(made):
        if path.resolve() in [other.resolve() for other in (*read, *made[:k])]:
            raise ScanError(f"{path} is named twice; what is made must not replace the scan or another file")


def _graph(network: str) -> Graph:
    if network == SHIPPED and not Path(network).exists():
        return export_graph(runs.load_snn(PRETRAINED / f"snn{runs.WEIGHTS}")[0])
    path = Path(network)
    if path.is_dir():
        path = Run(path).exported()
    return netx.read(path)


def _check_output(network: str, graph: Graph) -> None:
    """Raise GraphError unless the network gives one potential a pixel, and takes slices of one channel."""
    output, (channels, *sides) = graph.output, graph.input.shape
    if output.neuron.threshold is not None:
        raise GraphError(f"{network}: {output.name} fires; an output that only integrates is needed for a mask")
    if channels != 1 or list(output.shape[1:]) != sides:
        sizes = f"takes {graph.input.shape} and gives {output.shape}"
        raise GraphError(f"{network}: {sizes}; one channel in and the same sides out are needed")


def _point(text: str) -> tuple[float, ...]:
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--at is {text!r}; X,Y,Z in mm like 25,-22,-11 is allowed") from None
    return x, y, z
