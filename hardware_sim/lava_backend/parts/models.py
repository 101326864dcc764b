"""CPU models of the soft-reset neuron, the source and the recorders. The neuron's arithmetic is Lava's, inherited."""

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

from hardware_sim.lava_backend.layout import Tape, open_tape, whc
from hardware_sim.lava_backend.parts.processes import IF, PotentialRecorder, SpikeRecorder, SpikeSource


@implements(proc=IF, protocol=LoihiProtocol)
@requires(CPU)
@tag("bit_accurate_loihi", "fixed_pt")
class PyIFModel(AbstractPyLifModelFixed):
    """Stock fixed-point dynamics; a spike subtracts the threshold instead of setting the potential to 0."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    vth: int = LavaPyType(int, np.int32, precision=17)

    def __init__(self, proc_params: dict[str, Any]) -> None:
        super().__init__(proc_params)
        self.u0, self.drop = proc_params["u0"], proc_params["drop"]
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
        self.v[fired] -= np.int32(threshold) if self.drop is None else self.drop[fired].astype(np.int32)
        self.s_out.send(fired)


@implements(proc=SpikeSource, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySpikeSourceModel(PyLoihiProcessModel):
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.uint8)

    def __init__(self, proc_params: dict[str, Any]) -> None:
        super().__init__(proc_params)
        self.shape = proc_params["shape"]
        self.frames = np.load(proc_params["path"], mmap_mode="r")

    def run_spk(self) -> None:
        sample, t = divmod(self.time_step - 1, self.frames.shape[1])
        if sample < len(self.frames):
            frame = np.unpackbits(self.frames[sample, t], count=int(np.prod(self.shape))).reshape(self.shape)
            self.s_out.send(np.ascontiguousarray(frame.transpose(2, 1, 0)))
        else:
            self.s_out.send(np.zeros(whc(self.shape), np.uint8))


@implements(proc=SpikeRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySpikeRecorderModel(PyLoihiProcessModel):
    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, bool, precision=1)

    def __init__(self, proc_params: dict[str, Any]) -> None:
        super().__init__(proc_params)
        self.window, self.files = proc_params["window"], proc_params["files"]
        self.spikes, self.counts = open_tape(self.files.spikes), open_tape(self.files.counts)
        self.tally = np.zeros(proc_params["shape"][::-1], np.int32)
        self.progress = np.load(self.files.progress, mmap_mode="r+")

    def run_spk(self) -> None:
        fired = self.s_in.recv().astype(bool).transpose(2, 1, 0)  # C, H, W
        place = self.window.place(self.time_step)
        if place is not None and self.spikes is not None:
            self.spikes.append(np.packbits(fired))
        if place is not None and self.counts is not None:
            self.tally += fired
            if place[1] == self.window.timesteps - 1:
                self.counts.append(self.tally)
                self.tally[:] = 0
        self.progress[self.files.slot] = self.time_step


@implements(proc=PotentialRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyPotentialRecorderModel(PyLoihiProcessModel):
    potential: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict[str, Any]) -> None:
        super().__init__(proc_params)
        self.window, files = proc_params["window"], proc_params["files"]
        self.each_step = bool(files.potentials)
        self.tape = Tape(files.potentials or files.output)
        self.progress = np.load(files.progress, mmap_mode="r+") if files.progress else None
        self.slot = files.slot

    def run_spk(self) -> None:
        if self.progress is not None:
            self.progress[self.slot] = self.time_step

    def post_guard(self) -> bool:
        place = self.window.place(self.time_step)
        return place is not None and (self.each_step or place[1] == self.window.timesteps - 1)

    def run_post_mgmt(self) -> None:
        self.tape.append(self.potential.read().astype(np.int32).transpose(2, 1, 0))  # C, H, W
