"""Single nodes of NIR: its neurons as ours, and its weights as synapses.

NIR's neurons are differential equations in continuous time (nir 1.0.8, nir/ir/neuron.py; Pedersen et al., Nature
Communications 15, 8122, 2024). Here they take forward Euler steps of `dt`, as snnTorch, SpikingJelly and Norse's
LIFBox do. With x the sum of the in-edges, in one step

    IF       v += x                                  r is 1 (snnTorch, Norse, Sinabs) or 1 / dt (SpikingJelly)
    LIF      v += dt / tau * (r x - v)               voltage decay dt / tau
             v += (1 - exp(-dt / tau)) (r x - v)     as Sinabs steps: see `frameworks`
    CubaLIF  i += dt / tau_syn * (w_in x - i)        current decay dt / tau_syn
             v += dt / tau_mem * (r i - v)           voltage decay dt / tau_mem

and I, LI, CubaLI are the same without spikes. Decays are rounded to Loihi's 4096ths; the factor of x goes into weights
and biases. A neuron fires where v > v_threshold, strictly. v starts at 0; v_reset must be 0. v_leak is a bias of v,
dt / tau_mem * v_leak a step. An endless tau, as snnTorch writes beta = 1, is no leak. Time constants and thresholds may
differ from neuron to neuron, as long as what drives a channel of a convolution gets one factor.

What NIR cannot say is in the metadata of our nodes: `reset` and `u0` of a `Neuron`, and `scale` of a `Population`.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from export.graph import (
    CURRENT_DECAY_NONE,
    VOLTAGE_DECAY_NONE,
    Conv,
    Decay,
    Dense,
    GraphError,
    Neuron,
    Operator,
    Pair,
    Shape,
    Sparse,
)
from export.hdf5 import GEOMETRY_MAX, MAX_ELEMENTS
from export.limits import DECAY_MAX, RESETS

Each = float | np.ndarray  # one number for all neurons of a node, or one for each: (C, H, W)

SPIKING, SILENT = ("IF", "LIF", "CubaLIF"), ("I", "LI", "CubaLI")
NEURONS = (*SPIKING, *SILENT, "Threshold")
NOISE = 1e-5  # relative; writers compute r and tau in float32


def load_nir() -> ModuleType:
    """The package nir. Raises GraphError where it is not installed."""
    try:
        return importlib.import_module("nir")
    except ImportError as error:
        raise GraphError(f"NIR files need the package nir ({error}): pip install nir") from None


def numbers(name: str, node: Any, field: str, *, endless: bool = False) -> np.ndarray:
    """A field of a NIR node as float64. Raises GraphError naming node and field unless it is numbers, all finite.

    endless: whether infinity may be among them.
    """
    value = np.asarray(getattr(node, field))
    fine = value.dtype.kind in "biuf" and value.size and not np.isnan(value).any()
    if not fine or not (endless or np.isfinite(value).all()):
        raise GraphError(f"{name}: {field} is {value.dtype} and holds {value.ravel()[:4]}; finite numbers are allowed")
    return value.astype(np.float64)


def from_nir(
    name: str,
    node: Any,
    shape: Shape,
    *,
    dt: float,
    reset: str,
    flattened: bool = False,
    exponential: bool = False,
    reset_delay: bool = False,
) -> tuple[Neuron, Each]:
    """The neurons of a NIR node that stand in `shape` (C, H, W), and the factor of what drives them.

    What differs between neurons comes as an array (C, H, W). dt in seconds; reset for nodes whose metadata say nothing;
    flattened: whether the file has lost these axes; exponential: whether states decay by exp(-dt / tau); reset_delay:
    whether the threshold is subtracted a step after the spike, when the potential has decayed. Raises GraphError naming
    node, field, what was found and what is allowed.
    """
    kind = type(node).__name__

    def value(field: str, *, endless: bool = False) -> Each:
        return _each(name, node, field, shape, endless=endless, flattened=flattened)

    def share(field: str) -> Each:
        """dt / tau: of a state, what decays in a step. An endless tau is none."""
        tau = value(field, endless=True)
        found = dt / np.where(tau == 0, np.nan, tau)
        if exponential:
            found = -np.expm1(-found)
        if not ((found >= 0) & (found <= 1 + NOISE)).all():
            raise GraphError(
                f"{name}: {field} is {_shown(tau)}; at least dt = {dt:g} is allowed (which framework wrote the file? "
                "Norse's time constants are times 1e-3)"
            )
        return found if found.ndim else float(found)

    def driven(resistance: Each, part: Each, field: str) -> Each:
        """r * dt / tau; 1 where both are endless, as snnTorch writes beta = 1."""
        endless = np.isinf(resistance) & np.isinf(value(field, endless=True))
        if np.isinf(np.where(endless, 0, resistance)).any():
            raise GraphError(f"{name}: r is infinite and {field} is not; finite numbers are allowed")
        found = np.where(endless, 1.0, np.where(endless, 0, resistance) * part)
        return found if found.ndim else float(found)

    if hasattr(node, "v_reset") and np.any(value("v_reset")):
        raise GraphError(f"{name}: v_reset is {_shown(value('v_reset'))}; 0 is allowed")
    current: Decay = CURRENT_DECAY_NONE
    voltage: Decay = VOLTAGE_DECAY_NONE
    factor = value("r", endless=kind in ("LIF", "LI", "CubaLIF", "CubaLI"))
    leak: Each = 0.0
    match kind:
        case "LIF" | "LI":
            voltage, leak = _decay(share("tau")), share("tau") * value("v_leak")
            factor = driven(factor, share("tau"), "tau")
        case "CubaLIF" | "CubaLI":
            current, voltage = _decay(share("tau_syn")), _decay(share("tau_mem"))
            leak = share("tau_mem") * value("v_leak")
            factor = driven(factor, share("tau_mem"), "tau_mem") * driven(value("w_in"), share("tau_syn"), "tau_syn")
        case _ if np.isclose(factor * dt, 1, rtol=NOISE).all():
            factor = 1.0
        case _ if not np.isclose(factor, 1, rtol=NOISE).all():
            raise GraphError(f"{name}: r is {_shown(factor)}; 1 and 1 / dt = {1 / dt:g} are allowed for an {kind}")
    threshold = value("v_threshold") if kind in SPIKING else None
    if threshold is not None and np.any(threshold <= 0):
        raise GraphError(f"{name}: v_threshold is {_shown(threshold)}; a positive number is allowed")
    if isinstance(threshold, np.ndarray):  # potentials are counted in thresholds instead
        threshold, factor, leak = 1.0, factor / threshold, leak / threshold
    bias = np.broadcast_to(leak, np.shape(leak) or (1, 1, 1)) if np.any(leak) else None
    reset = _reset(name, node, reset)
    drop = _drop(name, threshold, voltage) if reset_delay and reset == "subtract" and threshold else None
    neuron = Neuron(threshold, reset, note(name, node, "u0") or 0.0, current, voltage, bias, drop)
    return neuron, 1.0 if np.isclose(factor, 1, rtol=NOISE).all() else factor


def _drop(name: str, threshold: float, voltage: Decay) -> Each | None:
    """What to subtract at the spike, so that the threshold is gone after the next leak: threshold / beta."""
    if not np.any(voltage):
        return None
    if np.max(voltage) == DECAY_MAX:
        raise GraphError(f"{name}: its potential lasts no step, its reset comes in the next; no reset_delay is allowed")
    found = threshold * DECAY_MAX / (DECAY_MAX - np.asarray(voltage, np.float64))
    return found if found.ndim else float(found)


def _decay(share: Each) -> Decay:
    """In Loihi's 4096ths."""
    found = np.minimum(np.round(share * np.float64(DECAY_MAX)), DECAY_MAX).astype(np.int32)
    return found if found.ndim and (found != found.flat[0]).any() else int(found.flat[0])


def _each(name: str, node: Any, field: str, shape: Shape, *, endless: bool, flattened: bool) -> Each:
    """One number for all neurons, or one for each: (C, H, W)."""
    found = numbers(name, node, field, endless=endless)
    sides, wanted = ([n for n in each if n > 1] for each in (found.shape, shape))
    if found.size not in (1, np.prod(shape)) or (len(sides) > 1 and sides != wanted and not flattened):
        raise GraphError(f"{name}: {field} has shape {found.shape}; one number, or one for each of {shape}, is allowed")
    return found.reshape(shape) if (found != found.flat[0]).any() else float(found.flat[0])


def _shown(value: Each) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{np.min(value):g} to {np.max(value):g}"


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


def line(name: str, node: Any) -> Any:
    """A Conv1d as the Conv2d that it is over (C, 1, L). Raises GraphError."""
    weight = numbers(name, node, "weight")
    if weight.ndim != 3:
        raise GraphError(f"{name}: weight has shape {weight.shape}; (out, in / groups, taps) is allowed")
    said = isinstance(node.padding, str)
    return SimpleNamespace(
        weight=weight[:, :, None],
        stride=(1, pair(name, node, "stride", 1)[-1]),
        padding=node.padding if said else (0, pair(name, node, "padding")[-1]),
        dilation=(1, pair(name, node, "dilation", 1)[-1]),
        groups=node.groups,
    )


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


def scaled(op: Operator, factor: Each) -> Operator:
    """factor: one number, or one for each output channel, (C, 1, 1)."""
    if isinstance(factor, np.ndarray) and isinstance(op, Sparse):
        return replace(op, weight=op.weight * np.broadcast_to(factor, op.shape).ravel()[op.target])
    if isinstance(factor, np.ndarray):
        return replace(op, weight=op.weight * factor.reshape(-1, *[1] * (op.weight.ndim - 1)))
    return op if factor == 1 else replace(op, weight=op.weight * factor)
