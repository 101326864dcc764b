"""Float graph to integer graph. One scale per population: all its edges share it, else their sum has no meaning.

The one place where anything is rounded: `even_integers` and `bias_step` take numpy arrays and torch tensors alike, so
that fine-tuning (neuroseg/spiking/integers.py) rounds with the same lines. Both in float64, halves to even.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from export.bounds import input_bound
from export.graph import (
    SPIKE_SHIFT,
    STATE_SHIFT,
    Conv,
    Edge,
    Graph,
    GraphError,
    Input,
    Node,
    Population,
    SigmaDelta,
    Span,
    Sparse,
    spans,
)
from export.limits import (
    BIAS_EXPONENT_MAX,
    BIAS_MANTISSA_MAX,
    BIAS_MAX,
    DECAY_MAX,
    INPUT_MAX,
    POTENTIAL_MAX,
    POTENTIAL_SHIFT,
    SHIFT_MAX,
    THRESHOLD_MAX,
    WEIGHT_MAX,
    WEIGHT_MIN,
    readout_gains,
)
from export.passes import align_delays

Array = TypeVar("Array", np.ndarray, Any)  # a numpy array or a torch tensor

MESSAGE_MAX = 2**15 - 1  # of sigma-delta neurons: lava/lib/dl/netx/hdf5.py gives them 16 bits
SIGMA_DELTA_MARGIN = 2.0  # how much further than on the calibration images sums may reach
TINY, ROUNDING = 1e-12, 1e-9
BIAS_LIMIT = BIAS_MAX / 2**POTENTIAL_SHIFT  # in weight units


def even_integers(half: Array) -> Array:
    """Half weights, in integer units, to even integers."""
    return half.round() * 2


def bias_step(shifted: Array) -> int | None:
    """The least step, a power of two, at which a 13-bit mantissa holds all biases << 6; None where none does."""
    for exponent in range(BIAS_EXPONENT_MAX + 1):
        if float(abs(shifted / 2**exponent).max().round()) <= BIAS_MANTISSA_MAX:
            return 2**exponent
    return None


def quantize(graph: Graph) -> Graph:
    """Round weights to even integers and thresholds to integers; scales are recorded in the populations.

    A population's own `scale` is used where it has one, else the largest that fits (`largest_scale`). Raises
    GraphError where a given scale puts a weight out of range: nothing is clipped.
    """
    if graph.integer:
        raise GraphError("the graph is integer already")
    return replace(
        graph,
        integer=True,
        nodes=tuple(
            _quantize(node, graph.meta.timesteps, spans(graph)) if isinstance(node, Population) else node
            for node in graph.nodes
        ),
        meta=replace(graph.meta, logit_scale=_logit_scale(graph)),
    )


def largest_scale(population: Population, *, timesteps: int, values: Mapping[str, Span]) -> float:
    """The largest scale at which the population fits Loihi: weights, input per step, threshold, readout.

    values: the least and the greatest of a source's spikes, where these are not 0 and 1 (`graph.spans`). Integer where
    the population fires, so that a threshold of 1 becomes an integer exactly. Raises GraphError where weights are so
    large beside the threshold that not even scale 1 fits.
    """
    heaviest = max(float(np.abs(edge.op.weight).max(initial=0)) for edge in population.edges)
    scale = WEIGHT_MAX / heaviest if heaviest else 1.0
    threshold = population.cuba.threshold
    if threshold is not None:
        scale = min(scale, THRESHOLD_MAX / threshold)
    if population.cuba.drop is not None:
        scale = min(scale, POTENTIAL_MAX / 2**POTENTIAL_SHIFT / float(np.max(population.cuba.drop)))
    bias = population.cuba.bias
    strongest = 0.0 if bias is None else float(np.abs(bias).max())
    if strongest:
        scale = min(scale, BIAS_LIMIT / strongest)
    while True:
        if threshold is not None:
            scale = math.floor(scale * threshold) / threshold
        if scale <= 0:
            inputs = max(abs(bound) for bound in input_bound(population, values))
            found = f"weight {heaviest:g}, input in a step up to {inputs:g}" + f", bias {strongest:g}" * bool(strongest)
            raise GraphError(
                f"{population.name}: {found} beside threshold {threshold}; at most {WEIGHT_MAX} thresholds a weight, "
                f"{INPUT_MAX} an input and {BIAS_LIMIT:g} a bias fit Loihi"
            )
        excess = _excess(_with_integer_weights(population, scale), timesteps, scale, values)
        if excess <= 1:
            return scale
        scale /= excess


def _excess(population: Population, timesteps: int, scale: float, values: Mapping[str, Span]) -> float:
    """How many times over its limit the input (or the readout) of an integer population may be."""
    worst = max(abs(bound) for bound in input_bound(population, values))
    given = population.cuba.bias
    bias = 0.0 if given is None else np.abs(integer_bias(population.name, given, scale)).max() / 2**POTENTIAL_SHIFT
    if population.cuba.threshold is None:
        gain, bias_gain = readout_gains(population.cuba, timesteps)
        start = abs(population.cuba.u0) * scale
        return max(worst / INPUT_MAX, (worst * gain + bias * bias_gain + start) / THRESHOLD_MAX)
    decay = int(np.min(population.cuba.current_decay))
    steps = min(timesteps, DECAY_MAX / decay) if decay else timesteps  # that a current gathers; beyond 24 bits it wraps
    return max(worst / INPUT_MAX, worst * steps * 2**POTENTIAL_SHIFT / POTENTIAL_MAX)


def _quantize(population: Population, timesteps: int, values: Mapping[str, Span]) -> Population:
    scale = population.scale or largest_scale(population, timesteps=timesteps, values=values)
    integer = _with_integer_weights(population, scale)
    for edge in integer.edges:
        if not edge.op.weight.size:
            continue
        low, high = float(edge.op.weight.min()), float(edge.op.weight.max())
        if low < WEIGHT_MIN or high > WEIGHT_MAX:
            raise GraphError(
                f"{population.name}: scale {scale:g} makes weights from {edge.source} reach {low:g} to {high:g}; "
                f"{WEIGHT_MIN} to {WEIGHT_MAX} is allowed"
            )
    neuron = population.cuba
    threshold = None if neuron.threshold is None else round(neuron.threshold * scale)
    u0 = round(neuron.u0 * scale * 2**POTENTIAL_SHIFT)
    bias = None if neuron.bias is None else integer_bias(population.name, neuron.bias, scale)
    drop = neuron.drop
    if drop is not None:
        rounded = np.round(np.asarray(drop) * (scale * 2**POTENTIAL_SHIFT))
        if rounded.max() > POTENTIAL_MAX:
            raise GraphError(
                f"{population.name}: what a spike subtracts reaches {rounded.max():g} at scale {scale:g}; "
                f"{POTENTIAL_MAX} is allowed"
            )
        drop = rounded.astype(np.int32) if rounded.ndim else int(rounded)
    changed = replace(neuron, threshold=threshold, u0=u0, bias=bias, drop=drop)
    return replace(integer, neuron=changed, scale=scale)


def integer_bias(name: str, bias: np.ndarray, scale: float) -> np.ndarray:
    """Biases << 6 that a 13-bit mantissa with one exponent for all can say. Raises GraphError beyond."""
    shifted = np.asarray(bias, np.float64) * (scale * 2**POTENTIAL_SHIFT)
    step = bias_step(shifted)
    if step is None:
        raise GraphError(f"{name}: bias reaches {np.abs(shifted).max():g} at scale {scale:g}; {BIAS_MAX} is allowed")
    return np.asarray((shifted / step).round() * step).astype(np.int32)


def _with_integer_weights(population: Population, scale: float) -> Population:
    return replace(population, edges=tuple(_integer_edge(edge, scale) for edge in population.edges))


def _integer_edge(edge: Edge, scale: float) -> Edge:
    # In float64 and in this order, as the fine-tuned network does (neuroseg/spiking/network.py).
    weight = even_integers(edge.op.weight.astype(np.float64) * (scale / 2)).astype(np.int32)
    return replace(edge, op=replace(edge.op, weight=weight))


@dataclass(frozen=True)
class Reach:
    """How far from 0 the sum of a population's inputs gets, with bias or without, and each edge's input."""

    sum: float
    edges: tuple[float, ...] = ()


def quantize_sigma_delta(
    graph: Graph, peaks: Mapping[str, Reach], *, margin: float = SIGMA_DELTA_MARGIN, threshold: float = 0.0
) -> Graph:
    """The ReLU network that a float graph stands for, as an integer graph of sigma-delta neurons: one step an image.

    A message leaves out as many binary places of a neuron's state as its readers' sums need to stay within 24 bits, and
    it within 16; weights get as many of their 8 bits as that leaves. peaks: how far the inputs of each population reach
    (`hardware_sim.analog`); margin: how much further they may. threshold: a change that is not told, in the
    activation's own units. Expects a graph of populations, and aligns it. Raises GraphError for neurons that leak, and
    numbers that do not fit.
    """
    if graph.integer:
        raise GraphError("the graph is integer already")
    messages: dict[str, float] = {}  # units of a message, of one unit of activation
    nodes: list[Node] = []
    logit_scale = graph.meta.logit_scale
    for node in graph.nodes:
        if isinstance(node, Input):
            most = POTENTIAL_MAX >> SPIKE_SHIFT + STATE_SHIFT  # of a state that tells 1
            gain = min(most, math.floor(_finest(graph, node.name, peaks, margin) / 2**SPIKE_SHIFT))
            if gain < 1:
                raise GraphError(f"{node.name}: what reads it needs messages of less than one unit; scale its weights")
            messages[node.name] = float(gain * 2**SPIKE_SHIFT)
            nodes.append(replace(node, neuron=SigmaDelta(0), gain=float(gain), offset=0.0))
        elif isinstance(node, Population):
            made, messages[node.name] = _sigma_delta(graph, node, messages, peaks, margin, threshold)
            nodes += _with_bias(made, graph.input.name)
            if node.name == graph.output.name:
                assert made.scale is not None
                logit_scale /= made.scale
        else:
            raise GraphError(f"{node.name}: a {type(node).__name__} is left; run the passes first")
    meta = replace(graph.meta, timesteps=1, logit_scale=logit_scale)
    return align_delays(replace(graph, nodes=tuple(nodes), integer=True, meta=meta))


def _finest(graph: Graph, name: str, peaks: Mapping[str, Reach], margin: float) -> float:
    """The most units of a node's messages with which what it brings its readers fits 24 bits, at weights of 8 bits."""
    found = MESSAGE_MAX / max(margin * peaks[name].sum, TINY)
    for population in graph.populations:
        for edge, reach in zip(population.edges, peaks[population.name].edges, strict=True):
            heaviest = float(np.abs(edge.op.weight).max(initial=0))
            if edge.source == name and heaviest:
                found = min(found, POTENTIAL_MAX / max(margin * reach, TINY) * heaviest / WEIGHT_MAX)
    return found


def _sigma_delta(
    graph: Graph,
    population: Population,
    messages: Mapping[str, float],
    peaks: Mapping[str, Reach],
    margin: float,
    threshold: float,
) -> tuple[Population, float]:
    """A population, and the units of its messages."""
    if population.cuba.ternary:
        raise GraphError(f"{population.name}: ternary; sigma-delta neurons are made of networks without such")
    neuron = population.cuba
    if neuron.leaks or neuron.drop is not None or population.recurrent:
        raise GraphError(f"{population.name}: leaks, or hears what comes back; sigma-delta neurons do neither")
    finest = math.inf if neuron.threshold is None else _finest(graph, population.name, peaks, margin)
    scale = min(POTENTIAL_MAX / max(margin * peaks[population.name].sum, TINY), finest * 2**SHIFT_MAX)
    for edge in population.edges:
        if edge.op.weight.any():
            scale = min(scale, WEIGHT_MAX * messages[edge.source] / float(np.abs(edge.op.weight).max()))
    edges = tuple(_integer_edge(edge, scale / messages[edge.source]) for edge in population.edges)
    bias = None if neuron.bias is None else np.round(np.asarray(neuron.bias, np.float64) * scale).astype(np.int32)
    shift = 0
    if neuron.threshold is None:
        made = SigmaDelta(None, bias)
    else:
        shift = max(0, math.ceil(math.log2(scale / finest) - ROUNDING))
        made = SigmaDelta(round(threshold * scale), bias, shift)
    return replace(population, edges=edges, neuron=made, scale=scale), scale / 2**shift


def _with_bias(population: Population, source: str) -> tuple[Population, ...]:
    """Lava's sums know no bias: neurons beside them, behind synapses from `source` that are none, tell it at first."""
    neuron = population.neuron
    if neuron.threshold is not None or neuron.bias is None:
        return (population,)
    channels = population.shape[0]
    silent = Sparse(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64), population.shape)
    half = SigmaDelta(0, np.maximum(neuron.bias // 2, 0), 0), SigmaDelta(0, np.maximum(-neuron.bias // 2, 0), 0)
    told = tuple(
        replace(population, name=f"{population.name}.bias{sign}", edges=(Edge(source, silent),), neuron=each)
        for sign, each in zip("+-", half, strict=True)
    )
    back = tuple(
        Edge(each.name, Conv(np.full((channels, 1, 1, 1), weight, np.int32), groups=channels))
        for each, weight in zip(told, (2, -2), strict=True)
    )
    return (*told, replace(population, edges=(*population.edges, *back), neuron=SigmaDelta(None)))


def _logit_scale(graph: Graph) -> float:
    """Logits per unit of integer output potential (<< 6)."""
    output = graph.output
    scale = output.scale or largest_scale(output, timesteps=graph.meta.timesteps, values=spans(graph))
    return graph.meta.logit_scale / (scale * 2**POTENTIAL_SHIFT)
