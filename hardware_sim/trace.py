"""What an engine did: spikes, counts and potentials of each population, the depth of the network removed.

Step t of a population is the step at which it does what PyTorch does at t, in every engine.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from export import files
from hardware_sim import npz

SIDE_MAX, STEPS_MAX = 2**26, 2**20  # more is no trace, but a broken file


class TraceError(ValueError):
    """A trace file that cannot be read, or traces that cannot be compared."""


@dataclass(frozen=True, eq=False)
class Trace:
    """One run.

    packed: bits of the spikes of each recorded population, uint8 (samples, T, ceil(C*H*W / 8)), big-endian bits in
    (C, H, W) order. graded: of populations whose spikes carry values these, int32 (samples, T, C, H, W), 0 for no
    spike. shapes: (C, H, W) of all of those. output: int32 (samples, C, H, W), the output potential after T steps,
    << 6. Where they were asked for: potentials, int32 (samples, T, C, H, W), after reset, << 6; tallied, spike counts
    kept without their spikes, int32 (samples, C, H, W). stimulus: the input's spikes, packed likewise, or int32 values
    (samples, T, C, H, W). seconds: what the run took, by stage.

    Of sigma-delta neurons potentials and output are activations, in the units of their state.
    """

    packed: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    output: np.ndarray
    output_name: str
    timesteps: int
    potentials: Mapping[str, np.ndarray] = field(default_factory=dict)
    tallied: Mapping[str, np.ndarray] = field(default_factory=dict)
    graded: Mapping[str, np.ndarray] = field(default_factory=dict)
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
        values: Collection[str] = (),
    ) -> Trace:
        """A trace from spikes (samples, T, C, H, W) of 0 and 1 and integer potentials of the same axes.

        values: names of populations whose spikes are other whole numbers.
        """
        return cls(
            packed={name: pack(value.astype(np.uint8)) for name, value in spikes.items() if name not in values},
            graded={name: value.astype(np.int32) for name, value in spikes.items() if name in values},
            shapes={name: value.shape[2:] for name, value in spikes.items()},
            potentials={name: value.astype(np.int32) for name, value in potentials.items()},
            output=output.astype(np.int32),
            output_name=output_name,
            timesteps=next(iter(spikes.values())).shape[1],
            engine=engine,
        )

    @classmethod
    def joined(cls, parts: Sequence[Trace]) -> Trace:
        """Traces of one network on some samples each, as one of all; seconds are summed. Raises TraceError."""
        first = parts[0]
        if any(part.shapes != first.shapes or part.timesteps != first.timesteps for part in parts):
            raise TraceError("the parts of a trace differ in populations or time steps")

        def each(what: str) -> dict[str, np.ndarray]:
            return {
                name: np.concatenate([getattr(part, what)[name] for part in parts]) for name in getattr(first, what)
            }

        stimuli = [part.stimulus for part in parts if part.stimulus is not None]
        stages = dict.fromkeys(stage for part in parts for stage in part.seconds)
        return replace(
            first,
            packed=each("packed"),
            graded=each("graded"),
            potentials=each("potentials"),
            tallied=each("tallied"),
            output=np.concatenate([part.output for part in parts]),
            stimulus=np.concatenate(stimuli) if stimuli else None,
            seconds={stage: sum(part.seconds.get(stage, 0.0) for part in parts) for stage in stages},
        )

    @property
    def samples(self) -> int:
        return len(self.output)

    @cached_property
    def spikes(self) -> Mapping[str, np.ndarray]:
        """(samples, T, C, H, W) of each recorded population: uint8, unpacked when it is looked at; int32 of values."""
        return _Unpacked(self.packed, self.graded, self.shapes)

    @cached_property
    def counts(self) -> Mapping[str, np.ndarray]:
        """Spikes per neuron over T: int32 (samples, C, H, W) of each population whose spikes or counts were kept."""
        return ChainMap(dict(self.tallied), _Counted(self.packed, self.graded, self.shapes))  # type: ignore[arg-type]

    def total(self, name: str) -> int:
        """All spikes of a population, whatever they carry."""
        if name in self.graded:
            return int(np.count_nonzero(self.graded[name]))
        return int(_POPCOUNT[self.packed[name]].sum(dtype=np.int64))

    def save(self, path: Path | str) -> Path:
        """Write as npz, spikes bit-packed; the file appears complete or not at all."""
        arrays = {f"spikes/{name}": bits for name, bits in self.packed.items()}
        arrays |= {f"graded/{name}": values for name, values in self.graded.items()}
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
        """Read what `save` wrote. Raises TraceError naming the file, the array, what was found and what is allowed."""
        try:
            return _checked(npz.load(path))
        except FileNotFoundError:
            raise TraceError(f"{path}: no such file") from None
        except ValueError as error:
            raise TraceError(f"{path}: not a trace written by neuroseg ({error})") from error


def _checked(arrays: Mapping[str, np.ndarray]) -> Trace:
    """A trace of arrays that say the same. Raises ValueError."""
    parts: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in ("spikes", "graded", "shape", "count", "potential")}
    for key, value in arrays.items():
        kind, slash, name = key.partition("/")
        if slash and kind in parts:
            parts[kind][name] = value
        elif key not in ("output", "output_name", "timesteps", "engine", "stimulus"):
            raise ValueError(f"it holds {key[:80]!r}, which no trace does")
    steps = int(_one(arrays, "timesteps", "iu"))
    if not 1 <= steps <= STEPS_MAX:
        raise ValueError(f"'timesteps' is {steps}; 1 to {STEPS_MAX} are allowed")
    shapes = {name: _shape(name, value) for name, value in parts["shape"].items()}
    output = _expect(arrays, "output", np.int32, (None, None, None, None))
    samples = len(output)
    for name in parts["spikes"]:
        if name not in shapes:
            raise ValueError(f"it lacks 'shape/{name}'")
        size = math.prod(shapes[name])
        bits = _expect(arrays, f"spikes/{name}", np.uint8, (samples, steps, -(-size // 8)))
        if size % 8 and (bits[..., -1] & (0xFF >> size % 8)).any():
            raise ValueError(f"'spikes/{name}' has spikes beyond the {size} neurons of {shapes[name]}")
    for name in parts["graded"]:
        if name not in shapes or name in parts["spikes"]:
            raise ValueError(f"it lacks 'shape/{name}', or holds 'spikes/{name}' too")
        _expect(arrays, f"graded/{name}", np.int32, (samples, steps, *shapes[name]))
    for name in parts["count"]:
        _expect(arrays, f"count/{name}", np.int32, (samples, *shapes.get(name, (None, None, None))))
    for name in parts["potential"]:
        _expect(arrays, f"potential/{name}", np.int32, (samples, steps, *shapes.get(name, (None, None, None))))
    return Trace(
        packed=parts["spikes"],
        graded=parts["graded"],
        shapes={name: shape for name, shape in shapes.items() if name in parts["spikes"] or name in parts["graded"]},
        output=output,
        output_name=str(_one(arrays, "output_name", "U")),
        timesteps=steps,
        potentials=parts["potential"],
        tallied=parts["count"],
        stimulus=_stimulus(arrays, samples, steps) if "stimulus" in arrays else None,
        engine=str(_one(arrays, "engine", "U")),
    )


def _stimulus(arrays: Mapping[str, np.ndarray], samples: int, steps: int) -> np.ndarray:
    """Bits, or values."""
    if arrays["stimulus"].dtype == np.int32:
        return _expect(arrays, "stimulus", np.int32, (samples, steps, None, None, None))
    return _expect(arrays, "stimulus", np.uint8, (samples, steps, None))


def _expect(
    arrays: Mapping[str, np.ndarray], key: str, dtype: type[np.generic], shape: tuple[int | None, ...]
) -> np.ndarray:
    """An array of a type and of sides; None is any."""
    value = _find(arrays, key)
    fits = len(value.shape) == len(shape) and all(b in (None, a) for a, b in zip(value.shape, shape, strict=True))
    if value.dtype != dtype or not fits:
        sides = ", ".join("any" if side is None else str(side) for side in shape)
        raise ValueError(f"{key[:80]!r} is {value.dtype} of {value.shape}; {np.dtype(dtype)} of ({sides}) is allowed")
    return value


def _one(arrays: Mapping[str, np.ndarray], key: str, kinds: str) -> Any:
    value = _find(arrays, key)
    if value.shape != () or value.dtype.kind not in kinds:
        raise ValueError(
            f"{key!r} is {value.dtype} of {value.shape}; one {'text' if kinds == 'U' else 'integer'} is allowed"
        )
    return value[()]


def _find(arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    if key not in arrays:
        raise ValueError(f"it lacks {key!r}")
    return arrays[key]


def _shape(name: str, value: np.ndarray) -> tuple[int, ...]:
    if value.shape != (3,) or value.dtype.kind not in "iu" or (value < 1).any() or (value > SIDE_MAX).any():
        found = f"{value.dtype} of {value.shape}: {value.ravel()[:4].tolist()}"
        raise ValueError(f"'shape/{name[:80]}' is {found}; 3 integers from 1 to {SIDE_MAX} are allowed")
    return tuple(int(side) for side in value)


_POPCOUNT = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def pack(spikes: np.ndarray) -> np.ndarray:
    """uint8 (samples, T, C, H, W) of 0 and 1 to bits (samples, T, bytes). Values, int32, stay as they are."""
    if spikes.dtype == np.int32:
        return spikes
    return np.packbits(spikes.reshape(*spikes.shape[:2], -1), axis=-1)


def unpack(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bits (samples, T, bytes) to uint8 (samples, T, C, H, W). Values, int32, stay as they are."""
    if bits.dtype == np.int32:
        return bits
    n = int(np.prod(shape))
    return np.unpackbits(bits, axis=-1, count=n).reshape(*bits.shape[:2], *shape)


class _Unpacked(Mapping):
    def __init__(
        self,
        packed: Mapping[str, np.ndarray],
        graded: Mapping[str, np.ndarray],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.packed, self.graded, self.shapes = packed, graded, shapes

    def __getitem__(self, name: str) -> np.ndarray:
        return self.graded[name] if name in self.graded else unpack(self.packed[name], self.shapes[name])

    def __iter__(self):
        return (name for name in self.shapes if name in self.packed or name in self.graded)

    def __len__(self) -> int:
        return len(self.packed) + len(self.graded)


class _Counted(_Unpacked):
    def __getitem__(self, name: str) -> np.ndarray:
        return (super().__getitem__(name) != 0).sum(axis=1, dtype=np.int32)
