"""Two layers of lava-nc's own TernaryLIF behind Dense: IN.npz OUT.npz. A process of its own.

IN: input (n, steps), weights a and b, threshold, du, dv. OUT: what both layers send, (n, steps) each.
"""

import sys

import numpy as np

from hardware_sim.lava_backend.compat import mend

mend()  # before Lava is imported for the first time

from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.dense.process import Dense
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source
from lava.proc.lif.process import TernaryLIF

with np.load(sys.argv[1]) as given:
    steps = given["input"].shape[1]
    source, sinks = Source(data=given["input"].astype(np.int32)), []
    before = source.s_out
    for name in "ab":
        n, threshold = len(given[name]), int(given["threshold"])
        synapse = Dense(weights=given[name], num_message_bits=8)
        du, dv = int(given["du"]) - 1, int(given["dv"])
        neurons = TernaryLIF(shape=(n,), vth_hi=threshold, vth_lo=-threshold, du=du, dv=dv)
        sinks.append(Sink(shape=(n,), buffer=steps))
        before.connect(synapse.s_in)
        synapse.a_out.connect(neurons.a_in)
        neurons.s_out.connect(sinks[-1].a_in)
        before = neurons.s_out
source.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
sent = [sink.data.get() for sink in sinks]
source.stop()
np.savez(sys.argv[2], a=sent[0], b=sent[1])
