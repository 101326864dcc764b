"""Models that cannot be converted: refused by name, never by a crash."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuroseg.conversion.convert import ConversionError, convert
from tests.neuroseg.conftest import SHAPE


def sequential(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Conv2d(4, 1, 1, bias=False))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate = (
            nn.Conv2d(1, 4, 3),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid()),
        )

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return x * self.gate(x)


CONV = nn.Conv2d(1, 4, 3, padding=1, bias=False)
REFUSED = {
    "a gate": (Gate(), "gate.*sigmoid multiplies two activations"),
    "a sigmoid inside": (sequential(CONV, nn.Sigmoid()), r"^1 \(sigmoid\): sigmoid .* is left out by itself"),
    "SiLU": (sequential(CONV, nn.SiLU()), r"^1 \(silu\): silu is no piecewise linear function.*ReLU6"),
    "GELU": (sequential(CONV, nn.GELU()), "gelu is no piecewise"),
    "Hardswish": (sequential(CONV, nn.Hardswish()), "hardswish is no piecewise"),
    "group norm": (sequential(CONV, nn.GroupNorm(2, 4)), "^1: GroupNorm computes its statistics.*freeze_norms"),
    "instance norm": (sequential(CONV, nn.InstanceNorm2d(4)), "^1: InstanceNorm computes"),
    "batch norm of the image": (
        sequential(CONV, nn.BatchNorm2d(4, track_running_stats=False)),
        "^1: BatchNorm without",
    ),
    "uneven max pooling": (
        sequential(CONV, nn.AdaptiveMaxPool2d(5)),
        r"^1 \(adaptive_max_pool2d\): adaptive max pooling of \(12, 8\) to \(5, 5\)",
    ),
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
    "an output that is none": lambda m, h: (m.b(h), None),
    "an output that is no image's": lambda m, h: (m.b(h), m.weight.sum()),
    "a product": lambda m, h: m.b(h * m.a(h[:, :1])),
    "a square": lambda m, h: m.b(h).pow(2),
    "a quotient": lambda m, h: m.b(h / (1 + h.mean())),
    "a matrix of the image": lambda m, h: h.flatten(2) @ h.flatten(2).mT,
    "a decision": lambda m, h: m.b(h).argmax(1),
    "noise": lambda m, h: m.b(h + torch.rand_like(h)),
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
