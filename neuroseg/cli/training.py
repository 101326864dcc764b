"""Commands that train: train, finetune; and pretrained, the network that ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from neuroseg.cli.console import console, team_bar
from neuroseg.cli.options import (
    WIDTHS,
    Context,
    Data,
    Device,
    Dropout,
    ImagesToRun,
    LabelsOfImages,
    LabelsOfMasks,
    Loss,
    OfPrecision,
    OnDevice,
    OtherData,
    Precision,
    RunFolder,
    Widths,
)
from neuroseg.cli.results import rates_table
from neuroseg.cli.subjects import parse_box, place, run_subjects, usable_subjects
from neuroseg.data import labels_of
from neuroseg.data.images import read_labels
from neuroseg.data.labels import values_and_classes
from neuroseg.imported import ann_of, finetune_run_images, images_for
from neuroseg.pretrained import copy_pretrained
from neuroseg.runs import Run
from neuroseg.settings import Settings
from neuroseg.spiking.device import choose
from neuroseg.steps import finetune_run, train_run
from neuroseg.training.finetune import FinetuneConfig
from neuroseg.training.team import assembled
from neuroseg.training.train import TrainConfig, split
from neuroseg.training.unet import UNetConfig, channels_for

commands = typer.Typer(add_completion=False)


@commands.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run folder to make.")],
    loss: Annotated[Loss, typer.Option(help="Loss to minimise.")] = Loss.dice,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training slices.")] = TrainConfig.epochs,
    channels: Widths = WIDTHS,
    dropout: Dropout = UNetConfig.dropout,
    context: Context = 0,
    validation: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of subjects held out; with 0, all are trained on.")
    ] = 0.2,
    subjects: Annotated[int | None, typer.Option(min=2, help="Use the first N subjects only.")] = None,
    box: Annotated[str | None, typer.Option(help="Box to crop to, as X,Y,Z in mm; X may be `all`.")] = None,
    labels: LabelsOfMasks = None,
    seed: Annotated[int, typer.Option(help="Seed of split, weights and order.")] = 0,
    device: OnDevice = Device.cpu,
    precision: OfPrecision = Precision.float32,
) -> None:
    """Train the ANN U-Net; goes on where it stopped if it was killed. Makes RUN/ann.safetensors.

    Example: neuroseg train --data data/Task04_Hippocampus --out runs/first

    Example: neuroseg train --data data/Task04_Hippocampus --out runs/parts --labels anterior,posterior
    """
    where = choose(device.value)
    model = unet(channels, dropout, context)
    sides = parse_box(box)
    chosen = labels_of(data, labels)
    values, classes = values_and_classes(chosen)
    usable = usable_subjects(data, seed, sides, chosen)[:subjects]
    training, held_out = split(usable, validation=validation, seed=seed)
    settings = Settings(
        data=place(data),
        seed=seed,
        training=tuple(subject.id for subject in training),
        validation=tuple(subject.id for subject in held_out),
        model=replace(model, out_channels=channels_for(classes)),
        train=TrainConfig(epochs=epochs, loss=loss.value, seed=seed, precision=precision.value),
        box=sides,
        labels=values,
        classes=classes,
    )
    run = Run(out)
    scored = f"validating on {len(held_out)}" if validation else f"{len(held_out)} of them show how far it is"
    with assembled(where) as team, team_bar(team, "ANN") as show:
        console.print(f"training on {len(training)} subjects, {scored}")
        history = train_run(run, settings, training, held_out, on_step=show, team=team)
    best = max(row.validation_dice for row in history)
    console.print(f"best validation {score_of(classes)} {best:.4f}; {escape(str(run.ann))}")


def unet(channels: str, dropout: float, context: int) -> UNetConfig:
    """The U-Net of these options, for masks of 0 and 1. Raises ValueError."""
    try:
        widths = tuple(int(width) for width in channels.split(","))
    except ValueError:
        raise ValueError(f"--channels is {channels!r}; numbers with commas, like {WIDTHS}, are allowed") from None
    return UNetConfig(in_channels=2 * context + 1, channels=widths, dropout=dropout)


def score_of(classes: Sequence[str]) -> str:
    """What validation of a training is."""
    return f"3D Dice (mean of {' and '.join(classes)})" if classes else "3D Dice"


@commands.command()
def finetune(
    run_folder: RunFolder,
    epochs: Annotated[int, typer.Option(min=1)] = FinetuneConfig.epochs,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak of the cycle.")] = FinetuneConfig.learning_rate,
    loss: Annotated[Loss | None, typer.Option(help="Loss to minimise; default: the ANN's.")] = None,
    quantized: Annotated[bool, typer.Option(help="Train through the 8-bit integers.")] = True,
    augment: Annotated[bool, typer.Option(help="Vary shape and contrast, for scans of other contrast.")] = False,
    distill: Annotated[
        float, typer.Option(min=0, help="Weight of the ANN's own logits, learnt beside the labels; 0: labels alone.")
    ] = FinetuneConfig.distill,
    data: OtherData = None,
    images: ImagesToRun = None,
    labels: LabelsOfImages = None,
    device: OnDevice = Device.cpu,
) -> None:
    """Fine-tune the spiking network by spike-based backpropagation; resumes. Makes RUN/snn.safetensors.

    A network that came by file learns from --images with --labels: several output channels are classes (cross-entropy),
    one is 0 or 1 (--loss). A fifth of the images is kept to see how far it is.

    Example: neuroseg finetune runs/first --epochs 4

    Example: neuroseg finetune runs/mine --images images --labels labels
    """
    run, where = Run(run_folder), choose(device.value)
    config = FinetuneConfig(
        epochs=epochs,
        learning_rate=learning_rate,
        loss=loss.value if loss else FinetuneConfig.loss,
        quantized=quantized,
        augment=augment,
        distill=distill,
    )
    if images or labels:
        if images is None or labels is None or data:
            raise ValueError("--images and --labels go together, without --data")
        pictures = images_for(run, images)
        truth = read_labels(labels, pictures, output=ann_of(run).output.shape)
        with assembled(where) as team, team_bar(team, "spiking", score="score") as show:
            tuning = finetune_run_images(run, pictures, truth, config, on_step=show, team=team)
        reached = "score"
    else:
        settings = run.load_settings()
        training, held_out = run_subjects(settings, data)
        config = replace(config, loss=loss.value if loss else settings.train.loss, seed=settings.seed)
        with assembled(where) as team, team_bar(team, "spiking") as show:
            tuning = finetune_run(run, training, held_out, config, on_step=show, team=team)
        reached = score_of(settings.classes)
    console.print(rates_table(tuning.before, tuning.after))
    best = max(row.validation_dice for row in tuning.history)
    console.print(f"best validation {reached} {best:.4f}; {escape(str(run.snn))}")


@commands.command()
def pretrained(out: Annotated[Path, typer.Argument(help="Run folder to make.")]) -> None:
    """Make a run folder of the network that ships with neuroseg, ready for export and validate.

    A hippocampus network for research on neuromorphic hardware, not for patients; its card says how it was made.

    Example: neuroseg pretrained runs/shipped
    """
    copy_pretrained(Run(out))
    console.print(escape(str(out)))
