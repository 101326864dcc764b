"""`neuroseg nir`: networks from and to the exchange format NIR."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from export import netx, nir
from export.limits import check
from export.quantize import quantize
from neuroseg.cli.console import console, errors
from neuroseg.cli.options import BinaryEncoder, Reset

commands = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Networks from and to NIR, which snnTorch, Norse and others speak."
)


class Loops(StrEnum):
    exact, pipelined = "exact", "pipelined"


class Framework(StrEnum):
    snntorch, spikingjelly, norse = "snntorch", "spikingjelly", "norse"
    sinabs, rockpool = "sinabs", "rockpool"


@commands.command("import")
def import_nir(
    file: Annotated[Path, typer.Argument(help="NIR file, FILE.nir.")],
    out: Annotated[Path, typer.Argument(help="NetX file to write, FILE.net.")],
    timesteps: Annotated[int, typer.Option("--timesteps", "-T", min=1, help="Time steps per sample.")],
    framework: Annotated[
        Framework | None,
        typer.Option(help="Whose file it is: each steps its neurons in its own way, and no file says so."),
    ] = None,
    dt: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds a step, in the unit of the file's time constants; default: the framework's."),
    ] = None,
    reset: Annotated[
        Reset | None, typer.Option(help="Of neurons whose file does not say; default: the framework's, else zero.")
    ] = None,
    reset_delay: Annotated[
        bool | None,
        typer.Option(help="The threshold is subtracted a step after the spike; default: the framework's, else not."),
    ] = None,
    encoder: Annotated[
        BinaryEncoder, typer.Option(help="Image to spikes, for commands that take images.")
    ] = BinaryEncoder.rate,
    input_shape: Annotated[
        str | None,
        typer.Option(help="N, C,H,W or (Conv1d) C,L of a sample, where the file's has axes for batch or time."),
    ] = None,
    loops: Annotated[
        Loops,
        typer.Option(
            help="Of loops over several layers: exact, as the file says, whose Delays must leave each layer a step; "
            "pipelined, as soon as layers of a step each can, which is another network than the framework's."
        ),
    ] = Loops.exact,
) -> None:
    """Bring a NIR network to Loihi's integers and write it as NetX HDF5, checked against Loihi's limits.

    Example: neuroseg nir import model.nir model.net -T 16 --framework snntorch
    """
    graph = quantize(
        nir.read(
            file,
            timesteps=timesteps,
            framework=framework.value if framework else None,
            dt=dt,
            encoder=encoder.value,
            reset=reset.value if reset else None,
            reset_delay=reset_delay,
            input_shape=_shape(input_shape),
            loops=loops.value,
        )
    )
    check(graph)
    netx.write(graph, out)
    if framework and (needs := nir.FRAMEWORKS[framework.value].needs):
        errors.print(f"its spikes are those of {framework.value} if it was built with {needs}", highlight=False)
    console.print(f"{len(graph.populations)} populations, 8-bit weights; {escape(str(out))}")


@commands.command("export")
def export_nir(
    file: Annotated[Path, typer.Argument(help="Network in NetX HDF5, FILE.net.")],
    out: Annotated[Path, typer.Argument(help="NIR file to write, FILE.nir.")],
    dt: Annotated[float, typer.Option(min=0, help="Seconds that a step is said to last.")] = nir.DT,
) -> None:
    """Write a network file as NIR. What NIR cannot say is refused, or noted in the metadata and said here.

    Example: neuroseg nir export model.net model.nir
    """
    nir.write(netx.read(file), out, dt=dt)
    console.print(escape(str(out)))


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(side) for side in text.split(","))
    except ValueError:
        raise ValueError(f"--input-shape is {text!r}; N, C,H,W like 1,28,28 or C,L is allowed") from None
