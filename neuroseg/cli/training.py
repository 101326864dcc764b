"""Commands that make a network: train, convert, finetune, crossval, pretrained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from neuroseg.cli.console import console, steps_bar, team_bar, training_bar
from neuroseg.cli.options import (
    IMAGES_HELP,
    Balance,
    Data,
    Device,
    Encoder,
    ImagesToRun,
    Jobs,
    LabelsOfImages,
    LabelsOfMasks,
    Loss,
    NeuronKind,
    OnDevice,
    OtherData,
    Reset,
    RunFolder,
    Scheduler,
)
from neuroseg.cli.results import (
    conversion_table,
    crossval_tables,
    rates_table,
    show_agreement,
    show_sigma_delta,
    show_ternary,
)
from neuroseg.cli.subjects import parse_box, place, run_subjects, usable_subjects
from neuroseg.cluster import Cluster
from neuroseg.conversion.model_file import ONNX, PT2
from neuroseg.data import labels_of, stack_slices
from neuroseg.data.images import read_images, read_labels
from neuroseg.data.labels import values_and_classes
from neuroseg.experiments.crossval import Recipe, make_folds, run_fold
from neuroseg.experiments.folds import folder_of, run_folds
from neuroseg.experiments.tables import check_folds, load_folds, write_tables
from neuroseg.imported import ann_of, convert_model, finetune_run_images, images_for
from neuroseg.pretrained import copy_pretrained
from neuroseg.runs import Run
from neuroseg.settings import Settings
from neuroseg.spiking.device import choose
from neuroseg.steps import CALIBRATION_SLICES, Conversion, convert_run, finetune_run, sigma_delta_run, train_run
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
    channels: Annotated[str, typer.Option(help="Widths of the U-Net, fine to coarse.")] = "16,32,64",
    dropout: Annotated[float, typer.Option(min=0, max=0.9)] = UNetConfig.dropout,
    validation: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of subjects held out; with 0, all are trained on.")
    ] = 0.2,
    subjects: Annotated[int | None, typer.Option(min=2, help="Use the first N subjects only.")] = None,
    box: Annotated[str | None, typer.Option(help="Box to crop to, as X,Y,Z in mm; X may be `all`.")] = None,
    labels: LabelsOfMasks = None,
    seed: Annotated[int, typer.Option(help="Seed of split, weights and order.")] = 0,
    device: OnDevice = Device.cpu,
) -> None:
    """Train the ANN U-Net; goes on where it stopped if it was killed. Makes RUN/ann.safetensors.

    Example: neuroseg train --data data/Task04_Hippocampus --out runs/first

    Example: neuroseg train --data data/Task04_Hippocampus --out runs/parts --labels anterior,posterior
    """
    where = choose(device.value)
    try:
        widths = tuple(int(width) for width in channels.split(","))
    except ValueError:
        raise ValueError(f"--channels is {channels!r}; numbers with commas, like 16,32,64, are allowed") from None
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
        model=UNetConfig(out_channels=channels_for(classes), channels=widths, dropout=dropout),
        train=TrainConfig(epochs=epochs, loss=loss.value, seed=seed),
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


def score_of(classes: Sequence[str]) -> str:
    """What validation of a training is."""
    return f"3D Dice (mean of {' and '.join(classes)})" if classes else "3D Dice"


@commands.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN|MODEL", help="Run folder of `neuroseg train`; or MODEL.pt2, MODEL.onnx."),
    ],
    calibrate: Annotated[Path | None, typer.Option(help=f"Images to balance a MODEL on: {IMAGES_HELP}.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make of a MODEL.")] = None,
    timesteps: Annotated[
        int | None, typer.Option("--timesteps", "-T", min=1, help="Time steps per slice.", show_default="8")
    ] = None,
    reset: Annotated[
        Reset | None, typer.Option(help="What a spike does to the potential.", show_default="subtract")
    ] = None,
    u0: Annotated[
        float | None, typer.Option(min=0, max=1, help="Start potential, in thresholds.", show_default="0")
    ] = None,
    encoder: Annotated[
        Encoder | None,
        typer.Option(help="Image to spikes; graded: these carry 4 bits, for few steps.", show_default="rate"),
    ] = None,
    method: Annotated[
        Balance | None,
        typer.Option("--balance", help="Threshold balancing; default: rate for a RUN, best for a MODEL."),
    ] = None,
    freeze_norms: Annotated[
        bool,
        typer.Option(
            "--freeze-norms",
            help="Let InstanceNorm, GroupNorm, LayerNorm of a MODEL use the --calibrate images' statistics.",
        ),
    ] = False,
    slices: Annotated[int, typer.Option(min=1, help="Slices or images to calibrate on.")] = CALIBRATION_SLICES,
    neuron: Annotated[
        NeuronKind,
        typer.Option(
            help="ternary: linear layers, whose values have signs, as spikes -1, 0, 1 of one population, not two; "
            "sigma-delta: graded spikes of Loihi 2, one step an image; makes RUN/sigma_delta.net."
        ),
    ] = NeuronKind.integrate_and_fire,
    data: OtherData = None,
    device: OnDevice = Device.cpu,
) -> None:
    """Turn an ANN into integrate-and-fire neurons and balance their thresholds. Makes RUN/converted.safetensors.

    The ANN is that of a run, or any model in a file of torch.export.save, which is read so that nothing in it can run
    code. Export it in evaluation mode, for one image: torch.export.export(model.eval(), (image,)).

    Example: neuroseg convert runs/first -T 8 --reset zero

    Example: neuroseg convert model.pt2 --calibrate images.npy --out runs/mine

    Example: neuroseg convert model.pt2 --calibrate images.npy --out runs/signs --neuron ternary

    Example: neuroseg convert runs/first --neuron sigma-delta
    """
    is_run, where = source.is_dir() or source.suffix not in (PT2, ONNX), choose(device.value)
    given = {"--timesteps": timesteps, "--reset": reset, "--u0": u0, "--encoder": encoder, "--balance": method}
    unknown = [option for option, value in given.items() if value is not None]
    if neuron == NeuronKind.sigma_delta and where.type != "cpu":
        raise ValueError("--device balances thresholds, which sigma-delta neurons have none of; they go without")
    if neuron == NeuronKind.sigma_delta and unknown:
        raise ValueError(f"{', '.join(unknown)}: sigma-delta neurons take one step, and have no threshold to balance")
    method = method or (Balance.rate if is_run else Balance.best)
    reset, encoder = reset or Reset.subtract, encoder or Encoder.rate
    signs = neuron == NeuronKind.ternary
    conversion = Conversion(timesteps or 8, reset.value, u0 or 0.0, encoder.value, method.value, slices, signs)
    if is_run:
        if calibrate or out or freeze_norms:
            raise ValueError(
                f"{source} is no model; --calibrate, --out and --freeze-norms belong to MODEL.pt2 or MODEL.onnx"
            )
        run = Run(source)
        if run.is_imported:
            came = run.load_imported().program
            raise ValueError(f"{source} came by file: neuroseg convert {came} --calibrate IMAGES --out {source}")
        training, _ = run_subjects(run.load_settings(), data)
        if neuron == NeuronKind.sigma_delta:
            with console.status(f"calibrating on {slices} training slices"):
                made = sigma_delta_run(run, stack_slices(training)[0], slices=slices)
            show_sigma_delta(made, run.sigma_delta)
            return
        with console.status(f"balancing on {slices} training slices ({method.value})"):
            network = convert_run(run, training, conversion, device=where)
    else:
        if calibrate is None or out is None or data:
            raise ValueError(f"{source} is a model; it needs --calibrate IMAGES and --out RUN, and no --data")
        run, images = Run(out), read_images(calibrate)
        with console.status(f"converting, and balancing on {min(slices, len(images))} images ({method.value})"):
            done = convert_model(run, source, images, conversion, freeze_norms=freeze_norms, device=where)
        network = done.network
        console.print(conversion_table(done.rows, title=source.name))
        show_agreement(done.agreement, done.frozen)
        if neuron == NeuronKind.sigma_delta:
            show_sigma_delta(sigma_delta_run(run, images.pixels, slices=slices), run.sigma_delta)
    console.print(
        f"{len(network.populations)} populations, T = {conversion.timesteps}, reset {reset.value}, "
        f"{encoder.value} code; {escape(str(run.converted))}"
    )
    if signs:
        show_ternary(network)


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
def crossval(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the folds, their networks and the table.")],
    folds: Annotated[int, typer.Option(min=2, help="Parts that the subjects are split into.")] = 5,
    fold: Annotated[list[int] | None, typer.Option(help="Run this fold only (repeatable), from 1.")] = None,
    loss: Annotated[Loss, typer.Option(help="Loss to minimise.")] = Loss.dice,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the ANN.")] = TrainConfig.epochs,
    subjects: Annotated[int | None, typer.Option(min=4, help="Use the first N subjects only.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds, weights and order.")] = 0,
    labels: LabelsOfMasks = None,
    device: OnDevice = Device.cpu,
    processes: Jobs = 1,
    dask: Scheduler = None,
) -> None:
    """Cross-validate the whole road: ANN, conversions, fine-tuned networks, each fold by itself.

    Goes on where it was stopped. Makes OUT/foldN-LOSS.json, OUT/table.md and table.csv, pictures of Dice against energy
    (costs-LOSS.svg) and of how far ANN and SNN agree (agreement-LOSS.svg), and a run folder for every network, which
    `neuroseg export` and `neuroseg validate` take to Lava.

    Example: neuroseg crossval --data data/Task04_Hippocampus --out runs/crossval --folds 5
    """
    where = choose(device.value)
    chosen = labels_of(data, labels)
    parts = make_folds(usable_subjects(data, seed, labels=chosen)[:subjects], folds=folds, seed=seed)
    wrong = [number for number in fold or () if not 1 <= number <= folds]
    if wrong:
        raise ValueError(f"--fold is {wrong[0]}; 1 to {folds} are allowed")
    check_folds(load_folds(out))  # said before the hours of training
    wanted = [part for part in parts if not fold or part.number in fold]
    cluster, config = Cluster(processes, dask), TrainConfig(epochs=epochs, loss=loss.value, seed=seed)
    recipe, to = Recipe(place(data), labels=chosen, config=config, device=where), out.absolute()
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


@commands.command()
def pretrained(out: Annotated[Path, typer.Argument(help="Run folder to make.")]) -> None:
    """Make a run folder of the network that ships with neuroseg, ready for export and validate.

    A hippocampus network for research on neuromorphic hardware, not for patients; its card says how it was made.

    Example: neuroseg pretrained runs/shipped
    """
    copy_pretrained(Run(out))
    console.print(escape(str(out)))
