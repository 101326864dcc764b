"""Where PyTorch computes. No GPU was at hand: the tests try another device with tensors that hold no numbers."""

from __future__ import annotations

import torch
from llvmlite import binding
from torch import nn

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose(name: str) -> torch.device:
    """The device of a name; `auto` is a GPU where there is one. Raises ValueError for one that is not there.

    Convolutions of CUDA are kept from TF32, whose 10 bits hold no sum of Loihi's integers.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    if name not in there:
        raise ValueError(f"device {name!r} is unknown; {', '.join(DEVICES)} are allowed")
    if not there[name]:
        found = " and ".join(kind for kind, present in there.items() if present)
        raise ValueError(f"device {name}: PyTorch finds none on this machine; {found} is there")
    if name == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(name)


def place(network: nn.Module, device: torch.device) -> None:
    """Put the parameters of a network there, new ones where they move. Its other numbers, float64, the host reads."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device != device:
                moved = nn.Parameter(parameter.detach().to(device), requires_grad=parameter.requires_grad)
                module.register_parameter(name, moved)


def device_of(network: nn.Module) -> torch.device:
    """Where the parameters of a network are."""
    return next(network.parameters()).device


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16, without which PyTorch is several times slower in it."""
    features = binding.get_host_cpu_features()
    return bool(features.get("avx512bf16") or features.get("amx-bf16"))


def wide(x: torch.Tensor) -> torch.Tensor:
    """In float64; on the host where the device has none."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def exact(currents: torch.Tensor) -> torch.Tensor:
    """Sums of even integers as the even integers that they are.

    A GPU's convolutions may go other ways than sums (Winograd), and end beside them, by far less than 1.
    """
    return currents if currents.device.type == "cpu" else (currents / 2).round() * 2
