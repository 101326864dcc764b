"""The neurons of a graph: Loihi's CUBA neuron, and the sigma-delta neuron of Loihi 2. Numbers alone; no population."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CURRENT_DECAY_NONE, VOLTAGE_DECAY_NONE = (
    4096,
    0,
)  # of 4096: the current lasts one step, the potential for ever
# Of sigma-delta networks (lava/lib/dl/netx/hdf5.py): binary places of a message, and of a state beyond those
SPIKE_SHIFT, STATE_SHIFT = 6, 6

Decay = int | np.ndarray


@dataclass(frozen=True, eq=False)
class Neuron:
    """Loihi's CUBA neuron.

    threshold: None for an output, which only integrates. In an integer graph a 17-bit mantissa, compared at << 6.
    reset: `subtract` or `zero`. u0: start potential; in an integer graph a 24-bit potential (already << 6).
    drop: what a spike subtracts where that is not the threshold, in the units of u0; one for all, or an array.
    current_decay, voltage_decay: of 4096; one for all, or an array that is broadcast to the population's shape.
    bias: per neuron, broadcast likewise, already shifted; None for none.
    ternary: whether it fires below -threshold, too, a spike of -1, which adds what a spike of 1 subtracts (Lava's
    TernaryLIF, lava/proc/lif, where the reset is `zero`).
    """

    threshold: float | None
    reset: str = "subtract"
    u0: float = 0
    current_decay: Decay = CURRENT_DECAY_NONE
    voltage_decay: Decay = VOLTAGE_DECAY_NONE
    bias: np.ndarray | None = None
    drop: float | np.ndarray | None = None
    ternary: bool = False

    @property
    def gathers(self) -> bool:
        """Whether a current lasts longer than its step."""
        return bool(np.any(self.current_decay != CURRENT_DECAY_NONE))

    @property
    def leaks(self) -> bool:
        """Whether it does more than to sum its input: current or potential decays by Loihi's parameters."""
        return self.gathers or bool(np.any(self.voltage_decay != VOLTAGE_DECAY_NONE))


@dataclass(frozen=True, eq=False)
class SigmaDelta:
    """Loihi 2's sigma-delta neuron (lava/proc/sdn): it sends by how much its activation changed, as a graded spike.

    sigma[t] = sigma[t-1] + a[t];  act[t] = relu(sigma[t] + bias);  d = act[t] - act[t-1] + residue[t-1]
    s[t] = d if |d| >= threshold else 0;  residue[t] = d - s[t];  the message is s[t] >> shift.

    threshold: in the units of its 24-bit state; None for an output that only sums its input: no ReLU, no bias, no
    message (Lava's Sigma). bias: likewise, broadcast to the population's shape; None for none. Of an input, what comes
    in takes the place of act, << SPIKE_SHIFT + shift (Lava's Delta).
    """

    threshold: int | None
    bias: np.ndarray | None = None
    shift: int = STATE_SHIFT


AnyNeuron = Neuron | SigmaDelta
