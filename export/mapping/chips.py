"""The chips that a network can be laid out on. Every limit of a core is a named constant with its source.

Intel publishes no table of these; they are read from nengo-loihi (Loihi 1) and from the compiler's logs that the
notebooks of lava-dl keep (Loihi 2): tutorials/lava/lib/dl/netx/{pilotnet_snn,pilotnet_sdnn}/benchmark.ipynb,
yolo_kp/run.ipynb.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

WORD_BITS = 64  # of synaptic memory, on both chips: nengo-loihi, SynapseConfig.bits_per_axon

LOIHI1_NEURONS = 1024  # compartments a core: nengo-loihi, nengo_loihi/block.py
LOIHI1_WORDS = 16384  # 128 KiB: block.py; Davies et al. 2018
LOIHI1_AXONS_IN = 4096  # block.py
LOIHI1_AXONS_OUT = 4096  # block.py
SOFT_RESET_COMPARTMENTS = 2  # Loihi 1 knows reset to zero alone; NxTF (arXiv 2101.04261) spends a second one

LOIHI2_NEURONS = 4095  # the logs' columns in numbers and in percent: 3584 neurons are 87.52 %
LOIHI2_WORDS = 12_000  # the logs' `cost_db.registers['SynMem']`
LOIHI2_AXONS_IN = 16_000  # the logs' column AxonIn
LOIHI2_AXONS_OUT = 16_000  # the logs' column AxonMap: 224 are 1.40 %

CORES = 128  # a chip, both: Davies et al. 2018; Intel's Loihi 2 brief, 2021
GRID = (8, 4)  # routers (x, y) a chip, and cores a router: SANA-FE, arch/loihi.yaml; taken for Loihi 2 too
CORES_A_ROUTER = 4


@dataclass(frozen=True)
class Board:
    """A system that one can have: how many chips it holds."""

    name: str
    chips: int


@dataclass(frozen=True)
class Chip:
    """What one core holds, and how many cores there are.

    synapses: how weights are stored; see `memory`. channels_last: whether channels are divided only where no tile holds
    them all; see `tiles`. compartments: of `neurons` that a neuron takes, by its reset. graded: whether its spikes can
    carry values. boards: from small to large.
    """

    name: str
    title: str
    neurons: int
    words: int
    axons_in: int
    axons_out: int
    synapses: Literal["loihi1", "loihi2"]
    channels_last: bool
    compartments: Mapping[str, int]
    graded: bool
    cores: int
    boards: tuple[Board, ...]

    def limit(self, what: str) -> int:
        """The limit of a resource of `RESOURCES`."""
        return int(getattr(self, what))


RESOURCES = {
    "neurons": "neurons",
    "words": "synaptic memory (words)",
    "axons_in": "input axons",
    "axons_out": "output axons",
}

LOIHI1 = Chip(
    name="loihi1",
    title="Loihi 1",
    neurons=LOIHI1_NEURONS,
    words=LOIHI1_WORDS,
    axons_in=LOIHI1_AXONS_IN,
    axons_out=LOIHI1_AXONS_OUT,
    synapses="loihi1",
    channels_last=False,
    compartments={"subtract": SOFT_RESET_COMPARTMENTS, "zero": 1},
    graded=False,
    cores=CORES,
    boards=(Board("Kapoho Bay", 2), Board("Nahuku", 32)),  # Intel's press kit of Pohoiki Springs, 2020
)
LOIHI2 = Chip(
    name="loihi2",
    title="Loihi 2",
    neurons=LOIHI2_NEURONS,
    words=LOIHI2_WORDS,
    axons_in=LOIHI2_AXONS_IN,
    axons_out=LOIHI2_AXONS_OUT,
    synapses="loihi2",
    channels_last=True,
    compartments={"subtract": 1, "zero": 1},  # its neurons are programs
    graded=True,
    cores=CORES,
    boards=(
        Board("Oheo Gulch", 1),
        Board("Kapoho Point", 8),
        Board("Hala Point", 1152),
    ),  # Intel's press, 2021 and 2024
)
CHIPS = {chip.name: chip for chip in (LOIHI1, LOIHI2)}
