"""Run a file in unmodified lava.lib.dl.netx.hdf5.Network: FILE INPUT.npy OUTPUT.npz [fast]. A process of its own.

INPUT: uint8 (samples, T, C, H, W). OUTPUT: layer k's spikes as arrays (steps, C, H, W) or (steps, C),
as they come. fast: with our models of its processes.
"""

import sys

import numpy as np

from hardware_sim.lava_backend.compat import mend

mend()  # before Lava is imported for the first time

from lava.lib.dl.netx import hdf5
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source

from hardware_sim.lava_backend.fast import fast_run_config

if __name__ == "__main__":
    spikes = np.load(sys.argv[2])
    samples, timesteps = spikes.shape[:2]
    # Its first layer resets at step 1 + reset_offset, its input's first spikes arrive at step 2.
    network = hdf5.Network(net_config=sys.argv[1], reset_interval=timesteps, reset_offset=1)
    frames = spikes.reshape(-1, *spikes.shape[2:]).transpose(3, 2, 1, 0).astype(np.int32)
    frames = frames.reshape(*network.inp.shape, -1)  # dense layers first: without sides
    quiet = np.zeros((*frames.shape[:-1], len(network)), np.int32)
    steps = frames.shape[-1] + len(network)
    source = Source(data=np.concatenate([frames, quiet], -1))
    source.s_out.connect(network.inp)
    sinks = [Sink(shape=layer.out.shape, buffer=steps) for layer in network.layers]
    for layer, sink in zip(network.layers, sinks, strict=True):
        layer.out.connect(sink.a_in)
    try:
        config = fast_run_config() if sys.argv[4:] == ["fast"] else Loihi2SimCfg(select_tag="fixed_pt")
        network.run(condition=RunSteps(num_steps=steps), run_cfg=config)
        np.savez(sys.argv[3], **{str(k): sink.data.get().T for k, sink in enumerate(sinks)})  # axes reversed
    finally:
        network.stop()
