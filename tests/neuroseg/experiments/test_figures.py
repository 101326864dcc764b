"""Figures are drawn, whole, and show what they are given."""

from __future__ import annotations

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest

from neuroseg.experiments.figures import Curve, Priced, draw_costs, draw_curves, draw_layers


def pixels(path):
    image = matplotlib.image.imread(path)[..., :3]
    return {tuple(colour) for colour in np.round(image.reshape(-1, 3) * 255).astype(int)}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written, still open."""
    close, figures = plt.close, []
    monkeypatch.setattr(plt, "close", figures.append)
    yield figures
    for figure in figures:
        close(figure)


def test_layers_show_rates_and_thresholds_before_and_after(tmp_path, drawn):
    before, after = {"a": 0.1, "b": 0.2}, {"a": 0.15, "b": 0.1}
    draw_layers(before, after, {"a": (100, 120), "b": (90, 80)}, tmp_path / "layers.png")
    top, bottom = drawn[0].axes
    assert [bar.get_height() for bar in top.patches] == [0.1, 0.2, 0.15, 0.1]
    assert [bar.get_height() for bar in bottom.patches] == [100, 90, 120, 80]
    assert [label.get_text() for label in bottom.get_xticklabels()] == ["a", "b"]
    assert len(pixels(tmp_path / "layers.png")) > 2


def test_costs_show_each_network_where_its_energy_is_known(tmp_path, drawn):
    networks = [Priced("T8", 90.0, 9e7, 2e-3), Priced("sigma-delta", 91.0, 3e7, None)]
    draw_costs(networks, ann=Priced("ann", 91.5, 3e8, None), path=tmp_path / "costs.svg")
    energy, operations = ([line.get_xydata().tolist()[0] for line in axis.lines] for axis in drawn[0].axes)
    assert energy[0] == [2, 90] and operations[:2] == [[90, 90], [30, 91]] and [300, 91.5] in operations
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["T8"]
    for axis, most in zip(drawn[0].axes, (2, 300), strict=True):
        assert axis.get_xlim()[0] == 0 and axis.get_xlim()[1] > 1.1 * most


def test_curves_show_dice_against_time_steps(tmp_path, drawn):
    curves = [Curve("converted", [2, 8], [10.0, 80.0]), Curve("converted", [2, 8], [5.0, 60.0], dashed=True)]
    draw_curves(curves, ann=90.0, path=tmp_path / "curves.png")
    rate, poisson, ann = drawn[0].axes[0].lines
    assert rate.get_xydata().tolist() == [[2, 10], [8, 80]] and rate.get_linestyle() == "-"
    assert poisson.get_xydata().tolist() == [[2, 5], [8, 60]] and poisson.get_linestyle() == "--"
    assert set(ann.get_ydata()) == {90.0}
    assert len(pixels(tmp_path / "curves.png")) > 2
