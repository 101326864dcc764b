"""Where a layer's steps and files lie. Knows no Lava, and is not in `parts`, whose modules Lava executes again."""

from __future__ import annotations

from dataclasses import dataclass

from export.graph import Shape


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
    """Array files in which a fused layer records; empty for what is not recorded.

    spikes: uint8 (samples, T, bytes). counts: int32 (samples, C, H, W). potentials: int32 (samples, T, C, H, W).
    output: int32 (samples, C, H, W). progress: int64, entry `slot` is the last step done.
    """

    spikes: str = ""
    counts: str = ""
    potentials: str = ""
    output: str = ""
    progress: str = ""
    slot: int = 0
