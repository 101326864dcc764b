"""The application: its commands by name, its options, its exit codes.

A command's module is loaded when it is called, so that help and completion wait for nothing, and a command on a file
does without torch.
"""

from __future__ import annotations

import errno
import importlib
import logging
import signal
import sys
import threading
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import typer.main
from rich.logging import RichHandler
from rich.markup import escape
from typer.core import TyperGroup
from typer.exceptions import TyperException

from hardware_sim.record import SimulationError
from neuroseg import EXIT_FAILED
from neuroseg.cli.console import errors
from neuroseg.training.memory import keep_freed_memory

EXIT_DIFFERENT, EXIT_BAD_INPUT = 1, 2
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
KNOWN_ERRORS = (ValueError, OSError, SimulationError)  # our own are ValueErrors


@dataclass(frozen=True)
class Entry:
    """A command: the module of this folder that has it, and its line in the list of commands."""

    module: str
    line: str


COMMANDS = {  # the road first, then what looks at its files, then the rest
    "demo": Entry("demo", "Segment the MNI152 template in PyTorch and in Lava, and compare every spike. Offline."),
    "data": Entry("data", "Fetch and check scans."),
    "train": Entry("training", "Train the ANN U-Net; goes on where it stopped if it was killed."),
    "convert": Entry("conversion", "Turn an ANN into integrate-and-fire neurons and balance their thresholds."),
    "finetune": Entry("training", "Fine-tune the spiking network by spike-based backpropagation; resumes."),
    "export": Entry("deployment", "Write the integer network as NetX HDF5, checked against Loihi's limits."),
    "validate": Entry("validation", "Run PyTorch and an engine on the same spikes, compare every spike, and report."),
    "segment": Entry("segmentation", "Segment the hippocampus in scans; masks lie in the scans' own grids."),
    "inspect": Entry("inspection", "List the layers of a network file, or draw them."),
    "simulate": Entry("deployment", "Run a network file on scans, images or spikes; keep spikes, logits or decisions."),
    "compare": Entry("inspection", "Compare two traces spike by spike, and say why they differ."),
    "map": Entry("mapping", "Lay a network out on a chip's cores: how many it takes, and which limit decides."),
    "metrics": Entry("mapping", "NeuroBench's metrics of a network: footprint, sparsity, operations, updates."),
    "nir": Entry("nir", "Networks from and to NIR, which snnTorch, Norse and others speak."),
    "lava": Entry("lava", "Install Lava, whose own metadata forbids current Pythons."),
    "crossval": Entry("crossval", "Cross-validate the whole road: ANN, conversions, fine-tuned networks."),
    "pretrained": Entry("training", "Make a run folder of the network that ships with neuroseg."),
    "bench": Entry("deployment", "Measure a claim: ratios taken side by side in one run, some minutes each."),
}


def load_command(name: str) -> Any:
    """The command of a name in COMMANDS, or its group of commands, as typer's parser has them."""
    module = importlib.import_module(f"neuroseg.cli.{COMMANDS[name].module}")
    found = typer.main.get_command(module.commands)
    inside = found.commands if isinstance(found, TyperGroup) else {}
    return inside.get(name, found)


class _Commands(TyperGroup):
    """Loads the command that is called; turns a known error into one line and exit code 2."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in COMMANDS:
            self.commands[args[0]] = load_command(args[0])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (TyperException, typer.Exit, typer.Abort, BrokenPipeError):  # wrong usage, ends that are meant, | head
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
    if isinstance(error, MemoryError) or "not enough memory" in str(error):  # the latter is PyTorch's
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


def _not_loaded() -> None:
    """Stands in the list of commands until the command itself is loaded."""


for _name, _entry in COMMANDS.items():
    app.command(_name, help=_entry.line)(_not_loaded)


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
