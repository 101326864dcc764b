"""The integrate-and-fire neuron: one pure step, its surrogate gradient, and the scan over time.

Yue et al., arXiv 2302.07328: soft reset, and the surrogate gradient of eq. 4 and 5. No leak.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from export.limits import RESETS
from neuroseg.spiking import kernels as scan_kernels
from neuroseg.spiking.kernels import STEPS

NO_LIMIT = float("inf")
COMPILED = (torch.float32, torch.bfloat16)  # dtypes of spikes and gradients that have a kernel


def step(
    u: torch.Tensor,
    current: torch.Tensor,
    *,
    threshold: float,
    reset: str,
    limit: float = NO_LIMIT,
    ternary: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One time step. Potential u and current have the same shape.

    u + current, clipped to +-limit, fires where it exceeds the threshold (strictly); a spike subtracts the
    threshold (`subtract`) or sets the potential to 0 (`zero`). ternary: below -threshold it fires -1, likewise.
    Returns the potential before reset, the spikes (0/1, or -1/0/1, in u's dtype) and the potential after reset.
    """
    charged = (u + current).clamp(-limit, limit)
    spikes = (charged > threshold).to(charged.dtype)
    if ternary:
        spikes = spikes - (charged < -threshold).to(charged.dtype)
    after = charged - threshold * spikes if reset == "subtract" else charged * (spikes == 0)
    return charged, spikes, after


def surrogate(charged: torch.Tensor, *, threshold: float, ternary: bool = False) -> torch.Tensor:
    """max(0, 1 - |u - v|/v): paper eq. 5 without its height, for u measured in thresholds.

    ternary: max(0, 1 - ||u| - v|/v), the same at both thresholds.
    """
    return (1 - ((charged.abs() if ternary else charged) / threshold - 1).abs()).clamp(min=0)


def scan(
    currents: torch.Tensor,
    *,
    threshold: float,
    reset: str,
    u0: float,
    limit: float = NO_LIMIT,
    ternary: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Step through time. currents: (T, ...). Returns charged potentials, spikes, potentials after reset."""
    charged, spikes, after = (torch.empty_like(currents) for _ in range(3))
    u = torch.full_like(currents[0], u0)
    for t, current in enumerate(currents):
        charged[t], spikes[t], u = step(u, current, threshold=threshold, reset=reset, limit=limit, ternary=ternary)
        after[t] = u
    return charged, spikes, after


def scan_torch(
    currents: torch.Tensor,
    *,
    threshold: float,
    reset: str,
    u0: float,
    limit: float,
    dtype: torch.dtype,
    ternary: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Spikes, and what their gradient needs of the potentials: int8, 1 + surrogate * STEPS, negative where fired."""
    charged, spikes, _ = scan(currents, threshold=threshold, reset=reset, u0=u0, limit=limit, ternary=ternary)
    steps = (surrogate(charged, threshold=threshold, ternary=ternary) * STEPS).round().to(torch.int8) + 1
    return spikes.to(dtype), torch.where(spikes != 0, -steps, steps)


def backward_torch(grad_spikes: torch.Tensor, trace: torch.Tensor, *, reset: str, height: float) -> torch.Tensor:
    """dL/dcurrents through time; the reset is detached, the clip passes gradients. height: slope of one of STEPS."""
    grad = torch.empty_like(grad_spikes)
    wide = torch.promote_types(grad.dtype, torch.float32)
    carried = torch.zeros_like(grad_spikes[0], dtype=wide)  # dL/du of the step after
    for t in range(len(grad) - 1, -1, -1):
        if reset == "zero":
            carried = carried * (trace[t] > 0)
        carried = carried + grad_spikes[t].to(wide) * ((trace[t].abs() - 1).to(wide) * height)
        grad[t] = carried
    return grad


def scan_forward(
    currents: torch.Tensor,
    *,
    threshold: float,
    reset: str,
    u0: float,
    limit: float,
    dtype: torch.dtype,
    ternary: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`scan_torch`, in one compiled pass on the CPU but for ternary neurons."""
    compiled = currents.device.type == "cpu" and currents.dtype == torch.float32 and dtype in COMPILED
    if ternary or not compiled:
        return scan_torch(currents, threshold=threshold, reset=reset, u0=u0, limit=limit, dtype=dtype, ternary=ternary)
    currents = currents if _dense(currents) else currents.contiguous()
    spikes = torch.empty_like(currents, dtype=dtype)
    trace = torch.empty_like(currents, dtype=torch.int8)
    fired = _flat(spikes)
    one = scan_kernels.ONE[fired.dtype]
    scan_kernels.forward(_flat(currents), threshold, reset == "subtract", u0, limit, fired, one, _flat(trace))
    return spikes, trace


def scan_backward(grad_spikes: torch.Tensor, trace: torch.Tensor, *, reset: str, height: float) -> torch.Tensor:
    """`backward_torch`, in one compiled pass on the CPU."""
    if not (grad_spikes.device.type == "cpu" and grad_spikes.dtype in COMPILED):
        return backward_torch(grad_spikes, trace, reset=reset, height=height)
    if grad_spikes.stride() != trace.stride():
        grad_spikes = torch.empty_like(trace, dtype=grad_spikes.dtype).copy_(grad_spikes)
    grad = torch.empty_like(grad_spikes)
    scan_kernels.backward(_flat(grad_spikes), _flat(trace), reset == "subtract", height, _flat(grad))
    return grad


class _IntegrateFire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        currents: torch.Tensor,
        threshold: float,
        reset: str,
        u0: float,
        limit: float,
        alpha: float,
        ternary: bool,
    ) -> torch.Tensor:
        spikes, trace = scan_forward(
            currents, threshold=threshold, reset=reset, u0=u0, limit=limit, dtype=currents.dtype, ternary=ternary
        )
        ctx.save_for_backward(trace)
        ctx.settings = reset, alpha / threshold / STEPS
        return spikes

    @staticmethod
    def backward(ctx: Any, grad_spikes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (trace,) = ctx.saved_tensors
        reset, height = ctx.settings
        return scan_backward(grad_spikes, trace, reset=reset, height=height), *(None,) * 6


def _dense(x: torch.Tensor) -> bool:
    """Whether time is outermost in memory and nothing lies between or overlaps, in whatever order of B, C, H, W."""
    inner = sorted(zip(x.stride()[1:], x.shape[1:], strict=True))
    expected = 1
    for stride, size in inner:
        if size > 1 and stride != expected:
            return False
        expected *= size
    return len(x) == 1 or x.stride(0) == expected


def _flat(x: torch.Tensor) -> np.ndarray:
    """A dense tensor's memory as (T, N); bfloat16 as its bits."""
    n = x[0].numel()
    flat = x.as_strided((len(x), n), (n, 1))
    return flat.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else flat.numpy()


def integrate_fire(
    currents: torch.Tensor,
    *,
    threshold: float = 1.0,
    reset: str = "subtract",
    u0: float = 0.0,
    limit: float = NO_LIMIT,
    alpha: float = 1.0,
    ternary: bool = False,
) -> torch.Tensor:
    """Spikes (T, ...) of integrate-and-fire neurons driven by currents (T, ...), differentiable by surrogate.

    u0 is the start potential in the units of the threshold. ternary: spikes are -1, 0 and 1. Raises ValueError for an
    unknown reset or a threshold that is not positive.
    """
    check_neuron(threshold=threshold, reset=reset)
    return _IntegrateFire.apply(currents, threshold, reset, u0, limit, alpha, ternary)


def check_neuron(*, threshold: float, reset: str) -> None:
    """Raise ValueError unless reset and threshold are allowed."""
    if reset not in RESETS:
        raise ValueError(f"reset {reset!r} is unknown; {' and '.join(RESETS)} are allowed")
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}; it must be positive")
