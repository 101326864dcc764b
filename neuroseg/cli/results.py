"""What commands show of training, conversion and validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from export.graph import ternary
from neuroseg.calibration import SigmaDeltaConversion
from neuroseg.cli.console import console
from neuroseg.cli.tables import spikes_table
from neuroseg.conversion.convert import Row
from neuroseg.experiments.tables import score_cells, score_names
from neuroseg.report import STAGES
from neuroseg.spiking.network import SpikingNetwork


def dice_table(dice: Mapping[str, Mapping[str, float]], *, title: str) -> Table:
    """Dice in 3D, in 2D and of classes, one column per stage of the road."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("Dice")
    stages = [stage for stage in STAGES if stage in dice]
    for stage in stages:
        table.add_column(STAGES[stage], justify="right")
    for row in dice[stages[0]]:
        table.add_row(escape(row[:2].upper() + row[2:]), *(f"{dice[stage][row]:.4f}" for stage in stages))
    return table


def decisions_table(scores: Mapping[str, Mapping[str, float]], *, title: str) -> Table:
    """What each stage of the road decides on images: agreement with the ANN and, where known, with the truth."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("")
    for stage in scores:
        table.add_column(STAGES[stage], justify="right")
    for row in dict.fromkeys(name for found in scores.values() for name in found):
        table.add_row(row, *(f"{found[row]:.4f}" if row in found else "" for found in scores.values()))
    return table


def show_report(report: Mapping[str, Any], file: Path) -> None:
    """The tables of a report.json, its verdict, and where it lies."""
    engine = f"{report['backend']} ({report['fidelity']})"
    console.print(spikes_table(report["spikes"]["layers"], title=f"Spikes, PyTorch against {engine}"))
    if "decisions" in report:
        console.print(decisions_table(report["decisions"], title=f"Decisions, {report['images']} image(s)"))
    else:
        console.print(dice_table(report["dice"], title=f"Dice, {len(report['subjects'])} subject(s)"))
    spikes = report["spikes"]
    if spikes["equal"]:
        console.print(f"[green]equal:[/green] {spikes['total']:,} spikes, none differs")
    else:
        console.print(
            f"[red]different:[/red] {spikes['mismatched']:,} spikes; first: {escape(str(spikes['first_divergence']))}"
        )
    console.print(escape(str(file)))


def conversion_table(rows: Sequence[Row], *, title: str) -> Table:
    """What each operation of a model became, and the neurons and synapses that it added."""
    table = Table(title=escape(title), title_justify="left")
    for column in ("module", "operation", "became"):
        table.add_column(column, overflow="fold")
    for column in ("neurons", "synapses"):
        table.add_column(column, justify="right")
    for row in rows:
        counts = (f"{row.neurons:,}", f"{row.synapses:,}") if row.neurons else ("", "")
        table.add_row(escape(row.module), escape(row.operation), escape(row.became), *counts)
    total = (f"{sum(row.neurons for row in rows):,}", f"{sum(row.synapses for row in rows):,}")
    table.add_row("", "", "in all", *total, style="bold")
    return table


def show_agreement(reached: Mapping[int, float], frozen: float | None) -> None:
    """How far a converted network decides as its model on the calibration images (`metrics.agreement`)."""
    if frozen is not None:
        console.print(f"With frozen norms the model itself agrees to {frozen:.1%} with what it was.")
    found = ", ".join(f"{share:.1%} at T = {steps}" for steps, share in reached.items())
    console.print(
        f"Before fine-tuning it agrees with the model on the calibration images to {found} "
        "(of masks the Dice, of classes the share of equal labels)."
    )


def show_ternary(network: SpikingNetwork) -> None:
    found = ternary(network.graph)
    if found:
        console.print(f"{len(found)} with spikes of -1, 0 and 1: {escape(', '.join(found))}")
    else:
        console.print("No spikes of -1: no linear layer's values, which can be below 0, travel from neuron to neuron.")


def show_sigma_delta(found: SigmaDeltaConversion, path: Path) -> None:
    """What a network of sigma-delta neurons does on its calibration images."""
    console.print(
        f"{len(found.graph.populations)} populations of sigma-delta neurons, one step an image, "
        f"{found.messages:,.0f} messages; on the calibration images it agrees with the ANN to {found.agreement:.2%}; "
        f"{escape(str(path))}"
    )


def crossval_tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """One table a loss, from `experiments.tables.summary`; Dice in percent, mean and deviation over the folds."""
    tables: dict[str, Table] = {}
    for row in rows:
        loss = row["loss"]
        same = [other for other in rows if other["loss"] == loss]
        if loss not in tables:
            title = f"{loss} loss, {row['folds']} fold(s): Dice in percent; synaptic operations a slice in millions"
            tables[loss] = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
            tables[loss].add_column("network", no_wrap=True)
            for column in (*score_names(same), "epochs", "rate", "ops"):
                tables[loss].add_column(escape(column), justify="right", no_wrap=True)
        name, operations = f"{row['method']}, {row['weights']}", f"{row['operations'] / 1e6:.0f}"
        tables[loss].add_row(name, *score_cells(row, same), operations)
    return list(tables.values())


def rates_table(before: Mapping[str, float], after: Mapping[str, float]) -> Table:
    """Mean spikes per neuron and step of each population, before and after fine-tuning."""
    table = Table(title="Firing rate (spikes per neuron and step)", title_justify="left")
    table.add_column("layer")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for name, rate in before.items():
        table.add_row(escape(name), f"{rate:.3f}", f"{after[name]:.3f}")
    return table
