"""CPU models of the processes in `processes`. The neuron's arithmetic is Lava's own, inherited."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort, PyRefPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.lif.models import AbstractPyLifModelFixed

from hardware_sim.lava_backend.parts.processes import IF, PotentialRecorder, SpikeRecorder


@implements(proc=IF, protocol=LoihiProtocol)
@requires(CPU)
@tag("bit_accurate_loihi", "fixed_pt")
class PyIFModel(AbstractPyLifModelFixed):
    """Stock fixed-point dynamics; a spike subtracts the threshold instead of setting the potential to 0."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    vth: int = LavaPyType(int, np.int32, precision=17)

    def __init__(self, proc_params: dict[str, Any]) -> None:
        super().__init__(proc_params)
        self.u0 = proc_params["u0"]
        self.reset_interval = proc_params["reset_interval"]
        self.reset_offset = proc_params["reset_offset"] % self.reset_interval

    def run_spk(self) -> None:
        a_in = self.a_in.recv()
        if self.time_step % self.reset_interval == self.reset_offset:
            self.u[:] = 0
            self.v[:] = self.u0
        self.scale_bias()
        self.subthr_dynamics(activation_in=a_in)
        threshold = np.left_shift(self.vth, self.vth_shift)
        fired = self.v > threshold
        self.v[fired] -= np.int32(threshold)
        self.s_out.send(fired)


@implements(proc=SpikeRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySpikeRecorderModel(PyLoihiProcessModel):
    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, bool, precision=1)

    def __init__(self, proc_params: dict[str, Any]) -> None:
        super().__init__(proc_params)
        self.settings = proc_params
        self.bits: np.ndarray | None = None

    def run_spk(self) -> None:
        spikes = self.s_in.recv()  # W, H, C
        if self.bits is None:  # opened here, in the process that writes
            self.bits = np.load(self.settings["path"], mmap_mode="r+")
            self.progress = np.load(self.settings["progress"], mmap_mode="r+")
        sample, t = divmod(self.time_step - 1 - self.settings["depth"], self.settings["timesteps"])
        if 0 <= sample < self.settings["samples"]:
            self.bits[sample, t] = np.packbits(spikes.transpose(2, 1, 0).astype(bool).ravel())
        self.progress[self.settings["slot"]] = self.time_step


@implements(proc=PotentialRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyPotentialRecorderModel(PyLoihiProcessModel):
    potential: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict[str, Any]) -> None:
        super().__init__(proc_params)
        self.settings = proc_params
        self.file: np.ndarray | None = None

    def _place(self) -> tuple[int, int]:
        return divmod(self.time_step - 1 - self.settings["depth"], self.settings["timesteps"])

    def post_guard(self) -> bool:
        sample, t = self._place()
        due = not self.settings["last_only"] or t == self.settings["timesteps"] - 1
        return due and 0 <= sample < self.settings["samples"]

    def run_post_mgmt(self) -> None:
        if self.file is None:
            self.file = np.load(self.settings["path"], mmap_mode="r+")
        sample, t = self._place()
        value = self.potential.read().transpose(2, 1, 0)  # C, H, W
        if self.settings["last_only"]:
            self.file[sample] = value
        else:
            self.file[sample, t] = value
