"""JSON of strangers, field by field. Whatever is wrong is a ValueError that names field, found and allowed."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

MAX_BYTES = 2**26  # of a file
MAX_DEPTH = 64  # of lists and objects in each other
SHOWN = 60  # characters of what was found


@dataclass(frozen=True)
class Fields:
    """An object. where: its path in the file, empty for the whole."""

    value: Mapping[str, Any]
    where: str = ""

    def __contains__(self, name: str) -> bool:
        """Whether a field is there and not null."""
        return self.value.get(name) is not None

    def only(self, names: Collection[str]) -> None:
        """Refuse fields of other names: they were meant to do something."""
        for name in self.value:
            if name not in names:
                known = ", ".join([*sorted(names)[:12], *(["..."] if len(names) > 12 else [])])
                raise ValueError(f"{self.path(name)} is unknown; {known} are allowed")

    def path(self, name: object) -> str:
        shown = str(name)[:SHOWN]
        return f"{self.where}.{shown}" if self.where else shown

    def get(self, name: str) -> Any:
        if name not in self.value:
            raise ValueError(f"{self.path(name)} is missing")
        return self.value[name]

    def sub(self, name: str) -> Fields:
        return fields(self.get(name), self.path(name))

    def subs(self, name: str, most: int) -> list[Fields]:
        return [fields(item, f"{self.path(name)}[{k}]") for k, item in enumerate(self.items(name, most))]

    def items(self, name: str, most: int, least: int = 0) -> list[Any]:
        found = self.get(name)
        if not isinstance(found, list | tuple) or not least <= len(found) <= most:
            refuse(self.path(name), found, f"a list of {least} to {most}")
        return list(found)

    def text(self, name: str, choices: Iterable[str] | None = None) -> str:
        return text(self.get(name), self.path(name), choices)

    def texts(self, name: str, most: int = 2**20) -> tuple[str, ...]:
        return tuple(text(item, f"{self.path(name)}[{k}]") for k, item in enumerate(self.items(name, most)))

    def integer(self, name: str, low: int, high: int) -> int:
        return integer(self.get(name), self.path(name), low, high)

    def integers(self, name: str, counts: tuple[int, int], low: int, high: int) -> tuple[int, ...]:
        found = self.items(name, counts[1], counts[0])
        return tuple(integer(item, f"{self.path(name)}[{k}]", low, high) for k, item in enumerate(found))

    def number(self, name: str, low: float, high: float) -> float:
        found = self.get(name)
        if isinstance(found, bool) or not isinstance(found, int | float) or not low <= found <= high:
            refuse(self.path(name), found, f"a number from {low:g} to {high:g}")
        return found

    def flag(self, name: str) -> bool:
        found = self.get(name)
        if not isinstance(found, bool):
            refuse(self.path(name), found, "true or false")
        return found


def read(path: Path) -> Fields:
    """The object in a file. Raises FileNotFoundError, or ValueError, also for what cannot be opened."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"it cannot be opened: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB, which are allowed")
    return parse(raw)


def parse(raw: str | bytes) -> Fields:
    """The object in a text, of finite numbers and of a depth that all can handle."""
    try:
        content = json.loads(raw, parse_constant=_constant)
    except RecursionError:
        raise ValueError(f"it is nested too deeply; {MAX_DEPTH} levels are allowed") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no text: {error.reason}") from None
    layer: list[Any] = [content]
    for _ in range(MAX_DEPTH):
        layer = [item for value in layer if isinstance(value, dict | list) for item in _inner(value)]
    if layer:
        raise ValueError(f"it is nested too deeply; {MAX_DEPTH} levels are allowed")
    return fields(content, "")


def _inner(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}; finite numbers are allowed")


def fields(value: Any, where: str) -> Fields:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        refuse(where or "all of it", value, "an object with names")
    return Fields(value, where)


def text(value: Any, where: str, choices: Iterable[str] | None = None) -> str:
    if choices is not None and (not isinstance(value, str) or value not in choices):
        refuse(where, value, " or ".join(repr(choice) for choice in choices))
    if not isinstance(value, str) or "\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value):
        refuse(where, value, "a text of whole characters")
    return value


def integer(value: Any, where: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        refuse(where, value, f"an integer from {low} to {high}")
    return value


def refuse(where: str, found: Any, allowed: str) -> NoReturn:
    raise ValueError(f"{where} is {_shown(found)}; {allowed} is allowed")


def _shown(found: Any) -> str:
    if isinstance(found, dict | list | tuple):
        return f"{'an object' if isinstance(found, dict) else 'a list'} of {len(found)}"
    if isinstance(found, int) and not isinstance(found, bool) and abs(found) >= 10**18:
        return f"an integer of {int(found.bit_length() * math.log10(2)) + 1} digits"
    shown = json.dumps(found) if isinstance(found, str | int | float | bool) or found is None else type(found).__name__
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
