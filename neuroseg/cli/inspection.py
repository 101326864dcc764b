"""Commands that look at files, without torch: inspect, compare."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from export import netx
from export.graph import GraphError, depths
from export.inspect import draw as draw_graph
from export.inspect import inspect as inspect_graph
from hardware_sim.comparison.compare import compare as compare_traces
from hardware_sim.trace import Trace, TraceError
from neuroseg.cli.app import EXIT_DIFFERENT
from neuroseg.cli.console import console, errors, make_console
from neuroseg.cli.tables import layers_table, show_diagnosis, show_verdict, spikes_table

commands = typer.Typer(add_completion=False)

LAYERS_WIDTH = 144  # columns that `inspect` needs


@commands.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A trace, A.npz.")],
    second: Annotated[Path, typer.Argument(help="Another trace, B.npz.")],
    network: Annotated[
        Path | None, typer.Option(help="The network of both, FILE.net: find out why they differ.")
    ] = None,
) -> None:
    """Compare two traces spike by spike. Exit code 0 if equal, 1 if not.

    Names the first divergence by sample, step, population and neuron, with both potentials where recorded. With
    --network, tries which one fault of that population would explain every spike: a weight, a threshold, a delay, a
    flipped kernel, swapped channels.

    Example: neuroseg compare reference.npz lava.npz --network runs/first/network.net
    """
    with errors.status("comparing"):
        traces = Trace.load(first), Trace.load(second)
        comparison = compare_traces(*traces)
    rows = [dataclasses.asdict(layer) for layer in comparison.layers]
    console.print(spikes_table(rows, title=f"{first.name} and {second.name}"))
    show_verdict(comparison)
    if network and not comparison.equal:
        _show_cause(network, *traces)
    if not comparison.equal:
        raise typer.Exit(EXIT_DIFFERENT)


def _show_cause(network: Path, first: Trace, second: Trace) -> None:
    """Why two traces differ, or why that cannot be told; that they differ stands in any case."""
    from hardware_sim.comparison.diagnose import diagnose  # noqa: PLC0415 - torch, which comparing does without

    try:
        with errors.status("looking for the cause"):
            diagnosis = diagnose(netx.read(network), first, second)
    except (TraceError, GraphError) as error:
        errors.print(f"[yellow]no cause:[/yellow] {escape(str(error))}", highlight=False, soft_wrap=True)
        return
    if diagnosis:
        show_diagnosis(diagnosis)
    else:
        errors.print("[yellow]no cause:[/yellow] spikes and final potentials are equal", highlight=False)


@commands.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="Network in NetX HDF5, FILE.net; ours or lava-dl's.")],
    draw: Annotated[Path | None, typer.Option(help="Draw the network too, as FILE.png or FILE.svg.")] = None,
) -> None:
    """List the layers of a network file: shapes, kernels, inputs, delays, weights, thresholds, neurons, synapses.

    Example: neuroseg inspect runs/first/network.net --draw network.svg
    """
    if draw and draw.suffix not in (".png", ".svg"):
        raise ValueError(f"--draw is {draw}; a name that ends in .png or .svg is allowed")
    graph = netx.read(file)
    rows = inspect_graph(graph)
    table = layers_table([dataclasses.asdict(row) for row in rows], title=file.name)
    make_console(width=max(console.width, LAYERS_WIDTH)).print(table)  # rather wrapped than cut
    neurons, synapses = (sum(getattr(row, field) for row in rows) for field in ("neurons", "synapses"))
    depth = max(depths(graph).values())
    code = f"{graph.meta.encoder} code" + (f" of 0 to {graph.input.levels}" if graph.input.levels > 1 else "")
    code = code if graph.input.neuron is None else "images told by input neurons"
    if graph.meta.context:
        code += f", slices with {graph.meta.context} neighbours on either side"
    console.print(f"{neurons:,} neurons, {synapses:,} synapses, depth {depth}, T = {graph.meta.timesteps}, {code}")
    for key, value in graph.meta.notes.items():
        console.print(f"{key}: {value}", soft_wrap=True, highlight=False, markup=False)
    if draw:
        draw_graph(graph, draw)
        console.print(escape(str(draw)))
