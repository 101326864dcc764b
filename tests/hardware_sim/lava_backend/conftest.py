"""Some tests import Lava themselves: it is mended first."""

from hardware_sim.lava_backend.compat import mend

mend()
