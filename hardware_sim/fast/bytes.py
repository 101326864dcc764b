"""Convolutions of small whole numbers in 8-bit arithmetic, exact: uint8 by int8, summed in 32 bits, as oneDNN has them.

Loihi's weights are even, so their halves are bytes; spikes, and sums of a few of them, are bytes as they are.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from llvmlite import binding

from export.graph import Conv, Shape

COUNT_MAX = 127  # fits signed bytes, to which PyTorch converts six times faster than to unsigned ones


@dataclass(frozen=True, eq=False)
class ByteConv:
    """A convolution whose weights lie as oneDNN wants them: `pack_weight` makes it."""

    op: Conv
    packed: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Whole numbers uint8 (N, C, H, W), channels last in memory, to float32 likewise."""
        op = self.op
        geometry = list(op.stride), list(op.padding), list(op.dilation), op.groups
        y = torch.ops.onednn.qconv2d_pointwise(
            x, 1.0, 0, self.packed, self.scale, self.zero, None, *geometry, 1.0, 0, torch.float32, "none", [], ""
        )
        return y.contiguous(memory_format=torch.channels_last)


def reads(op: Conv, source: Shape) -> bool:
    """Whether any tap reads any pixel of a source (C, H, W), along both axes. Where none does, oneDNN crashes."""
    return all(
        _reaches(op.weight.shape[2 + k], op.stride[k], op.padding[k], op.dilation[k], source[1 + k]) for k in range(2)
    )


@functools.cache
def _reaches(taps: int, stride: int, padding: int, dilation: int, side: int) -> bool:
    places = range(-padding, side + padding - dilation * (taps - 1), stride)  # of the first tap
    return any(0 <= place + dilation * tap < side for place in places for tap in range(taps))


def pack_weight(half: torch.Tensor, op: Conv, shape: tuple[int, ...]) -> ByteConv:
    """2 * conv(x, half), half of int8, with the geometry of op, for inputs of a shape. PyTorch, cpu/qconv.cpp."""
    scale = torch.full((len(half),), 2.0)
    geometry = list(op.stride), list(op.padding), list(op.dilation), op.groups
    packed = torch.ops.onednn.qconv_prepack(half, scale, 1.0, 0, *geometry, list(shape))
    return ByteConv(op, packed, scale, torch.zeros(len(half), dtype=torch.int32))


@functools.cache
def multiplies_bytes() -> bool:
    """Whether the processor has instructions for it (VNNI), so that nothing else comes near."""
    features = binding.get_host_cpu_features()
    return bool(features.get("avx512vnni") or features.get("avxvnni"))


@functools.cache
def bytes_are_fast() -> bool:
    """Whether oneDNN multiplies bytes here, exactly: the widest sums of a small convolution tell.

    AVX2 adds products in pairs, in 16 bits that saturate: 2 * 127 * 128 is below that.
    """
    if not (multiplies_bytes() or binding.get_host_cpu_features().get("avx2")):
        return False
    op = Conv(np.zeros((16, 16, 3, 3)), padding=(1, 1))
    x = torch.full((2, 16, 5, 5), COUNT_MAX, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    weight = torch.tensor([-128, 127], dtype=torch.int8).repeat(8).view(16, 1, 1, 1).expand(op.weight.shape)
    try:
        found = pack_weight(weight.contiguous(), op, x.shape)(x)
    except (AttributeError, RuntimeError, TypeError):  # an internal operator: other releases may have others
        return False
    return torch.equal(found, F.conv2d(x.float(), 2 * weight.float(), padding=1))
