"""Linear maps one after the other, as one synapse."""

from __future__ import annotations

import numpy as np

from export.graph import Conv, ConvT


def after_enlarging(op: Conv, factor: int) -> ConvT:
    """conv(enlarge(x)) as one transposed convolution of stride `factor`, exact also at the borders.

    A pixel m reaches y[factor * m + r - j + p] for every copy r and tap j: kernel factor + k - 1, padding k - 1 - p.
    Raises ValueError where the padding is as wide as the kernel.
    """
    (kh, kw), (ph, pw) = op.weight.shape[2:], op.padding
    if ph >= kh or pw >= kw:
        raise ValueError(
            f"padding {op.padding} of a kernel {(kh, kw)} after Upsample; less than the kernel is supported"
        )
    flipped = op.weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    spread = np.zeros((*flipped.shape[:2], factor + kh - 1, factor + kw - 1), flipped.dtype)
    for r in range(factor):
        for q in range(factor):
            spread[:, :, r : r + kh, q : q + kw] += flipped
    return ConvT(spread, stride=(factor, factor), padding=(kh - 1 - ph, kw - 1 - pw))
