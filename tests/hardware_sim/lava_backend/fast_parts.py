"""Run a network of Lava's own processes with stock and with fast models: SEED OUT.npz. A process of its own.

OUT: for each LIF, its spikes over time as stock0, fast0, ...; `models`, the model classes that ran in the fast one.
"""

import sys

import numpy as np

from hardware_sim.lava_backend.compat import mend

mend()  # before Lava is imported for the first time

from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg, RunConfig
from lava.proc.conv.process import Conv
from lava.proc.dense.process import Dense
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source
from lava.proc.lif.process import LIF, LIFReset
from lava.proc.sparse.process import Sparse
from scipy.sparse import csr_matrix

from hardware_sim.lava_backend.fast import fast_run_config

STEPS = 30
FLAT = 4 * 3 * 6


def simulate(seed: int, config: RunConfig) -> tuple[list[np.ndarray], list[str]]:
    """Leaky neurons with bias behind a grouped, strided convolution, a sparse and a dense matrix with exponents.

    Half-way weights are set anew (not the sparse matrix, which Lava cannot). The second neurons have their own decays.
    """
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return rng.integers(-100, 127, shape)

    source = Source(data=(rng.random((7, 5, 4, STEPS)) < 0.3).astype(np.int32))
    conv = Conv(weight=weights(6, 3, 2, 2), input_shape=(7, 5, 4), stride=(2, 1), padding=(1, 0), groups=2, dilation=1)
    first = LIF(shape=conv.a_out.shape, vth=150, du=1500, dv=300, bias_mant=13, bias_exp=3)
    n = int(np.prod(first.s_out.shape))
    matrix = Sparse(weights=csr_matrix(weights(FLAT, n) * (rng.random((FLAT, n)) < 0.2)), weight_exp=1)
    second = LIFReset(shape=(FLAT,), vth=300, du=4095, dv=rng.integers(50, 200, FLAT), reset_interval=7, reset_offset=2)
    dense = Dense(weights=weights(9, FLAT), weight_exp=-2)
    third = LIF(shape=(9,), vth=60, du=900, dv=20)
    source.s_out.connect(conv.s_in)
    conv.a_out.connect(first.a_in)
    first.s_out.flatten().connect(matrix.s_in)
    matrix.a_out.connect(second.a_in)
    second.s_out.connect(dense.s_in)
    dense.a_out.connect(third.a_in)
    neurons = (first, second, third)
    sinks = [Sink(shape=one.s_out.shape, buffer=STEPS) for one in neurons]
    for one, sink in zip(neurons, sinks, strict=True):
        one.s_out.connect(sink.a_in)
    try:
        source.run(condition=RunSteps(num_steps=STEPS // 2), run_cfg=config)
        conv.weight.set(np.ascontiguousarray(conv.weight.get()[::-1]))
        dense.weights.set(np.ascontiguousarray(dense.weights.get()[::-1]))
        source.run(condition=RunSteps(num_steps=STEPS - STEPS // 2), run_cfg=config)
        used = [
            type(process).__name__ + ":" + process.model_class.__name__ for process in (conv, matrix, dense, *neurons)
        ]
        return [sink.data.get() for sink in sinks], used
    finally:
        source.stop()


if __name__ == "__main__":
    stock, _ = simulate(int(sys.argv[1]), Loihi2SimCfg(select_tag="fixed_pt"))
    fast, models = simulate(int(sys.argv[1]), fast_run_config())
    recorded = {f"stock{k}": spikes for k, spikes in enumerate(stock)} | {f"fast{k}": s for k, s in enumerate(fast)}
    np.savez(sys.argv[2], models=models, **recorded)
