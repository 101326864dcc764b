"""How frameworks step the neurons of their own NIR files, which the files do not say.

NIR's neurons are differential equations. Each framework takes its own steps of them, so that the same file spikes in
different ways; read with another's steps it is no error, and wrong. `nodes` has the equations of both ways of stepping.
Sources: snntorch/export_nir.py 1.0.0; norse/torch/utils/export_nir.py 1.1.0, whose time constants are times its dt of
1e-3; sinabs/nir.py 3.1.3 and sinabs/layers/functional/lif.py; rockpool/nn/modules/torch/nir.py 3.1.0;
spikingjelly/activation_based/nir_exchange/to_nir.py 2.0.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

DT = 1e-4  # seconds a step: the dt of snnTorch and SpikingJelly where they read and write NIR


@dataclass(frozen=True)
class Framework:
    """dt: what a step lasts, in the unit of the file's time constants. reset: unless the network was told otherwise.

    reset_delay: whether a reset by subtraction comes a step later, after the leak. exponential: states decay by
    exp(-dt / tau), not by 1 - dt / tau. needs: what a network has to be built with, for its spikes to be those of
    Loihi. refused: kinds of neurons that no file of it can be matched for, and why.
    """

    dt: float
    reset: Literal["zero", "subtract"]
    reset_delay: bool = False
    exponential: bool = False
    needs: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)


SEVERAL = "its neurons fire several times a step, which one bit cannot say"
FRAMEWORKS = {
    "snntorch": Framework(
        DT,
        "subtract",
        reset_delay=True,
        needs="its defaults; reset_delay=False needs --no-reset-delay, with a reset to zero --reset zero, too",
    ),
    "spikingjelly": Framework(DT, "zero", needs="no potential that just meets its threshold, at which it fires"),
    "norse": Framework(
        1e-6,
        "zero",
        refused={"CubaLIF": "LIFCell adds spikes undivided, a step after its potential; LIFBoxCell is allowed"},
    ),
    "sinabs": Framework(
        1.0,
        "subtract",
        exponential=True,
        needs="spike_fn=SingleSpike, min_v_mem=None, norm_input=True",
        refused={"CubaLIF": SEVERAL},
    ),
    "rockpool": Framework(1e-3, "subtract", exponential=True, refused=dict.fromkeys(("LIF", "CubaLIF", "IF"), SEVERAL)),
}
