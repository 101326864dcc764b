"""What stock NetX makes of the weights of dense layers, which it fits into a synapse's bits.

Of lava-dl 0.6.0 and lava-nc 0.10.0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from export.limits import ONE_SIGN_MAX, WEIGHT_MIN

BITS = 8


def run_weights(matrices: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The weights that a dense layer of stock NetX runs, float64, of integer ones; NaN where they are too large.

    matrices: one, or of a recurrent layer two. NetX chooses an exponent and a number of bits for all of them
    (lava/lib/dl/netx/utils.py, optimize_weight_bits); for each Lava then finds the sign by itself, clips and cuts
    (lava/proc/dense/models.py; lava/utils/weightutils.py, clip_weights and truncate_weights). The two differ on what
    has no weight above 0: NetX makes the least weight -256, or takes a 0 beside it for mixed signs; Lava, with one
    sign, holds -255 and cuts the place that NetX kept for the other.
    """
    low, high = min(int(each.min()) for each in matrices), max(int(each.max()) for each in matrices)
    if low == high == 0:
        return [each.astype(np.float64) for each in matrices]
    mixed = low < 0 <= high
    reach = -256 / low if high < 0 else 255 / high if high else math.inf
    if mixed:
        reach = min(127 / high if high else math.inf, -128 / low)
    exponent = math.floor(math.log2(reach)) + mixed
    if exponent < 0:
        return [np.full(each.shape, np.nan) for each in matrices]
    even = next(k for k in range(BITS, -1, -1) if not any((each % 2**k).any() for each in matrices))  # unused places
    return [_cut(each, exponent, exponent + even - mixed) for each in matrices]


def _cut(weight: np.ndarray, exponent: int, unused: int) -> np.ndarray:
    """What Lava makes of weights << exponent, of which `unused` places of 8 are not stored."""
    inhibits, excites = int(weight.max()) <= 0, int(weight.min()) >= 0
    wide = weight.astype(np.int64) << exponent
    if excites:  # of weights that are all 0, too
        return _kept(np.minimum(wide, ONE_SIGN_MAX), exponent, unused)
    if inhibits:
        return -_kept(np.minimum(-wide, ONE_SIGN_MAX), exponent, unused)
    return _kept(np.clip(wide, WEIGHT_MIN, ONE_SIGN_MAX), exponent, unused + 1)


def _kept(wide: np.ndarray, exponent: int, unused: int) -> np.ndarray:
    if unused < 0:  # more bits than there are: a shift by a negative number, of which numpy makes 0
        return np.zeros(wide.shape)
    return np.ldexp(((wide >> unused) << unused).astype(np.float64), -exponent)


def keeps(*matrices: np.ndarray) -> bool:
    """Whether stock NetX runs the weights of a dense layer, or both matrices of a recurrent one, as they are.

    Of those that fit Loihi: one with a weight above 0 it always keeps.
    """
    if len(matrices) == 1 and matrices[0].max() > 0:
        return True
    values = [np.unique(each) for each in matrices]  # large layers have few
    return all((made == each).all() for made, each in zip(run_weights(values), values, strict=True))
