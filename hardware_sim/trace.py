"""What an engine did: spikes, counts and potentials of each population, the depth of the network removed.

Step t of a population is the step at which it does what PyTorch does at t, in every engine.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from export import files


class TraceError(ValueError):
    """A trace file that cannot be read, or traces that cannot be compared."""


@dataclass(frozen=True, eq=False)
class Trace:
    """One run.

    packed: bits of the spikes of each recorded population, uint8 (samples, T, ceil(C*H*W / 8)), big-endian bits in
    (C, H, W) order. shapes: (C, H, W) of each. output: int32 (samples, C, H, W), the output potential after T steps,
    << 6. Where they were asked for: potentials, int32 (samples, T, C, H, W), after reset, << 6; tallied, spike counts
    kept without their spikes, int32 (samples, C, H, W). stimulus: the input's spikes, packed likewise. seconds: what
    the run took, by stage.
    """

    packed: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    output: np.ndarray
    output_name: str
    timesteps: int
    potentials: Mapping[str, np.ndarray] = field(default_factory=dict)
    tallied: Mapping[str, np.ndarray] = field(default_factory=dict)
    stimulus: np.ndarray | None = None
    engine: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_arrays(
        cls,
        spikes: Mapping[str, np.ndarray],
        *,
        potentials: Mapping[str, np.ndarray],
        output: np.ndarray,
        output_name: str,
        engine: str,
    ) -> Trace:
        """A trace from spikes (samples, T, C, H, W) of 0 and 1 and integer potentials of the same axes."""
        return cls(
            packed={name: pack(value.astype(np.uint8)) for name, value in spikes.items()},
            shapes={name: value.shape[2:] for name, value in spikes.items()},
            potentials={name: value.astype(np.int32) for name, value in potentials.items()},
            output=output.astype(np.int32),
            output_name=output_name,
            timesteps=next(iter(spikes.values())).shape[1],
            engine=engine,
        )

    @property
    def samples(self) -> int:
        return len(self.output)

    @cached_property
    def spikes(self) -> Mapping[str, np.ndarray]:
        """uint8 (samples, T, C, H, W) of each recorded population, unpacked when it is looked at."""
        return _Unpacked(self.packed, self.shapes)

    @cached_property
    def counts(self) -> Mapping[str, np.ndarray]:
        """Spikes per neuron over T: int32 (samples, C, H, W) of each population whose spikes or counts were kept."""
        return ChainMap(dict(self.tallied), _Counted(self.packed, self.shapes))  # type: ignore[arg-type]

    def total(self, name: str) -> int:
        """All spikes of a population."""
        return int(_POPCOUNT[self.packed[name]].sum(dtype=np.int64))

    def save(self, path: Path | str) -> Path:
        """Write as npz, spikes bit-packed; the file appears complete or not at all."""
        arrays = {f"spikes/{name}": bits for name, bits in self.packed.items()}
        arrays |= {f"shape/{name}": np.array(shape) for name, shape in self.shapes.items()}
        arrays |= {f"count/{name}": value for name, value in self.tallied.items()}
        arrays |= {f"potential/{name}": value for name, value in self.potentials.items()}
        arrays |= {} if self.stimulus is None else {"stimulus": self.stimulus}
        arrays |= {"output": self.output, "output_name": np.array(self.output_name)}
        arrays |= {"timesteps": np.array(self.timesteps), "engine": np.array(self.engine)}
        with files.replacing(path) as (scratch,), open(scratch, "wb") as file:  # a name without .npz stays as it is
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        return Path(path)

    @classmethod
    def load(cls, path: Path | str) -> Trace:
        """Read what `save` wrote. Raises TraceError naming the file and what is wrong."""
        try:
            opened = np.load(path, allow_pickle=False)
            if isinstance(opened, np.ndarray):
                raise ValueError("one array")
            with opened as file:

                def part(prefix: str) -> dict[str, np.ndarray]:
                    names = [key for key in file.files if key.startswith(prefix)]
                    return {key.removeprefix(prefix): file[key] for key in names}

                packed, shapes = part("spikes/"), part("shape/")
                return cls(
                    packed=packed,
                    shapes={name: tuple(int(n) for n in shapes[name]) for name in packed},
                    output=file["output"],
                    output_name=str(file["output_name"]),
                    timesteps=int(file["timesteps"]),
                    potentials=part("potential/"),
                    tallied=part("count/"),
                    stimulus=file["stimulus"] if "stimulus" in file.files else None,
                    engine=str(file["engine"]),
                )
        except FileNotFoundError:
            raise TraceError(f"{path}: no such file") from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise TraceError(f"{path}: not a trace written by neuroseg ({error})") from error


_POPCOUNT = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def pack(spikes: np.ndarray) -> np.ndarray:
    """uint8 (samples, T, C, H, W) of 0 and 1 to bits (samples, T, bytes)."""
    return np.packbits(spikes.reshape(*spikes.shape[:2], -1), axis=-1)


def unpack(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bits (samples, T, bytes) to uint8 (samples, T, C, H, W)."""
    n = int(np.prod(shape))
    return np.unpackbits(bits, axis=-1, count=n).reshape(*bits.shape[:2], *shape)


class _Unpacked(Mapping):
    def __init__(self, packed: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.packed, self.shapes = packed, shapes

    def __getitem__(self, name: str) -> np.ndarray:
        return unpack(self.packed[name], self.shapes[name])

    def __iter__(self):
        return iter(self.packed)

    def __len__(self) -> int:
        return len(self.packed)


class _Counted(_Unpacked):
    def __getitem__(self, name: str) -> np.ndarray:
        return super().__getitem__(name).sum(axis=1, dtype=np.int32)
