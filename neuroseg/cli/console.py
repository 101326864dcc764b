"""What the terminal shows: progress bars and tables. The only place, with the CLI, that prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
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

from export.text import printable

if TYPE_CHECKING:  # torch, which commands on files do without
    from neuroseg.data import Subject
    from neuroseg.training.loop import Step
    from neuroseg.training.team import Team


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
def team_bar(team: Team, what: str, *, score: str = "Dice") -> Iterator[Callable[[Step], None]]:
    """`training_bar` of the leading process; the others show nothing, from here on."""
    console.quiet = not team.leads
    with training_bar(what, score=score) as show:
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
