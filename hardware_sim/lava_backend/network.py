"""An integer graph as Lava processes, in stock parts.

Lava's axes are (W, H, C). A population is a neuron process; an edge is a Conv, or a Sparse for transposed
convolutions and dense synapses; a skip that must wait k steps passes through a relay: one neuron per source
neuron behind an identity synapse of delay k - 1 (DelaySparse), which repeats every spike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from lava.magma.core.process.ports.ports import OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.proc.conv.process import Conv as LavaConv
from lava.proc.io.source import RingBuffer
from lava.proc.lif.process import LIF, LIFReset
from lava.proc.sparse.process import DelaySparse, Sparse
from lava.utils.weightutils import SignMode
from scipy import sparse

from export.graph import Conv, Edge, Graph, GraphError, Neuron, Population, Shape, depths
from export.limits import THRESHOLD_MAX
from hardware_sim.lava_backend.parts.processes import IF
from hardware_sim.lava_backend.synapses import to_sparse

RELAY_WEIGHT, RELAY_THRESHOLD = 2, 1  # one spike lifts a relay over its threshold
NO_CURRENT_DECAY_LEFT = 4095  # du of 4095 and the offset bit: the current lasts one step
BIAS_MANTISSA_MAX, BIAS_EXPONENT_MAX = 4095, 7


@dataclass(frozen=True)
class LavaNetwork:
    """The processes of a run. neurons: by population. source: any process to start the run from."""

    source: AbstractProcess
    neurons: dict[str, AbstractProcess]
    depth: dict[str, int]


def whc(shape: Shape) -> Shape:
    """(C, H, W) to Lava's (W, H, C)."""
    return shape[::-1]


def build_stock(graph: Graph, spikes: np.ndarray) -> LavaNetwork:
    """Connect the graph's processes to a ring buffer of spikes, uint8 (samples, T, C, H, W)."""
    builder = _Builder(graph, timesteps=spikes.shape[1])
    depth = depths(graph)
    frames = spikes.reshape(-1, *spikes.shape[2:]).transpose(3, 2, 1, 0)  # W, H, C, samples * T
    quiet = np.zeros((*frames.shape[:3], max(depth.values())), frames.dtype)  # while the last sample drains
    source = RingBuffer(data=np.concatenate([frames, quiet], axis=-1).astype(np.int32))
    builder.outputs[graph.input.name] = source.s_out
    neurons = {population.name: builder.population(population) for population in graph.populations}
    return LavaNetwork(source, neurons, depth)


class _Builder:
    """Creates processes in topological order; `outputs` holds the spike port of each node."""

    def __init__(self, graph: Graph, *, timesteps: int) -> None:
        self.shapes = {node.name: node.shape for node in graph.nodes}
        self.depth = depths(graph)
        self.timesteps = timesteps
        self.outputs: dict[str, OutPort] = {}
        self.relays: dict[tuple[str, int], OutPort] = {}

    def population(self, population: Population) -> AbstractProcess:
        neurons = self._neurons(population)
        for edge in population.edges:
            self._synapse(edge, population.shape).connect(neurons.a_in)
        self.outputs[population.name] = neurons.s_out
        return neurons

    def _neurons(self, population: Population) -> AbstractProcess:
        neuron = population.neuron
        mantissa, exponent = _bias(population.name, neuron, population.shape)
        first_step = 1 + self.depth[population.name]
        threshold = THRESHOLD_MAX if neuron.threshold is None else int(neuron.threshold)
        if neuron.reset == "subtract":
            return IF(
                shape=whc(population.shape),
                vth=threshold,
                u0=int(neuron.u0),
                du=neuron.current_decay - 1,
                dv=neuron.voltage_decay,
                bias_mant=mantissa,
                bias_exp=exponent,
                reset_interval=self.timesteps,
                reset_offset=first_step,
            )
        return LIFReset(
            shape=whc(population.shape),
            vth=threshold,
            du=neuron.current_decay - 1,
            dv=neuron.voltage_decay,
            bias_mant=mantissa,
            bias_exp=exponent,
            reset_interval=self.timesteps,
            reset_offset=first_step,
        )

    def _synapse(self, edge: Edge, shape: Shape) -> OutPort:
        """The port of activations (W, H, C) that the edge sends to its population."""
        source_shape = self.shapes[edge.source]
        spikes = self._delayed(edge.source, edge.delay)
        if isinstance(edge.op, Conv):
            op = edge.op
            conv = LavaConv(
                weight=op.weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1),  # Lava convolves, PyTorch correlates
                input_shape=whc(source_shape),
                stride=op.stride[::-1],
                padding=op.padding[::-1],
                dilation=op.dilation[::-1],
                groups=op.groups,
            )
            spikes.connect(conv.s_in)
            return conv.a_out
        matrix = to_sparse(edge.op, source_shape, shape)
        synapse = Sparse(weights=matrix, sign_mode=SignMode.MIXED)
        spikes.flatten().connect(synapse.s_in)
        return synapse.a_out.reshape(whc(shape))

    def _delayed(self, name: str, delay: int) -> OutPort:
        """The spikes of a node, `delay` steps later."""
        if not delay:
            return self.outputs[name]
        if (name, delay) not in self.relays:
            self.relays[name, delay] = self._relay(name, delay)
        return self.relays[name, delay]

    def _relay(self, name: str, delay: int) -> OutPort:
        shape = whc(self.shapes[name])
        n = int(np.prod(shape))
        identity = sparse.identity(n, dtype=np.int32, format="csr") * RELAY_WEIGHT
        if delay > 1:
            waits = sparse.identity(n, dtype=int, format="csr") * (delay - 1)
            synapse = DelaySparse(weights=identity, delays=waits, max_delay=delay - 1, sign_mode=SignMode.MIXED)
        else:
            synapse = Sparse(weights=identity, sign_mode=SignMode.MIXED)
        relay = LIF(shape=shape, vth=RELAY_THRESHOLD, du=NO_CURRENT_DECAY_LEFT, dv=0)
        self.outputs[name].flatten().connect(synapse.s_in)
        synapse.a_out.reshape(shape).connect(relay.a_in)
        return relay.s_out


def _bias(name: str, neuron: Neuron, shape: Shape) -> tuple[np.ndarray | int, int]:
    """Loihi's mantissa and exponent of a bias that is already shifted, in Lava's axes."""
    if neuron.bias is None:
        return 0, 0
    bias = np.broadcast_to(neuron.bias, shape).transpose(2, 1, 0)
    for exponent in range(BIAS_EXPONENT_MAX + 1):
        mantissa = bias >> exponent
        if np.abs(mantissa).max() <= BIAS_MANTISSA_MAX and (mantissa << exponent == bias).all():
            return mantissa.copy(), exponent
    raise GraphError(f"{name}: bias up to {np.abs(bias).max()} has no 13-bit mantissa with an exponent up to 7")
