"""Norms that depend on the image: refused by name, or with the statistics of calibration images in place of its own.

A mode of PyTorch sees every call of a norm, from a module or by itself, in the order in which the model makes them. So
the k-th call of the model on calibration images says what the k-th call of the traced model becomes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from neuroseg.conversion.tracing import ConversionError, evaluating, module_now

aten = torch.ops.aten
NAMES = {
    "instance_norm": "InstanceNorm",
    "group_norm": "GroupNorm",
    "layer_norm": "LayerNorm",
    "batch_norm": "BatchNorm without running statistics",
    "rms_norm": "RMSNorm",
}


@dataclass(frozen=True)
class _Call:
    """A norm as it was called.

    groups: how its channels are grouped, or axes: over which it takes statistics. several: whether it returns
    those, too.
    """

    kind: str
    x: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float
    groups: int = 0
    axes: int = 0
    several: bool = False


@dataclass(frozen=True)
class Statistics:
    """Mean and variance that a norm's call used, over calibration images: of the shape that broadcasts against it."""

    mean: torch.Tensor
    variance: torch.Tensor


class Refusing(TorchFunctionMode):
    """Every norm of an image ends the tracing with an error that says what to do."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = _call(function, args, kwargs or {})
        if call is not None:
            raise ConversionError(
                f"{module_now()}: {NAMES[call.kind]} computes its statistics from each image, which neurons cannot; "
                "give calibration images (freeze_norms, --freeze-norms), whose statistics then stand for every "
                "image's, or train with BatchNorm"
            )
        return function(*args, **(kwargs or {}))


class Recording(TorchFunctionMode):
    """Keeps the statistics of every call; the model runs as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Statistics] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = _call(function, args, kwargs or {})
        if call is not None:
            self.found.append(_statistics(call))
        return function(*args, **(kwargs or {}))


class Frozen(TorchFunctionMode):
    """Each call uses given statistics, the k-th the k-th: a multiplication and an addition."""

    def __init__(self, statistics: Sequence[Statistics]) -> None:
        super().__init__()
        self.statistics, self.calls = statistics, 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = _call(function, args, kwargs or {})
        if call is None:
            return function(*args, **(kwargs or {}))
        if self.calls == len(self.statistics):
            raise ConversionError(f"{NAMES[call.kind]} is called more often than on the calibration images")
        kept = self.statistics[self.calls]
        self.calls += 1
        deviation = torch.rsqrt(kept.variance + call.eps)
        gain, offset = deviation, -kept.mean * deviation
        weight, bias = (_placed(each, call) for each in (call.weight, call.bias))
        if weight is not None:
            gain, offset = gain * weight, offset * weight
        if bias is not None:
            offset = offset + bias
        normalised = call.x * gain + offset
        return (normalised, kept.mean, deviation) if call.several else normalised


@torch.no_grad()
def statistics(model: nn.Module, images: torch.Tensor) -> list[Statistics]:
    """Mean statistics of every norm's call over images (B, C, H, W); empty where the model has no such norm."""
    total: list[Statistics] = []
    with evaluating(model):
        for part in images.split(1):  # a model may have been made for one image at a time
            with Recording() as recording:
                model(part)
            found = [Statistics(each.mean.sum(0, True), each.variance.sum(0, True)) for each in recording.found]
            total = [_sum(a, b) for a, b in zip(total, found, strict=True)] if total else found
    return [Statistics(each.mean / len(images), each.variance / len(images)) for each in total]


@torch.no_grad()
def run_frozen(model: nn.Module, kept: Sequence[Statistics], images: torch.Tensor) -> Any:
    """What the model gives with such statistics."""
    with evaluating(model), Frozen(kept):
        return model(images)


def _sum(a: Statistics, b: Statistics) -> Statistics:
    return Statistics(a.mean + b.mean, a.variance + b.variance)


def _statistics(call: _Call) -> Statistics:
    """Of every image by itself, (B, ...) that broadcasts against the input."""
    x = call.x.detach()
    if call.axes:  # the last ones
        axes = tuple(range(x.ndim - call.axes, x.ndim))
        mean = torch.zeros_like(x.mean(axes, True)) if call.kind == "rms_norm" else x.mean(axes, True)
        return Statistics(mean, (x - mean).square().mean(axes, True))
    grouped = x.reshape(len(x), call.groups, -1)
    shape = (len(x), x.shape[1], *(1,) * (x.ndim - 2))
    each = x.shape[1] // call.groups
    mean, variance = (
        value.repeat_interleave(each, 1).reshape(shape) for value in (grouped.mean(2), grouped.var(2, correction=0))
    )
    return Statistics(mean, variance)


def _placed(parameter: torch.Tensor | None, call: _Call) -> torch.Tensor | None:
    """A parameter as it broadcasts against the input: of the last axes, or of the channels."""
    if parameter is None or call.axes:
        return parameter
    return parameter.reshape(1, -1, *(1,) * (call.x.ndim - 2))


def _call(function: Any, args: Any, given: dict[str, Any]) -> _Call | None:
    """The norm that a function of PyTorch is, if its statistics are the image's own."""
    signature = _SIGNATURES.get(function)
    if signature is None:
        return None
    kind, names = signature
    value = {**dict(zip(names, args, strict=False)), **given}
    x, weight, bias = value["input"], value.get("weight"), value.get("bias")
    eps = value.get("eps")
    eps = torch.finfo(x.dtype).eps if eps is None else float(eps)
    match kind:
        case "instance_norm" if value.get("use_input_stats", True):
            return _Call(kind, x, weight, bias, eps, groups=x.shape[1])
        case "batch_norm" if value.get("training"):
            several = function is aten._native_batch_norm_legit.no_stats
            return _Call(kind, x, weight, bias, eps, groups=x.shape[1], several=several)
        case "group_norm":
            return _Call(kind, x, weight, bias, eps, groups=value["num_groups"], several="HxW" in names)
        case "layer_norm" | "rms_norm":
            several = function is aten.native_layer_norm.default
            return _Call(kind, x, weight, bias, eps, axes=len(value["normalized_shape"]), several=several)
    return None


_RUNNING = ("input", "weight", "bias", "running_mean", "running_var")
_LAYER = ("input", "normalized_shape", "weight", "bias", "eps")
_GROUP = ("input", "num_groups", "weight", "bias", "eps")
_RMS = ("input", "normalized_shape", "weight", "eps")
_NORM = ("input", "running_mean", "running_var", "weight", "bias")
_INSTANCE = (*_RUNNING, "use_input_stats", "momentum", "eps", "cudnn_enabled")
_BATCH = (*_RUNNING, "training", "momentum", "eps", "cudnn_enabled")
_SIGNATURES: dict[Callable[..., Any], tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys((torch.instance_norm, aten.instance_norm.default), ("instance_norm", _INSTANCE)),
    **dict.fromkeys((torch.batch_norm, aten.batch_norm.default), ("batch_norm", _BATCH)),
    **dict.fromkeys((torch.group_norm, aten.group_norm.default), ("group_norm", _GROUP)),
    **dict.fromkeys((torch.layer_norm, aten.layer_norm.default), ("layer_norm", _LAYER)),
    **dict.fromkeys((torch.rms_norm, aten.rms_norm.default), ("rms_norm", _RMS)),
    aten._native_batch_norm_legit.no_stats: (
        "batch_norm",
        ("input", "weight", "bias", "training", "momentum", "eps"),
    ),
    aten.native_group_norm.default: ("group_norm", ("input", "weight", "bias", "N", "C", "HxW", "num_groups", "eps")),
    aten.native_layer_norm.default: ("layer_norm", _LAYER),
    F.instance_norm: ("instance_norm", (*_NORM, "use_input_stats", "momentum", "eps")),
    F.batch_norm: ("batch_norm", (*_NORM, "training", "momentum", "eps")),
    F.group_norm: ("group_norm", _GROUP),
    F.layer_norm: ("layer_norm", _LAYER),
    F.rms_norm: ("rms_norm", _RMS),
}
