"""`neuroseg data`: fetch and check scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from neuroseg.cli.console import console, errors, steps_bar
from neuroseg.cli.options import LabelsOfMasks
from neuroseg.data import ScanError, labels_of, open_cohort
from neuroseg.data import fetch as download

EXIT_REJECTS = 1

commands = typer.Typer(add_completion=False, no_args_is_help=True, help="Fetch and check scans.")


@commands.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Data set; `msd` is the one there is.")],
    to: Annotated[Path, typer.Option(help="Folder to put it in.")] = Path("data"),
    url: Annotated[str, typer.Option(help="Where the archive lies.")] = download.URL,
    checksum: Annotated[str, typer.Option(help="Its checksum, as pooch writes it.")] = download.MD5,
) -> None:
    """Download the Decathlon's hippocampus data (27 MB, CC BY-SA 4.0); a broken download resumes.

    Example: neuroseg data fetch msd --to data
    """
    if name != "msd":
        raise ScanError(f"data set {name!r} is unknown; 'msd' is allowed")
    with steps_bar("download", unit="bytes") as show:
        folder = download.fetch(to, url=url, known_hash=checksum, progress=show)
    console.print(f"[green]ready:[/green] {escape(str(folder))}")


@commands.command()
def check(
    directory: Annotated[str, typer.Argument(help="Folder of scans.")],
    labels: LabelsOfMasks = None,
) -> None:
    """Read every pair and list the ones that cannot be used, with the reason. Exit code 1 if there are any.

    Example: neuroseg data check data/Task04_Hippocampus
    """
    with errors.status(f"reading scans of {escape(directory)}"):
        cohort = open_cohort(directory, labels=labels_of(directory, labels))
    for reject in cohort.rejects:
        console.print(escape(f"{reject.id}: {reject.reason}"), style="red", highlight=False, soft_wrap=True)
    console.print(f"{len(cohort.subjects)} usable, {len(cohort.rejects)} left out")
    if cohort.rejects:
        raise typer.Exit(EXIT_REJECTS)
