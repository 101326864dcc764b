"""Segment a scan: cut a box around each hippocampus, predict it, put the answer back into the scan's own grid."""

from neuroseg.segment.masks import LABELS, THRESHOLD, Predict, Segmentation, segment
from neuroseg.segment.outputs import check_name, save
from neuroseg.segment.regions import BOX, Region, cut

__all__ = [
    "BOX",
    "LABELS",
    "THRESHOLD",
    "Predict",
    "Region",
    "Segmentation",
    "check_name",
    "cut",
    "save",
    "segment",
]
