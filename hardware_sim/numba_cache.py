"""A place for numba's cache of compiled kernels, also where neither the package nor the home can be written."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"


def ensure_cache(module: str) -> None:
    """Before numba is imported: choose a private temporary folder where numba would find no place for a module's cache.

    numba looks beside the module, then in the user's cache folder, and fails at import where it can write neither. The
    temporary folder ends with this process; those that it starts share it.
    """
    beside = Path(module).parent / "__pycache__"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    given = os.environ.get(VARIABLE)
    if any(_writable(place) for place in ([Path(given)] if given else [beside, home])):
        return
    folder = tempfile.mkdtemp(prefix="neuroseg-numba-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[VARIABLE] = folder
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = folder


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
