"""Where a layer's steps and files lie. Knows no Lava, and is not in `parts`, whose modules Lava executes again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from export.graph import Shape
from hardware_sim.trace import unpack


def whc(shape: Shape) -> Shape:
    """(C, H, W) to Lava's (W, H, C)."""
    return shape[::-1]


@dataclass(frozen=True)
class Window:
    """Which steps of a run belong to which sample: the population lags the input by `depth` steps."""

    depth: int
    samples: int
    timesteps: int

    def place(self, time_step: int) -> tuple[int, int] | None:
        """Sample and step (from 0) at Lava's time step (from 1), or None outside the run."""
        sample, t = divmod(time_step - 1 - self.depth, self.timesteps)
        return (sample, t) if 0 <= sample < self.samples else None


@dataclass(frozen=True)
class LayerFiles:
    """Files in which a layer records; empty for what is not recorded. Each is written from front to end, C order.

    spikes: uint8 (samples, T, bytes), bits in (C, H, W) order. counts: int32 (samples, C, H, W). potentials: int32
    (samples, T, C, H, W). output: int32 (samples, C, H, W). progress: npy of int64, entry `slot` is the last step done.
    """

    spikes: str = ""
    counts: str = ""
    potentials: str = ""
    output: str = ""
    progress: str = ""
    slot: int = 0


@dataclass(frozen=True)
class Frames:
    """The input of a run, a file of spikes, step by step, and nothing after its end.

    name: the graph's input. path: uint8 array file (samples, T, bytes), bits in (C, H, W) order; or of values, int32
    (samples, T, C, H, W). shape: (C, H, W).
    """

    name: str
    path: str
    shape: Shape

    def at(self, file: np.ndarray, time_step: int, dtype: type[np.integer]) -> np.ndarray:
        """Flat (W, H, C) of a step (from 1) of the mapped file."""
        sample, t = divmod(time_step - 1, file.shape[1])
        if sample >= len(file):
            return np.zeros(math.prod(self.shape), dtype)
        frame = unpack(file[sample : sample + 1, t : t + 1], self.shape)[0, 0]
        return np.array(frame.T, dtype, order="C").reshape(-1)


class Tape:
    """A file that grows at its end. Writing costs less than touching new pages of a mapped file."""

    def __init__(self, path: str) -> None:
        self.file = open(path, "wb", buffering=0)  # noqa: SIM115 - open for as long as its process lives

    def append(self, array: np.ndarray) -> None:
        left = np.ascontiguousarray(array).data.cast("B")
        while left:  # a disk that fills up takes a part, and fails at the next
            left = left[self.file.write(left) :]


def open_tape(path: str) -> Tape | None:
    return Tape(path) if path else None
