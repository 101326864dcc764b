"""Float graph to integer graph. One scale per population: all its edges share it, else their sum has no meaning.

The one place where anything is rounded: `even_integers` and `bias_step` take numpy arrays and torch tensors alike, so
that fine-tuning (neuroseg/spiking/integers.py) rounds with the same lines. Both in float64, halves to even.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar

import numpy as np

from export.graph import Graph, GraphError, Population
from export.limits import (
    BIAS_EXPONENT_MAX,
    BIAS_MANTISSA_MAX,
    BIAS_MAX,
    DECAY_MAX,
    INPUT_MAX,
    POTENTIAL_MAX,
    POTENTIAL_SHIFT,
    THRESHOLD_MAX,
    WEIGHT_MAX,
    WEIGHT_MIN,
    input_bound,
    readout_gains,
)

Array = TypeVar("Array", np.ndarray, Any)  # a numpy array or a torch tensor

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
    return dataclasses.replace(
        graph,
        integer=True,
        nodes=tuple(
            _quantize(node, graph.meta.timesteps) if isinstance(node, Population) else node for node in graph.nodes
        ),
        meta=dataclasses.replace(graph.meta, logit_scale=_logit_scale(graph)),
    )


def largest_scale(population: Population, *, timesteps: int) -> float:
    """The largest scale at which the population fits Loihi: weights, input per step, threshold, readout.

    Integer where the population fires, so that a threshold of 1 becomes an integer exactly. Raises GraphError
    where weights are so large beside the threshold that not even scale 1 fits.
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
            found = f"weight {heaviest:g}" + (f" and bias {strongest:g}" if strongest else "")
            raise GraphError(
                f"{population.name}: {found} beside threshold {threshold}; "
                f"at most {WEIGHT_MAX} thresholds a weight and {BIAS_LIMIT:g} a bias fit Loihi"
            )
        excess = _excess(_with_integer_weights(population, scale), timesteps, scale)
        if excess <= 1:
            return scale
        scale /= excess


def _excess(population: Population, timesteps: int, scale: float) -> float:
    """How many times over its limit the input (or the readout) of an integer population may be."""
    worst = max(abs(bound) for bound in input_bound(population))
    given = population.cuba.bias
    bias = 0.0 if given is None else np.abs(integer_bias(population.name, given, scale)).max() / 2**POTENTIAL_SHIFT
    if population.cuba.threshold is None:
        gain, bias_gain = readout_gains(population.cuba, timesteps)
        start = abs(population.cuba.u0) * scale
        return max(worst / INPUT_MAX, (worst * gain + bias * bias_gain + start) / THRESHOLD_MAX)
    decay = int(np.min(population.cuba.current_decay))
    steps = min(timesteps, DECAY_MAX / decay) if decay else timesteps  # that a current gathers; beyond 24 bits it wraps
    return max(worst / INPUT_MAX, worst * steps * 2**POTENTIAL_SHIFT / POTENTIAL_MAX)


def _quantize(population: Population, timesteps: int) -> Population:
    scale = population.scale or largest_scale(population, timesteps=timesteps)
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
    changed = dataclasses.replace(neuron, threshold=threshold, u0=u0, bias=bias, drop=drop)
    return dataclasses.replace(integer, neuron=changed, scale=scale)


def integer_bias(name: str, bias: np.ndarray, scale: float) -> np.ndarray:
    """Biases << 6 that a 13-bit mantissa with one exponent for all can say. Raises GraphError beyond."""
    shifted = np.asarray(bias, np.float64) * (scale * 2**POTENTIAL_SHIFT)
    step = bias_step(shifted)
    if step is None:
        raise GraphError(f"{name}: bias reaches {np.abs(shifted).max():g} at scale {scale:g}; {BIAS_MAX} is allowed")
    return np.asarray((shifted / step).round() * step).astype(np.int32)


def _with_integer_weights(population: Population, scale: float) -> Population:
    # In float64 and in this order, as the fine-tuned network does (neuroseg/spiking/network.py).
    edges = tuple(
        dataclasses.replace(
            edge,
            op=dataclasses.replace(
                edge.op,
                weight=even_integers(edge.op.weight.astype(np.float64) * (scale / 2)).astype(np.int32),
            ),
        )
        for edge in population.edges
    )
    return dataclasses.replace(population, edges=edges)


def _logit_scale(graph: Graph) -> float:
    """Logits per unit of integer output potential (<< 6)."""
    output = graph.output
    scale = output.scale or largest_scale(output, timesteps=graph.meta.timesteps)
    return graph.meta.logit_scale / (scale * 2**POTENTIAL_SHIFT)
