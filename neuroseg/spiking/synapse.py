"""The synapse: a convolution of spikes and its gradient, in float or in the very integers that are exported.

Integer weights and spikes are so small that cheaper arithmetic holds them exactly: 8-bit convolutions forward (32-bit
sums), bfloat16 operands backward. Which of the two this processor runs fast is found out once, by trying.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from export.graph import Conv, ConvT, Sparse
from hardware_sim.fast.bytes import bytes_are_fast, pack_weight, reads
from neuroseg.spiking.device import exact, multiplies_bfloat16
from neuroseg.spiking.trainable import Trainable


def apply_synapse(x: torch.Tensor, weight: torch.Tensor, op: Trainable) -> torch.Tensor:
    """The synapse's linear map on (N, C, H, W), channels last in memory on the CPU, where that is faster."""
    if isinstance(op, Sparse):
        matrix = _matrix(op, weight, x[0].numel())
        return torch.sparse.mm(matrix, x.flatten(1).T).T.reshape(len(x), *op.shape)
    x = _channels_last(x)
    if isinstance(op, Conv):
        y = F.conv2d(x, weight, None, op.stride, op.padding, op.dilation, op.groups)
    else:
        y = F.conv_transpose2d(x, weight, None, op.stride, op.padding, op.output_padding, op.groups, op.dilation)
    return _channels_last(y)


def to_bytes(x: torch.Tensor) -> torch.Tensor:
    """Whole numbers from 0 to 127 as uint8."""
    return x.to(torch.int8).view(torch.uint8)


def apply_to_counts(x: torch.Tensor, weight: torch.Tensor, op: Trainable, *, whole: bool) -> torch.Tensor:
    """The same on spikes or sums of them: x uint8 (N, C, H, W), float32 out.

    whole: the weights are even integers in [-256, 254], and the result is exact.
    """
    bytes_do = whole and isinstance(op, Conv) and x.device.type == "cpu" and bytes_are_fast()
    if bytes_do and isinstance(op, Conv) and reads(op, (x.shape[1], x.shape[2], x.shape[3])):
        x = _channels_last(x)
        return pack_weight((weight / 2).to(torch.int8), op, x.shape)(x)
    y = apply_synapse(x.float(), weight.float(), op)
    return exact(y) if whole else y


def gradients(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, op: Trainable, *, wanted: tuple[bool, bool]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """dL/dx in grad's dtype and dL/dweight in the weight's, as far as wanted, given dL/dy."""
    if isinstance(op, Sparse):
        with torch.enable_grad():
            given = [x.float().requires_grad_(wanted[0]), weight.detach().requires_grad_(wanted[1])]
            y = apply_synapse(given[0], given[1], op)
        found = iter(torch.autograd.grad(y, [tensor for tensor in given if tensor.requires_grad], grad.to(y.dtype)))
        sparse_x, sparse_weight = (next(found) if tensor.requires_grad else None for tensor in given)
        return None if sparse_x is None else sparse_x.to(grad.dtype), sparse_weight
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        _channels_last(grad),
        x.to(grad.dtype),
        weight.to(grad.dtype),
        None,
        op.stride,
        op.padding,
        op.dilation,
        isinstance(op, ConvT),
        op.output_padding if isinstance(op, ConvT) else (0, 0),
        op.groups,
        (*wanted, False),
    )
    return grad_x, None if grad_weight is None else grad_weight.to(weight.dtype)


def _matrix(op: Sparse, weight: torch.Tensor, sources: int) -> torch.Tensor:
    """Synapses as a sparse matrix (targets, sources); the gradient reaches the weights."""
    indices = torch.from_numpy(np.stack([op.target, op.source])).to(weight.device)
    return torch.sparse_coo_tensor(indices, weight, (math.prod(op.shape), sources), check_invariants=False)


def spike_dtype(device: torch.device) -> torch.dtype:
    """What spikes travel as between layers, and their gradients: bfloat16 where the CPU multiplies it natively."""
    return torch.bfloat16 if device.type == "cpu" and multiplies_bfloat16() else torch.float32


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x
