"""Engines that run an integer graph, and what compares them. See `engines.run`."""

from hardware_sim.engines import run
from hardware_sim.lava_backend.process import LavaWorker
from hardware_sim.record import Record, SimulationError
from hardware_sim.trace import Trace

__all__ = ["LavaWorker", "Record", "SimulationError", "Trace", "run"]
