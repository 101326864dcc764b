"""Lava processes: a layer of the graph, the soft-reset neuron, the source and the recorders."""

from __future__ import annotations

import numpy as np
from lava.magma.core.process.ports.ports import InPort, OutPort, RefPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.proc.lif.process import LIFReset

from export.graph import Decay, GraphError, Population, Shape
from hardware_sim.lava_backend.layout import LayerFiles, Window, whc
from hardware_sim.lava_backend.limits import MAX_INPUTS


class Layer(AbstractProcess):
    """A population with its synapses. As stock parts it expands to what Loihi would get; fused it is one model.

    Ports s_in0, s_in1, ... in the order of the population's edges, spikes (W, H, C) of each source; s_out the
    population's spikes. v: the potential.
    """

    inputs = 0

    def __init__(
        self, *, population: Population, sources: tuple[Shape, ...], window: Window, files: LayerFiles = LayerFiles()
    ) -> None:
        super().__init__(population=population, sources=sources, window=window, files=files)
        for k, shape in enumerate(sources):
            setattr(self, f"s_in{k}", InPort(shape=whc(shape)))
        self.s_out = OutPort(shape=whc(population.shape))
        self.v = Var(shape=whc(population.shape), init=int(population.neuron.u0))

    def in_port(self, k: int) -> InPort:
        return getattr(self, f"s_in{k}")


# Lava tells models by the class of their process, and wants their ports declared on classes: one by number of inputs.
LAYERS = {n: type(f"Layer{n}", (Layer,), {"inputs": n, "__module__": __name__}) for n in range(1, MAX_INPUTS + 1)}


def make_layer(
    population: Population, sources: tuple[Shape, ...], window: Window, files: LayerFiles = LayerFiles()
) -> Layer:
    """The Layer with as many inputs as the population has edges. Raises GraphError beyond MAX_INPUTS."""
    n = len(population.edges)
    if n not in LAYERS:
        raise GraphError(f"{population.name}: {n} edges feed it; 1 to {MAX_INPUTS} run in Lava")
    return LAYERS[n](population=population, sources=sources, window=window, files=files)


class IF(LIFReset):
    """Neurons that subtract their threshold when they fire and start every sample from u0.

    As LIFReset otherwise: shape (W, H, C), du and dv of 4096, vth a 17-bit mantissa, reset_interval T, reset_offset
    the first step of a sample. u0 is a potential (<< 6), and so is drop, (W, H, C): what a spike subtracts instead.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        vth: int,
        u0: int,
        drop: np.ndarray | None,
        du: Decay,
        dv: Decay,
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
        self.proc_params["drop"] = drop


class SpikeSource(AbstractProcess):
    """Sends the spikes of a file step by step, and nothing after its end.

    path: uint8 array file (samples, T, bytes), bits in (C, H, W) order. shape: (C, H, W).
    """

    def __init__(self, *, path: str, shape: Shape) -> None:
        super().__init__(path=path, shape=shape)
        self.s_out = OutPort(shape=whc(shape))


class SpikeRecorder(AbstractProcess):
    """Writes the spikes of one population, bit by bit, to a file that the parent process maps."""

    def __init__(self, *, shape: tuple[int, ...], window: Window, files: LayerFiles) -> None:
        super().__init__(shape=shape, window=window, files=files)
        self.s_in = InPort(shape=shape)


class PotentialRecorder(AbstractProcess):
    """Reads a Var of neurons after each step, or after the last step of each sample, into a file."""

    def __init__(self, *, potential: Var, window: Window, files: LayerFiles) -> None:
        super().__init__(window=window, files=files)
        self.potential = RefPort(potential.shape)
        self.potential.connect_var(potential)
