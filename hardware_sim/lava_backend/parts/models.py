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
from lava.proc.sdn import models as sdn

from hardware_sim.lava_backend.layout import Tape, open_tape
from hardware_sim.lava_backend.parts.processes import (
    IF,
    PotentialRecorder,
    SigmaDeltaReset,
    SigmaReset,
    SpikeRecorder,
    ValueRecorder,
)


@implements(proc=IF, protocol=LoihiProtocol)
@requires(CPU)
@tag("bit_accurate_loihi", "fixed_pt")
class PyIFModel(AbstractPyLifModelFixed):
    """Stock fixed-point dynamics; a spike subtracts the threshold, or there are two, as in PyTernLifModelFixed."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    vth: int = LavaPyType(int, np.int32, precision=17)

    def __init__(self, proc_params: dict[str, Any]) -> None:
        super().__init__(proc_params)
        self.u0, self.drop = proc_params["u0"], proc_params["drop"]
        self.subtract, self.ternary = proc_params["subtract"], proc_params["ternary"]
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
        fired = (self.v > threshold).astype(np.int32)
        if self.ternary:
            fired -= self.v < -threshold
        if self.subtract:
            self.v -= (fired * (threshold if self.drop is None else self.drop)).astype(np.int32)
        else:
            self.v[fired != 0] = 0
        self.s_out.send(fired)


@implements(proc=SigmaDeltaReset, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySigmaDeltaResetModel(sdn.AbstractSigmaDeltaModel):
    """Stock fixed-point dynamics and their types, but for the reset."""

    a_in, s_out = sdn.PySigmaDeltaModelFixed.a_in, sdn.PySigmaDeltaModelFixed.s_out
    vth, bias = sdn.PySigmaDeltaModelFixed.vth, sdn.PySigmaDeltaModelFixed.bias
    sigma, act = sdn.PySigmaDeltaModelFixed.sigma, sdn.PySigmaDeltaModelFixed.act
    residue, error = sdn.PySigmaDeltaModelFixed.residue, sdn.PySigmaDeltaModelFixed.error
    spike_exp, state_exp = sdn.PySigmaDeltaModelFixed.spike_exp, sdn.PySigmaDeltaModelFixed.state_exp
    cum_error = sdn.PySigmaDeltaModelFixed.cum_error

    def run_spk(self) -> None:
        if self.time_step % self.proc_params["reset_interval"] == self.proc_params["reset_offset"]:
            for state in (self.sigma, self.act, self.residue, self.error):
                state[:] = 0
        sdn.PySigmaDeltaModelFixed.run_spk(self)


@implements(proc=SigmaReset, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySigmaResetModel(sdn.AbstractSigmaModel):
    """Stock dynamics and their types, but for the reset."""

    a_in, s_out, sigma = sdn.PySigmaModelFixed.a_in, sdn.PySigmaModelFixed.s_out, sdn.PySigmaModelFixed.sigma

    def run_spk(self) -> None:
        if self.time_step % self.proc_params["reset_interval"] == self.proc_params["reset_offset"]:
            self.sigma[:] = 0
        super().run_spk()


class _Recorder(PyLoihiProcessModel):
    """Writes what is sent, bits or values, and counts spikes."""

    bits: bool

    def __init__(self, proc_params: dict[str, Any]) -> None:
        super().__init__(proc_params)
        self.window, self.files = proc_params["window"], proc_params["files"]
        self.spikes, self.counts = open_tape(self.files.spikes), open_tape(self.files.counts)
        self.tally = np.zeros(proc_params["shape"][::-1], np.int32)
        self.progress = np.load(self.files.progress, mmap_mode="r+")[0]

    def run_spk(self) -> None:
        sent = self.s_in.recv().transpose(2, 1, 0)  # C, H, W
        place = self.window.place(self.time_step)
        if place is not None and self.spikes is not None:
            number = place[0] * self.window.timesteps + place[1]
            self.spikes.write(number, np.packbits(sent != 0) if self.bits else sent.astype(np.int32))
        if place is not None and self.counts is not None:
            self.tally += sent != 0
            if place[1] == self.window.timesteps - 1:
                self.counts.write(place[0], self.tally)
                self.tally[:] = 0
        self.progress[self.files.slot] = self.time_step


@implements(proc=SpikeRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySpikeRecorderModel(_Recorder):
    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, bool, precision=1)
    bits = True


@implements(proc=ValueRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyValueRecorderModel(_Recorder):
    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    bits = False


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
        self.progress = np.load(files.progress, mmap_mode="r+")[0] if files.progress else None
        self.slot = files.slot

    def run_spk(self) -> None:
        if self.progress is not None:
            self.progress[self.slot] = self.time_step

    def post_guard(self) -> bool:
        place = self.window.place(self.time_step)
        return place is not None and (self.each_step or place[1] == self.window.timesteps - 1)

    def run_post_mgmt(self) -> None:
        sample, t = self.window.place(self.time_step)
        number = sample * self.window.timesteps + t if self.each_step else sample
        self.tape.write(number, self.potential.read().astype(np.int32).transpose(2, 1, 0))  # C, H, W
