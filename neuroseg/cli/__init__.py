"""The commands: arguments in, tables out. What they do is in the library."""

from neuroseg.cli.app import app, main

__all__ = ["app", "main"]
