"""The paper's figures 2 and 3 from our run, and Dice against time steps.

    python -m benchmarks.figures CROSSVAL_FOLDER --data DIR

Takes the networks of fold 1 of `neuroseg crossval`, in CROSSVAL_FOLDER, and its test subjects. Makes masks.png (input,
ground truth, converted, fine-tuned, Lava), layers.png (firing rate and threshold of every layer before and after
fine-tuning), timesteps.png and timesteps.json (3D Dice at T from 2 to 200, converted and fine-tuned, rate code and
Poisson) in benchmarks/results. Points that timesteps.json has are not computed again, and one of other networks or
subjects is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

import hardware_sim
from benchmarks.points import sha256, stored_points
from export import files
from neuroseg import runs
from neuroseg.calibration import Conversion, calibrated
from neuroseg.cli.console import console
from neuroseg.cli.subjects import run_subjects, usable_subjects
from neuroseg.conversion.lower import export, integer_scales
from neuroseg.data import Subject, stack_slices
from neuroseg.experiments.crossval import FINETUNED
from neuroseg.experiments.figures import Curve, draw_curves, draw_layers, draw_masks, mask_rows
from neuroseg.experiments.scoring import SAMPLE_SLICES
from neuroseg.metrics import mean_dice
from neuroseg.runs import Run
from neuroseg.spiking.activity import measure
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.training.memory import keep_freed_memory
from neuroseg.training.train import predict

RESULTS = Path(__file__).with_name("results")
POINTS = "timesteps.json"
TIMESTEPS = (2, 4, 8, 16, 32, 64, 128, 200)
FEW = 32  # at more steps plain scaling is near lossless, and rate balancing slow
TUNED, CONVERTED, PAPER = "fine-tuned at T = 8", "converted", "converted as published"


def main(
    crossval: Annotated[Path, typer.Argument(help="Folder that `neuroseg crossval` made.")],
    data: Annotated[str, typer.Option(help="The data set that it was made on.")],
    subjects: Annotated[int, typer.Option(min=1, help="Test subjects for the curves.")] = 10,
    out: Annotated[Path, typer.Option(help="Folder for the figures.")] = RESULTS,
) -> None:
    keep_freed_memory()
    run = Run(crossval / "fold1-dice" / FINETUNED)
    settings = run.load_settings()
    training, _ = run_subjects(settings, data)
    test = [subject for subject in usable_subjects(data, settings.seed) if subject.id in settings.test]
    before, after = runs.load_snn(run.converted)[0], runs.load_snn(run.snn)[0]
    identity = {
        "networks": {path.name: sha256(path) for path in (run.ann, run.snn)},
        "subjects": [subject.id for subject in test[:subjects]],
    }
    found = stored_points(out / POINTS, identity, "points")
    draw_masks(_rows(test[:3], before, after), out / "masks.png")
    _layers(test, before, after, out / "layers.png")
    _curves(found, run, settings.seed, training, test[:subjects], after, out)


def _rows(subjects: Sequence[Subject], before: SpikingNetwork, after: SpikingNetwork) -> list[dict[str, np.ndarray]]:
    """One slice a subject, the middle one."""
    rows = []
    for subject in subjects:
        masks = {
            "converted": predict(before.predict, [subject])[0],
            "fine-tuned": predict(after.predict, [subject])[0],
            "Lava": _lava(after, subject),
        }
        rows += mask_rows(subject, masks, slices=1)
    return rows


def _lava(network: SpikingNetwork, subject: Subject) -> np.ndarray:
    images, _ = stack_slices([subject])
    spikes = network.encode(images).transpose(0, 1).numpy()
    trace = hardware_sim.run(export(network), spikes, backend="lava", record=hardware_sim.Record(spikes=(), counts=()))
    return (trace.output[:, 0] > 0).astype(np.uint8)


def _layers(test: Sequence[Subject], before: SpikingNetwork, after: SpikingNetwork, path: Path) -> None:
    images, _ = stack_slices(test)
    sample = images[np.random.default_rng(0).permutation(len(images))[:SAMPLE_SLICES]]
    firing = [population for population in after.populations if population.neuron.threshold is not None]
    draw_layers(
        measure(before, sample, quantized=True).rates,
        measure(after, sample, quantized=True).rates,
        {population.name: (before.scale(population), after.scale(population)) for population in firing},
        path,
    )


def _curves(
    found: dict[str, Any],
    run: Run,
    seed: int,
    training: Sequence[Subject],
    test: Sequence[Subject],
    after: SpikingNetwork,
    out: Path,
) -> None:
    """Add the points that `found` lacks, write it and draw it."""
    file = out / POINTS
    truths = [subject.mask for subject in test]
    ann = runs.load_ann(run.ann)
    found = {"ann": mean_dice(predict(ann, test), truths)["3d"], **found}
    done = {(p["network"], p["encoder"], p["timesteps"]) for p in found["points"]}
    wanted = [(name, code, t) for t in TIMESTEPS for name in (TUNED, CONVERTED) for code in ("rate", "poisson")]
    for name, code, t in [*wanted, *((PAPER, "poisson", t) for t in TIMESTEPS)]:
        if (name, code, t) in done:
            console.print(f"{name}, {code}, T = {t}: already in {file}")
            continue
        if name == TUNED:
            network = after.copy(timesteps=t, encoder=code)
        else:
            method = "threshold" if name == PAPER else "rate" if t <= FEW else "activation"
            network = calibrated(ann, training, Conversion(t, method=method, encoder=code), seed=seed)
            network = network.with_scales(integer_scales(network))
        dice = mean_dice(predict(functools.partial(network.predict, quantized=True), test), truths)["3d"]
        found["points"].append({"network": name, "encoder": code, "timesteps": t, "dice": dice})
        files.write_json(found, file)
        console.print(f"{name}, {code}, T = {t}: {100 * dice:.2f} %")
    names = dict.fromkeys((p["network"], p["encoder"]) for p in found["points"])
    curves = [
        Curve(
            name,
            [p["timesteps"] for p in found["points"] if (p["network"], p["encoder"]) == (name, code)],
            [100 * p["dice"] for p in found["points"] if (p["network"], p["encoder"]) == (name, code)],
            dashed=code == "poisson",
        )
        for name, code in names
    ]
    draw_curves(curves, ann=100 * found["ann"], path=out / "timesteps.png")


if __name__ == "__main__":
    torch.manual_seed(0)
    typer.run(main)
