"""Commands on paper and in numbers: a network on a chip's cores, and NeuroBench's metrics of it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import JustifyMethod
from rich.markup import escape
from rich.table import Table

import hardware_sim
from export import files, netx
from export.graph import Graph, levels
from export.mapping.chips import CHIPS, RESOURCES
from export.mapping.cost import Cost
from export.mapping.energies import STATIC
from export.mapping.place import Placement
from export.mapping.summary import summary
from hardware_sim.reporting.deployment import deploy
from hardware_sim.reporting.metrics import Metrics, as_json, trace_metrics
from hardware_sim.trace import Trace
from neuroseg.cli.console import console, make_console, steps_bar

commands = typer.Typer(add_completion=False)

TABLE_WIDTH = 120  # columns that the tables need
COUNTED = {
    "spikes": "spikes",
    "operations": "synaptic operations",
    "updates": "neuron updates",
    "messages": "messages",
}
DataToRun = Annotated[
    str | None, typer.Option(help="Scans to run the network on, in the fast engine; as in `neuroseg train`.")
]
TraceFile = Annotated[Path | None, typer.Option(help="What a run of the network did: TRACE.npz of `simulate`.")]
Subjects = Annotated[int, typer.Option(min=1, help="Use the first N subjects of --data.")]


class ChipName(StrEnum):
    loihi1, loihi2 = "loihi1", "loihi2"


@commands.command("map")
def map_network(
    file: Annotated[Path, typer.Argument(help="Exported network, FILE.net.")],
    chip: Annotated[ChipName, typer.Option(help="Chip to lay it out on.")] = ChipName.loihi2,
    trace: TraceFile = None,
    data: DataToRun = None,
    subjects: Subjects = 1,
    draw: Annotated[Path | None, typer.Option(help="Draw the chip's cores, as FILE.png or FILE.svg.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write limits, cores and costs as JSON.")] = None,
) -> None:
    """Lay a network out on a chip's cores: how many it takes, and which limit decides. No chip is needed.

    With --trace or --data also what a slice costs: operations, and energy and time estimated from published figures.

    Example: neuroseg map runs/first/network.net --data mni152 --draw chip.png
    """
    if draw and draw.suffix not in (".png", ".svg"):
        raise ValueError(f"--draw is {draw}; a name that ends in .png or .svg is allowed")
    graph = netx.read(file)
    found = deploy(graph, CHIPS[chip.value], _run(graph, trace, data, subjects))
    placement, costs = found.placement, found.costs
    _show_placement(placement, file.name)
    if costs:
        _show_costs(costs)
        if levels(graph):
            console.print("What comes in is graded: a spike counts as so many as it stands for, no less than it costs.")
    if json:
        files.write_json(summary(placement, costs), json)
        console.print(escape(str(json)))
    if draw:
        from hardware_sim.reporting.chip import draw_chip  # noqa: PLC0415 - matplotlib

        draw_chip(placement, draw)
        console.print(escape(str(draw)))


@commands.command()
def metrics(
    file: Annotated[Path, typer.Argument(help="Exported network, FILE.net.")],
    trace: TraceFile = None,
    data: DataToRun = None,
    subjects: Subjects = 1,
    ann: Annotated[Path | None, typer.Option(help="Run folder whose ANN is put beside it; needs --data.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all of it as JSON.")] = None,
) -> None:
    """NeuroBench's metrics of a network: footprint, sparsity, synaptic operations, membrane updates.

    Membrane updates need potentials: --data, or a trace made with `simulate --potentials`.

    Example: neuroseg metrics runs/first/network.net --data mni152 --ann runs/first
    """
    if ann and not data:
        raise ValueError("--ann needs --data: the ANN is run on the same slices")
    graph = netx.read(file)
    done = _run(graph, trace, data, subjects)
    if done is None:
        raise ValueError("neither --trace nor --data is given; one of them is needed")
    found = {"SNN": trace_metrics(graph, done)}
    if ann and data:
        from neuroseg.report import metrics_of_ann  # noqa: PLC0415 - torch, which a trace alone does without
        from neuroseg.runs import Run  # noqa: PLC0415

        found = {"ANN": metrics_of_ann(Run(ann), _slices(graph, data, subjects)), **found}
    _show_metrics(found)
    if json:
        files.write_json({name: as_json(value) for name, value in found.items()}, json)
        console.print(escape(str(json)))


def _run(graph: Graph, trace: Path | None, data: str | None, subjects: int) -> Trace | None:
    """The run to count, read or made; None where none is asked for."""
    if trace and data:
        raise ValueError("--trace and --data are both given; one of them is allowed")
    if trace:
        return Trace.load(trace)
    if data is None:
        return None
    from neuroseg.engine import Engine, image_spikes  # noqa: PLC0415 - torch, which a map alone does without

    spikes = image_spikes(graph, _slices(graph, data, subjects))
    with steps_bar("fast") as show:
        return Engine().run(graph, spikes, record=hardware_sim.Record(potentials="all"), on_step=show)


def _slices(graph: Graph, data: str, subjects: int) -> Any:
    """Images (B, C, H, W) of the first subjects, as a tensor."""
    from neuroseg.cli.subjects import usable_subjects  # noqa: PLC0415 - torch, which a map alone does without
    from neuroseg.data import ScanError, stack_slices  # noqa: PLC0415

    images, _ = stack_slices(usable_subjects(data, 0)[:subjects], context=graph.meta.context)
    if tuple(images.shape[1:]) != graph.input.shape:
        raise ScanError(f"slices of {data} are {tuple(images.shape[1:])}; the network takes {graph.input.shape}")
    return images


def _show_placement(placement: Placement, name: str) -> None:
    chip = placement.chip
    table = Table(title=escape(f"{name} on {chip.title}"), title_justify="left")
    for column in ("layer", "shape", "tile", "cores", "decided by", "share", *RESOURCES):
        side: JustifyMethod = "left" if column in ("layer", "decided by") else "right"
        table.add_column(column.replace("_", " "), justify=side, no_wrap=True)
    for layer in placement.layers:
        fullest = max(layer.cores, key=lambda core: max(core.shares(chip).values()))
        sizes = [" x ".join(map(str, size)) for size in (layer.shape, layer.tile)]
        values = [f"{getattr(fullest, what):,}" for what in RESOURCES]
        decided = layer.deciding.replace("_", " ")
        table.add_row(escape(layer.name), *sizes, str(len(layer.cores)), decided, f"{layer.share:.0%}", *values)
    table.add_section()
    limits = [f"{chip.limit(what):,}" for what in RESOURCES]
    table.add_row("all", "", "limits of a core", str(len(placement.cores)), "", "", *limits)
    make_console(width=max(console.width, TABLE_WIDTH)).print(table)
    board = placement.board
    where = "more than any board holds" if board is None else f"{board.name} holds {board.chips}"
    chips = "chip" if placement.chips == 1 else "chips"
    console.print(f"{len(placement.cores)} cores on {placement.chips} {chips} of {chip.cores}; {where}")


def _show_costs(costs: Sequence[Cost]) -> None:
    """One table, since what is counted is the same for all, and a line for each table of energies."""
    table = Table(title="What a slice does; energies are estimates, dynamic", title_justify="left")
    table.add_column("layer", no_wrap=True)
    for column in (*COUNTED.values(), *(f"uJ, {found.table.name}" for found in costs)):
        table.add_column(column, justify="right")
    for k, layer in enumerate(costs[0].layers):
        joules = [f"{1e6 * found.layers[k].joules:,.1f}" for found in costs]
        table.add_row(escape(layer.name), *(f"{getattr(layer, what):,.0f}" for what in COUNTED), *joules)
    table.add_section()
    joules = [f"{1e6 * found.dynamic:,.1f}" for found in costs]
    table.add_row("all", *(f"{costs[0].total(what):,.0f}" for what in COUNTED), *joules)
    make_console(width=max(console.width, TABLE_WIDTH)).print(table)
    for found in costs:
        console.print(f"estimate by {_sentence(found)}", soft_wrap=True, highlight=False)
    if costs[0].between_chips:
        text = (
            f"{costs[0].between_chips:,.0f} messages go between chips; what these cost is not published, and left out"
        )
        console.print(text, soft_wrap=True, highlight=False)


def _sentence(found: Cost) -> str:
    """Energy and time of a slice, in words, with their source."""
    parts = ", ".join(f"{part} {1e6 * joules:,.1f}" for part, joules in found.energy.items())
    static = "static not known"
    if found.static is not None:
        watts = f"{STATIC[found.chip.name]} W a chip, measured on PilotNet"
        static = f"{1e6 * found.static:,.1f} uJ static ({watts}), {1e6 * (found.static + found.dynamic):,.1f} uJ in all"
    borrowed = f"; borrowed from Loihi 1, {found.chip.title} has no table by operation" if found.borrowed else ""
    time = f"{1e3 * found.seconds:.2f} ms a slice, {1e6 * found.step:,.0f} us a step"
    dynamic = f"{1e6 * found.dynamic:,.1f} uJ dynamic ({parts})"
    return f"{found.table.name}: {dynamic}, {static}; {time}. {found.table.source}{borrowed}"


def _show_metrics(found: dict[str, Metrics]) -> None:
    table = Table(title="NeuroBench's metrics, a slice", title_justify="left")
    table.add_column("metric")
    for name in found:
        table.add_column(name, justify="right")

    def row(what: str, values: list[str]) -> None:
        table.add_row(what, *values)

    row("footprint, bytes", [f"{value.footprint:,}" for value in found.values()])
    row("connection sparsity", [f"{value.connection_sparsity:.3f}" for value in found.values()])
    row("activation sparsity", [f"{value.activation_sparsity:.3f}" for value in found.values()])
    names = {"dense": "synaptic operations, dense", "macs": "effective MACs", "acs": "effective ACs"}
    for what, label in names.items():
        row(label, [f"{value.total(what):,.0f}" for value in found.values()])
    row("membrane updates", ["" if value.updates is None else f"{value.updates:,.0f}" for value in found.values()])
    table.add_section()
    for name in dict.fromkeys(layer.name for value in found.values() for layer in value.layers):
        by_layer = [next((x for x in value.layers if x.name == name), None) for value in found.values()]
        sparsity = [None if layer is None else layer.activation_sparsity for layer in by_layer]
        if any(value is not None for value in sparsity):
            row(f"activation sparsity, {escape(name)}", ["" if v is None else f"{v:.3f}" for v in sparsity])
    console.print(table)
