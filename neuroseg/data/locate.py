"""Where the hippocampi of a scan are: by alignment to the template, by a mask, by the user, or in a crop's middle."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import nibabel as nib
import numpy as np

from neuroseg.data.align import HIPPOCAMPI, Alignment, align
from neuroseg.data.pairs import MIN_GAP, MIN_VOXELS, OFF_CENTRE
from neuroseg.data.volume import ScanError

log = logging.getLogger(__name__)

Side = Literal["right", "left"]
SIDES: tuple[Side, ...] = ("right", "left")

CROP_MM = 80.0  # a scan with no longer side is a crop: a brain has more, the Decathlon's crops have 59 at most
HALF_MM = (12.0, 22.0, 16.0)  # of a hippocampus: it has to lie in the scan

# Measured on four T1 heads (one person with and without skull, two averages), turned up to 25 degrees, stretched 0.85
# to 1.15 along each axis, with noise, bias, other contrast, oblique grids, LAS, 0.8 mm and 1.2 mm slices; against heads
# with wrong axes, inverted contrast, no temporal lobes or in half, a macaque, noise, an ellipsoid, blobs. One of
# 20 such heads was refused (with skull, a strong bias field and 10 % noise), and an 80 mm slab of the one with skull.
MIN_LIKENESS = 0.4  # heads 0.58 to 0.88; others up to 0.34, those without temporal lobes up to 0.53
MIN_HIPPOCAMPI = 0.5  # heads 0.63 to 0.94; others up to 0.15, those without temporal lobes up to 0.30
SCALES = (0.7, 1.4)  # of the template; heads 0.85 to 1.19, the macaque 0.57

# A head that lies askew by less is cut along the scan's axes, as training data are, and needs no interpolation.
TURN_DEG = 5.0


@dataclass(frozen=True)
class Place:
    """Where a hippocampus is: its centre in world mm (RAS), and the axes (3, 3) of the box to cut around it.

    The columns of axes are the patient's right, anterior and superior in the world of the scan: the identity where
    only the header knows. They come from the alignment: networks bear a head that lies askew badly.
    """

    centre: tuple[float, float, float]
    axes: np.ndarray = field(default_factory=lambda: np.eye(3))


Places = dict[Side, Place]


def find(
    scan: nib.Nifti1Image,
    *,
    side: Side | None = None,
    boxes: Sequence[Sequence[float]] = (),
    mask: nib.Nifti1Image | None = None,
) -> Places:
    """Where the hippocampi are: where a mask or the centres of boxes (world mm) say, else by crop or alignment.

    side: the only one wanted, None for both; of a crop None is right, as it cannot be seen. Raises ScanError where the
    chosen way fails, for both a mask and boxes, and for two boxes on one side.
    """
    if mask is not None and boxes:
        raise ScanError("a mask and a box were given to say where the hippocampus is; one of them is allowed")
    if mask is not None:
        return by_mask(mask, scan, side=side)
    if boxes:
        given = [by_box(centre, scan, side=side) for centre in boxes]
        found: Places = {s: place for places in given for s, place in places.items()}
        if len(found) < len(boxes):
            raise ScanError(f"{len(boxes)} boxes for the {' and the '.join(found)} hippocampus; one a side is allowed")
        return found
    if is_crop(scan):
        if side is None:
            log.warning("the scan is a crop; which side it shows cannot be seen, so it is taken for the right one")
        return by_crop(scan, side=side or "right")
    found = by_alignment(scan)
    return {side: found[side]} if side else found


def is_crop(scan: nib.Nifti1Image) -> bool:
    """Whether a scan is too small to hold a brain, so that it can only be a crop around one hippocampus."""
    return bool((np.array(scan.shape) * nib.affines.voxel_sizes(scan.affine) <= CROP_MM).all())


def by_crop(scan: nib.Nifti1Image, *, side: Side = "right") -> Places:
    """The middle of a crop. Which side it shows cannot be seen: a mirrored left hippocampus looks like a right one."""
    turn = nib.orientations.io_orientation(scan.affine)
    middle = np.array(scan.shape) // 2  # as `data.volume.fit_box` counts
    flipped = turn[:, 1] < 0
    return {side: Place(_point(scan.affine, np.where(flipped, np.array(scan.shape) - 1 - middle, middle)))}


def by_box(centre: Sequence[float], scan: nib.Nifti1Image, *, side: Side | None = None) -> Places:
    """The centre of one hippocampus that the user gives, in world mm (RAS). side: default by its place in the head.

    Raises ScanError for a place outside the scan, or too near to the middle to tell its side.
    """
    if not _holds(scan, centre):
        corners = nib.affines.apply_affine(
            scan.affine, np.array(list(np.ndindex(2, 2, 2))) * (np.array(scan.shape) - 1)
        )
        raise ScanError(
            f"the centre {_text(centre)} mm lies outside the scan, which spans {_text(corners.min(axis=0))} to "
            f"{_text(corners.max(axis=0))} mm"
        )
    return {side or _side(centre, scan): Place(_point(np.eye(4), centre))}


def by_mask(mask: nib.Nifti1Image, scan: nib.Nifti1Image, *, side: Side | None = None) -> Places:
    """The middles of the bounding boxes of what a mask holds, on any grid in the scan's world.

    Two parts with a gap of MIN_GAP mm between them are the right and the left hippocampus; one part is `side`, by
    default what its place in the head says. Raises ScanError for an empty mask, and like `by_box`.
    """
    places = nib.affines.apply_affine(mask.affine, np.argwhere(np.asanyarray(mask.dataobj) > 0))
    if not len(places):
        raise ScanError("the mask that says where the hippocampus is holds no voxel above 0")
    x = np.sort(places[:, 0])
    widest = int(np.diff(x).argmax()) if len(x) > 1 else 0
    split = x[widest : widest + 2].mean()
    parts = [places[places[:, 0] > split], places[places[:, 0] <= split]]
    voxel = float(np.prod(nib.affines.voxel_sizes(mask.affine)))
    apart = len(x) > 1 and x[widest + 1] - x[widest] >= MIN_GAP
    if apart and min(len(part) for part in parts) * voxel >= MIN_VOXELS:  # else a speck, not the other side
        both: Places = {s: by_box(_middle(part), scan, side=s)[s] for s, part in zip(SIDES, parts, strict=True)}
        return both if side is None else {side: both[side]}
    return by_box(_middle(max(parts, key=len) if apart else places), scan, side=side)


def by_alignment(scan: nib.Nifti1Image) -> Places:
    """Both hippocampi of a whole head, with or without its skull, by alignment to the MNI152 template.

    Raises ScanError where the alignment failed, with the figure and what is allowed, or where a hippocampus lies
    outside the scan. A scan whose header takes left for right looks like any other: that cannot be seen.
    """
    alignment = check_alignment(align(scan))
    turn = alignment.rotation
    straight = np.rad2deg(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))) < TURN_DEG
    axes = np.eye(3) if straight else turn
    places: Places = {s: Place(_point(alignment.matrix, HIPPOCAMPI[s]), axes) for s in SIDES}
    corners = (np.array(list(np.ndindex(2, 2, 2))) * 2 - 1) * HALF_MM
    for s in SIDES:
        if not _holds(scan, nib.affines.apply_affine(alignment.matrix, np.array(HIPPOCAMPI[s]) + corners)):
            raise ScanError(
                f"the {s} hippocampus, around {_text(places[s].centre)} mm by alignment to MNI152, does not lie in the "
                "scan whole"
            )
    return places


def check_alignment(alignment: Alignment) -> Alignment:
    """Return an alignment that can be trusted, else raise ScanError naming the figure and what is allowed."""
    figures = (
        ("over the brain", alignment.likeness, MIN_LIKENESS),
        ("around the hippocampi", alignment.hippocampi, MIN_HIPPOCAMPI),
    )
    hint = (
        "give the place with a box or a mask, or check the header's orientation; only T1-weighted heads can be aligned"
    )
    for where, found, limit in figures:
        if not found >= limit:
            raise ScanError(
                f"the scan could not be aligned to the MNI152 template: correlation {where} is {found:.2f}, "
                f"{limit:g} at least are allowed; {hint}"
            )
    low, high = SCALES
    if alignment.scales[0] < low or alignment.scales[1] > high:
        smallest, largest = alignment.scales
        raise ScanError(
            f"the scan could not be aligned to the MNI152 template: it was stretched {smallest:.2f} to {largest:.2f} "
            f"times, {low} to {high} are allowed; {hint}"
        )
    return alignment


def _side(centre: Sequence[float], scan: nib.Nifti1Image) -> Side:
    """Which side a place is on, by the middle of the scan."""
    middle = nib.affines.apply_affine(scan.affine, (np.array(scan.shape) - 1) / 2)[0]
    if abs(centre[0] - middle) < OFF_CENTRE:
        raise ScanError(
            f"x = {centre[0]:.0f} mm is too near to the middle of the scan, {middle:.0f} mm, to tell right from left; "
            "name the side"
        )
    return "right" if centre[0] > middle else "left"


def _holds(scan: nib.Nifti1Image, points: Sequence[float] | np.ndarray) -> bool:
    """Whether points (..., 3) in world mm lie in voxels of a scan."""
    voxels = nib.affines.apply_affine(np.linalg.inv(scan.affine), np.asarray(points, float))
    return bool(((voxels >= -0.5) & (voxels <= np.array(scan.shape) - 0.5)).all())


def _middle(places: np.ndarray) -> tuple[float, ...]:
    return tuple(((places.min(axis=0) + places.max(axis=0)) / 2).tolist())


def _point(affine: np.ndarray, place: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    x, y, z = nib.affines.apply_affine(affine, place).tolist()
    return x, y, z


def _text(place: Sequence[float] | np.ndarray) -> str:
    return "(" + ", ".join(f"{x:.0f}" for x in place) + ")"
