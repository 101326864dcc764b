"""Files of a folder: scans by name, in whatever case and Unicode form."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from neuroseg.data.scan import is_scan

SHOWN = 6


def name_form(name: str) -> str:
    """One form for a name that may be composed (Linux) or decomposed (macOS)."""
    return unicodedata.normalize("NFC", name)


def scans_in(directory: Path) -> list[Path]:
    """The scans right in a folder, by name; none where there is no folder."""
    return sorted(path for path in directory.iterdir() if is_scan(path)) if directory.is_dir() else []


def find_file(path: Path) -> Path | None:
    """The file of a path, in another Unicode form if need be; None where there is none.

    A link that leads nowhere, or round in a circle, is a file too: reading it says what is wrong.
    """
    if path.is_file() or path.is_symlink():
        return path
    if not path.parent.is_dir():
        return None
    wanted = name_form(path.name)
    return next((other for other in sorted(path.parent.iterdir()) if name_form(other.name) == wanted), None)


def seen(directory: Path) -> str:
    """What a folder holds, in a few words, for messages."""
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in directory.iterdir())
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) + more) if names else "nothing"
