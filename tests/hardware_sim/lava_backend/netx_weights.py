"""What unmodified NetX and Lava make of the weights of dense layers: MATRICES.npz OUTPUT.npz. A process of its own.

Each matrix in two halves, side by side, as those of a recurrent layer.
"""

import sys

import numpy as np

from hardware_sim.lava_backend.compat import mend

mend()  # before Lava is imported for the first time

from lava.lib.dl.netx.utils import optimize_weight_bits
from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights


def run(parts: list[np.ndarray]) -> np.ndarray:
    """As NetX's create_dense, then PyDenseModelBitAcc, of each part by itself."""
    wide, bits, exponent, _ = optimize_weight_bits(np.hstack(parts))
    made = []
    for part in np.split(wide, np.cumsum([part.shape[1] for part in parts])[:-1], axis=1):
        sign = determine_sign_mode(part)
        made.append(truncate_weights(clip_weights(part, sign, num_bits=8), sign, bits) * 2.0**exponent)
    return np.hstack(made)


if __name__ == "__main__":
    made = {}
    for name, weight in np.load(sys.argv[1]).items():
        made[f"one {name}"] = run([weight])
        made[f"two {name}"] = run(np.hsplit(weight, 2))
    np.savez(sys.argv[2], **made)
