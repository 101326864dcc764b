"""Commands that make a network: train, convert, finetune, crossval, pretrained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.markup import escape

from export.lower import integer_scales
from neuroseg import runs
from neuroseg.activity import measure
from neuroseg.balance import balance
from neuroseg.cli.app import (
    Balance,
    Data,
    Encoder,
    Loss,
    OtherData,
    Reset,
    RunFolder,
    app,
)
from neuroseg.cli.console import (
    console,
    crossval_tables,
    rates_table,
    training_bar,
)
from neuroseg.cli.subjects import parse_box, place, run_subjects, usable_subjects
from neuroseg.convert import convert as convert_network
from neuroseg.crossval import make_folds, run_fold
from neuroseg.data import stack_slices
from neuroseg.finetune import FinetuneConfig
from neuroseg.finetune import finetune as finetune_network
from neuroseg.fold_tables import check_folds, load_folds, write_tables
from neuroseg.pretrained import copy_pretrained
from neuroseg.runs import Run, RunError, Settings
from neuroseg.train import TrainConfig, split
from neuroseg.train import train as train_network
from neuroseg.unet import UNetConfig

CALIBRATION_SLICES = 25


@app.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run folder to make.")],
    loss: Annotated[Loss, typer.Option(help="Loss to minimise.")] = Loss.dice,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training slices.")] = TrainConfig.epochs,
    channels: Annotated[str, typer.Option(help="Widths of the U-Net, fine to coarse.")] = "16,32,64",
    dropout: Annotated[float, typer.Option(min=0, max=0.9)] = UNetConfig.dropout,
    validation: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of subjects held out; with 0, all are trained on.")
    ] = 0.2,
    subjects: Annotated[int | None, typer.Option(min=2, help="Use the first N subjects only.")] = None,
    box: Annotated[str | None, typer.Option(help="Box to crop to, as X,Y,Z in mm; X may be `all`.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of split, weights and order.")] = 0,
) -> None:
    """Train the ANN U-Net; goes on where it stopped if it was killed. Makes RUN/ann.pt.

    Example: neuroseg train --data data/Task04_Hippocampus --out runs/first
    """
    try:
        widths = tuple(int(width) for width in channels.split(","))
    except ValueError:
        raise ValueError(f"--channels is {channels!r}; numbers with commas, like 16,32,64, are allowed") from None
    sides = parse_box(box)
    usable = usable_subjects(data, seed, sides)[:subjects]
    training, held_out = split(usable, validation=validation, seed=seed)
    settings = Settings(
        data=place(data),
        seed=seed,
        training=tuple(subject.id for subject in training),
        validation=tuple(subject.id for subject in held_out),
        model=UNetConfig(channels=widths, dropout=dropout),
        train=TrainConfig(epochs=epochs, loss=loss.value, seed=seed),
        box=sides,
    )
    settings.model.check_slice(*training[0].image.shape[1:])
    run = Run(out)
    if run.settings_file.exists() and run.load_settings() != settings:
        raise RunError(f"{out} holds a run with other settings; delete it or choose another folder")
    run.save_settings(settings)
    where = f"validating on {len(held_out)}" if validation else f"{len(held_out)} of them show how far it is"
    console.print(f"training on {len(training)} subjects, {where}")
    with training_bar("ANN") as show:
        network, history = train_network(
            training,
            held_out,
            model=settings.model,
            config=settings.train,
            checkpoint=run.checkpoint(run.ann),
            on_step=show,
        )
    if not runs.holds(run.ann, network):
        run.forget_after(run.ann)
        runs.save_ann(network, history, run.ann)
    console.print(f"best validation 3D Dice {max(row.validation_dice for row in history):.4f}; {escape(str(run.ann))}")


@app.command()
def convert(
    run_folder: RunFolder,
    timesteps: Annotated[int, typer.Option("--timesteps", "-T", min=1, help="Time steps per slice.")] = 8,
    reset: Annotated[Reset, typer.Option(help="What a spike does to the potential.")] = Reset.subtract,
    u0: Annotated[float, typer.Option(min=0, max=1, help="Start potential, in thresholds.")] = 0.0,
    encoder: Annotated[Encoder, typer.Option(help="Image to spikes.")] = Encoder.rate,
    method: Annotated[Balance, typer.Option("--balance", help="Threshold balancing.")] = Balance.rate,
    slices: Annotated[int, typer.Option(min=1, help="Training slices to calibrate on.")] = CALIBRATION_SLICES,
    data: OtherData = None,
) -> None:
    """Turn the ANN into integrate-and-fire neurons and balance their thresholds. Makes RUN/converted.pt.

    Example: neuroseg convert runs/first -T 8 --reset zero
    """
    run = Run(run_folder)
    settings = run.load_settings()
    training, _ = run_subjects(settings, data)
    images, _ = stack_slices(training)
    chosen = np.random.default_rng(settings.seed).permutation(len(images))[:slices]
    network = convert_network(
        runs.load_ann(run.ann),
        tuple(images.shape[1:]),
        timesteps=timesteps,
        reset=reset.value,
        u0=u0,
        encoder=encoder.value,
    )
    with console.status(f"balancing on {len(chosen)} training slices ({method.value})"):
        network = balance(network, images[chosen], method=method.value, seed=settings.seed)
    network = network.with_scales(integer_scales(network))
    run.forget_after(run.converted)
    runs.save_snn(network, run.converted, notes={"balance": method.value, "data": Path(settings.data).name})
    console.print(
        f"{len(network.spec.populations)} populations, T = {timesteps}, reset {reset.value}, "
        f"{encoder.value} code; {escape(str(run.converted))}"
    )


@app.command()
def finetune(
    run_folder: RunFolder,
    epochs: Annotated[int, typer.Option(min=1)] = FinetuneConfig.epochs,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak of the cycle.")] = FinetuneConfig.learning_rate,
    loss: Annotated[Loss | None, typer.Option(help="Loss to minimise; default: the ANN's.")] = None,
    quantized: Annotated[bool, typer.Option(help="Train through the 8-bit integers.")] = True,
    augment: Annotated[bool, typer.Option(help="Vary shape and contrast, for scans of other contrast.")] = False,
    data: OtherData = None,
) -> None:
    """Fine-tune the spiking network by spike-based backpropagation; resumes. Makes RUN/snn.pt.

    Example: neuroseg finetune runs/first --epochs 4
    """
    run = Run(run_folder)
    settings = run.load_settings()
    training, held_out = run_subjects(settings, data)
    network, notes = runs.load_snn(run.converted)
    config = FinetuneConfig(
        epochs=epochs,
        learning_rate=learning_rate,
        loss=loss.value if loss else settings.train.loss,
        seed=settings.seed,
        quantized=quantized,
        augment=augment,
    )
    with training_bar("spiking") as show:
        tuned, history = finetune_network(
            network,
            training,
            held_out,
            choose_scales=integer_scales,
            config=config,
            checkpoint=run.checkpoint(run.snn),
            on_step=show,
        )
    if not quantized:
        tuned = tuned.with_scales(integer_scales(tuned))
    images, _ = stack_slices(training)
    sample = images[np.random.default_rng(settings.seed).permutation(len(images))[:CALIBRATION_SLICES]]
    console.print(
        rates_table(measure(network, sample, quantized=True).rates, measure(tuned, sample, quantized=True).rates)
    )
    if not runs.holds(run.snn, tuned):
        run.forget_after(run.snn)
        notes = {**notes, "finetuned": json.dumps(dataclasses.asdict(config))}
        runs.save_snn(tuned, run.snn, notes=notes)
    console.print(f"best validation 3D Dice {max(row.validation_dice for row in history):.4f}; {escape(str(run.snn))}")


@app.command()
def crossval(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the folds, their networks and the table.")],
    folds: Annotated[int, typer.Option(min=2, help="Parts that the subjects are split into.")] = 5,
    fold: Annotated[list[int] | None, typer.Option(help="Run this fold only (repeatable), from 1.")] = None,
    loss: Annotated[Loss, typer.Option(help="Loss to minimise.")] = Loss.dice,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the ANN.")] = TrainConfig.epochs,
    subjects: Annotated[int | None, typer.Option(min=4, help="Use the first N subjects only.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds, weights and order.")] = 0,
) -> None:
    """Cross-validate the whole road: ANN, conversions, fine-tuned networks, each fold by itself.

    Goes on where it was stopped. Makes OUT/foldN-LOSS.json, OUT/table.md and table.csv, and a run folder for every
    network, which `neuroseg export` and `neuroseg validate` take to Lava.

    Example: neuroseg crossval --data data/Task04_Hippocampus --out runs/crossval --folds 5
    """
    parts = make_folds(usable_subjects(data, seed)[:subjects], folds=folds, seed=seed)
    wrong = [number for number in fold or () if not 1 <= number <= folds]
    if wrong:
        raise ValueError(f"--fold is {wrong[0]}; 1 to {folds} are allowed")
    check_folds(load_folds(out))  # said before the hours of training
    for part in parts:
        if not fold or part.number in fold:
            run_fold(
                part,
                out / f"fold{part.number}-{loss.value}",
                data=place(data),
                choose_scales=integer_scales,
                bar=training_bar,
                config=TrainConfig(epochs=epochs, loss=loss.value, seed=seed),
            )
    done = load_folds(out)
    check_folds(done)
    for table in crossval_tables(write_tables(done, out)):
        console.print(table)
    console.print(escape(str(out / "table.md")))


@app.command()
def pretrained(out: Annotated[Path, typer.Argument(help="Run folder to make.")]) -> None:
    """Make a run folder of the network that ships with neuroseg, ready for export and validate.

    A hippocampus network for research on neuromorphic hardware, not for patients; its card says how it was made.

    Example: neuroseg pretrained runs/shipped
    """
    copy_pretrained(Run(out))
    console.print(escape(str(out)))
