"""What Loihi can hold. Every limit is a named constant with its source; `check` refuses what exceeds one.

Davies et al., "Loihi: A Neuromorphic Manycore Processor with On-Chip Learning", IEEE Micro 38(1), 2018; lava-nc
0.10.0, the files named below, whose fixed-point models mirror the chip.
"""

from __future__ import annotations

import numpy as np

from export.bounds import input_bound, input_bound_in_place
from export.graph import (
    Dense,
    Edge,
    Graph,
    GraphError,
    Input,
    Neuron,
    Node,
    Operator,
    Population,
    SigmaDelta,
    Sparse,
    graded,
    in_lava_steps,
    spans,
)

WEIGHT_MIN, WEIGHT_MAX = -256, 254  # signed 8-bit mantissa, mixed sign mode: lava/utils/weightutils.py
WEIGHT_STEP = 2  # mixed mode keeps the sign in the lowest bit, so weights are even
ONE_SIGN_MAX = 255  # of weights that are all excitatory or all inhibitory, whose sign is the synapse's: no bit is lost
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
# Of a state that a message leaves out. lava/lib/dl/netx/hdf5.py has 6, and lava/proc/sdn/models.py says 3 bits, which
# its arithmetic does not keep to; a neuron of Loihi 2 is a program, which may shift further. Untried on a chip.
SHIFT_MAX = 16
SETTLED = 1e-9  # of a potential, which rises no further


def check(graph: Graph, *, stock: bool = True, bounds: bool = True) -> Graph:
    """Return an integer, aligned graph that fits Loihi; raise GraphError naming population, value and limit.

    stock: whether Lava's own parts must take it, whose kernels, strides and paddings are int8. bounds: whether what
    inputs and potentials may reach must fit, too; an engine watches what they do reach (see `beyond`).
    """
    if not graph.integer:
        raise GraphError("the graph holds floats; quantize it first")
    stepped = in_lava_steps(graph)
    inputs = [node for node in graph.nodes if isinstance(node, Input)]
    if len(inputs) != 1:
        raise GraphError(f"the graph has {len(inputs)} inputs; 1 is supported")
    values, bounded = graded(graph), spans(graph)
    if isinstance(inputs[0].neuron, SigmaDelta):
        _check_sigma_delta(inputs[0].name, inputs[0].neuron)
    sums = {p.name for p in graph.populations if isinstance(p.neuron, SigmaDelta) and p.neuron.threshold is None}
    for population in stepped.populations:
        for edge in population.edges:
            if population.hears_late(edge) and not _fires(graph[edge.source]):
                raise GraphError(f"{population.name}: is fed back by {edge.source}, which never fires; what fires may")
            if edge.source in sums:
                raise GraphError(f"{population.name}: reads {edge.source}, which only sums its input; none may read it")
            _check_weights(population, edge)
            _check_delay(population, edge)
            if stock:
                _check_geometry(population, edge.op)
        if isinstance(population.neuron, SigmaDelta):
            _check_sigma_delta(population.name, population.neuron)
            continue
        _check_neuron(population.name, population.neuron)
        if bounds:
            for edge in population.edges:
                if edge.source in values and edge.source not in bounded:
                    raise GraphError(
                        f"{population.name}: integrate-and-fire neurons read {edge.source}, whose spikes carry values; "
                        "no bound holds their input in 16 bits"
                    )
            _check_input(graph, population, population.neuron)
    return graph


def _fires(node: Node) -> bool:
    return isinstance(node, Population) and node.neuron.threshold is not None


def beyond(graph: Graph) -> tuple[str, ...]:
    """Populations whose inputs or potentials may exceed what Loihi holds, by a bound from their weights alone.

    No weight bounds graded spikes: all that read such, and all sigma-delta neurons, are among them; but for those whose
    values are known (`graph.spans`).
    """
    found, values = [], graded(graph) - spans(graph).keys()
    for population in graph.populations:
        if isinstance(population.neuron, SigmaDelta) or any(edge.source in values for edge in population.edges):
            found.append(population.name)
            continue
        try:
            _check_input(graph, population, population.neuron)
        except GraphError:
            found.append(population.name)
    return tuple(found)


def _within(name: str, what: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise GraphError(f"{name}: {what} is {value:g}; {low:g} to {high:g} is allowed")


def _check_weights(population: Population, edge: Edge) -> None:
    weight = edge.op.weight
    what = f"weight from {edge.source}"
    if not np.isfinite(weight).all():
        raise GraphError(f"{population.name}: {what} holds NaN or infinity")
    if (weight != np.round(weight)).any():
        fraction = float(weight[weight != np.round(weight)].flat[0])
        raise GraphError(f"{population.name}: {what} holds {fraction:g}; even integers are allowed")
    if not weight.size or one_signed(weight):
        return
    odd = weight[(weight % WEIGHT_STEP) != 0]
    if odd.size and weight.min() < 0 < weight.max():
        raise GraphError(
            f"{population.name}: {what} holds {float(odd.flat[0]):g}; even integers are allowed, or, where all have "
            f"one sign, integers up to {ONE_SIGN_MAX}"
        )
    low, high = (-ONE_SIGN_MAX, ONE_SIGN_MAX) if odd.size else (WEIGHT_MIN, WEIGHT_MAX)
    _within(population.name, what, float(weight.min()), low, high)
    _within(population.name, what, float(weight.max()), low, high)


def one_signed(weight: np.ndarray) -> bool:
    """Whether integers are such that a synapse with one sign for all of them holds them, odd ones too."""
    low, high = weight.min(), weight.max()
    return bool((low >= 0 or high <= 0) and max(-low, high) <= ONE_SIGN_MAX)


def _check_delay(population: Population, edge: Edge) -> None:
    further = np.zeros(1) if edge.target_delay is None else edge.target_delay
    counted = ", in steps of Lava," if edge.feedback else ""
    _within(population.name, f"delay from {edge.source}{counted}", edge.delay + float(further.max()), 0, DELAY_MAX)
    _within(population.name, f"delay by target neuron from {edge.source}", float(further.min()), 0, DELAY_MAX)


def _check_geometry(population: Population, op: Operator) -> None:
    if isinstance(op, Dense | Sparse):
        return
    for what, pair in (("kernel", op.weight.shape[2:]), ("stride", op.stride), ("dilation", op.dilation)):
        for value in pair:
            _within(population.name, what, value, 1, GEOMETRY_MAX)
    for value in op.padding:
        _within(population.name, "padding", value, 0, GEOMETRY_MAX)


def _check_sigma_delta(name: str, neuron: SigmaDelta) -> None:
    _within(name, "shift", neuron.shift, 0, SHIFT_MAX)
    if neuron.threshold is not None:
        _within(name, "threshold", neuron.threshold, 0, POTENTIAL_MAX)
    elif neuron.bias is not None:
        raise GraphError(f"{name}: has a bias, and only sums its input; Lava's Sigma knows none")
    if neuron.bias is not None:
        _within(name, "bias", float(np.abs(neuron.bias).max()), 0, POTENTIAL_MAX)


def _check_neuron(name: str, neuron: Neuron) -> None:
    if neuron.reset not in RESETS:
        raise GraphError(f"{name}: reset is {neuron.reset!r}; {' and '.join(RESETS)} are allowed")
    if neuron.threshold is not None:
        _within(name, "threshold", neuron.threshold, THRESHOLD_MIN, THRESHOLD_MAX)
        if neuron.threshold != int(neuron.threshold):
            raise GraphError(f"{name}: threshold is {neuron.threshold}; integers are allowed")
    _within(name, "u0", neuron.u0, -POTENTIAL_MAX, POTENTIAL_MAX)
    if neuron.u0 != int(neuron.u0):
        raise GraphError(f"{name}: u0 is {neuron.u0}; integers are allowed")
    if neuron.ternary and neuron.threshold is None:
        raise GraphError(f"{name}: ternary, and has no threshold; one is needed")
    if neuron.u0 and neuron.reset == "zero":
        raise GraphError(f"{name}: u0 is {neuron.u0} with reset zero; 0 is all that stock LIF knows")
    if neuron.drop is not None:
        if neuron.reset != "subtract":
            raise GraphError(f"{name}: drop is given with reset {neuron.reset}; subtract is allowed")
        for value in (int(np.min(neuron.drop)), int(np.max(neuron.drop))):
            _within(name, "drop", value, 0, POTENTIAL_MAX)
    for what, decay in (("current decay", neuron.current_decay), ("voltage decay", neuron.voltage_decay)):
        for value in {int(np.min(decay)), int(np.max(decay))}:
            _within(name, what, value, 0, DECAY_MAX)
    if neuron.bias is not None:
        _within(name, "bias", float(np.abs(neuron.bias).max()), 0, BIAS_MAX)


def _check_input(graph: Graph, population: Population, neuron: Neuron) -> None:
    bounds = input_bound(population, spans(graph))
    if not _fits(neuron, bounds, graph.meta.timesteps):  # then by what each neuron can get at its place
        bounds = input_bound_in_place(graph, population)
    low, high = bounds
    _bounded(population, "least input in a step", low, INPUT_MIN, INPUT_MAX)
    _bounded(population, "greatest input in a step", high, INPUT_MIN, INPUT_MAX)
    if neuron.threshold is None:
        for value in _readout(neuron, bounds, graph.meta.timesteps):
            what = f"potential after {graph.meta.timesteps} steps, >> 6,"
            _bounded(population, what, value, -THRESHOLD_MAX, THRESHOLD_MAX)


def _bounded(population: Population, what: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise GraphError(
            f"{population.name}: {what} may reach {value:g}, a bound from its weights; {low:g} to {high:g} is allowed"
        )


def _fits(neuron: Neuron, bounds: tuple[float, float], timesteps: int) -> bool:
    low, high = bounds
    readout = () if neuron.threshold is not None else _readout(neuron, bounds, timesteps)
    return low >= INPUT_MIN and high <= INPUT_MAX and all(abs(value) <= THRESHOLD_MAX for value in readout)


def _readout(neuron: Neuron, bounds: tuple[float, float], timesteps: int) -> tuple[float, float]:
    """An output integrates T steps; at the top of its range a Loihi neuron would fire and its potential clip."""
    gain, bias_gain = readout_gains(neuron, timesteps)
    bias = np.zeros(1) if neuron.bias is None else neuron.bias / 2**POTENTIAL_SHIFT
    start = neuron.u0 / 2**POTENTIAL_SHIFT
    low = gain * min(bounds[0], 0) + bias_gain * min(float(bias.min()), 0) + min(start, 0)
    return low, gain * max(bounds[1], 0) + bias_gain * max(float(bias.max()), 0) + max(start, 0)


def readout_gains(neuron: Neuron, timesteps: int) -> tuple[float, float]:
    """What T steps of an input of 1, and of a bias of 1, make of the potential of the slowest of the neurons."""
    if not neuron.leaks:
        return timesteps, timesteps
    kept, left = (1 - int(np.min(decay)) / DECAY_MAX for decay in (neuron.current_decay, neuron.voltage_decay))
    current = potential = by_bias = 0.0
    for _ in range(timesteps):
        current = kept * current + 1
        before, potential = potential, left * potential + current
        by_bias = left * by_bias + 1
        if potential - before < SETTLED * potential:
            break
    return potential, by_bias
