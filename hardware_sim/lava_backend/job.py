"""What the launcher and the worker agree on: the files of one run, in a folder of its own. Knows no Lava."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FLOOR = "floor"  # groups that pass their messages and compute nothing; for benchmarks
FAST = "stock-fast"  # stock parts with our models of Lava's own processes; for benchmarks


@dataclass(frozen=True)
class Job:
    """One Lava run.

    spikes, counts, potentials: populations to record. fidelity: stock, fused, FLOOR or FAST. processes: how many fused
    layers share; copies: of the network in each of these, 0 where they share one; see `grouping`.
    """

    backend: str
    fidelity: str
    samples: int
    timesteps: int
    spikes: tuple[str, ...]
    counts: tuple[str, ...]
    potentials: tuple[str, ...]
    stream: bool = False
    processes: int = 1
    copies: int = 0

    @property
    def side_by_side(self) -> int:
        """Copies of the network in all processes."""
        return self.copies * self.processes or 1

    def save(self, folder: Path) -> None:
        (folder / "job.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Job:
        fields = json.loads((folder / "job.json").read_text())
        fields |= {key: tuple(fields[key]) for key in ("spikes", "counts", "potentials")}
        return cls(**fields)


@dataclass(frozen=True)
class Files:
    """Where a run's files lie."""

    folder: Path

    @property
    def network(self) -> Path:
        return self.folder / "network.net"

    @property
    def input(self) -> Path:
        return self.folder / "input.npy"

    @property
    def progress(self) -> Path:
        return self.folder / "progress.npy"

    @property
    def output(self) -> Path:
        return self.folder / "output.bin"

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    @property
    def started(self) -> Path:
        """Empty; made when Lava is imported and the network is built."""
        return self.folder / "started"

    @property
    def seconds(self) -> Path:
        return self.folder / "seconds.json"

    def spikes(self, k: int) -> Path:
        return self.folder / f"spikes_{k}.bin"

    def counts(self, k: int) -> Path:
        return self.folder / f"counts_{k}.bin"

    def potentials(self, k: int) -> Path:
        return self.folder / f"potentials_{k}.bin"
