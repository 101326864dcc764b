"""Options that several commands share, and their choices."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Loss(StrEnum):
    dice, bce, bce_dice = "dice", "bce", "bce-dice"


class Balance(StrEnum):
    rate, activation, threshold, best = "rate", "activation", "threshold", "best"


class NeuronKind(StrEnum):
    integrate_and_fire, ternary, sigma_delta = "integrate-and-fire", "ternary", "sigma-delta"


class Reset(StrEnum):
    subtract, zero = "subtract", "zero"


class Encoder(StrEnum):
    rate, poisson, graded = "rate", "poisson", "graded"


class BinaryEncoder(StrEnum):
    rate, poisson = "rate", "poisson"


class Backend(StrEnum):
    fast, reference, lava, loihi = "fast", "reference", "lava", "loihi"


class Fidelity(StrEnum):
    stock, fused = "stock", "fused"


class Device(StrEnum):
    auto, cpu, cuda, mps = "auto", "cpu", "cuda", "mps"


OnDevice = Annotated[
    Device, typer.Option(help="Where PyTorch computes; auto: a GPU where there is one. Untried on one.")
]


class Precision(StrEnum):
    float32, bfloat16 = "float32", "bfloat16"


OfPrecision = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="Of the ANN's training; bfloat16 is for processors that multiply it, and trains another ANN.",
    ),
]

WIDTHS = "16,32,64"
Widths = Annotated[str, typer.Option("--channels", help="Widths of the U-Net, fine to coarse.")]
Dropout = Annotated[float, typer.Option(min=0, max=0.9, help="Share of the U-Net's activations dropped in training.")]
Context = Annotated[
    int, typer.Option(min=0, max=16, help="Neighbours on either side that come in with a slice, as channels.")
]

Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes that share the work, by Dask.")]
Scheduler = Annotated[
    str | None, typer.Option(help="Dask scheduler whose workers do so, tcp://HOST:8786; they see the same files.")
]

RunFolder = Annotated[Path, typer.Argument(help="Run folder, as `neuroseg train --out` made it.")]

Data = Annotated[
    str,
    typer.Option(help="Scans with masks (Decathlon, nnU-Net, BIDS, images/ and masks/), template[:N] or mni152."),
]

LabelsOfMasks = Annotated[
    str | None,
    typer.Option(
        help="Values of the masks that are hippocampus, like 17,53 of FreeSurfer's aseg; or classes, a channel of the "
        "network each: anterior,posterior by dataset.json's names, or head=1,body=2.",
    ),
]

OtherData = Annotated[
    str | None, typer.Option(help="Another data set than the run's; same forms as in `neuroseg train`.")
]

IMAGES_HELP = "a .npy (N, C, H, W) or (N, H, W), uint8 or floats in [0, 1], or a folder of .png, .jpg, .tif, .npy"
ImagesToRun = Annotated[Path | None, typer.Option(help=f"Images for a network that came by file: {IMAGES_HELP}.")]

LabelsOfImages = Annotated[
    Path | None,
    typer.Option(help="What the images show: a .npy (N) or (N, H, W) of whole numbers, or a folder of label images."),
]

StallTimeout = Annotated[float, typer.Option(min=1, help="Seconds without a step after which a Lava run is ended.")]
