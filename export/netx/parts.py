"""What the layers of a NetX file are made of: synapses, neurons, and the file's meta data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from export.graph import (
    ENCODERS,
    STEPS_UNKNOWN,
    Conv,
    ConvT,
    Dense,
    GraphError,
    Meta,
    Operator,
    Pair,
    Shape,
    Sparse,
)
from export.hdf5 import GEOMETRY_MAX
from export.limits import DELAY_MAX, one_signed
from export.netx.fields import Fields
from export.netx.stock import keeps

FORMAT_VERSION = 1
TIMESTEPS_MAX = 2**20


def conv(fields: Fields, source: Shape) -> Conv:
    stride, padding, dilation, groups = _geometry(fields)
    weight = _weight(fields, 4)
    if len(weight) % groups:
        raise fields.error("groups", str(groups), f"a divisor of {len(weight)} channels")
    return Conv(weight, stride, padding, dilation, groups)


def conv_transposed(fields: Fields, source: Shape) -> ConvT:
    stride, padding, dilation, groups = _geometry(fields)
    further = fields.pair("outputPadding", 0, GEOMETRY_MAX, default=(0, 0))
    if any(n >= max(s, d) for n, s, d in zip(further, stride, dilation, strict=True) if n):
        raise fields.error("outputPadding", str(further), "less than the stride or the dilation")
    return ConvT(_weight(fields, 4), stride, padding, further, dilation, groups)


def source_of(op: Conv, target: Shape) -> Shape | None:
    """What a convolution reads, where its stride of 1 leaves one answer."""
    if op.stride != (1, 1):
        return None
    reach = [op.dilation[k] * (op.weight.shape[2 + k] - 1) - 2 * op.padding[k] for k in range(2)]
    return op.weight.shape[1] * op.groups, target[1] + reach[0], target[2] + reach[1]


def by_delay(fields: Fields, op: Operator) -> list[tuple[Operator, np.ndarray | None]]:
    """A synapse and its delays by target neuron, (C, H, W); the parts of one whose inputs or weights have theirs.

    SLAYER delays what a channel emits, its NetX all that reaches it (netx/hdf5.py, create_dense: a delay for each
    output, else for each input, or for each weight).
    """
    if "delay" not in fields:
        return [(op, None)]
    shape = fields.shape()
    further = (op.weight.shape[1], op.weight.size) if isinstance(op, Dense) else ()
    delays = fields.whole("delay", 0, DELAY_MAX, counts=(1, shape[0], *further))
    if len(delays) in (1, shape[0]):
        return [(op, np.broadcast_to(delays.reshape(-1, 1, 1), shape))]
    assert isinstance(op, Dense)
    if (op.weight % 2).any() and not one_signed(op.weight):  # its parts alone might be
        raise fields.error("weight", "odd in places, and of both signs", "even integers, or one sign,")
    each = np.broadcast_to(delays.reshape(-1, op.weight.shape[1]), op.weight.shape)
    found: list[tuple[Operator, np.ndarray | None]] = []
    for steps in range(DELAY_MAX + 1):
        target, source = np.nonzero((op.weight != 0) & (each == steps))
        if len(target):
            late = Sparse(op.weight[target, source], target, source, shape)
            found.append((late, np.full(shape, steps, np.int32)))
    return found or [(op, None)]


def dense(fields: Fields, source: Shape) -> Dense:
    return Dense(_weight(fields, 2, flat=(fields.shape()[0], -1)))


def recurrent(fields: Fields, forward: Dense) -> Dense:
    """What a `dense_rec` layer sends itself, beside what reaches it."""
    n = math.prod(fields.shape())
    weight = _weight(fields, 2, flat=(n, n), field="weight_rec")
    if weight.shape != (n, n):
        raise fields.error("weight_rec", f"of shape {weight.shape}", f"{(n, n)}")
    if not keeps(forward.weight, weight):
        raise fields.error("weight_rec", "not what NetX runs beside `weight`", "what it keeps of both")
    if "delay" in fields:  # where NetX runs its weights at another scale: blocks/process.py, RecurrentDense
        raise fields.error("delay", "of a recurrent layer", "none")
    return Dense(weight)


def sparse(fields: Fields, source: Shape) -> Sparse:
    shape, weight = fields.shape(), _weight(fields, 1)
    into, out_of = (math.prod(sides) for sides in (shape, source))
    return Sparse(
        weight, fields.places("target", into, len(weight)), fields.places("source", out_of, len(weight)), shape
    )


def pool(fields: Fields, source: Shape) -> Conv:
    """SLAYER's pooling: the same kernel on every channel by itself.

    Where a side is no multiple of the kernel, SLAYER appends `side % kernel` zeros. A convolution pads both ends
    alike; a kernel with as many zeros before it skips those at the front.
    """
    kernel, sides = _tiling_kernel(fields)
    short = (source[1] % sides[0], source[2] % sides[1])
    if any((n + more) % k for n, more, k in zip(source[1:], short, sides, strict=True)):
        raise fields.error("kernelSize", f"{sides} on {source[1:]}", "what SLAYER's padding makes a divisor")
    weight = np.pad(kernel, ((short[0], 0), (short[1], 0)))
    return Conv(_each(weight, source), stride=sides, padding=short, groups=source[0])


def unpool(fields: Fields, source: Shape) -> ConvT:
    kernel, sides = _tiling_kernel(fields)
    return ConvT(_each(kernel, source), stride=sides, groups=source[0])


def _each(kernel: np.ndarray, source: Shape) -> np.ndarray:
    return np.broadcast_to(kernel, (source[0], 1, *kernel.shape)).copy()


def _tiling_kernel(fields: Fields) -> tuple[np.ndarray, Pair]:
    """SLAYER lays the channels below each other, so all but kernels side by side would mix them."""
    weight = _weight(fields, 4)
    if weight.shape[:2] != (1, 1):
        raise fields.error("weight", f"of shape {weight.shape}", "one kernel for all channels")
    sides = (weight.shape[2], weight.shape[3])
    wanted: dict[str, Pair] = {"stride": sides, "padding": (0, 0), "dilation": (1, 1)}
    for field, value in wanted.items():
        found = fields.pair(field, 0, GEOMETRY_MAX, default=value)
        if found != value:
            raise fields.error(field, str(found), f"{value}, without which SLAYER mixes channels,")
    return weight[0, 0], sides


def _weight(fields: Fields, ndim: int, flat: tuple[int, int] | None = None, field: str = "weight") -> np.ndarray:
    """Integer weights with `ndim` axes; SLAYER writes a dense layer of one output flat. Of single ones may be none."""
    weight = fields.numbers(field)
    if flat and weight.ndim == 1 and weight.size and weight.size % math.prod(side for side in flat if side > 0) == 0:
        weight = weight.reshape(flat[0], -1)
    if ndim == 4 and weight.ndim == 5 and weight.shape[4] == 1:  # SLAYER keeps an axis for time
        weight = weight[..., 0]
    if weight.ndim != ndim or not (weight.size or ndim == 1):
        raise fields.error(field, f"of shape {weight.shape}", f"{ndim} axes, none empty,")
    if not whole(weight, 2**15):
        raise fields.error(field, "fractional or beyond 16 bits", "integers")
    return weight.astype(np.int32)


def whole(value: np.ndarray, most: int) -> bool:
    """Whether all are integers up to +-most. Not by np.abs: the least integer of a type has none."""
    return bool((value == np.round(value)).all() and (value >= -most).all() and (value <= most).all())


def _geometry(fields: Fields) -> tuple[Pair, Pair, Pair, int]:
    return (
        fields.pair("stride", 1, GEOMETRY_MAX, default=(1, 1)),
        fields.pair("padding", 0, GEOMETRY_MAX, default=(0, 0)),
        fields.pair("dilation", 1, GEOMETRY_MAX, default=(1, 1)),
        fields.integer("groups", 1, GEOMETRY_MAX, default=1),
    )


def foreign_meta(file: Fields, notes: Mapping[str, str]) -> Meta:
    """Of a file of lava-dl. SLAYER calls the steps of a sample tSample; where nothing says, a note does."""
    if "simulation" in file and "tSample" in (simulation := file.sub("simulation")):
        return Meta(timesteps=simulation.integer("tSample", 1, TIMESTEPS_MAX), notes=notes)
    return Meta(notes={**notes, STEPS_UNKNOWN: f"the file does not say; {Meta().timesteps} unless another is given"})


def meta(file: Fields) -> Meta:
    attrs = file.sub("meta").group.attrs
    try:
        if _attribute(attrs, "format") != "neuroseg" or int(_attribute(attrs, "version")) != FORMAT_VERSION:
            other = f"{_attribute(attrs, 'format')!r} {_attribute(attrs, 'version')!r}"
            raise GraphError(f"meta: format {other}; neuroseg {FORMAT_VERSION} is allowed")
        found = Meta(
            timesteps=int(_attribute(attrs, "timesteps")),
            encoder=str(_attribute(attrs, "encoder")),
            logit_scale=float(_attribute(attrs, "logit_scale")),
            class_names=tuple(str(name) for name in json.loads(_attribute(attrs, "class_names"))),
            notes={str(k): str(v) for k, v in json.loads(_attribute(attrs, "notes")).items()},
            context=int(_attribute(attrs, "context")) if "context" in attrs else 0,
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        if isinstance(error, GraphError):
            raise
        raise GraphError(f"meta: missing or broken attribute ({error})") from None
    if not 1 <= found.timesteps <= TIMESTEPS_MAX or not math.isfinite(found.logit_scale):
        raise GraphError(f"meta: timesteps {found.timesteps}, logit_scale {found.logit_scale}; out of range")
    if found.context < 0:
        raise GraphError(f"meta: context {found.context}; 0 or more is allowed")
    if found.encoder not in ENCODERS:
        raise GraphError(f"meta: encoder is {found.encoder[:40]!r}; {', '.join(ENCODERS)} are allowed")
    return found


def scalar(attrs: h5py.AttributeManager, name: str) -> Any:
    """One value. Raises KeyError, or TypeError for an array, which is not read: its strings may be of any length."""
    if attrs.get_id(name).shape != ():
        raise TypeError(f"{name} is an array")
    return attrs[name]


def _attribute(attrs: h5py.AttributeManager, name: str) -> Any:
    value = scalar(attrs, name)
    return value.item() if isinstance(value, np.generic) else value
