"""What unmodified NetX and Lava make of the weights of dense layers: MATRICES.npz OUTPUT.npz. A process of its own."""

import sys

import numpy as np

from hardware_sim.lava_backend.compat import mend

mend()  # before Lava is imported for the first time

from lava.lib.dl.netx.utils import optimize_weight_bits
from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights

if __name__ == "__main__":
    made = {}
    for name, weight in np.load(sys.argv[1]).items():
        wide, bits, exponent, _ = optimize_weight_bits(weight)
        sign = determine_sign_mode(wide)  # as PyDenseModelBitAcc does
        kept = truncate_weights(clip_weights(wide, sign, num_bits=8), sign, bits)
        made[name] = kept * 2.0**exponent
    np.savez(sys.argv[2], **made)
