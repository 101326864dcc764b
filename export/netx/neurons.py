"""The neurons of a NetX file, read and written: CUBA, ternary and sigma-delta."""

from __future__ import annotations

import math

import h5py
import numpy as np

from export.graph import SPIKE_SHIFT, STATE_SHIFT, AnyNeuron, Neuron, Population, Shape, SigmaDelta
from export.limits import BIAS_MANTISSA_MAX, BIAS_MAX, DECAY_MAX, POTENTIAL_MAX, SHIFT_MAX, THRESHOLD_MAX
from export.netx.fields import Fields
from export.netx.parts import whole

HARD_RESET, SOFT_RESET = "CUBA", "CUBA_SOFT_RESET"  # stock NetX knows the first only
TERNARY, SOFT_TERNARY = "TERNARY", "TERNARY_SOFT_RESET"  # of Lava, but of no file of stock NetX
NEURON_TYPES = {
    HARD_RESET: "zero",
    "LOIHI": "zero",
    SOFT_RESET: "subtract",
    TERNARY: "zero",
    SOFT_TERNARY: "subtract",
}
SIGMA_DELTA, FINE_SIGMA_DELTA = "SDNN", "SDNN_FINE"  # stock NetX knows the first only, whose fields are << NETX_SHIFT
NETX_SHIFT = SPIKE_SHIFT + STATE_SHIFT
NETX_BIAS_EXPONENT = 6  # lava/lib/dl/netx/hdf5.py, get_neuron_params
AFFINE_THRESHOLD = (1 << 18) - 1  # how SLAYER's affine block says that it never fires: slayer/block/base.py


def read_neuron(fields: Fields, shape: Shape, *, of_input: bool = False) -> AnyNeuron:
    kind = fields.text("type")
    if kind in (SIGMA_DELTA, FINE_SIGMA_DELTA):
        return _sigma_delta(fields, shape, fine=kind == FINE_SIGMA_DELTA, of_input=of_input)
    if kind not in NEURON_TYPES:
        raise fields.error("type", repr(kind), ", ".join((*NEURON_TYPES, SIGMA_DELTA, FINE_SIGMA_DELTA)))
    reset = fields.text("reset") if "reset" in fields else NEURON_TYPES[kind]
    if reset != NEURON_TYPES[kind]:
        raise fields.error("reset", repr(reset), f"{NEURON_TYPES[kind]!r} with type {kind}")
    fixed = {"refDelay": 1, "gradedSpike": 0, "wgtExp": 0, "weight_exp": 0}  # what nothing here simulates otherwise
    for field, value in fixed.items():
        fields.integer(field, value, value, default=value)
    threshold = fields.integer("vThMant", 0, 2**31 - 1) if fields.integer("fires", 0, 1, default=1) else None
    if threshold == AFFINE_THRESHOLD and "fires" not in fields:
        threshold = None
    return Neuron(
        threshold=threshold,
        reset=reset,
        u0=fields.integer("u0", -(2**31), 2**31 - 1, default=0),
        current_decay=_read_by_place(fields, "iDecay", DECAY_MAX, shape),
        voltage_decay=_read_by_place(fields, "vDecay", DECAY_MAX, shape),
        drop=_read_by_place(fields, "drop", POTENTIAL_MAX, shape) if "drop" in fields else None,
        bias=_bias(fields, shape, BIAS_MAX) if "bias" in fields else None,
        ternary=kind in (TERNARY, SOFT_TERNARY),
    )


def _sigma_delta(fields: Fields, shape: Shape, *, fine: bool, of_input: bool) -> SigmaDelta:
    """NetX runs a ReLU, whatever the activation (hdf5.py, get_neuron_params); its threshold and bias are << 12.

    The bias of SDNN neurons is the layer's. An input tells what comes in, whether it is called an output or not.
    """
    if "activation" in fields and (activation := fields.text("activation")) != "relu":
        raise fields.error("activation", repr(activation), "'relu', which is all that NetX runs,")
    fields.integer("messageBits", 1, 32, default=16)  # 0 would be spikes without values
    for field in ("wgtExp", "weight_exp"):
        fields.integer(field, 0, 0, default=0)
    # NetX looks whether the field is there, not what it says.
    sums = not fields.integer("fires", 0, 1, default=1) if fine else "sigma_output" in fields
    if of_input:
        sums = False
        if "bias" in fields:
            raise fields.error("bias", "of an input's neurons", "none")
    if not fine:
        default = 0 if sums else None
        threshold = fields.integer("vThMant", 0, POTENTIAL_MAX >> NETX_SHIFT, default=default) << NETX_SHIFT
        return SigmaDelta(threshold=None if sums else threshold)
    return SigmaDelta(
        threshold=None if sums else fields.integer("vThMant", 0, POTENTIAL_MAX),
        bias=_bias(fields, shape, POTENTIAL_MAX) if "bias" in fields else None,
        shift=fields.integer("shift", 0, SHIFT_MAX),
    )


def _read_by_place(fields: Fields, field: str, most: int, shape: Shape) -> int | np.ndarray:
    """One for all neurons, or one a channel or a neuron, as SLAYER writes decays where they do not share them."""
    found = fields.whole(field, 0, most, counts=(1, shape[0], math.prod(shape)))
    if (found == found[0]).all():
        return int(found[0])
    return found.reshape(shape if len(found) == math.prod(shape) else (-1, 1, 1))


def _bias(fields: Fields, shape: Shape, most: int) -> np.ndarray:
    bias = fields.numbers("bias")
    if not whole(bias, most):
        raise fields.error("bias", "fractional or too large", f"integers up to +-{most}")
    if bias.ndim > 3 or any(n not in (1, m) for n, m in zip(bias.shape[::-1], shape[::-1], strict=False)):
        raise fields.error("bias", f"of shape {bias.shape}", f"one that broadcasts to {shape}")
    return bias.astype(np.int32)


def stock_bias(population: Population) -> np.ndarray | None:
    """The bias (C,) of a population as stock NetX reads it, of the layer; None where it cannot say it."""
    neuron, shape = population.neuron, population.shape
    if isinstance(neuron, SigmaDelta):
        stock, shift, most = _is_stock(neuron, shape), NETX_SHIFT, POTENTIAL_MAX >> NETX_SHIFT
    else:
        stock, shift, most = neuron.reset == "zero" and not neuron.ternary, NETX_BIAS_EXPONENT, BIAS_MANTISSA_MAX
    return _mantissa(neuron.bias, shape, shift, most) if stock and neuron.bias is not None else None


def _mantissa(bias: np.ndarray, shape: Shape, shift: int, most: int) -> np.ndarray | None:
    """One number a channel, << shift; None where that does not say it."""
    each = np.broadcast_to(bias, shape).reshape(shape[0], -1)
    mantissa = each[:, 0] >> shift
    if (each != (mantissa << shift)[:, None]).any() or np.abs(mantissa).max() > most:
        return None
    return mantissa.astype(np.int32)


def _is_stock(neuron: SigmaDelta, shape: Shape) -> bool:
    """Whether stock NetX has such a sigma-delta neuron."""
    unit = 1 << NETX_SHIFT
    biased = neuron.bias is None or _mantissa(neuron.bias, shape, NETX_SHIFT, POTENTIAL_MAX >> NETX_SHIFT) is not None
    return neuron.shift == STATE_SHIFT and not (neuron.threshold or 0) % unit and biased


def _write_by_place(value: float | np.ndarray, shape: Shape) -> int | np.ndarray:
    """One for all, one a channel, or one a neuron in (C, H, W) order."""
    each = np.broadcast_to(value, shape).reshape(shape[0], -1).astype(np.int32)
    if (each == each[0, 0]).all():
        return int(each[0, 0])
    return each[:, 0] if (each == each[:, :1]).all() else each.ravel()


def write_neuron(group: h5py.Group, neuron: AnyNeuron, shape: Shape, *, with_bias: bool = True) -> None:
    if isinstance(neuron, SigmaDelta):
        _write_sigma_delta(group, neuron, shape, with_bias=with_bias)
    else:
        _write_cuba(group, neuron, shape, with_bias=with_bias)


def _write_sigma_delta(group: h5py.Group, neuron: SigmaDelta, shape: Shape, *, with_bias: bool) -> None:
    stock, threshold = _is_stock(neuron, shape), neuron.threshold or 0
    group["type"] = (SIGMA_DELTA if stock else FINE_SIGMA_DELTA).encode("ascii")
    group["activation"] = b"relu"
    group["vThMant"] = threshold >> NETX_SHIFT if stock else threshold
    if stock and neuron.threshold is None:
        group["sigma_output"] = True
    if not stock:
        group["shift"], group["fires"] = neuron.shift, neuron.threshold is not None
    if with_bias and neuron.bias is not None:
        group["bias"] = neuron.bias.astype(np.int32)


def _write_cuba(group: h5py.Group, neuron: Neuron, shape: Shape, *, with_bias: bool = True) -> None:
    kinds = (TERNARY, SOFT_TERNARY) if neuron.ternary else (HARD_RESET, SOFT_RESET)
    group["type"] = kinds[neuron.reset == "subtract"].encode("ascii")
    group["iDecay"] = _write_by_place(neuron.current_decay, shape)
    group["vDecay"] = _write_by_place(neuron.voltage_decay, shape)
    group["vThMant"] = THRESHOLD_MAX if neuron.threshold is None else int(neuron.threshold)
    group["refDelay"] = 1
    group["gradedSpike"] = False
    group["reset"] = neuron.reset.encode("ascii")
    group["u0"] = int(neuron.u0)
    group["fires"] = neuron.threshold is not None
    if neuron.drop is not None:
        group["drop"] = _write_by_place(neuron.drop, shape)
    if with_bias and neuron.bias is not None:
        group["bias"] = neuron.bias.astype(np.int32)
