"""Lava processes: a group of layers, a layer of stock parts, the soft-reset neuron and the recorders."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from lava.magma.core.process.ports.ports import InPort, OutPort, RefPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.proc.lif.process import LIFReset
from lava.proc.sdn.process import Sigma, SigmaDelta

from export.graph import Decay, GraphError, Neuron, Population, Shape
from hardware_sim.lava_backend.grouping import MAX_PORTS
from hardware_sim.lava_backend.layers import Member
from hardware_sim.lava_backend.layout import Frames, LayerFiles, Window, whc
from hardware_sim.lava_backend.limits import MAX_INPUTS


class Group(AbstractProcess):
    """Populations with their synapses that one process runs; see `grouping`. Fused only.

    Ports s_in0, s_in1, ... in the order of `sources`, spikes (copies, W, H, C) of nodes outside the group; s_out0, ...
    in the order of `sends`, what nodes of the group send. Of both there may be more, which nothing is connected to.
    frames: the graph's input, where this group has it.
    """

    ports = 0
    graded = False  # whether spikes carry values

    def __init__(
        self,
        *,
        members: tuple[Member, ...],
        sources: Mapping[str, Shape],
        sends: tuple[str, ...],
        frames: Frames | None,
    ) -> None:
        super().__init__(members=members, sources=tuple(sources), sends=sends, frames=frames)
        shapes = {member.population.name: member.population.shape for member in members}
        if frames is not None:
            shapes[frames.name] = frames.shape
        ins, outs = list(sources.values()), [shapes[name] for name in sends]
        copies = len(members[0].copies)
        for k in range(self.ports):
            setattr(self, f"s_in{k}", InPort(shape=(copies, *whc(ins[k])) if k < len(ins) else (1,)))
            setattr(self, f"s_out{k}", OutPort(shape=(copies, *whc(outs[k])) if k < len(outs) else (1,)))

    def in_port(self, k: int) -> InPort:
        return getattr(self, f"s_in{k}")

    def out_port(self, k: int) -> OutPort:
        return getattr(self, f"s_out{k}")


class Layer(AbstractProcess):
    """A population with its synapses, which expands to stock parts, as Loihi would get them.

    Ports s_in0, s_in1, ... in the order of the population's edges, spikes (W, H, C) of each source; s_out the
    population's spikes. v: the potential.
    """

    inputs = 0
    graded = False  # whether spikes carry values

    def __init__(self, *, population: Population, sources: tuple[Shape, ...], window: Window) -> None:
        super().__init__(population=population, sources=sources, window=window)
        for k, shape in enumerate(sources):
            setattr(self, f"s_in{k}", InPort(shape=whc(shape)))
        self.s_out = OutPort(shape=whc(population.shape))
        start = int(population.neuron.u0) if isinstance(population.neuron, Neuron) else 0
        self.v = Var(shape=whc(population.shape), init=start)

    def in_port(self, k: int) -> InPort:
        return getattr(self, f"s_in{k}")


# Lava tells models by the class of their process, and wants their ports declared on classes: one by number of inputs.
def _layers(name: str, *, graded: bool) -> dict[int, type[Layer]]:
    given = {"graded": graded, "__module__": __name__}
    return {n: type(f"{name}{n}", (Layer,), {"inputs": n, **given}) for n in range(1, MAX_INPUTS + 1)}


LAYERS, GRADED_LAYERS = _layers("Layer", graded=False), _layers("GradedLayer", graded=True)


def _groups(name: str, *, graded: bool) -> dict[int, type[Group]]:
    given = {"graded": graded, "__module__": __name__}
    return {n: type(f"{name}{n}", (Group,), {"ports": n, **given}) for n in range(1, MAX_PORTS + 1)}


GROUPS, GRADED_GROUPS = _groups("Group", graded=False), _groups("GradedGroup", graded=True)


def make_layer(
    population: Population,
    sources: tuple[Shape, ...],
    window: Window,
    *,
    graded: bool = False,
) -> Layer:
    """The Layer with as many inputs as the population has edges. Raises GraphError beyond MAX_INPUTS."""
    n = len(population.edges)
    if n not in LAYERS:
        raise GraphError(f"{population.name}: {n} edges feed it; 1 to {MAX_INPUTS} run in Lava")
    kinds = GRADED_LAYERS if graded else LAYERS
    return kinds[n](population=population, sources=sources, window=window)


class IF(LIFReset):
    """Neurons that subtract their threshold when they fire, or fire at both thresholds, and start a sample from u0.

    As LIFReset otherwise: shape (W, H, C), du and dv of 4096, vth a 17-bit mantissa, reset_interval T, reset_offset
    the first step of a sample. u0 is a potential (<< 6), and so is drop, (W, H, C): what a spike subtracts instead.
    subtract: else a spike sets the potential to 0. ternary: below -vth they send -1, as Lava's TernaryLIF.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        vth: int,
        u0: int,
        drop: np.ndarray | None,
        subtract: bool,
        ternary: bool,
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
        self.proc_params["u0"], self.proc_params["drop"] = u0, drop
        self.proc_params["subtract"], self.proc_params["ternary"] = subtract, ternary


class SigmaDeltaReset(SigmaDelta):
    """Lava's sigma-delta neurons that start every sample from rest. vth, bias (W, H, C): in units of their state."""

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        vth: int,
        bias: np.ndarray | int,
        state_exp: int,
        reset_interval: int,
        reset_offset: int,
    ) -> None:
        # The model shifts by state_exp alone; Lava would scale vth and bias by both exponents.
        super().__init__(shape=shape, vth=vth, bias=bias, spike_exp=-state_exp, state_exp=state_exp)
        self.proc_params["reset_interval"], self.proc_params["reset_offset"] = reset_interval, reset_offset


class SigmaReset(Sigma):
    """Lava's sums that start every sample from 0."""

    def __init__(self, *, shape: tuple[int, ...], reset_interval: int, reset_offset: int) -> None:
        super().__init__(shape=shape)
        self.proc_params["reset_interval"], self.proc_params["reset_offset"] = reset_interval, reset_offset


class SpikeRecorder(AbstractProcess):
    """Writes the spikes of one population, bit by bit, to a file that the parent process maps."""

    def __init__(self, *, shape: tuple[int, ...], window: Window, files: LayerFiles) -> None:
        super().__init__(shape=shape, window=window, files=files)
        self.s_in = InPort(shape=shape)


class ValueRecorder(SpikeRecorder):
    """Writes the values of one population's spikes likewise."""


class PotentialRecorder(AbstractProcess):
    """Reads a Var of neurons after each step, or after the last step of each sample, into a file."""

    def __init__(self, *, potential: Var, window: Window, files: LayerFiles) -> None:
        super().__init__(window=window, files=files)
        self.potential = RefPort(potential.shape)
        self.potential.connect_var(potential)
