"""Limits of agreement, against their definition."""

from __future__ import annotations

import math

import pytest

from hardware_sim.reporting.bland_altman import Measured, as_json, draw

SUBJECTS, METHODS = ("a", "b", "c", "d"), ("ANN", "hardware")
VOLUME = Measured("volume", "mm³", (1000.0, 2000.0, 1500.0, 900.0), (1010.0, 1980.0, 1530.0, 900.0))


def test_limits_are_the_mean_and_1_96_deviations():
    differences = [10.0, -20.0, 30.0, 0.0]
    mean = sum(differences) / 4
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / 3)  # of a sample
    assert VOLUME.bias == pytest.approx(mean)
    assert VOLUME.limits == pytest.approx((mean - 1.96 * deviation, mean + 1.96 * deviation))


def test_they_are_in_the_report_with_each_subject(tmp_path):
    found = as_json([VOLUME], SUBJECTS, METHODS)
    assert found["quantities"]["volume"]["limits"] == pytest.approx(VOLUME.limits)
    assert found["subjects"]["b"] == {"volume": [2000.0, 1980.0]}
    draw([VOLUME, Measured("Dice", "", (0.9,) * 4, (0.9,) * 4)], METHODS, tmp_path / "agreement.svg")
    assert "<svg" in (tmp_path / "agreement.svg").read_text()


def test_one_subject_has_no_spread():
    alone = Measured("Dice", "", (0.9,), (0.8,))
    assert alone.bias == pytest.approx(-0.1) and all(math.isnan(limit) for limit in alone.limits)
    assert as_json([alone], ["a"], METHODS)["quantities"]["Dice"]["limits"] is None
