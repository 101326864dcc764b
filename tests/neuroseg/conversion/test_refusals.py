"""Models that cannot be converted: refused by name, never by a crash."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from neuroseg.conversion.convert import ConversionError, convert
from tests.neuroseg.conftest import SHAPE


def sequential(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Conv2d(4, 1, 1, bias=False))


CONV, RELU = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ReLU()
REFUSED = {
    "max pooling": (sequential(CONV, RELU, nn.MaxPool2d(2)), r"\(after _?0\): max_pool2d.*; use AvgPool2d"),
    "sigmoid": (sequential(CONV, nn.Sigmoid()), "sigmoid has no spiking counterpart; end with the logits"),
    "leaky ReLU": (sequential(CONV, nn.LeakyReLU()), "leaky_relu .*; use ReLU"),
    "group norm": (sequential(CONV, nn.GroupNorm(2, 4)), "native_group_norm .*; use BatchNorm2d"),
    "no ReLU between": (sequential(CONV, nn.Conv2d(4, 4, 3, bias=False), RELU), "1 takes spikes; put a ReLU before it"),
    "batch norm of spikes": (sequential(CONV, RELU, nn.BatchNorm2d(4)), "BatchNorm2d on spikes; put it after a conv"),
    "pooling a current": (sequential(CONV, nn.AvgPool2d(2), RELU), "pools spikes; put it after the ReLU"),
    "overlapping pooling": (sequential(CONV, RELU, nn.AvgPool2d(3, stride=2)), r"pooling of kernel \(3, 3\), stride"),
    "odd pooling": (sequential(CONV, RELU, nn.AvgPool2d(5)), "pooling .* does not divide"),
    "uneven pooling": (sequential(CONV, RELU, nn.AdaptiveAvgPool2d(5)), r"pooling \(12, 8\) to \(5, 5\) is uneven"),
    "circular padding": (
        sequential(nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular", bias=False), RELU),
        "has no spiking counterpart",
    ),
    "bilinear": (sequential(CONV, RELU, nn.Upsample(scale_factor=2, mode="bilinear")), "use mode='nearest'"),
    "stride after upsampling": (
        nn.Sequential(CONV, RELU, nn.Upsample(scale_factor=2), nn.Conv2d(4, 1, 3, stride=2, bias=False)),
        "reads an Upsample; stride 1",
    ),
    "padding": (sequential(CONV, RELU, nn.ReplicationPad2d(1)), "use the convolution's zero padding"),
    "a spiking end": (nn.Sequential(CONV, RELU), "end with a convolution"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_spike_is_refused_by_name(name):
    model, reason = REFUSED[name]
    with pytest.raises(ConversionError, match=reason):
        convert(model, SHAPE)


def test_control_flow_is_refused():
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ConversionError, match="Branch cannot be traced"):
        convert(Branch(), SHAPE)


def test_a_model_that_reads_more_than_its_input_is_refused():
    class Counting(nn.Module):
        """Its second call is not its first."""

        def __init__(self):
            super().__init__()
            self.conv, self.calls = nn.Conv2d(1, 1, 3, padding=1, bias=False), 0

        def forward(self, x):
            self.calls += 1
            return self.conv(x) if self.calls == 1 else self.conv(x) + self.conv(x)

    with pytest.raises(ConversionError, match="Counting: the converted network differs from the model by up to"):
        convert(Counting(), SHAPE)


class Uses(nn.Module):
    """Two convolutions, and whatever a function makes of them."""

    def __init__(self, use):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 1)
        self.weight, self.use = nn.Parameter(torch.ones(4 * 12 * 8, 2)), use

    def forward(self, x):
        return self.use(self, torch.relu(self.a(x)))


USES = {
    "a mean over everything": lambda m, h: m.b(h) - m.b(h).mean(),
    "a bare matrix": lambda m, h: h.flatten(1) @ m.weight,
    "a detached weight": lambda m, h: F.conv2d(h, m.b.weight.detach()),
    "a reshaped weight": lambda m, h: F.conv2d(h, m.b.weight.view(1, 4, 1, 1)),
    "a ReLU of a weight": lambda m, h: F.conv2d(h, torch.relu(m.b.weight)),
    "an output that is none": lambda m, h: (m.b(h), None),
    "flattened layers joined": lambda m, h: torch.cat([h.flatten(1), h.flatten(1)], 1) @ torch.ones(768, 2),
    "flattened layers added": lambda m, h: (h.flatten(1) + h.flatten(1)) @ m.weight,
}


@pytest.mark.parametrize("name", USES)
def test_strange_uses_are_refused_and_never_crash(name):
    with pytest.raises(ConversionError):
        convert(Uses(USES[name]), SHAPE)


def test_one_and_three_axes_are_refused():
    with pytest.raises(ConversionError, match="a convolution over 3 axes; two are supported"):
        convert(nn.Conv3d(1, 2, 1), (1, 4, 4, 4))


def test_conversion_leaves_the_models_modes_and_takes_any_names():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.values, self.keys = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 1, 3)

        def forward(self, x):
            return self.keys(torch.relu(self.values(x)))

    model = Named().train()
    model.keys.eval()
    network = convert(model, SHAPE)
    assert model.training and model.values.training and not model.keys.training
    assert set(network.biases) == {"values:bias", "keys:bias"}
