"""Lava processes beyond the stock ones: the soft-reset neuron, and the recorders."""

from __future__ import annotations

import numpy as np
from lava.magma.core.process.ports.ports import InPort, RefPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.proc.lif.process import LIFReset


class IF(LIFReset):
    """Neurons that subtract their threshold when they fire and start every sample from u0.

    As LIFReset otherwise: shape (W, H, C), du and dv of 4096, vth a 17-bit mantissa, reset_interval T,
    reset_offset the first step of a sample. u0 is a potential (<< 6).
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        vth: int,
        u0: int,
        du: int,
        dv: int,
        bias_mant: np.ndarray | int,
        bias_exp: int,
        reset_interval: int,
        reset_offset: int,
    ) -> None:
        super().__init__(
            shape=shape,
            vth=vth,
            v=u0,
            du=du,
            dv=dv,
            bias_mant=bias_mant,
            bias_exp=bias_exp,
            reset_interval=reset_interval,
            reset_offset=reset_offset,
        )
        self.proc_params["u0"] = u0


class SpikeRecorder(AbstractProcess):
    """Writes the spikes of one population, bit by bit, to files that the parent process maps.

    depth: steps by which the population lags the input. path: uint8 array file (samples, T, bytes).
    progress: int64 array file in which entry `slot` is the last step seen.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        depth: int,
        samples: int,
        timesteps: int,
        path: str,
        progress: str,
        slot: int,
    ) -> None:
        super().__init__(
            shape=shape,
            depth=depth,
            samples=samples,
            timesteps=timesteps,
            path=path,
            progress=progress,
            slot=slot,
        )
        self.s_in = InPort(shape=shape)


class PotentialRecorder(AbstractProcess):
    """Reads a Var of neurons after each step (or after the last step of each sample) into an int32 array file.

    path: (samples, T, C, H, W), or (samples, C, H, W) with last_only.
    """

    def __init__(
        self,
        *,
        potential: Var,
        depth: int,
        samples: int,
        timesteps: int,
        path: str,
        last_only: bool,
    ) -> None:
        super().__init__(depth=depth, samples=samples, timesteps=timesteps, path=path, last_only=last_only)
        self.potential = RefPort(potential.shape)
        self.potential.connect_var(potential)
