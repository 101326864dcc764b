"""The U-Net of the benchmarks (16-32-64, no bias, soft reset where there is one) in other people's layers."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import torch

FOLDER = Path(__file__).with_name(".peers")  # pip install --no-deps --target, see the Makefile
WIDTHS = (16, 32, 64)

Peer = tuple[torch.nn.Module, Callable[[], torch.Tensor]]
"""A network, and what runs it on the spikes: logits (B, 1, H, W)."""


def check(*names: str) -> None:
    """Let packages of the peers be imported. Raises FileNotFoundError where one is not installed."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise FileNotFoundError(f"{' and '.join(missing)} not found; `make bench` installs them into {FOLDER}")


def spikingjelly(spikes: torch.Tensor) -> Peer:
    """SpikingJelly in its multi-step mode. spikes: float32 (T, B, 1, H, W)."""
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    def fire() -> torch.nn.Module:
        return neuron.IFNode(v_reset=None, detach_reset=True, surrogate_function=surrogate.PiecewiseQuadratic())

    network = PeerUNet(layer.Conv2d, layer.ConvTranspose2d, layer.AvgPool2d, fire, channel_axis=2)
    functional.set_step_mode(network, "m")

    def forward() -> torch.Tensor:
        functional.reset_net(network)
        return network(spikes).sum(0)

    return network, forward


def snntorch(spikes: torch.Tensor) -> Peer:
    """snnTorch, step by step. spikes: as above."""
    import snntorch
    from torch import nn

    def fire() -> torch.nn.Module:
        return snntorch.Leaky(beta=1.0, reset_mechanism="subtract", init_hidden=True)

    network = PeerUNet(nn.Conv2d, nn.ConvTranspose2d, nn.AvgPool2d, fire, channel_axis=1)
    neurons = [module for module in network.modules() if isinstance(module, snntorch.Leaky)]

    def forward() -> torch.Tensor:
        for module in neurons:
            module.reset_mem()
        return torch.stack([network(frame) for frame in spikes]).sum(0)

    return network, forward


def slayer(spikes: torch.Tensor) -> Peer:
    """lava-dl's SLAYER, whose neurons are reset to zero. spikes: as above."""
    from hardware_sim.lava_backend import compat

    compat.mend()
    from lava.lib.dl import slayer as lib

    synapse = lib.synapse

    def conv(a: int, b: int, kernel: int, *, padding: int = 0, bias: bool = False) -> torch.nn.Module:
        return synapse.Conv(a, b, kernel, padding=padding)

    def up(a: int, b: int, kernel: int, *, stride: int, bias: bool) -> torch.nn.Module:
        return synapse.ConvTranspose(a, b, kernel, stride=stride)

    def fire() -> torch.nn.Module:
        return lib.neuron.cuba.Neuron(threshold=1.0, current_decay=1.0, voltage_decay=0.0)

    network = PeerUNet(conv, up, synapse.Pool, fire, channel_axis=1)
    time_last = spikes.permute(1, 2, 3, 4, 0).contiguous()  # B, 1, H, W, T
    return network, lambda: network(time_last).sum(-1)


class PeerUNet(torch.nn.Module):
    """The same U-Net in a peer's layers."""

    def __init__(self, conv: Callable, up: Callable, pool: Callable, fire: Callable, *, channel_axis: int) -> None:
        super().__init__()
        a, b, c = WIDTHS
        pairs = ((1, a), (a, a), (a, b), (b, b), (b, c), (c, c), (2 * b, b), (b, b), (2 * a, a), (a, a))
        self.convs = torch.nn.ModuleList(conv(i, o, 3, padding=1, bias=False) for i, o in pairs)
        self.ups = torch.nn.ModuleList(up(i, o, 2, stride=2, bias=False) for i, o in ((c, b), (b, a)))
        self.head = conv(a, 1, 1, bias=False)
        self.pool = pool(2)
        self.fires = torch.nn.ModuleList(fire() for _ in range(12))
        self.axis = channel_axis
        for module in (*self.convs, *self.ups, self.head):
            torch.nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def two(x: torch.Tensor, k: int, f: int) -> torch.Tensor:
            return self.fires[f + 1](self.convs[k + 1](self.fires[f](self.convs[k](x))))

        fine = two(x, 0, 0)
        middle = two(self.pool(fine), 2, 2)
        coarse = two(self.pool(middle), 4, 4)
        middle = two(torch.cat([middle, self.fires[6](self.ups[0](coarse))], self.axis), 6, 7)
        fine = two(torch.cat([fine, self.fires[9](self.ups[1](middle))], self.axis), 8, 10)
        return self.head(fine)
