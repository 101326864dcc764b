"""What docs/results.md and the README say of Dice is in benchmarks/results."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import pytest

from benchmarks import ablation
from neuroseg.experiments.tables import check_folds, dice_agreement, load_folds, markdown, summary
from neuroseg.training.finetune import FinetuneConfig
from neuroseg.training.losses import LOSSES
from tests.measured import CARD, FOLDS, README, RESULTS, result


@pytest.fixture(scope="module")
def folds():
    found = load_folds(RESULTS / "crossval")
    check_folds(found)
    return found


def test_the_table_of_the_folds(folds):
    table = markdown(summary(folds))
    assert table == (RESULTS / "crossval" / "table.md").read_text() and table in FOLDS
    rows = [line for line in CARD.splitlines() if line.startswith("| dice |")]
    assert len(rows) == 5 and set(rows) <= set(table.splitlines())


def test_few_steps():
    folds = load_folds(RESULTS / "steps")
    check_folds(folds)
    rows = summary(folds)
    assert markdown(rows) == (RESULTS / "steps" / "table.md").read_text() and markdown(rows) in FOLDS
    found = {(row["method"], row["weights"]): row for row in rows}
    ann, networks = found["ann", "float"]["dice_3d"], ("graded-T4", "graded-T2", "graded-T1", "sigma-delta-T1")
    lost = [f"{ann - found[name, 'int8']['dice_3d']:.2f}" for name in networks]
    assert _numbers("Lost to the ANN in 8-bit integers", FOLDS) == lost
    spent = [f"{1000 * found[name, 'int8']['energy']:.1f}" for name in networks[:3]]
    said = " ".join(README.split())
    assert f"four steps lose {lost[0]} points to the ANN, two {lost[1]}, one {lost[2]}, for" in said
    assert f"for {spent[0]}, {spent[1]} and {spent[2]} mJ a slice" in said
    for steps in (4, 2, 1):
        report = json.loads((RESULTS / "steps" / f"fold1-lava-T{steps}.json").read_text())
        spikes, dice = report["spikes"], report["dice"]
        assert len(report["subjects"]) == 40 and dice["hardware"] == dice["quantized"]
        assert f"T = {steps}, {spikes['total']:,} spikes, {spikes['mismatched']} mismatched" in FOLDS.replace("\n", " ")


def test_eight_steps():
    now = {(row["method"], row["weights"]): f"{row['dice_3d']:.2f}" for row in summary(load_folds(RESULTS / "eight"))}
    (before,) = (
        f"{row['dice_3d']:.2f}"
        for row in summary([fold for fold in load_folds(RESULTS / "crossval") if fold["fold"] == 1])
        if (row["loss"], row["method"], row["weights"]) == ("dice", "finetuned-T8", "int8")
    )
    ann, rate, graded = now["ann", "float"], now["finetuned-T8", "int8"], now["graded-T8", "int8"]
    said = FOLDS.replace("\n", " ")
    assert (
        f"its ANN at {ann}, in 8-bit integers: {rate} with the rate code, where 0.3.1 had {before}, and {graded}"
        in said
    )


def test_another_loss():
    rows = json.loads((RESULTS / "losses" / "fold1-bce.json").read_text())["rows"]
    kept = [row for row in rows if row.get("weights") != "float"]
    found = {row["method"]: f"{100 * row['dice']['3d']:.2f}" for row in kept}
    said = " ".join(FOLDS.split())
    assert f"{found['finetuned-T8']} at T = 8 with the rate code, {found['graded-T4']} at T = 4" in said
    assert f"{found['graded-T2']} at T = 2, {found['sigma-delta-T1']} as sigma-delta neurons" in said
    assert f"of an ANN at {found['ann']}. In a single step" in said and f"({found['graded-T1']}), which" in said


def test_two_classes():
    found = summary(load_folds(RESULTS / "classes"))
    assert markdown(found) in FOLDS
    dice = {(row["method"], row["weights"]): row["dice_3d mean"] for row in found}
    ann, page = dice["ann", "float"], FOLDS.replace("\n", " ")
    few, told = dice["graded-T4", "int8"] - ann, dice["sigma-delta-T1", "int8"] - ann
    reached = next(row for row in found if row["method"] == "ann")
    assert "are not reached: {dice_3d anterior:.2f} and {dice_3d posterior:.2f}, on".format(**reached) in page
    assert f"with graded input differs by {few:+.2f} points from its ANN" in page
    assert f"in one step by {told:+.2f}, converted and no more" in page
    report = json.loads((RESULTS / "classes" / "fold1-lava-T4.json").read_text())
    spikes, hardware = report["spikes"], report["dice"]["hardware"]
    assert len(report["subjects"]) == 40 and hardware == report["dice"]["quantized"]
    parts = " and ".join(f"{100 * hardware[f'3d {part}']:.2f}" for part in ("anterior", "posterior"))
    assert f"{spikes['total']:,} spikes, {spikes['mismatched']} mismatched, 3D Dice of the classes {parts}" in page


def test_a_larger_network_that_sees_neighbours():
    folds, page = load_folds(RESULTS / "deep"), " ".join(FOLDS.split())
    check_folds(folds)
    rows = summary(folds)
    assert markdown(rows) in FOLDS
    assert [fold["fold"] for fold in folds if fold["loss"] == "bce-dice"] == [1, 2, 3, 4, 5]
    models = [fold["settings"]["model"] for fold in folds]
    assert all(model["in_channels"] == 5 and model["channels"] == [32, 64, 128, 256] for model in models)
    ann = next(row for row in rows if (row["loss"], row["method"]) == ("bce-dice", "ann"))
    assert (
        f"it gains {ann['dice_3d mean'] - of_two_classes('classes')['dice_3d mean']:.2f} points on the network" in page
    )
    assert f"posterior part is reached ({ann['dice_3d posterior']:.2f})" in page and ann["dice_3d posterior"] > 87
    assert f"anterior part it is {ann['dice_3d anterior']:.2f}, which" in page and 88.5 < ann["dice_3d anterior"] < 89
    for loss in ("dice", "bce-dice"):
        found = [fold["rows"][0]["dice"] for fold in folds if fold["loss"] == loss and fold["fold"] < 3]
        parts = [f"{100 * dice['3d anterior']:.2f} and {100 * dice['3d posterior']:.2f}" for dice in found]
        assert f"{', '.join(parts)} by {'the Dice loss' if loss == 'dice' else loss}" in page
    first = lost_by_fold_1([fold for fold in folds if fold["loss"] == "bce-dice"])
    assert f"sigma-delta neurons in one step differs by {first['sigma-delta-T1']:+.2f} points from its ANN" in page


def test_neighbours_of_a_slice():
    folds, page = load_folds(RESULTS / "context"), " ".join(FOLDS.split())
    check_folds(folds)
    assert markdown(summary(folds)) in FOLDS and [fold["fold"] for fold in folds] == [1, 2, 3, 4, 5]
    assert all(fold["settings"]["model"]["in_channels"] == 5 for fold in folds)
    wide, narrow = of_two_classes("context"), of_two_classes("classes")
    assert f"it gains {wide['dice_3d mean'] - narrow['dice_3d mean']:.2f} points;" in page
    first = lost_by_fold_1(folds)
    few, told = first["graded-T4"], first["sigma-delta-T1"]
    assert f"by {few:+.2f} points from its ANN, that of sigma-delta neurons by {told:+.2f}." in page


def of_two_classes(folder: str) -> dict:
    """The ANNs' row of the table of a folder."""
    return next(row for row in summary(load_folds(RESULTS / folder)) if row["method"] == "ann")


def lost_by_fold_1(folds: list[dict]) -> dict[str, float]:
    """What networks differ from their ANN by, in the mean of the classes, in points."""
    rows = (row for row in folds[0]["rows"] if row.get("weights") != "float")
    dice = {row["method"]: 100 * row["dice"]["3d mean"] for row in rows}
    return {method: value - dice["ann"] for method, value in dice.items()}


def test_how_far_ann_and_snn_agree(folds):
    for network in ("finetuned-T8", "finetuned-T4"):
        found = dice_agreement(folds, loss="dice", method=network, weights="int8")
        assert len(found.first) == 200
        low, high = found.limits
        assert f"by {found.bias:.2f}" in FOLDS and f"{low:.2f} to {high:+.2f}" in FOLDS


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
    assert _numbers("conversion alone", FOLDS) == [
        lost(dice, "dice", "converted-T128", "float"),
        lost(dice, "dice", "finetuned-T8"),
        lost(dice, "dice", "finetuned-T8-zero"),
        lost(dice, "dice", "finetuned-T4"),
        *(lost(first, loss, f"finetuned-T{t}") for loss in ("bce", "dice") for t in (8, 4)),
    ]


def test_the_table_of_the_ablation():
    found = result("ablation")
    assert ablation.markdown(found["rows"]) in FOLDS
    assert found["epochs"] == FinetuneConfig.epochs
    for row, stored in zip(ablation.rows(found["epochs"]), found["rows"], strict=True):
        assert asdict(row).items() <= ablation.as_now(stored).items()


def test_the_ablation_of_few_steps():
    found = result("ablation-few-steps")
    assert ablation.markdown_of_seeds(found["rows"]) in FOLDS
    for row, stored in zip(ablation.rows_of_few_steps(found["epochs"]), found["rows"], strict=True):
        assert asdict(row).items() <= ablation.as_now(stored).items()


def test_an_ablation_of_few_steps_sums_up_its_seeds():
    rows = ablation.rows_of_few_steps(epochs=6)
    changes = list(dict.fromkeys(row.change for row in rows))
    assert len(rows) == 3 * len(changes) and len({row.tuning.seed for row in rows}) == 3
    assert changes[0] == ablation.UNCHANGED and all(row.variant.timesteps == 2 for row in rows)
    found = [
        {**asdict(row), "validation": [0.5, 0.8 + 0.01 * k], "dice": {"3d": 0.7 + 0.01 * k}}
        for row in rows[:3] + rows[-3:]
        for k in [changes.index(row.change) + row.tuning.seed]
    ]
    first, last = ablation.markdown_of_seeds(found).splitlines()[2:]
    assert first == "| none | 81.00 ± 1.00 | 71.00 ± 1.00 | +0.00 |"
    n = len(changes)
    assert last == f"| {changes[-1]} | {80 + n}.00 ± 1.00 | {70 + n}.00 ± 1.00 | +{n - 1}.00 |"
    assert all(asdict(row).items() <= ablation.as_now(asdict(row)).items() for row in rows)


def test_a_fold_in_lava():
    for fidelity, subjects in (("fused", 40), ("stock", 2)):
        report = json.loads((RESULTS / "crossval" / f"fold1-lava-{fidelity}.json").read_text())
        spikes, dice = report["spikes"], report["dice"]
        assert len(report["subjects"]) == subjects and report["fidelity"] == fidelity
        assert f"{spikes['total']:,} spikes, {spikes['mismatched']} mismatched" in FOLDS.replace("\n", " ")
        assert dice["hardware"] == dice["quantized"]
        if fidelity == "fused":
            assert f"{spikes['total']:,} spikes, {spikes['mismatched']} mismatched" in README.replace("\n", " ")
            assert f"3D Dice {100 * dice['hardware']['3d']:.2f}" in FOLDS.replace("\n", " ")


def test_the_headlines_of_the_readme(folds):
    dice = {(row["loss"], row["method"], row["weights"]): row["dice_3d"] for row in summary(folds)}
    text = README.split("## Measured\n")[1].split("\n## ")[0].replace("\n", " ")
    lava, reference, finetune, fuzz = (result(name) for name in ("lava", "reference", "finetune", "fuzz"))
    for said in (
        f"a 3D Dice of {dice['dice', 'ann', 'float']:.2f}",
        f"integers {dice['dice', 'finetuned-T8', 'int8']:.2f}",
        f"{lava['stock_over_fused']:.0f} times faster fused than stock",
        f"the reference engine {reference['reference_over_stock']:.0f} times",
        f"{finetune['spikingjelly_over_neuroseg']:.1f} times faster than SpikingJelly's",
        f"{finetune['memory_of_spikingjelly']:.2f} of its memory",
        f"Of {fuzz['files']:,} broken network files all were read or refused, {len(fuzz['failed'])} failed",
    ):
        assert said in text, said


def _numbers(word: str, page: str) -> list[str]:
    """Those with two decimals, in the paragraph of a page that has a word."""
    (found,) = [paragraph for paragraph in page.split("\n\n") if word in paragraph]
    return re.findall(r"\d+\.\d\d", found)
