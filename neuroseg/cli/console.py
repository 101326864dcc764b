"""What the terminal shows: progress bars and tables. The only place, with the CLI, that prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table

from export.text import printable
from neuroseg.conversion.convert import Row
from neuroseg.data import Subject
from neuroseg.experiments.tables import score_cells
from neuroseg.report import STAGES
from neuroseg.training.train import Step


class _Printable:
    """What is shown, without what a terminal would obey: file names, layer names and notes are foreign text."""

    def __init__(self, shown: RenderableType) -> None:
        self.shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.shown, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class _Hook(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Printable(shown) for shown in renderables]


def make_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that shows foreign text and never obeys it."""
    made = Console(stderr=stderr, width=width)
    made.push_render_hook(_Hook())
    return made


console, errors = make_console(), make_console(stderr=True)


@contextmanager
def training_bar(what: str, *, score: str = "Dice") -> Iterator[Callable[[Step], None]]:
    """A bar over all batches with loss, validation score and the time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("epoch {task.fields[epoch]}  loss {task.fields[loss]:.3f}  " + score + " {task.fields[dice]:.3f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=None, epoch="-", loss=float("nan"), dice=float("nan"))

        def show(step: Step) -> None:
            progress.update(
                task,
                total=step.epochs * step.batches,
                completed=(step.epoch - 1) * step.batches + step.batch,
                epoch=f"{step.epoch}/{step.epochs}",
                loss=step.loss,
                dice=step.dice,
            )

        yield show


@contextmanager
def steps_bar(what: str, *, unit: str = "steps") -> Iterator[Callable[[int, int], None]]:
    """A bar over steps done and steps in all."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total or None)

        yield show


@contextmanager
def subjects_bar(what: str, subjects: Sequence[Subject]) -> Iterator[Callable[[Subject, int, int], None]]:
    """A bar over the steps of all subjects, which names the one that runs."""
    weights = {subject.id: len(subject.image) for subject in subjects}
    whole = sum(weights.values())
    finished: dict[str, int] = {}

    with steps_bar(what, unit="slices") as show:

        def on_step(subject: Subject, done: int, total: int) -> None:
            finished[subject.id] = done * weights[subject.id] // max(total, 1)
            show(sum(finished.values()), whole)

        yield on_step


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
            escape(row["source"]),
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


def dice_table(dice: Mapping[str, Mapping[str, float]], *, title: str) -> Table:
    """3D and 2D Dice, one column per stage of the road."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("Dice")
    stages = [stage for stage in STAGES if stage in dice]
    for stage in stages:
        table.add_column(STAGES[stage], justify="right")
    for row in ("3d", "2d"):
        table.add_row(row.upper(), *(f"{dice[stage][row]:.4f}" for stage in stages))
    return table


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


def decisions_table(scores: Mapping[str, Mapping[str, float]], *, title: str) -> Table:
    """What each stage of the road decides on images: agreement with the ANN and, where known, with the truth."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("")
    for stage in scores:
        table.add_column(STAGES[stage], justify="right")
    for row in dict.fromkeys(name for found in scores.values() for name in found):
        table.add_row(row, *(f"{found[row]:.4f}" if row in found else "" for found in scores.values()))
    return table


def crossval_tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """One table a loss, from `experiments.tables.summary`; Dice in percent, mean and deviation over the folds."""
    tables: dict[str, Table] = {}
    for row in rows:
        loss = row["loss"]
        if loss not in tables:
            title = f"{loss} loss, {row['folds']} fold(s): Dice in percent; synaptic operations a slice in millions"
            tables[loss] = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
            tables[loss].add_column("network", no_wrap=True)
            for column in ("3D Dice", "2D Dice", "epochs", "rate", "ops"):
                tables[loss].add_column(column, justify="right", no_wrap=True)
        name, operations = f"{row['method']}, {row['weights']}", f"{row['operations'] / 1e6:.0f}"
        tables[loss].add_row(name, *score_cells(row), operations)
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
