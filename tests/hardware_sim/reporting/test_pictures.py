"""Masks side by side, as a picture."""

from __future__ import annotations

import numpy as np

from hardware_sim.reporting.pictures import draw_masks, mask_rows
from tests.neuroseg.experiments.test_figures import pixels
from tests.neuroseg.training.test_training import blobs


def test_masks_show_where_they_differ_from_the_truth(tmp_path):
    (subject,) = blobs(1)
    wrong = np.roll(subject.mask, 2, axis=1)
    draw_masks(mask_rows(subject.image, subject.mask, {"same": subject.mask}, slices=2), tmp_path / "same.png")
    draw_masks(mask_rows(subject.image, subject.mask, {"wrong": wrong}, slices=2), tmp_path / "wrong.png")

    def blue_or_orange(path):  # neither grey nor green
        return any(abs(r - b) > 60 and g < max(r, b) for r, g, b in pixels(path))

    assert blue_or_orange(tmp_path / "wrong.png") and not blue_or_orange(tmp_path / "same.png")
    assert {path.name for path in tmp_path.iterdir()} == {"same.png", "wrong.png"}
