"""What stock NetX makes of the weights of dense layers, which it fits into a synapse's bits.

Of lava-dl 0.6.0 and lava-nc 0.10.0.
"""

from __future__ import annotations

import math

import numpy as np

from export.limits import ONE_SIGN_MAX, WEIGHT_MIN

BITS = 8


def run_weight(weight: np.ndarray) -> np.ndarray:
    """The weights that a dense layer of stock NetX runs, float64, of integer ones; NaN where they are too large.

    NetX chooses an exponent and a number of bits (lava/lib/dl/netx/utils.py, optimize_weight_bits); Lava then finds the
    sign by itself, clips and cuts (lava/proc/dense/models.py; lava/utils/weightutils.py, clip_weights and
    truncate_weights). The two differ on what has no weight above 0: NetX makes the least weight -256, or takes a weight
    of 0 beside it for mixed signs; Lava, with one sign, holds -255 and cuts the place that NetX kept for the other.
    """
    low, high = int(weight.min()), int(weight.max())
    if low == high == 0:
        return weight.astype(np.float64)
    mixed = low < 0 <= high
    reach = -256 / low if high < 0 else 255 / high if high else math.inf
    if mixed:
        reach = min(127 / high if high else math.inf, -128 / low)
    exponent = math.floor(math.log2(reach)) + mixed
    if exponent < 0:
        return np.full(weight.shape, np.nan)
    even = next(k for k in range(BITS, -1, -1) if not (weight % 2**k).any())  # places that no weight uses
    wide = np.ldexp(weight.astype(np.float64), exponent).astype(np.int64)
    one_sign, lowers = high <= 0 or low >= 0, high <= 0
    wide = np.clip(wide, -ONE_SIGN_MAX if lowers else WEIGHT_MIN, 0 if lowers else ONE_SIGN_MAX)
    cut = exponent + even - mixed + (not one_sign)
    size = abs(wide) if lowers else wide
    kept = (size >> cut) << cut
    return np.ldexp((-kept if lowers else kept).astype(np.float64), -exponent)


def keeps(weight: np.ndarray) -> bool:
    """Whether stock NetX runs the weights of a dense layer as they are."""
    return bool((run_weight(weight) == weight).all())


def keeps_both(weight: np.ndarray, recurrent: np.ndarray) -> bool:
    """Whether NetX runs both matrices of a dense_rec layer as they are: it scales them as one, and cuts each by itself.

    netx/utils.py, optimize_weight_bits, and lava/utils/weightutils.py: -256 is what no synapse of one sign holds.
    """
    both = (weight, recurrent)
    if any((one % 2).any() for one in both):
        return False
    low, high = min(one.min() for one in both), max(one.max() for one in both)
    mixed = low < 0 <= high
    if not mixed:
        return low >= -ONE_SIGN_MAX and high <= ONE_SIGN_MAX
    reach = min(127 / high if high else math.inf, -128 / low)
    if reach < 0.5:
        return False
    scale = 2 ** (math.floor(math.log2(reach)) + 1)
    return all(one.max() > 0 or one.min() * scale >= -ONE_SIGN_MAX for one in both)
