"""A Layer in stock parts, as sub-process models: what Loihi would get.

An edge is a Conv, or a Sparse for transposed convolutions, dense and single synapses, or a DelaySparse for delays by
target neuron; a skip that must wait k steps passes through a relay: one neuron per source neuron behind an identity
synapse of delay k - 1 (DelaySparse), which repeats every spike.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from lava.magma.core.decorator import implements
from lava.magma.core.model.sub.model import AbstractSubProcessModel
from lava.magma.core.process.ports.ports import AbstractPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.conv.process import Conv as LavaConv
from lava.proc.lif.process import LIF, LIFReset
from lava.proc.sparse.process import DelaySparse, Sparse
from lava.utils.weightutils import SignMode
from scipy import sparse

from export.graph import Conv, Decay, Edge, GraphError, Neuron, Population, Shape
from export.limits import BIAS_EXPONENT_MAX, BIAS_MANTISSA_MAX, THRESHOLD_MAX, WEIGHT_STEP
from hardware_sim.lava_backend.layout import Window, whc
from hardware_sim.lava_backend.parts.processes import (
    GRADED_LAYERS,
    IF,
    LAYERS,
    Layer,
    SigmaDeltaReset,
    SigmaReset,
)
from hardware_sim.lava_backend.synapses import to_sparse

MESSAGE_BITS = 24  # of spikes that carry values
RELAY_WEIGHT, RELAY_THRESHOLD = 2, 1  # one spike lifts a relay over its threshold
NO_CURRENT_DECAY_LEFT = 4095  # du of 4095 and the offset bit: the current lasts one step


class StockLayer(AbstractSubProcessModel):
    """Synapses and neurons as Lava's own processes."""

    def __init__(self, proc: AbstractProcess) -> None:
        population: Population = proc.proc_params["population"]
        self.neurons, potential = make_neurons(population, proc.proc_params["window"])
        self.message_bits = MESSAGE_BITS if proc.graded else 0
        for k, edge in enumerate(population.edges):
            source = proc.proc_params["sources"][k]
            spikes = proc.in_port(k)
            if edge.delay and proc.graded:  # a relay has no values
                edge = replace(edge, delay=0, target_delay=_later(edge, population.shape))
            spikes = self._delayed(spikes, source, edge.delay)
            self._synapse(spikes, edge, source, population.shape).connect(self.neurons.a_in)
        self.neurons.s_out.connect(proc.s_out)
        proc.v.alias(potential)

    def _synapse(self, spikes: AbstractPort, edge: Edge, source: Shape, target: Shape) -> AbstractPort:
        """Connect an edge's synapse to its spikes; returns the port of its activations (W, H, C)."""
        if isinstance(edge.op, Conv) and edge.target_delay is None:
            op = edge.op
            synapse = LavaConv(
                weight=op.weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1),  # Lava convolves, PyTorch correlates
                input_shape=whc(source),
                stride=op.stride[::-1],
                padding=op.padding[::-1],
                dilation=op.dilation[::-1],
                groups=op.groups,
                num_message_bits=self.message_bits,
            )
            spikes.connect(synapse.s_in)
            activation = synapse.a_out
        else:
            weights, mode, bits = to_sparse(edge.op, source, target), sign_mode(edge.op.weight), self.message_bits
            if edge.target_delay is None:
                synapse = Sparse(weights=weights, sign_mode=mode, num_message_bits=bits)
            else:
                steps = np.repeat(edge.target_delay.T.reshape(-1), np.diff(weights.indptr))  # a row is a target
                waits = sparse.csr_matrix((steps.astype(int), weights.indices, weights.indptr), weights.shape)
                longest = int(edge.target_delay.max())
                synapse = DelaySparse(
                    weights=weights, delays=waits, max_delay=longest, sign_mode=mode, num_message_bits=bits
                )
            spikes.flatten().connect(synapse.s_in)
            activation = synapse.a_out.reshape(whc(target))
        self._own(synapse)
        return activation

    def _delayed(self, spikes: AbstractPort, shape: Shape, delay: int) -> AbstractPort:
        """The spikes, `delay` steps later."""
        if not delay:
            return spikes
        n = int(np.prod(shape))
        identity = sparse.identity(n, dtype=np.int32, format="csr") * RELAY_WEIGHT
        if delay > 1:
            waits = sparse.identity(n, dtype=int, format="csr") * (delay - 1)
            synapse = DelaySparse(weights=identity, delays=waits, max_delay=delay - 1, sign_mode=SignMode.MIXED)
        else:
            synapse = Sparse(weights=identity, sign_mode=SignMode.MIXED)
        relay = LIF(shape=whc(shape), vth=RELAY_THRESHOLD, du=NO_CURRENT_DECAY_LEFT, dv=0)
        spikes.flatten().connect(synapse.s_in)
        synapse.a_out.reshape(whc(shape)).connect(relay.a_in)
        self._own(synapse)
        self._own(relay)
        return relay.s_out

    def _own(self, process: AbstractProcess) -> None:
        """Lava finds sub-processes among the attributes of their model."""
        setattr(self, f"part{len(self.__dict__)}", process)


def _later(edge: Edge, target: Shape) -> np.ndarray:
    """An edge's delay as one of each target neuron."""
    further = 0 if edge.target_delay is None else edge.target_delay
    return np.broadcast_to(np.int32(edge.delay) + further, target)


def _model(process: type[Layer]) -> type[StockLayer]:
    model = type(f"Stock{process.__name__}", (StockLayer,), {"__module__": __name__})
    return implements(proc=process, protocol=LoihiProtocol)(model)


# Lava looks for them among the names of the module.
for _process in (*LAYERS.values(), *GRADED_LAYERS.values()):
    globals()[f"Stock{_process.__name__}"] = _model(_process)


def sign_mode(weight: np.ndarray) -> SignMode:
    """Mixed, in which Lava cuts off the lowest bit, wherever that is 0."""
    if not (weight % WEIGHT_STEP).any():
        return SignMode.MIXED
    return SignMode.EXCITATORY if weight.min() >= 0 else SignMode.INHIBITORY


def make_neurons(population: Population, window: Window) -> tuple[AbstractProcess, Var]:
    """Lava's neurons, which start every sample anew, and their potential: `make_cuba`'s, SigmaDelta or Sigma."""
    neuron, shape = population.neuron, whc(population.shape)
    if isinstance(neuron, Neuron):
        found = make_cuba(population, window)
        return found, found.v
    when = {"reset_interval": window.timesteps, "reset_offset": (1 + window.depth) % window.timesteps}
    if neuron.threshold is None:
        sums = SigmaReset(shape=shape, **when)
        return sums, sums.sigma
    bias = 0 if neuron.bias is None else np.broadcast_to(neuron.bias, population.shape).transpose(2, 1, 0).copy()
    sends = SigmaDeltaReset(shape=shape, vth=neuron.threshold, bias=bias, state_exp=neuron.shift, **when)
    return sends, sends.act


def make_cuba(population: Population, window: Window) -> LIFReset:
    """Lava's LIFReset, or ours where a spike subtracts or has a sign."""
    neuron = population.cuba
    mantissa, exponent = bias_parts(population.name, neuron, population.shape)
    threshold = THRESHOLD_MAX if neuron.threshold is None else int(neuron.threshold)
    drop = None if neuron.drop is None else np.broadcast_to(neuron.drop, population.shape).transpose(2, 1, 0)
    make, subtract = LIFReset, neuron.reset == "subtract"
    if subtract or neuron.ternary:
        make = partial(IF, u0=int(neuron.u0), drop=drop, subtract=subtract, ternary=neuron.ternary)
    return make(
        shape=whc(population.shape),
        vth=threshold,
        du=_each(neuron.current_decay, population.shape) - 1,
        dv=_each(neuron.voltage_decay, population.shape),
        bias_mant=mantissa,
        bias_exp=exponent,
        reset_interval=window.timesteps,
        reset_offset=1 + window.depth,
    )


def _each(decay: Decay, shape: Shape) -> Decay:
    """A decay for every neuron, in Lava's axes; one for all stays one."""
    return decay if isinstance(decay, int) else np.broadcast_to(decay, shape).transpose(2, 1, 0).astype(np.int64)


def bias_parts(name: str, neuron: Neuron, shape: Shape) -> tuple[np.ndarray | int, int]:
    """Loihi's mantissa and exponent of a bias that is already shifted, in Lava's axes. Raises GraphError."""
    if neuron.bias is None:
        return 0, 0
    bias = np.broadcast_to(neuron.bias, shape).transpose(2, 1, 0)
    for exponent in range(BIAS_EXPONENT_MAX + 1):
        mantissa = bias >> exponent
        if np.abs(mantissa).max() <= BIAS_MANTISSA_MAX and (mantissa << exponent == bias).all():
            return mantissa.copy(), exponent
    raise GraphError(f"{name}: bias up to {np.abs(bias).max()} has no 13-bit mantissa with an exponent up to 7")
