"""NIR, the exchange format of snnTorch, Norse and others: `write` a graph, `read` a graph. See `nodes`."""

from export.nir.frameworks import DT, FRAMEWORKS
from export.nir.read import read
from export.nir.write import write

__all__ = ["DT", "FRAMEWORKS", "read", "write"]
