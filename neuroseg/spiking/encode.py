"""Images to spike trains."""

from __future__ import annotations

import torch

from export.graph import ENCODERS


def encode(
    images: torch.Tensor, *, timesteps: int, encoder: str = "rate", levels: int = 1, seed: int = 0
) -> torch.Tensor:
    """Encode intensities in [0, 1], any shape (B, ...), as spikes float32 (T, B, ...) of 0 and 1.

    Those of `graded` carry values from 0 to `levels` instead. `seed` matters to `poisson` only. Raises ValueError for
    another encoder or intensities out of range.
    """
    if encoder not in ENCODERS:
        raise ValueError(f"encoder {encoder!r} is unknown; {' and '.join(ENCODERS)} are allowed")
    if encoder == "graded" and levels < 2:
        raise ValueError(
            f"the encoder 'graded' with {levels} level; 2 or more are needed, those of the network's input"
        )
    if timesteps < 1:
        raise ValueError(f"timesteps is {timesteps}; at least 1 is needed")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"intensities lie in [{low:g}, {high:g}]; [0, 1] is allowed")
    if encoder == "poisson":
        return poisson(images, timesteps, torch.Generator(images.device).manual_seed(seed))
    return rate(images, timesteps, levels=levels if encoder == "graded" else 1)


def rate(images: torch.Tensor, timesteps: int, *, levels: int = 1) -> torch.Tensor:
    """Deterministic code: at t a spike of floor(t L x + 1/2) - floor((t-1) L x + 1/2), L levels.

    With one level, a spike or none, it is what an integrate-and-fire neuron with threshold 1 and start potential 1/2
    emits under constant bias x. Of L levels all T steps together tell x to 1 in T L; the least of a step is L x rounded
    down, the most rounded up.
    """
    images = images.double() * levels
    t = torch.arange(timesteps + 1, dtype=torch.float64, device=images.device)
    passed = torch.floor(t.view(-1, *[1] * images.ndim) * images + 0.5)  # T+1, B, ...
    return passed.diff(dim=0).to(torch.float32)


def poisson(images: torch.Tensor, timesteps: int, generator: torch.Generator) -> torch.Tensor:
    """Bernoulli spikes with probability x at each step, independent (the paper's encoder)."""
    noise = torch.rand((timesteps, *images.shape), generator=generator, device=images.device)
    return (noise < images).to(torch.float32)
