"""Foreign text made fit to be shown: names and notes of files may hold what a terminal or an SVG takes for commands."""

from __future__ import annotations

import re

# Control characters but line feed and tab, those that turn the direction of writing, and halves of surrogate pairs.
HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """The text with each such character written out, as in Python: a title that a file would set becomes readable."""
    return HIDDEN.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
