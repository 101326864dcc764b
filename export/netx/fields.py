"""Checked access to the fields of a NetX file; whatever is wrong is a GraphError that names layer and field."""

from __future__ import annotations

import math
from collections.abc import Sequence

import h5py
import numpy as np

from export import hdf5
from export.graph import GraphError, Pair, Shape


def _counts(counts: Sequence[int]) -> str:
    """1, 1 or 3, 1 to 9."""
    counts = sorted(set(counts))
    whole = len(counts) > 2 and counts == list(range(counts[0], counts[-1] + 1))
    return f"{counts[0]} to {counts[-1]}" if whole else " or ".join(map(str, counts))


class Fields:
    """Checked access to the datasets of one group. path: of the group in the file; where: how errors name it."""

    def __init__(self, group: h5py.Group, path: str, where: str, reading: hdf5.Reading) -> None:
        self.group = group
        self.path = path
        self.where = where
        self.reading = reading

    def error(self, field: str, found: str, allowed: str) -> GraphError:
        return hdf5.error(self.where, field, found, allowed)

    def __contains__(self, field: str) -> bool:
        return bool(self.group.id.links.exists(field.encode()))

    def sub(self, name: str, *, where: str | None = None) -> Fields:
        """The fields of a group within the group."""
        group = hdf5.item(self.group, name, self.where)
        if not isinstance(group, h5py.Group):
            raise GraphError(f"{self.where}: group {name!r} is missing")
        return Fields(group, self.path + name + "/", where or f"{self.where}: {name}", self.reading)

    def array(self, field: str) -> np.ndarray:
        path = self.path + field
        if path in self.reading.found:
            return self.reading.found[path]
        dataset = hdf5.item(self.group, field, self.where)
        if dataset is None:
            raise GraphError(f"{self.where}: field {field!r} is missing")
        if not isinstance(dataset, h5py.Dataset):
            raise self.error(field, "a group", "a dataset")
        hdf5.afford(dataset, self.where, field, self.reading)
        self.reading.found[path] = hdf5.read(dataset, self.where, field, self.reading)
        return self.reading.found[path]

    def text(self, field: str) -> str:
        value = self.array(field).ravel()
        if value.size != 1 or not isinstance(value[0], bytes | str):
            raise self.error(field, f"{value.dtype} of {value.size}", "one string")
        return value[0].decode("utf-8", "replace") if isinstance(value[0], bytes) else value[0]

    def integers(self, field: str, low: int, high: int, counts: tuple[int, ...] = (1,)) -> tuple[int, ...]:
        return tuple(int(value) for value in self.whole(field, low, high, counts))

    def whole(self, field: str, low: int, high: int, counts: tuple[int, ...]) -> np.ndarray:
        """int32, one axis: one of so many integers."""
        value = self.numbers(field).ravel()
        if value.size not in counts:
            raise self.error(field, f"{value.size} numbers", f"{_counts(counts)} of them")
        if (value != np.round(value)).any() or (value < low).any() or (value > high).any():
            raise self.error(field, str(value[:8].tolist()), f"integers from {low} to {high}")
        return value.astype(np.int32)

    def truncated(self, field: str, low: int, high: int, counts: tuple[int, ...]) -> np.ndarray:
        """`whole`, of numbers whose fractions are cut off, as NetX does with a bias (blocks/process.py, _neuron)."""
        value = self.numbers(field).ravel()
        if value.size not in counts:
            raise self.error(field, f"{value.size} numbers", f"{_counts(counts)} of them")
        if (value <= low - 1).any() or (value >= high + 1).any():
            raise self.error(field, str(value[:8].tolist()), f"numbers from {low} to {high}")
        return np.trunc(value).astype(np.int32)

    def integer(self, field: str, low: int, high: int, default: int | None = None) -> int:
        if default is not None and field not in self:
            return default
        return self.integers(field, low, high)[0]

    def numbers(self, field: str) -> np.ndarray:
        value = self.array(field)
        if value.dtype.kind not in "biuf":
            raise self.error(field, str(value.dtype), "real numbers")
        if not np.isfinite(value).all():
            raise self.error(field, "NaN or infinite", "finite numbers")
        return value

    def places(self, field: str, size: int, count: int) -> np.ndarray:
        """int64 (count,): numbers of neurons of a layer of `size`."""
        value = self.numbers(field)
        if value.shape != (count,):
            raise self.error(field, f"of shape {value.shape}", f"one number for each of {count} weights")
        if (value != np.round(value)).any() or (value < 0).any() or (value >= size).any():
            raise self.error(field, f"from {value.min():g} to {value.max():g}", f"integers from 0 to {size - 1}")
        return value.astype(np.int64, copy=False)

    def number(self, field: str, default: float, most: float) -> float:
        if field not in self:
            return default
        value = self.numbers(field).ravel()
        if value.size != 1:
            raise self.error(field, f"{value.size} numbers", "one")
        if abs(value[0]) > most:
            raise self.error(field, f"{value[0]:g}", f"-{most:g} to {most:g}")
        return float(value[0])

    def pair(self, field: str, low: int, high: int, default: Pair | None = None) -> Pair:
        if default is not None and field not in self:
            return default
        value = self.integers(field, low, high, counts=(1, 2))
        return (value[0], value[-1])

    def shape(self) -> Shape:
        sides = self.integers("shape", 1, hdf5.MAX_ELEMENTS, counts=(1, 3))
        if math.prod(sides) > hdf5.MAX_ELEMENTS:
            raise self.error("shape", str(sides), f"{hdf5.MAX_ELEMENTS} neurons at most")
        return sides if len(sides) == 3 else (sides[0], 1, 1)
