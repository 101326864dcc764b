"""Where a layer's steps and files lie. Knows no Lava, and is not in `parts`, whose modules Lava executes again."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from export.graph import Graph, Shape, depths
from hardware_sim.lava_backend.job import Job
from hardware_sim.trace import unpack


def whc(shape: Shape) -> Shape:
    """(C, H, W) to Lava's (W, H, C)."""
    return shape[::-1]


@dataclass(frozen=True)
class Window:
    """Which steps of a run belong to which sample: the population lags the input by `depth` steps.

    copies: of the network, side by side: the first does samples 0, copies, 2 copies, ..., the next 1, copies + 1, ...
    """

    depth: int
    samples: int
    timesteps: int
    copies: int = 1

    @property
    def steps(self) -> int:
        """Lava's steps until all samples are done."""
        return -(-self.samples // self.copies) * self.timesteps + self.depth

    def place(self, time_step: int, copy: int = 0) -> tuple[int, int] | None:
        """Sample and step (from 0) of a copy at Lava's time step (from 1), or None outside the run."""
        turn, t = divmod(time_step - 1 - self.depth, self.timesteps)
        sample = turn * self.copies + copy
        return (sample, t) if turn >= 0 and sample < self.samples else None


def windows_of(graph: Graph, job: Job) -> dict[str, Window]:
    """When each population runs. In a stream every layer begins at the first step, and steps are Lava's."""
    depth = dict.fromkeys(depths(graph), 0) if job.stream else depths(graph)
    return {p.name: Window(depth[p.name], job.samples, job.timesteps, job.side_by_side) for p in graph.populations}


@dataclass(frozen=True)
class LayerFiles:
    """Files in which a layer records; empty for what is not recorded. C order.

    spikes: uint8 (samples, T, bytes), bits in (C, H, W) order. counts: int32 (samples, C, H, W). potentials: int32
    (samples, T, C, H, W). output: int32 (samples, C, H, W). progress: npy of int64, a row a process (the first, where
    they share the layers), whose entry `slot` is the last step done.
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
    (samples, T, C, H, W). shape: (C, H, W). copies: those of the network that are meant, of how many; see Window.
    """

    name: str
    path: str
    shape: Shape
    copies: range
    of: int

    def at(self, file: np.ndarray, time_step: int, dtype: type[np.integer]) -> np.ndarray:
        """What comes into these copies, (copies, W * H * C), at a step (from 1) of the mapped file."""
        turn, t = divmod(time_step - 1, file.shape[1])
        found = np.zeros((len(self.copies), *whc(self.shape)), dtype)
        first, own = turn * self.of, self.copies
        packed = file[first + own.start : first + own.stop : own.step, t : t + 1]
        if len(packed):
            found[: len(packed)] = unpack(packed, self.shape)[:, 0].transpose(0, 3, 2, 1)
        return found.reshape(len(found), -1)


class Tape:
    """A file of equal arrays, each written at its place. That costs less than touching new pages of a mapped file."""

    def __init__(self, path: str) -> None:
        there = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)  # others write to it, too
        self.file = open(there, "wb", buffering=0)  # noqa: SIM115 - open for as long as its process lives

    def write(self, place: int, array: np.ndarray) -> None:
        left = np.ascontiguousarray(array).data.cast("B")
        self.file.seek(place * len(left))
        while left:  # a disk that fills up takes a part, and fails at the next
            left = left[self.file.write(left) :]


def open_tape(path: str) -> Tape | None:
    return Tape(path) if path else None
