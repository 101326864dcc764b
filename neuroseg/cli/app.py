"""What every command shares: the application, its options, its exit codes."""

from __future__ import annotations

import errno
import logging
import signal
import sys
import threading
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.logging import RichHandler
from rich.markup import escape
from typer.core import TyperGroup
from typer.exceptions import TyperException

import hardware_sim
from export.graph import GraphError
from hardware_sim.trace import TraceError
from neuroseg import EXIT_FAILED
from neuroseg.cli.console import errors
from neuroseg.conversion.convert import ConversionError
from neuroseg.data import ScanError
from neuroseg.runs import RunError
from neuroseg.training.memory import keep_freed_memory

EXIT_DIFFERENT, EXIT_BAD_INPUT = 1, 2
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
ORDER = ("demo", "data", "train", "convert", "finetune", "export", "validate", "segment")

KNOWN_ERRORS = (
    ScanError,
    RunError,
    ConversionError,
    GraphError,
    TraceError,
    hardware_sim.SimulationError,
    ValueError,
    OSError,
)


class Loss(StrEnum):
    dice, bce, bce_dice = "dice", "bce", "bce-dice"


class Balance(StrEnum):
    rate, activation, threshold, best = "rate", "activation", "threshold", "best"


class Reset(StrEnum):
    subtract, zero = "subtract", "zero"


class Encoder(StrEnum):
    rate, poisson = "rate", "poisson"


class Backend(StrEnum):
    reference, lava, loihi = "reference", "lava", "loihi"


class Fidelity(StrEnum):
    stock, fused = "stock", "fused"


class _Commands(TyperGroup):
    """Lists the commands in the order of the road; turns a known error into one line and exit code 2."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (TyperException, typer.Exit, typer.Abort):  # wrong usage, and ends that are meant
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            text, code = _explain(error)
            errors.print(f"[red]error:[/red] {escape(text)}", highlight=False, soft_wrap=True)
            raise typer.Exit(code) from error


def _explain(error: Exception) -> tuple[str, int]:
    """One line, and the exit code: whose fault it is."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return f"the machine lacks room: {error}", EXIT_FAILED
    if isinstance(error, MemoryError):
        return f"the machine lacks memory {error}".strip(), EXIT_FAILED
    if isinstance(error, KNOWN_ERRORS):
        return str(error), EXIT_BAD_INPUT
    return f"neuroseg failed: {type(error).__name__}: {error} (neuroseg --debug ... shows where)", EXIT_FAILED


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done or equal, 1 different, 2 bad input, 3 program or machine failed, 130 interrupted.",
)


RunFolder = Annotated[Path, typer.Argument(help="Run folder, as `neuroseg train --out` made it.")]


Data = Annotated[
    str,
    typer.Option(help="Scans with masks (Decathlon, nnU-Net, BIDS, images/ and masks/), template[:N] or mni152."),
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


@app.callback()
def _settings(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more about what is done.")] = False,
    debug: Annotated[bool, typer.Option(help="Show a full traceback on errors.")] = False,
) -> None:
    """Take a U-Net from PyTorch to spikes on Loihi through Lava, and prove that they are the same spikes.

    The road: train, convert, finetune, export, validate. `neuroseg demo --train` walks all of it.
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=errors, show_path=False)],
    )
    keep_freed_memory()


class Ended(BaseException):
    """A signal asked the program to end; it does so in order, as after Ctrl-C."""


def main() -> None:
    """Run the command line. SIGTERM and SIGHUP end it in order, with 128 + their number as exit code."""

    def end(number: int, _frame: object) -> None:
        for other in ENDING:  # once is enough
            signal.signal(other, signal.SIG_IGN)
        raise Ended(number)

    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup's users want it ignored
                signal.signal(number, end)
    try:
        app()
    except Ended as error:
        sys.exit(128 + error.args[0])
