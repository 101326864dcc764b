"""Checked access to the fields of a NetX file; whatever is wrong is a GraphError that names layer and field."""

from __future__ import annotations

import h5py
import numpy as np

from export.graph import GraphError, Pair, Shape

MAX_ELEMENTS = 2**28  # of one dataset or one layer; more is a broken file, not a network


class Fields:
    """Checked access to the datasets of one group."""

    def __init__(self, group: h5py.Group, where: str) -> None:
        self.group = group
        self.where = where

    def error(self, field: str, found: str, allowed: str) -> GraphError:
        return GraphError(f"{self.where}: {field} is {found}; {allowed} is allowed")

    def __contains__(self, field: str) -> bool:
        return field in self.group

    def array(self, field: str) -> np.ndarray:
        dataset = self.group.get(field)
        if not isinstance(dataset, h5py.Dataset):
            raise GraphError(f"{self.where}: field {field!r} is missing")
        if dataset.size is None or dataset.size > MAX_ELEMENTS:
            raise self.error(field, f"{dataset.size} elements", f"1 to {MAX_ELEMENTS}")
        return np.asarray(dataset[()])

    def text(self, field: str) -> str:
        value = self.array(field).ravel()
        if value.size != 1 or not isinstance(value[0], bytes | str):
            raise self.error(field, f"{value.dtype} of {value.size}", "one string")
        return value[0].decode("ascii", "replace") if isinstance(value[0], bytes) else value[0]

    def integers(self, field: str, low: int, high: int, counts: tuple[int, ...] = (1,)) -> tuple[int, ...]:
        value = self.numbers(field).ravel()
        if value.size not in counts:
            raise self.error(field, f"{value.size} numbers", f"{min(counts)} to {max(counts)}")
        if (value != np.round(value)).any() or (value < low).any() or (value > high).any():
            raise self.error(field, str(value.tolist()[:8]), f"integers from {low} to {high}")
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

    def number(self, field: str, default: float) -> float:
        if field not in self:
            return default
        value = self.numbers(field).ravel()
        if value.size != 1:
            raise self.error(field, f"{value.size} numbers", "one")
        return float(value[0])

    def pair(self, field: str, low: int, high: int, default: Pair | None = None) -> Pair:
        if default is not None and field not in self:
            return default
        value = self.integers(field, low, high, counts=(1, 2))
        return (value[0], value[-1])

    def shape(self) -> Shape:
        sides = self.integers("shape", 1, MAX_ELEMENTS, counts=(1, 3))
        if int(np.prod(sides, dtype=np.float64)) > MAX_ELEMENTS:
            raise self.error("shape", str(sides), f"{MAX_ELEMENTS} neurons at most")
        return sides if len(sides) == 3 else (sides[0], 1, 1)


def sub_group(fields: Fields, name: str) -> h5py.Group:
    group = fields.group.get(name)
    if not isinstance(group, h5py.Group):
        raise GraphError(f"{fields.where}: group {name!r} is missing")
    return group
