"""The command that makes an ANN spiking: convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from neuroseg.calibration import CALIBRATION_SLICES, Conversion
from neuroseg.cli.console import console
from neuroseg.cli.options import IMAGES_HELP, Balance, Device, Encoder, NeuronKind, OnDevice, OtherData, Reset
from neuroseg.cli.results import conversion_table, show_agreement, show_sigma_delta, show_ternary
from neuroseg.cli.subjects import run_subjects
from neuroseg.conversion.model_file import ONNX, PT2
from neuroseg.data import stack_slices
from neuroseg.data.images import read_images
from neuroseg.imported import convert_model
from neuroseg.runs import Run
from neuroseg.spiking.device import choose
from neuroseg.steps import convert_run, sigma_delta_run

commands = typer.Typer(add_completion=False)


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
        settings = run.load_settings()
        training, _ = run_subjects(settings, data)
        if neuron == NeuronKind.sigma_delta:
            every, _ = stack_slices(training, context=settings.model.context)
            with console.status(f"calibrating on {slices} training slices"):
                made = sigma_delta_run(run, every, slices=slices)
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
