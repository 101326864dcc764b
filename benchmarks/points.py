"""Result files that grow point by point, so that a long measurement can be stopped and go on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stored_points(path: Path, identity: dict[str, Any], key: str) -> dict[str, Any]:
    """What `path` holds, or a start: `identity`, and no points under `key`.

    Raises SystemExit where the file's identity is another: its points are of other networks, subjects or settings.
    """
    if not path.exists():
        return {**identity, key: []}
    found = json.loads(path.read_text())
    wrong = [name for name, value in identity.items() if found.get(name) != value]
    if wrong:
        raise SystemExit(
            f"{path} was measured with other {', '.join(wrong)}; give another place with --out, or delete it"
        )
    return found
