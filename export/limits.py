"""What Loihi can hold. Every limit is a named constant with its source; `check` refuses what exceeds one.

Davies et al., "Loihi: A Neuromorphic Manycore Processor with On-Chip Learning", IEEE Micro 38(1), 2018; lava-nc
0.10.0, the files named below, whose fixed-point models mirror the chip.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from export.graph import Conv, ConvT, Dense, Edge, Graph, GraphError, Input, Operator, Population, depths

WEIGHT_MIN, WEIGHT_MAX = -256, 254  # signed 8-bit mantissa, mixed sign mode: lava/utils/weightutils.py
WEIGHT_STEP = 2  # mixed mode keeps the sign in the lowest bit, so weights are even
THRESHOLD_MIN, THRESHOLD_MAX = 1, 2**17 - 1  # 17-bit mantissa: lava/proc/lif/models.py, PyLifModelBitAcc.vth
POTENTIAL_SHIFT = 6  # threshold and activation are aligned << 6: AbstractPyLifModelFixed.vth_shift, act_shift
POTENTIAL_MAX = 2**23 - 1  # 24-bit state, clipped at both ends: AbstractPyLifModelFixed.uv_bitwidth
INPUT_MIN, INPUT_MAX = -(2**15), 2**15 - 1  # a_in is int16: AbstractPyLifModelFixed.a_in
DELAY_MAX = 62  # lava/lib/dl/netx/hdf5.py, create_dense; 6 bits on Loihi 2
DECAY_MAX = 4096  # 12 bits, 4096 with the offset bit: AbstractPyLifModelFixed.ds_offset
BIAS_MANTISSA_MAX, BIAS_EXPONENT_MAX = (
    2**12 - 1,
    7,
)  # 13 bits signed, 3 bits: AbstractPyLifModelFixed.bias_mant, bias_exp
BIAS_MAX = BIAS_MANTISSA_MAX << BIAS_EXPONENT_MAX
GEOMETRY_MAX = 127  # kernel, stride, padding are int8: lava/proc/conv/models.py
RESETS = ("subtract", "zero")


def check(graph: Graph) -> Graph:
    """Return an integer, aligned graph that fits Loihi; raise GraphError naming population, value and limit."""
    if not graph.integer:
        raise GraphError("the graph holds floats; quantize it first")
    depths(graph)
    inputs = [node for node in graph.nodes if isinstance(node, Input)]
    if len(inputs) != 1:
        raise GraphError(f"the graph has {len(inputs)} inputs; 1 is supported")
    for population in graph.populations:
        for edge in population.edges:
            _check_weights(population, edge)
            _check_delay(population, edge)
            _check_geometry(population, edge.op)
        _check_neuron(population)
        _check_input(population)
        if population.neuron.threshold is None:
            _check_readout(population, graph.meta.timesteps)
    return graph


def input_bound(population: Population) -> tuple[float, float]:
    """Least and greatest input any neuron of the population can get in one step, from its weights alone."""
    bounds = np.stack([edge_bound(edge.op) for edge in population.edges]).sum(0)  # low and high, Cout
    return float(bounds[0].min()), float(bounds[1].max())


def edge_bound(op: Operator) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest input per output channel (Cout,): all negative or all positive synapses active.

    A transposed convolution is bounded by phase: an output pixel is reached only by the kernel taps that its
    place modulo the stride allows.
    """
    negative, positive = np.minimum(op.weight, 0), np.maximum(op.weight, 0)
    if isinstance(op, Dense):
        return negative.sum(1), positive.sum(1)
    if isinstance(op, Conv):
        return negative.sum((1, 2, 3)), positive.sum((1, 2, 3))
    return _transposed_bound(op, negative, np.min), _transposed_bound(op, positive, np.max)


def _transposed_bound(op: ConvT, weight: np.ndarray, worst: Callable) -> np.ndarray:
    cin, per_group, kh, kw = weight.shape
    grouped = weight.reshape(op.groups, cin // op.groups, per_group, kh, kw).sum(1)  # groups, Cout/g, kh, kw
    taps = grouped.reshape(-1, kh, kw)
    phases: dict[tuple[int, int], np.ndarray] = {}
    for i in range(kh):
        for j in range(kw):
            phase = (i * op.dilation[0] % op.stride[0], j * op.dilation[1] % op.stride[1])
            phases[phase] = phases.get(phase, 0) + taps[:, i, j]
    return worst(np.stack(list(phases.values())), axis=0)


def _within(population: Population, what: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise GraphError(f"{population.name}: {what} is {value:g}; {low:g} to {high:g} is allowed")


def _check_weights(population: Population, edge: Edge) -> None:
    weight = edge.op.weight
    what = f"weight from {edge.source}"
    if not np.isfinite(weight).all():
        raise GraphError(f"{population.name}: {what} holds NaN or infinity")
    if (weight != np.round(weight)).any() or (weight % WEIGHT_STEP).any():
        odd = float(weight[(weight % WEIGHT_STEP) != 0].flat[0])
        raise GraphError(f"{population.name}: {what} holds {odd:g}; even integers are allowed")
    if weight.size:
        _within(population, what, float(weight.min()), WEIGHT_MIN, WEIGHT_MAX)
        _within(population, what, float(weight.max()), WEIGHT_MIN, WEIGHT_MAX)


def _check_delay(population: Population, edge: Edge) -> None:
    further = np.zeros(1) if edge.target_delay is None else edge.target_delay
    _within(population, f"delay from {edge.source}", edge.delay + float(further.max()), 0, DELAY_MAX)
    _within(population, f"delay by target neuron from {edge.source}", float(further.min()), 0, DELAY_MAX)


def _check_geometry(population: Population, op: Operator) -> None:
    if isinstance(op, Dense):
        return
    for what, pair in (("kernel", op.weight.shape[2:]), ("stride", op.stride), ("dilation", op.dilation)):
        for value in pair:
            _within(population, what, value, 1, GEOMETRY_MAX)
    for value in op.padding:
        _within(population, "padding", value, 0, GEOMETRY_MAX)


def _check_neuron(population: Population) -> None:
    neuron = population.neuron
    if neuron.reset not in RESETS:
        raise GraphError(f"{population.name}: reset is {neuron.reset!r}; {' and '.join(RESETS)} are allowed")
    if neuron.threshold is not None:
        _within(population, "threshold", neuron.threshold, THRESHOLD_MIN, THRESHOLD_MAX)
        if neuron.threshold != int(neuron.threshold):
            raise GraphError(f"{population.name}: threshold is {neuron.threshold}; integers are allowed")
    _within(population, "u0", neuron.u0, -POTENTIAL_MAX, POTENTIAL_MAX)
    if neuron.u0 != int(neuron.u0):
        raise GraphError(f"{population.name}: u0 is {neuron.u0}; integers are allowed")
    if neuron.u0 and neuron.reset == "zero":
        raise GraphError(f"{population.name}: u0 is {neuron.u0} with reset zero; 0 is all that stock LIF knows")
    _within(population, "current decay", neuron.current_decay, 0, DECAY_MAX)
    _within(population, "voltage decay", neuron.voltage_decay, 0, DECAY_MAX)
    if neuron.bias is not None:
        _within(population, "bias", float(np.abs(neuron.bias).max()), 0, BIAS_MAX)


def _check_input(population: Population) -> None:
    low, high = input_bound(population)
    _within(population, "least input in a step", low, INPUT_MIN, INPUT_MAX)
    _within(population, "greatest input in a step", high, INPUT_MIN, INPUT_MAX)


def _check_readout(population: Population, timesteps: int) -> None:
    """An output integrates T steps; at the top of its range a Loihi neuron would fire and its potential clip."""
    low, high = input_bound(population)
    bias = np.zeros(1) if population.neuron.bias is None else population.neuron.bias / 2**POTENTIAL_SHIFT
    for bound in (low + float(bias.min()), high + float(bias.max())):
        what = f"potential after {timesteps} steps, >> 6,"
        _within(population, what, timesteps * bound, -THRESHOLD_MAX, THRESHOLD_MAX)
