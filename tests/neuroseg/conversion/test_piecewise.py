"""Every linear operation and every piecewise linear function: the same ANN, and the same spikes in every integer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import hardware_sim
from neuroseg.conversion import draft
from neuroseg.conversion.balance import balance
from neuroseg.conversion.convert import convert
from neuroseg.conversion.lower import export, integer_scales
from neuroseg.conversion.tracing import results
from neuroseg.spiking.encode import encode
from tests.neuroseg.conftest import SHAPE  # (1, 12, 8)


def conv(channels: int, width: int, kernel: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel, padding=kernel // 2, **options)


class Written(nn.Module):
    """A model written as a function of its parts."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def body(*layers: nn.Module, channels: int = 4) -> nn.Module:
    """A convolution to four channels, layers, and a head."""
    return nn.Sequential(conv(1, 4), *layers, nn.Conv2d(channels, 1, 1))


def dense_block(m: Written, x: torch.Tensor) -> torch.Tensor:
    first = m.one(x)
    second = m.two(F.relu(m.norm1(first)))
    third = m.three(F.relu(m.norm2(torch.cat([first, second], 1))))
    return m.head(F.relu(m.norm3(torch.cat([first, second, third], 1))))


def u_net(m: Written, x: torch.Tensor) -> torch.Tensor:
    """Max pooling, and a transposed convolution without ReLU joined to a skip: the commonest refusals of 0.3.1."""
    fine = F.relu(m.a(x))
    coarse = F.relu(m.b(F.max_pool2d(fine, 2)))
    return m.head(F.relu(m.c(torch.cat([fine, m.up(coarse)], 1))))


def pyramid(m: Written, x: torch.Tensor) -> torch.Tensor:
    """As in DeepLab: dilated, and a mean of the image enlarged; the logits are enlarged, too."""
    h = F.relu(m.a(x))
    mean = F.interpolate(F.relu(m.c(h.mean((2, 3), keepdim=True))), size=h.shape[2:], mode="bilinear")
    return F.interpolate(m.head(F.relu(m.d(torch.cat([F.relu(m.b(h)), mean], 1)))), scale_factor=2, mode="bilinear")


PLAIN = {
    "max pooling": body(nn.ReLU(), nn.MaxPool2d(2), conv(4, 4), nn.ReLU()),
    "overlapping max pooling": body(nn.ReLU(), nn.MaxPool2d(3, 2, 1), conv(4, 4), nn.ReLU()),
    "max pooling of what can be below 0": body(nn.MaxPool2d(3, 2, 1), conv(4, 4), nn.ReLU()),
    "dilated max pooling": body(nn.ReLU(), nn.MaxPool2d(2, 1, dilation=2)),
    "max pooling, sides rounded up": body(nn.ReLU(), nn.MaxPool2d(5, 3, ceil_mode=True)),
    "max pooling at the end": nn.Sequential(conv(1, 4), nn.ReLU(), nn.MaxPool2d(2)),
    "the largest of the image": nn.Sequential(
        conv(1, 4), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ),
    "amax": Written(lambda m, x: m.b(m.a(x).amax((2, 3))), a=conv(1, 4), b=nn.Linear(4, 2)),
    "a convolution after a convolution": body(conv(4, 4), nn.ReLU()),
    "pointwise after a convolution": body(nn.Conv2d(4, 4, 1), nn.ReLU()),
    "leaky ReLU and PReLU": body(nn.LeakyReLU(0.1), conv(4, 4), nn.PReLU(4, 0.3), nn.MaxPool2d(2)),
    "PReLU of one slope, RReLU": body(nn.PReLU(), conv(4, 4), nn.RReLU()),
    "an inverted residual": Written(
        lambda m, x: m.head((y := m.stem(x)) + m.block(y)),
        stem=conv(1, 2),
        block=nn.Sequential(
            *(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.ReLU6()),
            *(conv(4, 4, groups=4), nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)),
        ),
        head=nn.Conv2d(2, 1, 1),
    ),
    "hard functions": body(nn.Hardtanh(), conv(4, 4), nn.Hardsigmoid()),
    "clamps": Written(lambda m, x: m.b(m.a(x).clamp(min=0) * 0.5 + m.a(x).clamp(-1, 1)), a=conv(1, 4), b=conv(4, 1)),
    "abs, maximum, minimum": Written(
        lambda m, x: m.b(torch.maximum(m.a(x).abs(), m.c(x)) - torch.minimum(m.a(x), m.c(x))),
        **{"a": conv(1, 4), "c": conv(1, 4), "b": conv(4, 1)},
    ),
    "batch norm before a convolution": nn.Sequential(
        *(nn.BatchNorm2d(1), conv(1, 4), nn.ReLU(), nn.BatchNorm2d(4), conv(4, 4), nn.ReLU()),
        *(nn.BatchNorm2d(4), conv(4, 1)),
    ),
    "bilinear": body(nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear"), conv(4, 4), nn.ReLU()),
    "bilinear, corners aligned, at the end": body(
        nn.ReLU(), nn.Conv2d(4, 2, 1), nn.UpsamplingBilinear2d(size=(20, 9)), channels=2
    ),
    "bicubic": body(nn.ReLU(), nn.Upsample(size=(9, 9), mode="bicubic")),
    "nearest, exact": body(nn.ReLU(), nn.Upsample(scale_factor=2, mode="nearest-exact"), conv(4, 4), nn.ReLU()),
    "nearest of a current": body(nn.Upsample(scale_factor=2), conv(4, 4), nn.ReLU()),
    "nearest to any size": body(nn.ReLU(), nn.Upsample(size=(17, 11)), conv(4, 4), nn.ReLU()),
    "strided after nearest": body(nn.ReLU(), nn.Upsample(scale_factor=2), conv(4, 4, stride=2), nn.ReLU()),
    "a U-Net as they are": Written(
        u_net, a=conv(1, 4), b=conv(4, 4), up=nn.ConvTranspose2d(4, 4, 2, 2), c=conv(8, 4), head=conv(4, 1, 1)
    ),
    "a pyramid": Written(
        pyramid,
        a=conv(1, 4),
        b=nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        c=conv(4, 4, 1),
        d=conv(8, 4, 1),
        head=conv(4, 1, 1),
    ),
    "a dense block": Written(
        dense_block,
        **{"one": conv(1, 4), "two": conv(4, 3), "three": conv(7, 2), "head": conv(9, 1, 1)},
        **{"norm1": nn.BatchNorm2d(4), "norm2": nn.BatchNorm2d(7), "norm3": nn.BatchNorm2d(9)},
    ),
    "paddings": body(
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.ReplicationPad2d((1, 0, 2, 1)),
        nn.ConstantPad2d(1, 0.5),
        nn.ReLU(),
    ),
    "overlapping average pooling": body(
        nn.ReLU(), nn.AvgPool2d(3, 2, 1), conv(4, 4), nn.ReLU(), nn.AvgPool2d(3, 2, 1, count_include_pad=False)
    ),
    "average pooling of a current": body(nn.AvgPool2d(2), nn.ReLU()),
    "average pooling that cuts off": body(nn.ReLU(), nn.AvgPool2d(5), conv(4, 4), nn.ReLU()),
    "average pooling, rounded up to the same": body(nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True)),
    "uneven average pooling": nn.Sequential(
        conv(1, 4), nn.ReLU(), nn.AdaptiveAvgPool2d((5, 3)), nn.Flatten(), nn.Linear(60, 5), nn.ReLU(), nn.Linear(5, 2)
    ),
    "linear layers alone": nn.Sequential(nn.Flatten(), nn.Linear(96, 10), nn.ReLU(), nn.Linear(10, 3)),
    "linear after linear": nn.Sequential(nn.Flatten(), nn.Linear(96, 10), nn.Linear(10, 3)),
    "in place after flattening": nn.Sequential(
        conv(1, 4), nn.Flatten(), nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True), nn.Linear(384, 3)
    ),
    "dropout of a current, and of everything": body(nn.Dropout(0.3), nn.ReLU(), nn.Dropout3d(0.3)),
    "a sigmoid at the end": nn.Sequential(conv(1, 4), nn.ReLU(), conv(4, 1), nn.Sigmoid()),
    "a softmax at the end": nn.Sequential(conv(1, 4), nn.ReLU(), conv(4, 3), nn.Softmax(1)),
    "a squeezed output": Written(lambda m, x: m.b(F.relu(m.a(x))).squeeze(1), a=conv(1, 4), b=conv(4, 1)),
    "constants of every kind": nn.Sequential(
        nn.utils.parametrizations.weight_norm(conv(1, 4)),
        nn.ReLU(),
        nn.utils.parametrizations.spectral_norm(conv(4, 4)),
        nn.ReLU(),
        prune.l1_unstructured(conv(4, 1), "weight", 0.5),
    ),
    "a sum of a list": Written(
        lambda m, x: m.b(sum([F.relu(m.a(x)), F.relu(m.c(x))])), a=conv(1, 4), c=conv(1, 4), b=conv(4, 1)
    ),
    "a broadcast mean": Written(
        lambda m, x: m.b((y := F.relu(m.a(x))) - y.mean((2, 3), keepdim=True)), a=conv(1, 4), b=conv(4, 1)
    ),
    "shuffled channels and pixels": body(
        nn.ReLU(), nn.ChannelShuffle(2), conv(4, 4, groups=2), nn.ReLU(), nn.PixelShuffle(2), conv(1, 4), nn.ReLU()
    ),
    "pixels as channels": body(nn.PixelUnshuffle(2), nn.ReLU(), channels=16),
    "halves of the channels": Written(
        lambda m, x: m.b(torch.cat([(y := F.relu(m.a(x)).chunk(2, 1))[0], F.relu(m.c(y[1]))], 1)),
        **{"a": conv(1, 4), "c": conv(2, 2), "b": conv(4, 1)},
    ),
    "a slice in a shortcut": Written(
        lambda m, x: m.b(F.relu(m.c(y := F.relu(m.a(x))) + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)))),
        **{"a": conv(1, 2), "c": conv(2, 4, stride=2), "b": conv(4, 1)},
    ),
    "the image in the logits": Written(lambda m, x: m.b(F.relu(m.a(x))) + x, a=conv(1, 4), b=conv(4, 1)),
    "grouped, of joined layers": Written(
        lambda m, x: m.b(F.relu(m.g(torch.cat([F.relu(m.a(x)), F.relu(m.c(x))], 1)))),
        **{"a": conv(1, 3), "c": conv(1, 3), "g": conv(6, 6, groups=2), "b": conv(6, 1)},
    ),
    "a matrix, of detached and of reshaped weights": Written(
        lambda m, x: torch.cat([F.conv2d(x, m.a.weight.detach()).flatten(1)] * 2, 1) @ m.w,
        a=conv(1, 2, 1),
        w=nn.Parameter(torch.randn(384, 3)),
    ),
}  # fmt: skip


def prepared(model: nn.Module) -> nn.Module:
    """In evaluation, with running statistics that are not their defaults."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias)
    return model.eval()


@pytest.mark.parametrize("name", PLAIN)
def test_it_becomes_the_same_network_of_relus_and_of_integers(name, images):
    model = prepared(PLAIN[name])
    network = convert(model, SHAPE, timesteps=5)
    analog = network.analog(images)
    for expected, population in zip(results(model(images)), network.outputs, strict=True):
        found = analog[population.name].reshape(expected.shape)
        last = model[-1] if isinstance(model, nn.Sequential) else None
        found = last(found) if isinstance(last, nn.Sigmoid | nn.Softmax) else found  # left out: the same decision
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    network = balance(network, images)
    network = network.with_scales(integer_scales(network))
    spikes = encode(images, timesteps=5)
    activity = network.record(spikes, quantized=True)
    bits = spikes.transpose(0, 1).numpy().astype(np.uint8)
    trace = hardware_sim.run(export(network), bits, record=hardware_sim.Record(potentials="all"))
    for population in network.populations:
        expected = activity.potentials[population.name].transpose(0, 1).numpy() * 2**6
        assert (trace.potentials[population.name] == expected).all(), population.name


@pytest.mark.parametrize("name", ["bicubic", "bilinear, corners aligned, at the end", "paddings", "a pyramid"])
def test_neurons_come_between_where_one_synapse_would_be_too_large(name, monkeypatch):
    """The same network of ReLUs, which conversion has checked, when nothing may be looked for in one piece."""
    model = prepared(PLAIN[name])
    whole = convert(model, SHAPE)
    for limit in ("WORK", "SYNAPSES", "PROBING"):
        monkeypatch.setattr(draft, limit, 0)
    apart = convert(model, SHAPE)
    assert len(apart.populations) >= len(whole.populations)
