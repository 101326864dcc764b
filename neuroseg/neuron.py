"""The integrate-and-fire neuron: one pure step, its surrogate gradient, and the scan over time.

Yue et al., arXiv 2302.07328: eq. 1 to 3 (soft reset), eq. 4 and 5 (surrogate gradient). No leak.
"""

from __future__ import annotations

from typing import Any

import torch

RESETS = ("subtract", "zero")
NO_LIMIT = float("inf")


def step(
    u: torch.Tensor, current: torch.Tensor, *, threshold: float, reset: str, limit: float = NO_LIMIT
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One time step. Potential u and current have the same shape.

    u + current, clipped to +-limit, fires where it exceeds the threshold (strictly); a spike subtracts the
    threshold (`subtract`) or sets the potential to 0 (`zero`).
    Returns the potential before reset, the spikes (0/1 in u's dtype) and the potential after reset.
    """
    charged = (u + current).clamp(-limit, limit)
    spikes = (charged > threshold).to(charged.dtype)
    after = charged - threshold * spikes if reset == "subtract" else charged * (1 - spikes)
    return charged, spikes, after


def surrogate_gradient(charged: torch.Tensor, *, threshold: float, alpha: float) -> torch.Tensor:
    """ds/du = alpha/v * max(0, 1 - |u - v|/v): paper eq. 5 with u measured in thresholds."""
    return (1 - (charged / threshold - 1).abs()).clamp(min=0) * (alpha / threshold)


def scan(
    currents: torch.Tensor, *, threshold: float, reset: str, u0: float, limit: float = NO_LIMIT
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Step through time. currents: (T, ...). Returns charged potentials, spikes, potentials after reset."""
    charged, spikes, after = (torch.empty_like(currents) for _ in range(3))
    u = torch.full_like(currents[0], u0)
    for t, current in enumerate(currents):
        charged[t], spikes[t], u = step(u, current, threshold=threshold, reset=reset, limit=limit)
        after[t] = u
    return charged, spikes, after


class _IntegrateFire(torch.autograd.Function):
    """The scan with backpropagation through time; the reset is detached, the clip passes gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        currents: torch.Tensor,
        threshold: float,
        reset: str,
        u0: float,
        limit: float,
        alpha: float,
    ) -> torch.Tensor:
        charged, spikes, _ = scan(currents, threshold=threshold, reset=reset, u0=u0, limit=limit)
        ctx.save_for_backward(charged)
        ctx.settings = threshold, reset, alpha
        return spikes

    @staticmethod
    def backward(ctx: Any, grad_spikes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (charged,) = ctx.saved_tensors
        threshold, reset, alpha = ctx.settings
        grad = torch.empty_like(charged)
        carried = torch.zeros_like(charged[0])  # dL/du of the step after
        for t in range(len(charged) - 1, -1, -1):
            if reset == "zero":
                carried = carried * (charged[t] <= threshold)
            ds_du = surrogate_gradient(charged[t], threshold=threshold, alpha=alpha)
            carried = carried + grad_spikes[t] * ds_du
            grad[t] = carried
        return grad, None, None, None, None, None


def integrate_fire(
    currents: torch.Tensor,
    *,
    threshold: float = 1.0,
    reset: str = "subtract",
    u0: float = 0.0,
    limit: float = NO_LIMIT,
    alpha: float = 1.0,
) -> torch.Tensor:
    """Spikes (T, ...) of integrate-and-fire neurons driven by currents (T, ...), differentiable by surrogate.

    u0 is the start potential in the units of the threshold. Raises ValueError for an unknown reset or a
    threshold that is not positive.
    """
    check_neuron(threshold=threshold, reset=reset)
    return _IntegrateFire.apply(currents, threshold, reset, u0, limit, alpha)


def check_neuron(*, threshold: float, reset: str) -> None:
    """Raise ValueError unless reset and threshold are allowed."""
    if reset not in RESETS:
        raise ValueError(f"reset {reset!r} is unknown; {' and '.join(RESETS)} are allowed")
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}; it must be positive")
