"""What commands show of networks and spikes; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.markup import escape
from rich.table import Table

from neuroseg.cli.console import console


def spikes_table(layers: Sequence[Mapping[str, Any]], *, title: str) -> Table:
    """Each layer's neurons, spikes in software and hardware, mismatches and firing rate."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("layer")
    for column in ("neurons", "software spikes", "hardware spikes", "mismatched", "rate"):
        table.add_column(column, justify="right")
    for layer in layers:
        style = "red" if layer["mismatched"] else None
        table.add_row(
            escape(layer["name"]),
            f"{layer['neurons']:,}",
            f"{layer['software']:,}",
            f"{layer['hardware']:,}",
            f"{layer['mismatched']:,}",
            f"{layer['rate']:.3f}",
            style=style,
        )
    return table


def layers_table(rows: Sequence[Mapping[str, Any]], *, title: str) -> Table:
    """A network's layers, one row a synapse; fields as in `export.inspect.Row`."""
    table = Table(title=escape(title), title_justify="left")
    columns = ("layer", "type", "shape", "from", "kernel", "stride", "delay", "weights", "bits", "threshold")
    for column in columns:
        table.add_column(column)
    for column in ("neurons", "synapses"):
        table.add_column(column, justify="right")

    def sides(value: Sequence[int] | None) -> str:
        return " x ".join(map(str, value)) if value else ""

    for row in rows:
        low, high = row["delay"]
        threshold = "output" if row["threshold"] is None else f"{row['threshold']:g}, {row['reset']}"
        table.add_row(
            escape(row["layer"]),
            row["kind"],
            sides(row["shape"]),
            escape(row["source"]) + (f", {row['late']} late" if row["late"] else ""),
            sides(row["kernel"]),
            sides(row["stride"]),
            str(low) if low == high else f"{low} to {high}",
            "{:g} to {:g}".format(*row["weights"]) if row["weights"] else "",
            "" if row["bits"] is None else str(row["bits"]),
            threshold if row["source"] else "",
            f"{row['neurons']:,}" if row["neurons"] else "",
            f"{row['synapses']:,}" if row["synapses"] else "",
        )
    return table


class Verdict(Protocol):
    """What `show_verdict` needs of a comparison."""

    @property
    def equal(self) -> bool: ...
    @property
    def total(self) -> int: ...
    @property
    def mismatched(self) -> int: ...
    @property
    def output_mismatched(self) -> int: ...
    @property
    def cause(self) -> str | None: ...


def show_verdict(comparison: Verdict) -> None:
    """Whether two traces are equal, and if not where they part."""
    if comparison.equal:
        console.print(f"[green]equal:[/green] {comparison.total:,} spikes, none differs")
        return
    console.print(
        f"[red]different:[/red] {comparison.mismatched:,} of {comparison.total:,} spikes and "
        f"{comparison.output_mismatched:,} output potentials"
    )
    console.print(f"first: {comparison.cause}", highlight=False, soft_wrap=True, markup=False)


class Explanation(Protocol):
    """What `show_diagnosis` needs of a diagnosis; see `hardware_sim.comparison.diagnose`."""

    @property
    def verdict(self) -> str: ...
    @property
    def population(self) -> str: ...
    @property
    def sample(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def neuron(self) -> tuple[int, ...]: ...
    @property
    def arrivals(self) -> Sequence[Any]: ...
    @property
    def rows(self) -> Sequence[Any]: ...


def show_diagnosis(diagnosis: Explanation) -> None:
    """Where two runs part and why: the inputs at that step, and the neuron around it."""
    inputs = Table(title=f"Inputs of {escape(diagnosis.population)} at step {diagnosis.step}", title_justify="left")
    inputs.add_column("from")
    for column in ("delay", "spikes, first run", "second", "weighted, first run", "second", "weights"):
        inputs.add_column(column, justify="right")
    for a in diagnosis.arrivals:
        weights = f"{a.weights[0]:g} to {a.weights[1]:g}"
        numbers = (a.delay, *a.spikes, *(f"{value:g}" for value in a.weighted), weights)
        inputs.add_row(escape(a.source), *map(str, numbers))
    title = f"Neuron {diagnosis.neuron}, sample {diagnosis.sample} (weight units, after reset)"
    steps = Table(title=title, title_justify="left")
    columns = ("step", "input", "potential, file", "first run", "second", "spike, file", "first run", "second")
    for column in columns:
        steps.add_column(column, justify="right")
    for row in diagnosis.rows:
        potentials = ("" if value is None else f"{value:g}" for value in row.potentials)
        cells = (row.step, f"{row.arriving:g}", f"{row.predicted:g}", *potentials, row.predicted_spike, *row.spikes)
        steps.add_row(*map(str, cells), style="red" if row.step == diagnosis.step else None)
    console.print(inputs, steps)
    console.print(f"cause: {diagnosis.verdict}", highlight=False, soft_wrap=True, markup=False)
