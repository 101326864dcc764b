"""The `neuroseg` script, and `python -m neuroseg`."""

from __future__ import annotations

import sys

from neuroseg import EXIT_FAILED


def main() -> None:
    """Run the command line; what fails at import is one line too."""
    try:
        from neuroseg.cli import main as run  # noqa: PLC0415 - inside, so that its failure is ours to tell
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        sys.stderr.write(f"error: neuroseg cannot start: {type(error).__name__}: {error} (--debug shows where)\n")
        sys.exit(EXIT_FAILED)
    run()


if __name__ == "__main__":
    main()
