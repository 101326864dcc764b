"""`neuroseg lava`: install Lava, and see that it runs."""

from __future__ import annotations

import typer

from hardware_sim.lava_backend.compat import LAVA_VERSION
from hardware_sim.lava_backend.install import install as install_lava
from hardware_sim.lava_backend.install import try_out
from neuroseg.cli.console import console

commands = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Install Lava, whose own metadata forbids current Pythons."
)


@commands.command()
def install() -> None:
    """Install lava-nc 0.10.0 into this environment, and try it out with a run of ten steps.

    Lava is archived and says Python 3.10; neuroseg mends what newer Pythons and numpy do otherwise. pip checks the
    package's hash. Its own needs come with the extra `[lava]`.

    Example: neuroseg lava install
    """
    with console.status("installing lava-nc"):
        install_lava()
    _say_that_it_runs()


@commands.command()
def check() -> None:
    """Run a small network for ten steps in Lava, stock and fused, and compare with the reference.

    Example: neuroseg lava check
    """
    _say_that_it_runs()


def _say_that_it_runs() -> None:
    with console.status("ten steps in Lava, stock and fused"):
        spikes = try_out()
    console.print(f"[green]lava-nc {LAVA_VERSION} runs:[/green] {spikes} spikes, none differs from the reference")
