"""lava-dl's NetX HDF5: `write` a graph, `read` a graph. FORMAT.md describes the file."""

from export.netx.parts import FORMAT_VERSION
from export.netx.read import read
from export.netx.write import write

__all__ = ["FORMAT_VERSION", "read", "write"]
