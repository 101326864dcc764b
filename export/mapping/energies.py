"""What an operation costs, as published. All of it is for Loihi 1; Loihi 2 has no table by operation.

Joules and seconds. Whatever is worked out from them is an estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PJ, NS, US = 1e-12, 1e-9, 1e-6


@dataclass(frozen=True)
class Energies:
    """Joules and seconds by operation. synapse: by kind of synapse, one that a spike crosses.

    access: of every neuron at every step; update: further, of one that is not at rest; spike: further, of one that
    fires. message: one to a core, leaving its own; message_in: arriving. hop: joules of a message from router to
    router, along x and along y. barrier: of a step, by the least number of routers in use at which it holds.
    """

    name: str
    source: str
    synapse: Mapping[str, tuple[float, float]]
    access: tuple[float, float]
    update: tuple[float, float]
    spike: tuple[float, float]
    message: tuple[float, float]
    message_in: tuple[float, float]
    hop: tuple[float, float]
    barrier: Mapping[int, float]

    def barrier_of(self, routers: int) -> float:
        """Seconds in which so many routers agree that a step is over."""
        return self.barrier[max(least for least in self.barrier if least <= max(routers, min(self.barrier)))]


DAVIES_2018 = Energies(
    name="Davies 2018",
    source="Davies et al., IEEE Micro 38(1), 2018, table 2, before silicon",
    synapse=dict.fromkeys(("conv", "convT", "dense", "sparse"), (23.6 * PJ, 3.5 * NS)),
    access=(52 * PJ, 5.3 * NS),  # a neuron update, inactive
    update=((81 - 52) * PJ, (8.4 - 5.3) * NS),  # active: 81 pJ, 8.4 ns
    spike=(0.0, 0.0),
    message=(1.7 * PJ, 2.1 * NS),  # a spike within its tile
    message_in=(0.0, 0.0),
    hop=(3.0 * PJ, 4.0 * PJ),
    barrier={1: 113 * NS, 32: 465 * NS},
)
SANA_FE = Energies(
    name="SANA-FE",
    source="SANA-FE 2.2.9, arch/loihi.yaml (Boyle et al., TCAD 2025: energy within 12 % of silicon, latency 25 %)",
    synapse={  # single synapses are taken to cost what dense ones do
        **dict.fromkeys(("conv", "convT"), (24.0 * PJ, 3.1 * NS)),
        **dict.fromkeys(("dense", "sparse"), (35.5 * PJ, 3.8 * NS)),
    },
    access=(51.2 * PJ, 6.0 * NS),
    update=(21.6 * PJ, 3.7 * NS),
    spike=(69.3 * PJ, 30.0 * NS),
    message=(111.0 * PJ, 5.1 * NS),
    message_in=(0.0, 16.0 * NS),
    hop=(3.0 * PJ, 4.2 * PJ),
    barrier={1: 0.6 * US, 2: 1.0 * US, 4: 1.4 * US, 29: 1.8 * US},
)
TABLES = (DAVIES_2018, SANA_FE)

# Watts of one chip that does nothing. Loihi 2: PilotNet on one Oheo Gulch, the measured static part, in the notebook of
# lava-dl that `chips` names. Loihi 1: no figure for one chip is at hand.
STATIC: Mapping[str, float] = {"loihi2": 0.232}
