"""The tables of README.md and the model card, and what the text says of them, are those of benchmarks/results."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import ablation
from neuroseg.finetune import FinetuneConfig
from neuroseg.fold_tables import check_folds, load_folds, markdown, summary
from neuroseg.losses import LOSSES
from neuroseg.pretrained import FOLDER as PRETRAINED

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text()
CARD = (PRETRAINED / "CARD.md").read_text()


@pytest.fixture(scope="module")
def folds():
    found = load_folds(RESULTS / "crossval")
    check_folds(found)
    return found


def test_the_table_of_the_folds(folds):
    table = markdown(summary(folds))
    assert table == (RESULTS / "crossval" / "table.md").read_text() and table in README
    rows = [line for line in CARD.splitlines() if line.startswith("| dice |")]
    assert len(rows) == 5 and set(rows) <= set(table.splitlines())


def test_every_loss_has_whole_folds(folds):
    networks = {loss: {row["method"] for f in folds if f["loss"] == loss for row in f["rows"]} for loss in LOSSES}
    assert networks["bce"] == networks["bce-dice"] == networks["dice"] and len(networks["dice"]) == 7
    for fold in folds:
        assert len(fold["settings"]["test"]) == 40 and all(len(row["subjects"]) == 40 for row in fold["rows"])


def test_what_is_lost_on_the_way(folds):
    dice = {(row["loss"], row["method"], row["weights"]): row["dice_3d"] for row in summary(folds)}

    def lost(dice, loss, network, weights="int8"):
        return f"{dice[loss, 'ann', 'float'] - dice[loss, network, weights]:.2f}"

    first = {
        (row["loss"], row["method"], row["weights"]): row["dice_3d"]
        for row in summary([f for f in folds if f["fold"] == 1])
    }
    assert _numbers("conversion alone") == [
        lost(dice, "dice", "converted-T128", "float"),
        lost(dice, "dice", "finetuned-T8"),
        lost(dice, "dice", "finetuned-T8-zero"),
        lost(dice, "dice", "finetuned-T4"),
        *(lost(first, loss, f"finetuned-T{t}") for loss in ("bce", "dice") for t in (8, 4)),
    ]


def test_the_table_of_the_ablation():
    found = json.loads((RESULTS / "ablation.json").read_text())
    assert ablation.markdown(found["rows"]) in README
    assert found["epochs"] == FinetuneConfig.epochs
    for row, stored in zip(ablation.rows(found["epochs"]), found["rows"], strict=True):
        assert asdict(row).items() <= stored.items()


def test_what_the_demo_prints():
    report = json.loads((RESULTS / "demo.json").read_text())
    for layer in report["spikes"]["layers"]:
        counts = [f"{layer[key]:,}" for key in ("neurons", "software", "hardware", "mismatched")]
        assert _cells(layer["name"]) == [layer["name"], *counts, f"{layer['rate']:.3f}"]
    stages = ("ann", "finetuned", "quantized", "hardware")
    for dice in ("3d", "2d"):
        assert _cells(dice.upper()) == [dice.upper(), *(f"{report['dice'][stage][dice]:.4f}" for stage in stages)]
    assert f"equal: {report['spikes']['total']:,} spikes, none differs" in README
    assert f"{report['dice']['hardware']['3d']:.3f}" in CARD


def test_how_broken_files_are_borne():
    found = json.loads((RESULTS / "fuzz.json").read_text())
    read = found["read"] + found["read_but_not_for_loihi"]
    assert f"{read:,} read, {found['refused']:,} refused, {len(found['failed'])} failed" in README
    assert f"| {found['files']:,} network files" in README


def _cells(name: str) -> list[str]:
    (line,) = [line for line in README.splitlines() if line.strip().startswith(f"│ {name} ")]
    return [cell.strip() for cell in line.strip(" │").split("│")]


def _numbers(word: str) -> list[str]:
    """Those with two decimals, in the paragraph that has a word."""
    (found,) = [paragraph for paragraph in README.split("\n\n") if word in paragraph]
    return re.findall(r"\d+\.\d\d", found)
