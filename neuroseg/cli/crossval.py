"""The command that walks the road on folds of subjects: crossval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from neuroseg.cli.console import console, steps_bar, training_bar
from neuroseg.cli.options import (
    WIDTHS,
    Context,
    Data,
    Device,
    Dropout,
    Jobs,
    LabelsOfMasks,
    Loss,
    OfPrecision,
    OnDevice,
    Precision,
    Scheduler,
    Widths,
)
from neuroseg.cli.results import crossval_tables
from neuroseg.cli.subjects import place, usable_subjects
from neuroseg.cli.training import unet
from neuroseg.cluster import Cluster
from neuroseg.data import labels_of
from neuroseg.experiments.crossval import Recipe, make_folds, run_fold
from neuroseg.experiments.folds import folder_of, run_folds
from neuroseg.experiments.tables import check_folds, load_folds, write_tables
from neuroseg.spiking.device import choose
from neuroseg.training.train import TrainConfig
from neuroseg.training.unet import UNetConfig

commands = typer.Typer(add_completion=False)


@commands.command()
def crossval(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the folds, their networks and the table.")],
    folds: Annotated[int, typer.Option(min=2, help="Parts that the subjects are split into.")] = 5,
    fold: Annotated[list[int] | None, typer.Option(help="Run this fold only (repeatable), from 1.")] = None,
    loss: Annotated[Loss, typer.Option(help="Loss to minimise.")] = Loss.dice,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the ANN.")] = TrainConfig.epochs,
    subjects: Annotated[int | None, typer.Option(min=4, help="Use the first N subjects only.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds, weights and order.")] = 0,
    channels: Widths = WIDTHS,
    dropout: Dropout = UNetConfig.dropout,
    context: Context = 0,
    labels: LabelsOfMasks = None,
    device: OnDevice = Device.cpu,
    precision: OfPrecision = Precision.float32,
    processes: Jobs = 1,
    dask: Scheduler = None,
) -> None:
    """Cross-validate the whole road: ANN, conversions, fine-tuned networks, each fold by itself.

    Goes on where it was stopped. Makes OUT/foldN-LOSS.json, OUT/table.md and table.csv, pictures of Dice against energy
    (costs-LOSS.svg) and of how far ANN and SNN agree (agreement-LOSS.svg), and a run folder for every network, which
    `neuroseg export` and `neuroseg validate` take to Lava.

    Example: neuroseg crossval --data data/Task04_Hippocampus --out runs/crossval --folds 5
    """
    where, model = choose(device.value), unet(channels, dropout, context)
    chosen = labels_of(data, labels)
    parts = make_folds(usable_subjects(data, seed, labels=chosen)[:subjects], folds=folds, seed=seed)
    wrong = [number for number in fold or () if not 1 <= number <= folds]
    if wrong:
        raise ValueError(f"--fold is {wrong[0]}; 1 to {folds} are allowed")
    check_folds(load_folds(out))  # said before the hours of training
    wanted = [part for part in parts if not fold or part.number in fold]
    cluster = Cluster(processes, dask)
    config = TrainConfig(epochs=epochs, loss=loss.value, seed=seed, precision=precision.value)
    recipe, to = Recipe(place(data), model, chosen, config, device=where), out.absolute()
    if cluster.alone:
        for part in wanted:
            run_fold(part, folder_of(to, part, recipe), recipe, bar=training_bar)
    else:
        with steps_bar("cross-validation", unit="networks") as show:
            run_folds(wanted, to, recipe, cluster=cluster, on_done=show)
    done = load_folds(out)
    check_folds(done)
    for table in crossval_tables(write_tables(done, out)):
        console.print(table)
    console.print(escape(str(out / "table.md")))
