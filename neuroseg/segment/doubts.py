"""Reasons to doubt a mask, each with what was found and what is usual."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import nibabel as nib

from neuroseg.data.intensity import QUIET
from neuroseg.data.locate import SIDES, Side
from neuroseg.data.scan import side_doubts

VOLUMES_MM3 = (1_730, 5_680)
"""Of one hippocampus. "Hippocampal volume measurements using magnetic resonance imaging in normal young adults" gathers
1.73 to 5.68 cm3 from studies by MRI and histology. The Decathlon's 200 have 2,382 to 4,401 mm3. Atrophy may go lower:
this is a reason to look, not a verdict."""
SOURCE = "1.73 to 5.68 cm3 in studies by MRI and histology of healthy people"
FACTOR = 1.5  # between the sides; in healthy people they differ by a tenth
CERTAIN = 0.9  # expected Dice; right masks of heads have 0.92 and more, four of five wrong ones 0.87 and less
VOXEL_MM = 2.0  # longest side


@dataclass(frozen=True)
class Doubt:
    """Why a mask may be wrong. kind: one word; text: a sentence with what was found and what is usual."""

    kind: str
    text: str


def doubts(
    scan: nib.Nifti1Image, volumes_mm3: Mapping[Side, float], certainty: Mapping[Side, float], noise: float
) -> tuple[Doubt, ...]:
    """All reasons to doubt the masks of a scan, by its header, their volumes and the network's certainty.

    certainty: see `masks.expected_dice`. noise: deviation in shares of the range.
    """
    found = [Doubt("header", text) for text in side_doubts(scan)]
    sizes = nib.affines.voxel_sizes(scan.affine)
    if max(sizes) > VOXEL_MM * 1.001:
        shape = " x ".join(f"{size:.3g}" for size in sizes)
        found.append(Doubt("voxels", f"voxels of {shape} mm are coarse; sides up to {VOXEL_MM:g} mm are allowed"))
    if noise > QUIET:
        found.append(Doubt("noise", f"noise of {noise:.0%} of the range was smoothed; up to {QUIET:.0%} is usual"))
    low, high = VOLUMES_MM3
    for side, volume in volumes_mm3.items():
        if not volume:
            found.append(Doubt("missing", f"the {side} hippocampus was not found"))
        elif not low <= volume <= high:
            usual = f"{low:,} to {high:,} mm3 are usual ({SOURCE})"
            found.append(Doubt("volume", f"the {side} hippocampus has {volume:,.0f} mm3; {usual}"))
        if volume and certainty.get(side, 1) < CERTAIN:
            figure = f"{certainty[side]:.2f}, {CERTAIN:g} at least is usual"
            found.append(Doubt("certainty", f"the network is not certain of the {side} hippocampus: {figure}"))
    pair = [volumes_mm3.get(side, 0) for side in SIDES]
    if min(pair) and max(pair) / min(pair) > FACTOR:
        found.append(
            Doubt(
                "sides", f"right and left differ by a factor of {max(pair) / min(pair):.1f}; up to {FACTOR:g} is usual"
            )
        )
    return tuple(found)
