"""Tables of a cross-validation: the folds that `neuroseg.experiments.crossval` stored, read, checked, and summed up."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from export import checked, files
from export.checked import Fields
from hardware_sim.reporting import bland_altman
from hardware_sim.reporting.bland_altman import Measured
from neuroseg.experiments.figures import Priced, draw_costs
from neuroseg.runs import RunError
from neuroseg.training.losses import LOSSES
from neuroseg.training.train import TrainConfig

DICE = "dice_"  # columns of the summary that begin so
DEPLOYED = ("finetuned-T8", "finetuned-T4", "graded-T4", "sigma-delta-T1")  # whose agreement with the ANN is drawn
COUNT_MAX, ROWS_MAX, NUMBER_MAX = 2**31, 2**12, 1e18  # more is in no table


def load_folds(folder: Path) -> list[dict[str, Any]]:
    """Read what `run_fold` stored beside its folders, loss by loss. Raises RunError naming a file that is no fold."""
    folds = []
    name = re.compile(rf"fold\d+-({'|'.join(LOSSES)})\.json")
    for file in (file for file in folder.glob("fold*.json") if name.fullmatch(file.name)):
        try:
            folds.append(_fold(checked.read(file)))
        except (OSError, ValueError) as error:
            raise RunError(f"{file}: not a fold of `neuroseg crossval` ({error})") from error
    return sorted(folds, key=lambda fold: (list(LOSSES).index(fold["loss"]), fold["fold"]))


def _fold(given: Fields) -> dict[str, Any]:
    """A fold, what the tables show of it checked. Raises ValueError naming field, found and allowed."""
    given.integer("fold", 1, COUNT_MAX)
    given.text("loss", LOSSES)
    given.sub("settings").texts("test")
    for row in given.subs("rows", ROWS_MAX):
        row.text("method")
        if "weights" in row.value:
            row.text("weights")
        for key in {"3d", "2d", *row.sub("dice").value}:
            row.sub("dice").number(key, 0, 1)
        if row.value.get("energy") is not None:
            row.sub("energy").number("dynamic", 0, NUMBER_MAX)
        row.number("operations", 0, NUMBER_MAX)
        for key in ("epochs", "rate"):
            if key in row:
                row.number(key, 0, NUMBER_MAX)
        if "subjects" in row:
            scores = row.sub("subjects")
            for subject in scores.value:
                scores.sub(subject).number("3d", 0, 1)
    return dict(given.value)


def check_folds(folds: Sequence[dict[str, Any]]) -> None:
    """Raise RunError unless the folds of a loss are of one run: same settings, no subject tested twice.

    A fold of an earlier version may lack networks that others have.
    """
    for loss in {fold["loss"] for fold in folds}:
        same = [fold for fold in folds if fold["loss"] == loss]
        common = [_common(fold["settings"]) for fold in same]
        made: dict[str, set[str]] = {}  # how each network is made
        for row in (row for fold in same for row in fold["rows"]):
            recipe = json.dumps([row.get("variant"), row.get("tuning")], sort_keys=True)
            made.setdefault(row.get("method", ""), set()).add(recipe)
        tested = [name for fold in same for name in fold["settings"]["test"]]
        differ = any(one != common[0] for one in common) or any(len(recipes) > 1 for recipes in made.values())
        if differ or len(set(tested)) < len(tested):
            numbers = ", ".join(str(fold["fold"]) for fold in same)
            raise RunError(f"folds {numbers} of loss {loss} are of different runs; use a folder for each")


def _common(settings: dict[str, Any]) -> dict[str, Any]:
    """What all folds of a run share, with what earlier versions did not write."""
    shared = {k: v for k, v in settings.items() if k not in ("training", "validation", "test")}
    return {"classes": [], **shared, "train": {**asdict(TrainConfig()), **shared.get("train", {})}}


def summary(folds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each loss and method: mean and standard deviation over folds, in percent and points."""
    grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for fold in folds:
        for row in fold["rows"]:
            grouped.setdefault((fold["loss"], row["method"], row.get("weights", "float")), []).append(row)
    rows = []
    for (loss, method, weights), found in grouped.items():
        total: dict[str, Any] = {"loss": loss, "method": method, "weights": weights, "folds": len(found)}
        for key in found[0]["dice"]:
            scores = 100 * np.array([one["dice"][key] for one in found])
            total |= {
                DICE + key: float(scores.mean()),
                f"sd_{key}": float(scores.std(ddof=1)) if len(found) > 1 else None,
            }
        for key in ("epochs", "rate", "operations"):
            total[key] = float(np.mean([one[key] for one in found])) if found[0].get(key) is not None else None
        joules = [one["energy"]["dynamic"] for one in found if one.get("energy")]
        total["energy"] = float(np.mean(joules)) if len(joules) == len(found) else None
        rows.append(total)
    return rows


def dice_agreement(folds: Sequence[dict[str, Any]], *, loss: str, method: str, weights: str) -> Measured | None:
    """3D Dice in percent of every tested subject, by the ANN and by a network of the same fold; None without them."""
    ours: list[float] = []
    theirs: list[float] = []
    for fold in (fold for fold in folds if fold["loss"] == loss):
        rows = {(row["method"], row.get("weights", "float")): row.get("subjects") for row in fold["rows"]}
        ann, other = rows.get(("ann", "float")), rows.get((method, weights))
        if not ann or not other or set(ann) != set(other):
            return None
        ours += [100 * ann[subject]["3d"] for subject in ann]
        theirs += [100 * other[subject]["3d"] for subject in ann]
    return Measured("3D Dice", "%", tuple(ours), tuple(theirs)) if ours else None


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The summary as a Markdown table; Dice in percent, mean and deviation over folds; energy where it is known."""
    known = any(row["energy"] is not None for row in rows)
    head = ("loss", "network", "weights", "folds", *score_names(rows), "epochs", "firing rate", "Mops a slice")
    head += ("mJ a slice",) if known else ()
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|" + "---:|" * (len(head) - 3)]
    for row in rows:
        cells = (row["loss"], row["method"], row["weights"], str(row["folds"]), *score_cells(row, rows))
        cells = (*cells, f"{row['operations'] / 1e6:.2f}")
        cells += ("" if row["energy"] is None else f"{1000 * row['energy']:.2f}",) if known else ()
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _score_keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What Dice is of: 3d, 2d, classes in 3d."""
    return list(dict.fromkeys(key[len(DICE) :] for row in rows for key in row if key.startswith(DICE)))


def score_names(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Columns of the summary's Dice, as tables show them."""
    return tuple(f"{key[:2].upper()} {key[3:] or 'Dice'}" for key in _score_keys(rows))


def score_cells(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Dice by `score_names`, epochs and firing rate of a row of the summary, as tables show them."""

    def score(key: str) -> str:
        if DICE + key not in row:
            return ""
        deviation = row[f"sd_{key}"]
        return f"{row[DICE + key]:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")

    epochs = "" if row["epochs"] is None else f"{row['epochs']:.1f}"
    rate = "" if row["rate"] is None else f"{row['rate']:.3f}"
    return *(score(key) for key in _score_keys(rows)), epochs, rate


def _priced(row: Mapping[str, Any]) -> Priced:
    return Priced(row["method"], row[f"{DICE}3d"], row["operations"], row["energy"])


def write_tables(folds: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Write table.md and table.csv; by loss agreement-LOSS.svg of DEPLOYED networks, costs-LOSS.svg of all in 8 bits.

    Returns the summary.
    """
    rows = summary(folds)
    for loss in dict.fromkeys(fold["loss"] for fold in folds):
        found = {name: dice_agreement(folds, loss=loss, method=name, weights="int8") for name in DEPLOYED}
        panels = [replace(measured, name=f"3D Dice, {name}") for name, measured in found.items() if measured]
        if panels and len(panels[0].first) > 1:
            bland_altman.draw(panels, ("ANN", "SNN"), folder / f"agreement-{loss}.svg")
        of_loss = [row for row in rows if row["loss"] == loss]
        networks = [_priced(row) for row in of_loss if row["weights"] == "int8"]
        ann = [_priced(row) for row in of_loss if row["method"] == "ann"]
        if networks and ann:
            draw_costs(networks, ann=ann[0], path=folder / f"costs-{loss}.svg")
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(text.getvalue(), folder / "table.csv")
    files.write_text(markdown(rows), folder / "table.md")
    return rows
