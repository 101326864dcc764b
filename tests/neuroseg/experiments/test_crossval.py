"""Folds, their rows and tables, resuming; activity against a naive count."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from neuroseg.cli.console import console
from neuroseg.cli.results import crossval_tables
from neuroseg.conversion.convert import convert
from neuroseg.experiments.crossval import Recipe, Variant, make_folds, run_fold
from neuroseg.experiments.scoring import converged
from neuroseg.experiments.tables import check_folds, load_folds, markdown, summary, write_tables
from neuroseg.runs import Run, RunError, load_snn
from neuroseg.spiking.activity import ann_operations, measure
from neuroseg.spiking.encode import encode
from neuroseg.training.finetune import FinetuneConfig
from neuroseg.training.loop import Epoch
from neuroseg.training.train import TrainConfig
from neuroseg.training.unet import UNet, UNetConfig
from tests.neuroseg.training.test_training import blobs

MODEL = UNetConfig(channels=(3, 4), dropout=0.1)
VARIANTS = (
    Variant("paper", 12, balance="threshold", encoder="poisson", deployed=False),
    Variant("tuned", 4, finetuned=True),
)


@contextmanager
def quiet(what):
    yield lambda step: None


def run(fold, folder, **changes):
    recipe = Recipe(
        "blobs",
        model=MODEL,
        config=TrainConfig(epochs=2, warm_up=5),
        tuning=FinetuneConfig(epochs=1),
        variants=VARIANTS,
    )
    return run_fold(fold, folder, replace(recipe, **changes), bar=quiet)


def test_every_subject_is_tested_on_once_and_never_trained_on():
    subjects = blobs(11)
    folds = make_folds(subjects, folds=3, seed=1)
    assert sorted(s.id for fold in folds for s in fold.test) == sorted(s.id for s in subjects)
    for fold in folds:
        groups = [{s.id for s in part} for part in (fold.training, fold.validation, fold.test)]
        assert all(groups) and sum(len(group) for group in groups) == len(set.union(*groups)) == 11
    again = make_folds(subjects, folds=3, seed=1)
    assert [[s.id for s in fold.test] for fold in folds] == [[s.id for s in fold.test] for fold in again]
    with pytest.raises(ValueError, match="6 folds of 11 subjects; 2 to 5 are possible"):
        make_folds(subjects, folds=6, seed=0)


def test_a_fold_gives_its_rows_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    fold = make_folds(blobs(8), folds=2, seed=0)[0]
    result = run(fold, tmp_path / "fold1-dice")
    assert [(row["method"], row.get("weights")) for row in result["rows"]] == [
        ("ann", None),
        ("paper", "float"),
        ("tuned", "float"),
        ("tuned", "int8"),
    ]
    for row in result["rows"]:
        assert set(row["subjects"]) == {s.id for s in fold.test}
        assert row["dice"]["3d"] == pytest.approx(np.mean([one["3d"] for one in row["subjects"].values()]))
    assert json.loads((tmp_path / "fold1-dice.json").read_text()) == json.loads(json.dumps(result))
    network, notes = load_snn(Run(tmp_path / "fold1-dice" / "tuned").snn)
    assert network.timesteps == 4 and "finetuned" in notes

    rows = tmp_path / "fold1-dice" / "tuned" / "rows.json"
    rows.unlink()  # as if stopped before its end
    with pytest.raises(RunError, match="tuned holds another variant"):
        run(fold, tmp_path / "fold1-dice", variants=(Variant("tuned", 8, finetuned=True),))
    monkeypatch.setattr("neuroseg.experiments.crossval.train", None)  # the ANN is not trained again
    monkeypatch.setattr(
        "neuroseg.experiments.crossval.calibrated", None
    )  # nor converted, which other threads may do otherwise
    again = run(fold, tmp_path / "fold1-dice")
    for one, other in zip(again["rows"], result["rows"], strict=True):
        assert one["dice"] == other["dice"] and one["subjects"] == other["subjects"]
    with pytest.raises(RunError, match=r"rows\.json holds a network with variant timesteps = 4, where 8 is asked for"):
        run(fold, tmp_path / "fold1-dice", variants=(Variant("tuned", 8, finetuned=True),))
    with pytest.raises(RunError, match=r"rows\.json holds a network with tuning epochs = 1, where 2 is asked for"):
        run(fold, tmp_path / "fold1-dice", tuning=FinetuneConfig(epochs=2))
    rows.write_text(json.dumps([{"method": "tuned", "timesteps": 4}]))
    with pytest.raises(RunError, match=r"rows\.json is of an earlier version"):
        run(fold, tmp_path / "fold1-dice")
    with pytest.raises(RunError, match="holds a run with other settings"):
        run(fold, tmp_path / "fold1-dice", config=TrainConfig(epochs=3))


def test_classes_neighbours_and_graded_spikes_have_their_rows(tmp_path):
    subjects = [replace(s, mask=s.mask * (1 + (np.arange(8) > 3)).astype(np.uint8)) for s in blobs(8)]
    fold = make_folds(subjects, folds=2, seed=0)[0]
    variants = (Variant("tuned", 4, finetuned=True), Variant("graded", 1, sigma_delta=True))
    model = replace(MODEL, in_channels=3)
    result = run(fold, tmp_path / "fold1-dice", variants=variants, labels={"left": 1, "right": 2}, model=model)
    assert [(row["method"], row.get("weights")) for row in result["rows"]] == [
        ("ann", None),
        ("tuned", "float"),
        ("tuned", "int8"),
        ("graded", "int8"),
    ]
    assert Run(tmp_path / "fold1-dice" / "graded").load_settings().class_names == ("background", "left", "right")
    for row in result["rows"]:
        assert set(row["dice"]) == {"3d", "2d", "3d left", "3d right", "3d mean"}
    assert result["rows"][2]["energy"]["dynamic"] > 0 and "energy" not in result["rows"][3]
    ann, graded = result["rows"][0], result["rows"][3]
    assert graded["dice"]["3d mean"] == pytest.approx(ann["dice"]["3d mean"], abs=0.05)
    rows = write_tables(load_folds(tmp_path), tmp_path)
    assert (tmp_path / "costs-dice.svg").stat().st_size > 1000
    head = (tmp_path / "table.md").read_text().splitlines()[0]
    assert "| 3D Dice | 2D Dice | 3D left | 3D right | 3D mean |" in head and "mJ a slice" in head
    assert rows[0]["dice_3d left"] == pytest.approx(100 * ann["dice"]["3d left"])


def test_tables_have_mean_and_deviation_over_folds(tmp_path):
    def fold(score, number):
        row = {"method": "tuned", "weights": "int8", "dice": {"3d": score, "2d": score / 2}, "operations": 2e6}
        return {"fold": number, "loss": "dice", "rows": [{**row, "epochs": 3, "rate": 0.1}]}

    folds = [fold(0.8, 1), fold(0.9, 2)]
    (row,) = summary(folds)
    assert row["dice_3d"] == pytest.approx(85) and row["sd_3d"] == pytest.approx(100 * np.std([0.8, 0.9], ddof=1))
    assert "| dice | tuned | int8 | 2 | 85.00 ± 7.07 | 42.50 ± 3.54 | 3.0 | 0.100 | 2.00 |" in markdown([row])
    write_tables(folds, tmp_path)
    assert (tmp_path / "table.csv").read_text().startswith("loss,method,weights,folds,dice_3d")
    assert (tmp_path / "table.md").read_text() == markdown([row])
    (table,) = crossval_tables([row])
    with console.capture() as shown:
        console.print(table, width=80)
    assert "tuned" in shown.get() and "85.00 ± 7.07" in shown.get()

    (alone,) = summary([fold(0.8, 1)])
    assert alone["sd_3d"] is None and "| 80.00 | 40.00 |" in markdown([alone])


def test_folds_of_different_runs_are_not_averaged():
    def fold(number, **changes):
        settings = {"seed": 0, "training": [], "validation": [], "test": [f"s{number}"], **changes}
        rows = [{"method": "tuned", "variant": {}, "tuning": {"epochs": 6}}]
        return {"fold": number, "loss": "dice", "settings": settings, "rows": rows}

    check_folds([fold(1), fold(2)])
    check_folds([fold(1, classes=[]), {**fold(2), "rows": []}])  # of a version that knew fewer networks
    check_folds([fold(1, train={"epochs": 20}), fold(2, train={"epochs": 20, "precision": "float32"})])  # or choices
    tuned = {**fold(2), "rows": [{"method": "tuned", "variant": {}, "tuning": {"epochs": 9}}]}
    for other in (fold(2, seed=1), fold(2, train={"precision": "bfloat16"}), fold(2, test=["s1"]), tuned):
        with pytest.raises(RunError, match="folds 1, 2 of loss dice are of different runs"):
            check_folds([fold(1), other])


def test_a_file_that_is_no_fold_is_named_and_others_are_left_alone(tmp_path):
    (tmp_path / "fold1-lava-fused.json").write_text("{}")
    assert load_folds(tmp_path) == []
    for loss in ("dice", "bce-dice"):
        fold = {"fold": 1, "loss": loss, "rows": [], "settings": {"test": []}}
        (tmp_path / f"fold1-{loss}.json").write_text(json.dumps(fold))
    assert [fold["loss"] for fold in load_folds(tmp_path)] == ["dice", "bce-dice"]
    (tmp_path / "fold1-dice.json").write_text("{}")
    with pytest.raises(RunError, match=r"fold1-dice\.json: not a fold"):
        load_folds(tmp_path)


def test_converged_is_the_first_epoch_as_good_as_the_best():
    history = [Epoch(k, 0.0, score, 0.0) for k, score in enumerate((0.5, 0.88, 0.8815, 0.883), start=1)]
    assert converged(history) == 3


def test_rates_and_operations_against_counting_one_by_one():
    torch.manual_seed(0)
    network = convert(UNet(UNetConfig(channels=(2, 3), dropout=0.0)), (1, 4, 6), timesteps=5)
    images = torch.rand(3, 1, 4, 6)
    found = measure(network, images)
    activity = network.record(encode(images, timesteps=5), quantized=False)
    spikes = {"input": encode(images, timesteps=5), **activity.spikes}
    for name, rate in found.rates.items():
        assert rate == pytest.approx(float(spikes[name].mean()))

    def crossed(x, outputs, k):  # a spike at (h, w) reaches `outputs` channels of every neighbour on the grid
        height, width = x.shape[-2:]
        reach = [[(min(h + k, height - 1) - max(h - k, 0) + 1) for h in range(height)],
                 [(min(w + k, width - 1) - max(w - k, 0) + 1) for w in range(width)]]  # fmt: skip
        return float((x * torch.outer(*(torch.tensor(r, dtype=torch.float32) for r in reach))).sum()) * outputs

    def pooled(x):
        return torch.nn.functional.avg_pool2d(x.flatten(0, 1), 2, divisor_override=1)

    expected = (
        crossed(spikes["input"], 2, 1)
        + crossed(spikes["enc_0_conv1"], 2, 1)
        + crossed(pooled(spikes["enc_0_conv2"]), 3, 1)
        + crossed(spikes["enc_1_conv1"], 3, 1)
        + float(spikes["enc_1_conv2"].sum()) * 2 * 4  # 2x2 transposed convolution: four targets in each channel
        + crossed(spikes["enc_0_conv2"], 2, 1)
        + crossed(spikes["up_0"], 2, 1)
        + crossed(spikes["dec_0_conv1"], 2, 1)
        + float(spikes["dec_0_conv2"].sum())
    )
    assert found.operations == pytest.approx(expected / 3)


def test_operations_of_the_ann_are_its_multiplications():
    network = convert(torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3, bias=False)), (2, 5, 6))
    assert ann_operations(network) == 3 * 4 * 3 * 2 * 9
