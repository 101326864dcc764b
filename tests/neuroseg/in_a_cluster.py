"""Work for the tests of `neuroseg.cluster`, which workers import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def square(number: int) -> int:
    return number * number


def square_of(file: Path) -> int:
    """Of the number in a file's name; the worker dies as long as the file has letters, one at each try."""
    left = file.read_text()
    if left:
        file.write_text(left[1:])
        os.kill(os.getpid(), signal.SIGKILL)
    return square(int(file.stem))


def slow_square(number: int) -> int:
    time.sleep(0.5)
    return square(number)


def picky_square(number: int) -> int:
    if number == 2:
        raise TypeError("two is none of mine")
    return square(number)


def minus_one(item: object, error: str) -> int:
    return -1


def died(file: Path, error: str) -> int:
    assert "died each time" in error
    return -1
