"""Single nodes of NIR: its neurons and ours, in both directions, and its weights as synapses.

NIR's neurons are differential equations in continuous time (nir 1.0.8, nir/ir/neuron.py; Pedersen et al., Nature
Communications 15, 8122, 2024). Here they take forward Euler steps of `dt`, as snnTorch, SpikingJelly and Norse's
LIFBox do. With x the sum of the in-edges, in one step

    IF       v += x                                  r is 1 (snnTorch, Norse, Sinabs) or 1 / dt (SpikingJelly)
    LIF      v += dt / tau * (r x - v)               voltage decay dt / tau
    CubaLIF  i += dt / tau_syn * (w_in x - i)        current decay dt / tau_syn
             v += dt / tau_mem * (r i - v)           voltage decay dt / tau_mem

and I, LI, CubaLI are the same without spikes. Decays are rounded to Loihi's 4096ths; the factor of x goes into weights
and biases. A neuron fires where v > v_threshold, strictly. v starts at 0; v_leak and v_reset must be 0, and all neurons
of a node alike.

What NIR cannot say is in the metadata of our nodes: `reset` and `u0` of a `Neuron`, and `scale` of a `Population`.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from export.graph import (
    CURRENT_DECAY_NONE,
    VOLTAGE_DECAY_NONE,
    Conv,
    Dense,
    GraphError,
    Neuron,
    Operator,
    Pair,
    Population,
    Shape,
)
from export.hdf5 import GEOMETRY_MAX, MAX_ELEMENTS
from export.limits import DECAY_MAX, POTENTIAL_SHIFT, RESETS

DT = 1e-4  # seconds a step: the dt of snnTorch and SpikingJelly where they read and write NIR
SPIKING, SILENT = ("IF", "LIF", "CubaLIF"), ("I", "LI", "CubaLI")
NOISE = 1e-5  # relative; writers compute r and tau in float32


def load_nir() -> ModuleType:
    """The package nir. Raises GraphError where it is not installed."""
    try:
        return importlib.import_module("nir")
    except ImportError as error:
        raise GraphError(f"NIR files need the package nir ({error}): pip install nir") from None


def numbers(name: str, node: Any, field: str) -> np.ndarray:
    """A field of a NIR node as float64. Raises GraphError naming node and field unless it is finite numbers."""
    value = np.asarray(getattr(node, field))
    if value.dtype.kind not in "biuf" or not value.size or not np.isfinite(value).all():
        raise GraphError(f"{name}: {field} is {value.dtype} and holds {value.ravel()[:4]}; finite numbers are allowed")
    return value.astype(np.float64)


def from_nir(name: str, node: Any, shape: Shape, *, dt: float, reset: str) -> tuple[Neuron, float]:
    """The neurons of a NIR node that stand in `shape` (C, H, W), and the factor of what drives them.

    dt in seconds; reset for nodes whose metadata say nothing. Raises GraphError naming node, field, what was found and
    what is allowed.
    """
    kind = type(node).__name__

    def value(field: str) -> float:
        return _uniform(name, node, field, shape)

    def decay(field: str) -> int:
        share = dt / value(field) if value(field) else np.inf
        if not 0 <= share <= 1 + NOISE:
            raise GraphError(f"{name}: {field} is {value(field):g}; at least dt = {dt:g} is allowed")
        return min(round(share * DECAY_MAX), DECAY_MAX)

    for field in ("v_leak", "v_reset"):
        if hasattr(node, field) and value(field):
            raise GraphError(f"{name}: {field} is {value(field):g}; 0 is allowed")
    current, voltage, factor = CURRENT_DECAY_NONE, VOLTAGE_DECAY_NONE, value("r")
    match kind:
        case "LIF" | "LI":
            voltage, factor = decay("tau"), factor * dt / value("tau")
        case "CubaLIF" | "CubaLI":
            current, voltage = decay("tau_syn"), decay("tau_mem")
            factor *= value("w_in") * dt**2 / (value("tau_syn") * value("tau_mem"))
        case _ if np.isclose(factor * dt, 1, rtol=NOISE):
            factor = 1.0
        case _ if not np.isclose(factor, 1, rtol=NOISE):
            raise GraphError(f"{name}: r is {factor:g}; 1 and 1 / dt = {1 / dt:g} are allowed for an {kind}")
    threshold = value("v_threshold") if kind in SPIKING else None
    if threshold is not None and threshold <= 0:
        raise GraphError(f"{name}: v_threshold is {threshold:g}; a positive number is allowed")
    neuron = Neuron(threshold, _reset(name, node, reset), note(name, node, "u0") or 0.0, current, voltage)
    return neuron, 1.0 if np.isclose(factor, 1, rtol=NOISE) else factor


def _uniform(name: str, node: Any, field: str, shape: Shape) -> float:
    found = numbers(name, node, field)
    if found.size not in (1, np.prod(shape)) or (found != found.flat[0]).any():
        raise GraphError(
            f"{name}: {field} has shape {found.shape} and goes from {found.min():g} to {found.max():g}; one number "
            f"for all of {shape} is allowed"
        )
    return float(found.flat[0])


def to_nir(nir: ModuleType, population: Population, shape: Shape, *, dt: float, integer: bool) -> Any:
    """The NIR node of a population's neurons, whose parameters get `shape`. Raises GraphError for what NIR has not."""
    neuron = population.neuron

    def tau(decay: int) -> float:
        if not decay:
            raise GraphError(
                f"{population.name}: current decay {neuron.current_decay}, voltage decay {neuron.voltage_decay}; "
                f"above 0 are allowed in NIR, or {CURRENT_DECAY_NONE} and {VOLTAGE_DECAY_NONE} for no leak"
            )
        return dt * DECAY_MAX / decay

    fields: dict[str, float] = {"r": 1.0}
    kind = "IF"
    if neuron.current_decay != CURRENT_DECAY_NONE:
        kind = "CubaLIF"
        fields = {"tau_syn": tau(neuron.current_decay), "tau_mem": tau(neuron.voltage_decay), "v_leak": 0.0}
        fields |= {"r": fields["tau_mem"] / dt, "w_in": fields["tau_syn"] / dt}
    elif neuron.voltage_decay != VOLTAGE_DECAY_NONE:
        kind = "LIF"
        fields = {"tau": tau(neuron.voltage_decay), "v_leak": 0.0, "r": tau(neuron.voltage_decay) / dt}
    if neuron.threshold is None:
        kind = dict(zip(SPIKING, SILENT, strict=True))[kind]
    else:
        fields["v_reset"] = 0.0
    said = {
        "reset": "subtract" if neuron.reset == "subtract" else None,
        "u0": neuron.u0 / (2**POTENTIAL_SHIFT if integer else 1) or None,  # in weight units
        "scale": 1.0 if integer else population.scale,  # what comes back as integers is those integers
    }
    arrays = {field: np.full(shape, value, np.float32) for field, value in fields.items()}  # 12 bits of a decay survive
    if neuron.threshold is not None:
        arrays["v_threshold"] = compact(np.full(shape, float(neuron.threshold)))
    return getattr(nir, kind)(metadata={key: value for key, value in said.items() if value is not None}, **arrays)


def compact(values: np.ndarray) -> np.ndarray:
    """As float32, which other frameworks expect, where that alters no number; else as float64."""
    return values.astype(np.float32 if (values.astype(np.float32) == values).all() else np.float64)


def note(name: str, node: Any, key: str) -> float | None:
    """A number in a node's metadata, or None. Raises GraphError for anything else there."""
    found = node.metadata.get(key)
    if found is None:
        return None
    value = np.asarray(found)
    if value.dtype.kind not in "biuf" or value.size != 1 or not np.isfinite(value).all():
        raise GraphError(f"{name}: {key} in its metadata is {str(found)[:80]!r}; one finite number is allowed")
    return float(value.flat[0])


def _reset(name: str, node: Any, default: str) -> str:
    found = node.metadata.get("reset", default)
    if not isinstance(found, str) or found not in RESETS:
        raise GraphError(f"{name}: reset in its metadata is {str(found)[:80]!r}; {' and '.join(RESETS)} are allowed")
    return found


def pair(name: str, node: Any, field: str, least: int = 0) -> Pair:
    """One integer or two of a NIR node, from `least`."""
    found = numbers(name, node, field).ravel()
    whole = (found == np.round(found)) & (found >= least) & (found <= GEOMETRY_MAX)
    if found.size not in (1, 2) or not whole.all():
        shown = found[:8].tolist()
        raise GraphError(f"{name}: {field} is {shown}; 1 or 2 integers from {least} to {GEOMETRY_MAX} are allowed")
    return int(found[0]), int(found[-1])


def bounded(name: str, shape: Shape) -> Shape:
    """The shape, if it is one of a network. Raises GraphError."""
    if math.prod(shape) > MAX_ELEMENTS:
        raise GraphError(f"{name}: shape is {shape}; {MAX_ELEMENTS} neurons at most are allowed")
    return shape


def conv(name: str, node: Any, source: Shape) -> Operator:
    weight = numbers(name, node, "weight")
    groups = pair(name, node, "groups", 1)[0]
    if weight.ndim != 4 or len(weight) % groups:
        raise GraphError(
            f"{name}: weight has shape {weight.shape}, groups {groups}; 4 axes that they divide are allowed"
        )
    stride, dilation = pair(name, node, "stride", 1), pair(name, node, "dilation", 1)
    padding = _padding(name, node, weight.shape[2:], stride, dilation)
    if groups == 1 and padding == (0, 0) and dilation == (1, 1) and weight.shape[1:] == source:
        return Dense(weight.reshape(len(weight), -1))  # one place for the kernel: all to all
    return Conv(weight, stride, padding, dilation, groups)


def _padding(name: str, node: Any, kernel: Shape, stride: Pair, dilation: Pair) -> Pair:
    """`valid` is 0; `same` keeps the sides, as in torch.nn.Conv2d."""
    if not isinstance(node.padding, str):
        return pair(name, node, "padding")
    if node.padding == "valid":
        return (0, 0)
    reach = (dilation[0] * (kernel[0] - 1), dilation[1] * (kernel[1] - 1))
    if stride != (1, 1) or reach[0] % 2 or reach[1] % 2:
        raise GraphError(f"{name}: padding 'same' with kernel {kernel}, stride {stride}; odd and 1 are allowed")
    return (reach[0] // 2, reach[1] // 2)


def dense(name: str, node: Any) -> Dense:
    weight = numbers(name, node, "weight")
    if weight.ndim != 2:
        raise GraphError(f"{name}: weight has shape {weight.shape}; (out, in) is allowed")
    return Dense(weight)


def pooled(name: str, op: Operator, pool: Conv) -> Conv:
    """Convolution, then mean (sum / kernel size), as one convolution: exact, as the pool pads nothing."""
    if not isinstance(op, Conv):
        raise GraphError(f"{name}: pools what dense synapses make; convolutions before it are allowed")
    kh, kw, mh, mw = *op.weight.shape[2:], *pool.weight.shape[2:]
    (dh, dw), (sh, sw) = op.dilation, op.stride
    weight = np.zeros((*op.weight.shape[:2], (kh - 1) * dh + (mh - 1) * sh + 1, (kw - 1) * dw + (mw - 1) * sw + 1))
    for i, j in np.ndindex(mh, mw):
        y, x = i * sh, j * sw
        weight[:, :, y : y + (kh - 1) * dh + 1 : dh, x : x + (kw - 1) * dw + 1 : dw] += op.weight / (mh * mw)
    return Conv(weight, (sh * pool.stride[0], sw * pool.stride[1]), op.padding, groups=op.groups)


def scaled(op: Operator, factor: float) -> Operator:
    return op if factor == 1 else replace(op, weight=op.weight * factor)
