"""A population as one differentiable step: bytes in, spikes out, and the gradient through time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neuroseg.spiking.neuron import STEPS, scan_backward, scan_forward
from neuroseg.spiking.synapse import apply_to_counts, gradients, to_bytes
from neuroseg.spiking.trainable import Trainable


@dataclass(frozen=True)
class Response:
    """How a population responds to counts. whole: whose weights are even integers; alpha: None for an output."""

    ops: tuple[Trainable, ...]
    whole: tuple[bool, ...]
    alpha: float | None
    threshold: float
    reset: str
    u0: float
    limit: float
    ternary: bool = False


def in_place(bias: torch.Tensor) -> torch.Tensor:
    """A bias (C,) or (C, H, W) as it is added to currents (..., C, H, W)."""
    return bias if bias.ndim == 3 else bias.view(-1, 1, 1)


class _Respond(torch.autograd.Function):
    """A population's synapses and neurons in one: the float32 currents between them are never kept.

    Inputs are whole numbers up to 127, kept as bytes; spikes and all gradients have the inputs' dtype.
    """

    @staticmethod
    def forward(ctx: Any, settings: Response, bias: torch.Tensor | None, *tensors: torch.Tensor) -> torch.Tensor:
        n = len(settings.ops)
        counts, weights = [to_bytes(x.flatten(0, 1)) for x in tensors[:n]], tensors[n:]
        currents = None
        for x, weight, op, whole in zip(counts, weights, settings.ops, settings.whole, strict=True):
            y = apply_to_counts(x, weight, op, whole=whole)
            currents = y if currents is None else currents.add_(y)
        assert currents is not None
        if bias is not None:
            currents.add_(in_place(bias))
        ctx.settings, ctx.steps, ctx.dtype = settings, len(tensors[0]), tensors[0].dtype
        ctx.spread = (0, 1) if bias is not None and bias.ndim == 3 else (0, 1, 3, 4)  # what a bias is the same for
        currents = currents.unflatten(0, tensors[0].shape[:2])
        if settings.alpha is None:
            ctx.save_for_backward(*counts, *weights)
            return currents.sum(0, keepdim=True)
        spikes, trace = scan_forward(
            currents,
            threshold=settings.threshold,
            reset=settings.reset,
            u0=settings.u0,
            limit=settings.limit,
            dtype=ctx.dtype,
            ternary=settings.ternary,
        )
        ctx.save_for_backward(*counts, *weights, trace)
        return spikes

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        settings: Response = ctx.settings
        n = len(settings.ops)
        counts, weights = ctx.saved_tensors[:n], ctx.saved_tensors[n : 2 * n]
        if settings.alpha is None:
            grad = grad.to(ctx.dtype).expand(ctx.steps, *grad.shape[1:])
        else:
            height = settings.alpha / settings.threshold / STEPS
            grad = scan_backward(grad, ctx.saved_tensors[-1], reset=settings.reset, height=height)
        wanted = ctx.needs_input_grad[2:]
        grads = [
            gradients(grad.flatten(0, 1), counts[k], weights[k], settings.ops[k], wanted=(wanted[k], wanted[n + k]))
            for k in range(n)
        ]
        inputs = (None if x is None else x.unflatten(0, grad.shape[:2]) for x, _ in grads)
        grad_bias = grad.float().sum(ctx.spread) if ctx.needs_input_grad[1] else None
        return None, grad_bias, *inputs, *(weight for _, weight in grads)


def respond_to_counts(
    response: Response, inputs: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], bias: torch.Tensor | None
) -> torch.Tensor:
    """Spikes (T, B, C, H, W), or an output's potential (1, B, C, H, W), of a population.

    inputs: each synapse's (T, B, C, H, W), whole numbers up to 127, kept as bytes. weights: float32, as PyTorch has
    them. bias: float32 (C,), (C, H, W) or None. The float32 currents between synapses and neurons are never kept;
    spikes and all their gradients have the inputs' dtype.
    """
    return _Respond.apply(response, bias, *inputs, *weights)
