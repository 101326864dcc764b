"""Which subjects a command works on."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from neuroseg.cli.console import errors
from neuroseg.data import ScanError, Subject, open_cohort
from neuroseg.data.labels import Labels
from neuroseg.data.volume import Box
from neuroseg.settings import Settings


def place(data: str) -> str:
    """A data set's name, the same from wherever the command is called."""
    return str(Path(data).resolve()) if Path(data).is_dir() else data


def parse_box(text: str | None) -> Box | None:
    if text is None:
        return None
    try:
        x, y, z = text.split(",")
        return (None if x == "all" else int(x), int(y), int(z))
    except ValueError:
        raise ValueError(f"--box is {text!r}; X,Y,Z like 24,56,48 or all,56,48 is allowed") from None


def usable_subjects(data: str, seed: int, box: Box | None = None, labels: Labels | None = None) -> list[Subject]:
    """Subjects of a data set; says what was left out. labels: as in `open_cohort`. Raises ScanError where none is."""
    with errors.status(f"reading scans of {escape(data)}"):
        cohort = open_cohort(data, seed=seed, box=box, labels=labels)
    for reject in cohort.rejects:
        errors.print(
            f"[yellow]left out:[/yellow] {escape(f'{reject.id}: {reject.reason}')}", highlight=False, soft_wrap=True
        )
    if not cohort.subjects:
        raise ScanError(f"{data}: no usable subject; `neuroseg data check` lists the reasons")
    return list(cohort.subjects)


def settings_subjects(settings: Settings, data: str | None) -> list[Subject]:
    """All usable subjects of a run's data, or of other data, read as the run's were."""
    return usable_subjects(data or settings.data, settings.seed, settings.box, settings.chosen)


def run_subjects(settings: Settings, data: str | None) -> tuple[list[Subject], list[Subject]]:
    """The run's training and validation subjects."""
    found = {subject.id: subject for subject in settings_subjects(settings, data)}
    missing = [name for name in (*settings.training, *settings.validation) if name not in found]
    if missing:
        raise ScanError(f"{data or settings.data}: lacks the run's subjects {', '.join(missing[:5])}")
    return [found[name] for name in settings.training], [found[name] for name in settings.validation]
