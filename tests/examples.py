"""How many examples a property is tried on: all of them, or in `make check` a tenth."""

from __future__ import annotations

import os

from hypothesis import settings

LEAST = 3
PART = 10 if os.environ.get("NEUROSEG_QUICK") else 1


def examples(number: int) -> settings:
    """`hypothesis.settings` for so many examples."""
    return settings(max_examples=some(number))


def some(number: int) -> int:
    """The part of a number of files or examples that is tried."""
    return max(number // PART, LEAST)
