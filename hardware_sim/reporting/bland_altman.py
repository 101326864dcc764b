"""How far two methods agree on the same subjects: differences against means, with limits of agreement.

J. M. Bland and D. G. Altman, "Statistical methods for assessing agreement between two methods of clinical measurement",
The Lancet 327, 1986: of differences that are near to normal, 95 % lie within the mean +- 1.96 standard deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only: no display is needed
from matplotlib import pyplot as plt

from hardware_sim.reporting.pictures import BLUE, ORANGE, STYLE, save

ACROSS = 3  # panels beside each other
SHARE = 1.96  # standard deviations on either side that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Measured:
    """One quantity of each subject by two methods. unit: "" for none."""

    name: str
    unit: str
    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def differences(self) -> np.ndarray:
        return np.subtract(self.second, self.first)

    @property
    def bias(self) -> float:
        """The mean of second - first."""
        return float(self.differences.mean())

    @property
    def limits(self) -> tuple[float, float]:
        """Of agreement; NaN of a single subject, which has no spread."""
        spread = SHARE * float(self.differences.std(ddof=1)) if len(self.first) > 1 else float("nan")
        return self.bias - spread, self.bias + spread


def as_json(measured: Sequence[Measured], subjects: Sequence[str], methods: tuple[str, str]) -> dict[str, Any]:
    """Plain values, for report.json: bias and limits of each quantity, and each subject's numbers."""
    return {
        "methods": list(methods),
        "quantities": {
            m.name: {"unit": m.unit, "bias": m.bias, "limits": list(m.limits) if len(subjects) > 1 else None}
            for m in measured
        },
        "subjects": {
            subject: {m.name: [m.first[k], m.second[k]] for m in measured} for k, subject in enumerate(subjects)
        },
    }


def draw(measured: Sequence[Measured], methods: tuple[str, str], path: Path) -> None:
    """A panel a quantity: each subject's difference against its mean, the bias, and the limits."""
    with plt.rc_context(STYLE):
        across = min(len(measured), ACROSS)
        down = -(-len(measured) // across)
        figure, axes = plt.subplots(down, across, figsize=(4.2 * across, 3 * down), squeeze=False)
        for axis in axes.flat[len(measured) :]:
            axis.set_axis_off()
        for axis, quantity in zip(axes.flat, measured, strict=False):
            unit = f" ({quantity.unit})" if quantity.unit else ""
            means = np.add(quantity.first, quantity.second) / 2
            axis.plot(means, quantity.differences, "o", color=BLUE, markersize=4, alpha=0.8)
            axis.axhline(quantity.bias, color=ORANGE, linewidth=1.2)
            for limit in quantity.limits:
                axis.axhline(limit, color=ORANGE, linewidth=1.2, linestyle="--")
            axis.set_xlabel(f"{quantity.name}, mean of both{unit}")
            axis.set_ylabel(f"{methods[1]} - {methods[0]}{unit}")
        figure.tight_layout()
        save(figure, path)
