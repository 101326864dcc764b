"""Figures are drawn, whole, and show what they are given."""

from __future__ import annotations

import matplotlib.image
import numpy as np

from neuroseg.figures import Curve, draw_curves, draw_layers, draw_masks, mask_rows
from tests.neuroseg.test_training import blobs


def pixels(path):
    image = matplotlib.image.imread(path)[..., :3]
    return {tuple(colour) for colour in np.round(image.reshape(-1, 3) * 255).astype(int)}


def test_masks_show_where_they_differ_from_the_truth(tmp_path):
    (subject,) = blobs(1)
    wrong = np.roll(subject.mask, 2, axis=1)
    draw_masks(mask_rows(subject, {"same": subject.mask}, slices=2), tmp_path / "same.png")
    draw_masks(mask_rows(subject, {"wrong": wrong}, slices=2), tmp_path / "wrong.png")

    def blue_or_orange(path):  # neither grey nor green
        return any(abs(r - b) > 60 and g < max(r, b) for r, g, b in pixels(path))

    assert blue_or_orange(tmp_path / "wrong.png") and not blue_or_orange(tmp_path / "same.png")
    assert not list(tmp_path.glob("*.part"))


def test_layers_and_curves_are_drawn(tmp_path):
    before, after = {"a": 0.1, "b": 0.2}, {"a": 0.15, "b": 0.1}
    draw_layers(before, after, {"a": (100, 120), "b": (90, 80)}, tmp_path / "layers.png")
    curves = [Curve("converted", [2, 8], [10.0, 80.0]), Curve("converted", [2, 8], [5.0, 60.0], dashed=True)]
    draw_curves(curves, ann=90.0, path=tmp_path / "curves.png")
    assert len(pixels(tmp_path / "layers.png")) > 2 and len(pixels(tmp_path / "curves.png")) > 2
