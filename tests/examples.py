"""How many examples a property is tried on: all of them, or in `make check` a part."""

from __future__ import annotations

import os

from hypothesis import settings

QUICK = bool(os.environ.get("NEUROSEG_QUICK"))
PART, LEAST = 10, 3


def examples(number: int) -> settings:
    """`hypothesis.settings` for so many examples."""
    return settings(max_examples=some(number))


def some(number: int) -> int:
    """All of a number of files or examples, or in `make check` a part of them."""
    return max(number // PART, LEAST) if QUICK else number
