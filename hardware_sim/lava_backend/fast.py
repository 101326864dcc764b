"""A run configuration that gives networks of Lava's own processes fast models; nothing else about them changes.

from hardware_sim.lava_backend.fast import fast_run_config  # before lava: it mends Lava for this Python

network = lava.lib.dl.netx.hdf5.Network(net_config="network.net")
network.run(condition=RunSteps(num_steps=100), run_cfg=fast_run_config())
"""

from __future__ import annotations

from hardware_sim.lava_backend.compat import mend

mend()  # before Lava is imported for the first time

from lava.magma.core.run_configs import Loihi2SimCfg

from hardware_sim.lava_backend.parts.fast_models import FAST_MODELS


def fast_run_config() -> Loihi2SimCfg:
    """Fixed-point simulation, bit-accurate, with compiled models for Conv, Sparse, Dense, LIF and LIFReset."""
    return Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map=FAST_MODELS)
