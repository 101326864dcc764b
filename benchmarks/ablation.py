"""What each choice of the fine-tuning is worth: one change a row, T = 8, one fold, int8, 3D Dice on its test subjects.

Rows that change the seed alone show how much of a difference is chance. With `--few-steps` what T = 2 gains by: rows of
three seeds each. All learn from the masks alone where they do not say otherwise.

    python -m benchmarks.ablation CROSSVAL_FOLDER --data DIR [--few-steps]

Starts from the ANN of fold 1 of `neuroseg crossval`, in CROSSVAL_FOLDER. Every row is fine-tuned for as many epochs,
by default as in `neuroseg finetune`. Goes on where it was stopped: rows that the result file has are not run again, and
a file of another ANN is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.points import sha256, stored_points
from export import files
from neuroseg import runs
from neuroseg.calibration import calibrated
from neuroseg.cli.console import console, training_bar
from neuroseg.cli.subjects import run_subjects, usable_subjects
from neuroseg.conversion.lower import integer_scales
from neuroseg.experiments.crossval import Variant
from neuroseg.metrics import mean_dice
from neuroseg.runs import Run
from neuroseg.training.finetune import FinetuneConfig, finetune
from neuroseg.training.memory import keep_freed_memory
from neuroseg.training.train import predict

SEEDS = (1, 2)
ALL_OF_IT = "graded code, the ANN's logits, start potential half a threshold"
UNCHANGED = "none"
MASKS_ALONE = 0.0  # of `distill`

RESULT = Path(__file__).with_name("results") / "ablation.json"
RESULT_OF_FEW_STEPS = RESULT.with_name("ablation-few-steps.json")


@dataclass(frozen=True)
class Row:
    """A network and its fine-tuning. alpha: height of the surrogate gradient."""

    change: str
    variant: Variant
    tuning: FinetuneConfig
    alpha: float = 1.0


def rows(epochs: int) -> list[Row]:
    base = Row(UNCHANGED, Variant("ablation", 8), FinetuneConfig(epochs=epochs, distill=MASKS_ALONE))
    variant, tuning = base.variant, base.tuning
    return [
        base,
        *(replace(base, change=f"seed {seed}", tuning=replace(tuning, seed=seed)) for seed in SEEDS),
        replace(base, change="dropout of the ANN", tuning=replace(tuning, dropout=True)),
        replace(base, change="slices augmented", tuning=replace(tuning, augment=True)),
        replace(base, change="start potential half a threshold", variant=replace(variant, u0=0.5)),
        replace(base, change="surrogate half as high", alpha=0.5),
        replace(base, change="surrogate twice as high", alpha=2.0),
        replace(base, change="learning rate 1e-3", tuning=replace(tuning, learning_rate=1e-3)),
        replace(base, change="learning rate 4e-3", tuning=replace(tuning, learning_rate=4e-3)),
        replace(base, change="quantised after the last epoch", tuning=replace(tuning, quantized=False)),
        replace(
            base,
            change="both: augmented, quantised after the last epoch",
            tuning=replace(tuning, augment=True, quantized=False),
        ),
        replace(base, change="Poisson code", variant=replace(variant, encoder="poisson")),
        replace(base, change="balanced by activation", variant=replace(variant, balance="activation")),
        replace(base, change="balanced as published", variant=replace(variant, balance="threshold")),
    ]


def rows_of_few_steps(epochs: int) -> list[Row]:
    """T = 2: what each choice adds to the rate code and the masks alone, all together, and longer; three seeds each."""
    rate = Variant("ablation", 2)
    graded = replace(rate, encoder="graded")
    masks = FinetuneConfig(epochs=epochs, distill=MASKS_ALONE)
    both = replace(masks, distill=FinetuneConfig.distill)
    changes = (
        (UNCHANGED, rate, masks),
        ("graded code", graded, masks),
        ("the ANN's logits beside the masks", rate, both),
        ("graded code, the ANN's logits", graded, both),
        (ALL_OF_IT, replace(graded, u0=0.5), both),
        (f"{ALL_OF_IT}, {2 * epochs} epochs", replace(graded, u0=0.5), replace(both, epochs=2 * epochs)),
    )
    return [
        Row(change, variant, replace(tuning, seed=seed)) for change, variant, tuning in changes for seed in (0, *SEEDS)
    ]


def markdown_of_seeds(rows: Sequence[dict[str, Any]]) -> str:
    """A line a change: mean and deviation over its seeds, and points from the row that changes nothing."""
    changes = list(dict.fromkeys(row["change"] for row in rows))
    lines = ["| change | validation | test | difference |", "|---|---:|---:|---:|"]
    means: dict[str, float] = {}
    for change in changes:
        of_change = [row for row in rows if row["change"] == change]
        each = 100 * np.array([(max(row["validation"]), row["dice"]["3d"]) for row in of_change]).T  # 2, seeds
        validation, test = (f"{scores.mean():.2f} ± {scores.std(ddof=1):.2f}" for scores in each)
        means[change] = float(each[1].mean())
        lines.append(f"| {change} | {validation} | {test} | {means[change] - means[UNCHANGED]:+.2f} |")
    return "\n".join(lines) + "\n"


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The result file's rows as a Markdown table; Dice in percent, and points from the row that changes nothing."""
    test = {row["change"]: 100 * row["dice"]["3d"] for row in rows}
    lines = ["| change | validation | test | difference |", "|---|---:|---:|---:|"]
    for row in rows:
        name, validation = row["change"], 100 * max(row["validation"])
        lines.append(f"| {name} | {validation:.2f} | {test[name]:.2f} | {test[name] - test[UNCHANGED]:+.2f} |")
    return "\n".join(lines) + "\n"


def as_now(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored row, with the choices that earlier versions did not have."""
    variant = {"sigma_delta": False, **stored["variant"]}
    return {**stored, "variant": variant, "tuning": {"distill": MASKS_ALONE, **stored["tuning"]}}


def main(
    crossval: Annotated[Path, typer.Argument(help="Folder that `neuroseg crossval` made.")],
    data: Annotated[str, typer.Option(help="The data set that it was made on.")],
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each row.")] = FinetuneConfig.epochs,
    few_steps: Annotated[bool, typer.Option("--few-steps", help="Rows of T = 2, three seeds each.")] = False,
    out: Annotated[Path | None, typer.Option(help="Result file.")] = None,
) -> None:
    out = out or (RESULT_OF_FEW_STEPS if few_steps else RESULT)
    keep_freed_memory()
    run = Run(crossval / "fold1-dice" / "ann")
    settings = run.load_settings()
    training, validation = run_subjects(settings, data)
    test = [subject for subject in usable_subjects(data, settings.seed) if subject.id in settings.test]
    ann = runs.load_ann(run.ann)
    found = stored_points(out, {"ann": sha256(run.ann), "epochs": epochs}, "rows")
    for row in (rows_of_few_steps if few_steps else rows)(epochs):
        if any(asdict(row).items() <= as_now(stored).items() for stored in found["rows"]):
            console.print(f"{row.change}: already in {out}")
            continue
        network = calibrated(ann, training, row.variant.conversion, seed=settings.seed).copy(alpha=row.alpha)
        network = network.with_scales(integer_scales(network))
        with training_bar(row.change) as show:
            tuned, history = finetune(network, training, validation, config=row.tuning, teacher=ann, on_step=show)
        tuned = tuned.with_scales(integer_scales(tuned))
        masks = predict(functools.partial(tuned.predict, quantized=True), test)
        dice = mean_dice(masks, [subject.mask for subject in test])
        found["rows"].append({**asdict(row), "dice": dice, "validation": [epoch.validation_dice for epoch in history]})
        files.write_json(found, out)
        console.print(f"{row.change}: 3D Dice {100 * dice['3d']:.2f} %")
    console.print((markdown_of_seeds if few_steps else markdown)(found["rows"]), markup=False)


if __name__ == "__main__":
    typer.run(main)
