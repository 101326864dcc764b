"""What README.md, docs and the model card say was measured is in benchmarks/results, and their links lead somewhere."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import ablation, zoo
from neuroseg.experiments.tables import check_folds, dice_agreement, load_folds, markdown, summary
from neuroseg.pretrained import FOLDER as PRETRAINED
from neuroseg.training.finetune import FinetuneConfig
from neuroseg.training.losses import LOSSES

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [
    *(ROOT / name for name in ("README.md", "FORMAT.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    PRETRAINED / "CARD.md",
]
README = (ROOT / "README.md").read_text()
FOLDS = (ROOT / "docs" / "results.md").read_text()
BENCHMARKS = (ROOT / "docs" / "benchmarks.md").read_text()
CARD = (PRETRAINED / "CARD.md").read_text()
README_LINES = 200


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


def test_the_sigma_delta_network():
    found, page = _result("sigma_delta"), (ROOT / "docs" / "files.md").read_text()
    spiking, graded = found["integrate-and-fire"], found["sigma-delta"]
    assert spiking["differing in Lava"] == graded["differing in Lava"] == 0 and graded["timesteps"] == 1
    for said in (
        f"agrees to {graded['agreement with the ANN']:.1%}".replace("%", " %"),
        f"to {spiking['agreement with the ANN']:.1%} as".replace("%", " %"),
        f"{graded['messages'] / 1000:.0f} thousand",
        f"{spiking['messages'] / 1000:.0f} thousand spikes",
    ):
        assert said in " ".join(page.split()), said


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
    found = _result("ablation")
    assert ablation.markdown(found["rows"]) in FOLDS
    assert found["epochs"] == FinetuneConfig.epochs
    for row, stored in zip(ablation.rows(found["epochs"]), found["rows"], strict=True):
        assert asdict(row).items() <= ablation.as_now(stored).items()


def test_the_ablation_of_few_steps():
    found = _result("ablation-few-steps")
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


def test_what_the_demo_prints():
    report = _result("demo")
    for layer in report["spikes"]["layers"]:
        counts = [f"{layer[key]:,}" for key in ("neurons", "software", "hardware", "mismatched")]
        assert _cells(layer["name"]) == [layer["name"], *counts, f"{layer['rate']:.3f}"]
    stages = ("ann", "finetuned", "quantized", "hardware")
    for dice in ("3d", "2d"):
        assert _cells(dice.upper()) == [dice.upper(), *(f"{report['dice'][stage][dice]:.4f}" for stage in stages)]
    assert f"equal: {report['spikes']['total']:,} spikes, none differs" in README
    assert f"{report['dice']['hardware']['3d']:.3f}" in CARD


def test_how_broken_files_are_borne():
    found = _result("fuzz")
    read = found["read"] + found["read_but_not_for_loihi"]
    assert f"{read:,} read, {found['refused']:,} refused, {len(found['failed'])} failed" in BENCHMARKS
    assert f"| {found['files']:,} network files" in BENCHMARKS
    again = _result("fuzz-again")
    read = again["read"] + again["read_but_not_for_loihi"]
    (paused,) = again["failed"]
    said = f"another {again['files']:,} were read (`--first 500000 --jobs 2`, `fuzz-again.json`): {read:,} read, "
    said += f"{again['refused']:,} refused, 0 failed, but for seed {paused['seed']}, which ran out"
    assert said in BENCHMARKS.replace("\n", " ")


def test_what_the_benchmarks_measured():
    lava, reference, finetune = _result("lava"), _result("reference"), _result("finetune")
    scaling, third_party = _result("scaling"), _result("third_party")
    assert {found.pop("machine") for found in (lava, reference, finetune, scaling, third_party)} == {
        re.search(r"one machine \((.*?)\), whose", BENCHMARKS.replace("\n", " "))[1]
    }
    fits = ", ".join(f"{scaling['fits'][x]['straight_line_r2']:.3f}" for x in ("timesteps", "slices", "spikes"))
    assert _ratios() == [
        f"{lava['stock_over_fused']:.0f} times faster",
        f"{lava['fused_over_floor']:.2f} times the floor",
        f"{lava['process_a_layer_over_fused']:.1f} times faster",
        f"{lava['stock_over_fast']:.1f} times faster",
        f"{lava['subject_ratio']:.0f} times faster",
        f"{reference['reference_over_stock']:.0f} times more",
        *(
            f"{finetune[f'{peer}_over_neuroseg']:.1f} times faster, {finetune[f'memory_of_{peer}']:.2f} of its memory"
            for peer in ("spikingjelly", "snntorch")
        ),
        f"{finetune['neuroseg_over_own_convolutions']:.2f} times as long",
        f"{finetune['neuroseg_over_float32_convolutions']:.2f} times as long",
        f"R² {fits}",
        f"every spike equal ({sum(row['spikes'] for row in third_party.values()):,})",
    ]
    assert lava["equal"] and reference["equal"]
    assert all(row["pytorch_equals_reference"] and row["reference_equals_lava"] for row in third_party.values())


def test_mixed_precision():
    page = (ROOT / "docs" / "machines.md").read_text()
    assert f"An epoch takes {_result('train')['float32_over_bfloat16']:.1f} times less" in page


def test_the_engines():
    found, page = _result("engines"), " ".join(BENCHMARKS.split())
    assert found["equal"] and abs(sum(found["share_of_layers"].values()) - 1) < 0.01
    ratios = f"{found['reference_over_fast']:.1f} times less than the reference, and {found['fast_over_ann']:.1f} times"
    assert f"takes the fast engine {ratios} as long as the ANN itself" in page
    others = found["peers_over_fast"]
    assert f"SpikingJelly takes {others['spikingjelly']:.1f} times as long as the fast engine" in page
    assert f"by snnTorch {others['snntorch']:.1f}, by lava-dl's SLAYER {others['slayer']:.0f} times" in page
    assert f"takes {found['validate_over_ann']:.0f} ANNs" in page
    assert f"lie {found['lava']['seconds_beyond_steps']:.1f} s" in page
    commands = found["seconds_of_commands"]
    assert f"takes {commands['--help']:.2f} s, `inspect` {commands['inspect FILE.net']:.2f} s" in page
    avx2 = _result("engines-avx2")
    ratios = f"{avx2['reference_over_fast']:.1f} times less, and {avx2['fast_over_ann']:.1f} times as long"
    assert f"(AVX2 alone, an earlier commit) {ratios}" in page
    assert f"A fused step takes {found['lava']['shared_over_floor']:.2f} of a floor" in page
    number = {2: "two", 4: "four"}
    processes, copies = (number[found["lava"][name]] for name in ("processes", "copies_in_a_process"))
    said = f"each of {processes} processes runs {copies} copies"
    assert said in page and f"it takes {found['lava']['one_copy_over_floor']:.2f} (" in page
    assert f"({avx2['lava']['shared_over_floor']:.2f} on the other processor, before" in page


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


def test_the_page_of_public_models():
    rows = [zoo.Row(**row) for row in json.loads((RESULTS / "zoo.json").read_text())]
    assert zoo.table(rows) in (ROOT / "docs" / "zoo.md").read_text()
    assert not any(row.reference is False or row.lava is False for row in rows)
    assert f"Of {len(rows)} public models {sum(bool(row.converts) for row in rows)} convert unedited" in README


def test_the_headlines_of_the_readme(folds):
    dice = {(row["loss"], row["method"], row["weights"]): row["dice_3d"] for row in summary(folds)}
    text = README.split("## Measured\n")[1].split("\n## ")[0].replace("\n", " ")
    lava, reference, finetune, fuzz = (_result(name) for name in ("lava", "reference", "finetune", "fuzz"))
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):  # https: and the like are not looked up
            path, _, heading = target.partition("#")
            assert not heading, f"{page.name}: {target}: links go to pages, not to headings"
            assert (page.parent / path).resolve().is_relative_to(ROOT) and (page.parent / path).exists(), target


def test_the_readme_is_read_in_five_minutes():
    assert len(README.splitlines()) < README_LINES
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= set(re.findall(r"\]\((.*?)\)", README))


def _result(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _ratios() -> list[str]:
    """The last column of the table of benchmarks, but for broken files."""
    rows = [line for line in BENCHMARKS.splitlines() if line.startswith("| ")]
    assert rows[0] == "| command | what | against | ratio |" and "benchmarks.fuzz" in rows[-1]
    return [row.strip("| ").split(" | ")[-1] for row in rows[1:-1]]


def _cells(name: str) -> list[str]:
    (line,) = [line for line in README.splitlines() if line.strip().startswith(f"│ {name} ")]
    return [cell.strip() for cell in line.strip(" │").split("│")]


def _numbers(word: str, page: str) -> list[str]:
    """Those with two decimals, in the paragraph of a page that has a word."""
    (found,) = [paragraph for paragraph in page.split("\n\n") if word in paragraph]
    return re.findall(r"\d+\.\d\d", found)
