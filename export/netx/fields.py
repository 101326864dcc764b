"""Checked access to the fields of a NetX file; whatever is wrong is a GraphError that names layer and field.

HDF5 lets a few bytes claim any size, point into other files and ask for any filter. A network needs none of that: what
a file may make a reader do is bounded before libhdf5 is asked to do it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import h5py
import numpy as np

from export.graph import GraphError, Pair, Shape

MAX_ELEMENTS = 2**26  # neurons of one layer; more is a broken file, not a network
MAX_BYTES = 2**28  # all that is read of a file, in memory as int32 or as it is stored
CHUNK_COST = 4096  # bytes of the budget, and about those of memory, for each chunk that libhdf5 looks up
PLAIN = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)


@dataclass
class Budget:
    """Bytes that may still be read from a file."""

    left: int = MAX_BYTES


class Fields:
    """Checked access to the datasets of one group."""

    def __init__(self, group: h5py.Group, where: str, budget: Budget) -> None:
        self.group = group
        self.where = where
        self.budget = budget

    def error(self, field: str, found: str, allowed: str) -> GraphError:
        return GraphError(f"{self.where}: {field} is {found}; {allowed} is allowed")

    def __contains__(self, field: str) -> bool:
        return bool(self.group.id.links.exists(field.encode()))

    def sub(self, name: str, *, where: str | None = None) -> Fields:
        """The fields of a group within the group. where: how errors name it."""
        group = self._item(name)
        if not isinstance(group, h5py.Group):
            raise GraphError(f"{self.where}: group {name!r} is missing")
        return Fields(group, where or f"{self.where}: {name}", self.budget)

    def array(self, field: str) -> np.ndarray:
        dataset = self._item(field)
        if dataset is None:
            raise GraphError(f"{self.where}: field {field!r} is missing")
        if not isinstance(dataset, h5py.Dataset):
            raise self.error(field, "a group", "a dataset")
        self._afford(field, dataset)
        return np.asarray(dataset[()])

    def _item(self, name: str) -> h5py.Group | h5py.Dataset | None:
        if name not in self:
            return None
        if self.group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise self.error(name, "a link", "what is in the group itself")
        return self.group[name]

    def _afford(self, field: str, dataset: h5py.Dataset) -> None:
        """Pay for reading a dataset, whose size may be a claim, before it is read."""
        plan, dtype = dataset.id.get_create_plist(), dataset.dtype
        if plan.get_layout() not in PLAIN or plan.get_external_count():
            raise self.error(field, "virtual or in another file", "a dataset that holds its numbers itself")
        filters = [plan.get_filter(k)[0] for k in range(plan.get_nfilters())]
        if not set(filters) <= set(FILTERS):
            raise self.error(field, f"packed by HDF5 filters {filters}", f"no filter but {FILTERS}")
        if dataset.size is None or (dtype.kind not in "biufS" and dataset.size != 1):  # a string may be of any length
            raise self.error(field, f"{dtype} of {dataset.size}", "an array of numbers or one string")
        chunk = dataset.chunks or dataset.shape
        cost = max(dataset.size, math.prod(chunk)) * max(dtype.itemsize, 4)
        cost += math.prod(-(-n // max(c, 1)) for n, c in zip(dataset.shape, chunk, strict=True)) * CHUNK_COST
        if cost > self.budget.left or (filters and dataset.id.get_storage_size() > cost):
            raise self.error(field, f"{dataset.shape} of {dtype}", f"in a file what takes {MAX_BYTES >> 20} MiB")
        self.budget.left -= cost

    def text(self, field: str) -> str:
        value = self.array(field).ravel()
        if value.size != 1 or not isinstance(value[0], bytes | str):
            raise self.error(field, f"{value.dtype} of {value.size}", "one string")
        return value[0].decode("utf-8", "replace") if isinstance(value[0], bytes) else value[0]

    def integers(self, field: str, low: int, high: int, counts: tuple[int, ...] = (1,)) -> tuple[int, ...]:
        value = self.numbers(field).ravel()
        if value.size not in counts:
            raise self.error(field, f"{value.size} numbers", f"{min(counts)} to {max(counts)}")
        if (value != np.round(value)).any() or (value < low).any() or (value > high).any():
            raise self.error(field, str(value[:8].tolist()), f"integers from {low} to {high}")
        return tuple(int(v) for v in value)

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
        sides = self.integers("shape", 1, MAX_ELEMENTS, counts=(1, 3))
        if math.prod(sides) > MAX_ELEMENTS:
            raise self.error("shape", str(sides), f"{MAX_ELEMENTS} neurons at most")
        return sides if len(sides) == 3 else (sides[0], 1, 1)
