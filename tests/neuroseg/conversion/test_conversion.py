"""Conversion and balancing: the converted network is the ANN, and in integers the same in every engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hardware_sim
from neuroseg.conversion.balance import STRONGEST, Rates, balance
from neuroseg.conversion.convert import convert
from neuroseg.conversion.lower import export, integer_scales, largest_inputs
from neuroseg.conversion.tracing import results
from neuroseg.spiking.activity import measure
from neuroseg.spiking.encode import encode
from tests.neuroseg.conftest import SHAPE


def test_the_analog_network_is_the_ann(unet, images):
    torch.testing.assert_close(convert(unet, SHAPE).analog(images)["head"], unet(images))


def test_every_relu_becomes_a_population(unet):
    network = convert(unet, SHAPE)
    firing = [p.name for p in network.populations if p.neuron.threshold is not None]
    assert firing[:2] == ["enc_0_conv1", "enc_0_conv2"] and len(firing) == 12
    assert network.output.name == "head"


class Sum(nn.Module):
    """A residual block whose addition comes before the ReLU."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Conv2d(1, 2, 3, padding=1, bias=False) for _ in range(2))
        self.c = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.head = nn.Conv2d(2, 1, 1, bias=False)

    def forward(self, x):
        y = torch.relu(self.a(x))
        return self.head(torch.relu(self.b(x) + self.c(y)))


def test_sums_of_currents_are_two_synapses(images):
    torch.manual_seed(0)
    model = Sum()
    network = convert(model, SHAPE)
    torch.testing.assert_close(network.analog(images)["head"], model(images))
    assert max(len(p.edges) for p in network.populations) == 2


def test_a_shared_layer_becomes_two_populations(images):
    """The same convolution read twice: names stay unique, and so do weights."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(1, 2, 3, padding=1, bias=False)
            self.b, self.head = nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False)

        def forward(self, x):
            p, q = self.a(x), self.b(torch.relu(self.a(x)))
            return self.head(torch.relu(p + q))

    model = Shared()
    network = convert(model, SHAPE)
    torch.testing.assert_close(network.analog(images)["head"], model(images))
    assert len({layer.name for layer in network.graph.nodes}) == len(network.graph.nodes)
    assert model.training


class Residual(nn.Module):
    """Batch norm, biases, an identity skip, a projected one, a sum of spikes, pooling in three styles, a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.one, self.two = (nn.Conv2d(4, 4, 3, padding=1, groups=2) for _ in range(2))
        self.norm = nn.BatchNorm2d(4, affine=False)
        self.down, self.project = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(4, 6, 1, stride=2, bias=False)
        self.drop, self.pool = nn.Dropout2d(0.2), nn.AdaptiveAvgPool2d(1)
        self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, 3, bias=False)

    def forward(self, x):
        x = self.stem(x)
        y = F.relu(self.one(x))
        y = self.norm(self.two(y))
        y += x
        y = self.drop(y.relu_())
        z = torch.relu(self.down(y) + self.project(x + y))
        return self.head(torch.relu(self.hidden(self.pool(z).view(z.size(0), -1))))


class Enlarging(nn.Module):
    """Nearest upsampling before convolutions, alone and joined with a skip, added, and two outputs."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, (3, 1), padding=(1, 0))
        self.side, self.joined = nn.Conv2d(4, 3, 2), nn.Conv2d(7, 3, (5, 3), padding=(2, 1), bias=False)
        self.norm, self.head, self.coarse_head = nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        fine = F.relu(self.fine(x))
        coarse = torch.relu(self.coarse(F.avg_pool2d(fine, 2)))
        up = F.interpolate(coarse, scale_factor=2, mode="nearest")
        joined = torch.relu(self.norm(self.joined(torch.cat([fine, up], 1))))
        return {"fine": self.head(joined + fine), "coarse": [self.coarse_head(coarse), self.side(up)]}


class Pooled(nn.Module):
    """A pooled layer added to what is made of it, and padding that pads nothing, as in MONAI and torchvision."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        x = F.avg_pool2d(torch.relu(self.a(x)), 2)
        x = torch.relu(self.b(x) + x)
        return self.head(F.pad(x, [0, x.shape[-1] % 2, 0, 0], "replicate"))


MODELS = [Residual(), Enlarging(), Pooled()]


def trained(model: nn.Module) -> nn.Module:
    """With running statistics and offsets that are not their defaults."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model.eval()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_other_architectures_become_the_same_ann(model, images):
    network = convert(trained(model), SHAPE)
    analog = network.analog(images)
    for expected, population in zip(results(model(images)), network.outputs, strict=True):
        torch.testing.assert_close(analog[population.name].reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)
    assert any(population.neuron.bias is not None for population in network.populations)


@pytest.mark.parametrize("method", ["rate", "activation", "threshold"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_other_architectures_are_the_same_in_every_integer(model, method, images):
    """Balanced, exported, and run by the reference engine: PyTorch's spikes and potentials, biases included."""
    network = balance(convert(trained(model), SHAPE, timesteps=5), images, method=method)
    network = network.with_scales(integer_scales(network))
    spikes = encode(images, timesteps=5)
    activity = network.record(spikes, quantized=True)
    graph = export(network)
    bits = spikes.transpose(0, 1).numpy().astype(np.uint8)
    trace = hardware_sim.run(graph, bits, record=hardware_sim.Record(potentials="all"))
    for population in network.populations:
        name = population.name
        expected = activity.potentials[name].transpose(0, 1).numpy() * 2**6
        assert (trace.potentials[name] == expected).all(), name
        if population.neuron.threshold is not None:
            assert (trace.spikes[name] == activity.spikes[name].transpose(0, 1).numpy()).all(), name
    assert max(float(fired.mean()) for fired in activity.spikes.values()) > 0.02


def test_activation_balancing_approaches_the_ann_with_time(unet, images):
    errors = []
    for timesteps in (16, 256):
        network = balance(convert(unet, SHAPE, timesteps=timesteps), images, method="activation", percentiles=(100,))
        output = network(encode(images, timesteps=timesteps)) / network.logit_scale
        reference = unet(images)
        errors.append(1 - float(torch.corrcoef(torch.stack([output.flatten(), reference.flatten()]))[0, 1]))
    assert errors[1] < 0.02 < errors[0]


def test_activation_balancing_keeps_the_percentile_that_agrees_best(unet, images):
    truth = (unet(images) > 0).numpy()
    spikes = encode(images, timesteps=24)

    def agreement(percentiles):
        network = balance(convert(unet, SHAPE, timesteps=24), images, method="activation", percentiles=percentiles)
        found = (network(spikes) > 0).numpy()
        return 2 * (found & truth).sum() / (found.sum() + truth.sum())

    each = [agreement((percentile,)) for percentile in (100, 99, 90)]
    assert agreement((100, 99, 90)) == agreement((90, 99, 100)) == max(each) > min(each)


def test_rate_balancing_reaches_its_rates(unet, images):
    network = balance(convert(unet, SHAPE), images, rates=[Rates(0.15, (0.2, 0.25))])
    rates = list(measure(network, images).rates.values())
    np.testing.assert_allclose(rates, [0.15] * 10 + [0.2, 0.25], atol=0.01)


def test_where_few_neurons_fire_at_all_those_are_not_driven_to_fire_at_every_step():
    """A fifth of the image is bright enough; a rate of 0.3 over all of it is out of reach at any gain."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(-0.8)
    images = torch.linspace(0, 1, 100).reshape(1, 1, 10, 10)
    network = balance(convert(model, (1, 10, 10), encoder="graded"), images, rates=[Rates(0.3)])
    fired = network.record(network.encode(images), quantized=False).spikes["0"].mean((0, 1, 2))  # H, W
    firing = fired[fired > 0]
    assert 15 < len(firing) < 25 and float(firing.mean()) < 0.8 and len(firing.unique()) > 4


def test_a_layer_that_is_silent_on_these_images_is_left_as_it_is():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(-1.0)
    network = balance(convert(model, (1, 4, 4)), torch.rand(2, 1, 4, 4))
    assert (network.weights["0:0"] == -1).all() and integer_scales(network)["0"] > 200


def test_where_weights_cancel_their_sum_still_fits_an_input(monkeypatch):
    """By the gain that its rate takes, what a neuron may get in a step is many times what it does get."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 512, 1, bias=False), nn.ReLU(), nn.Conv2d(512, 2, 7, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1)
    )
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[2].weight.copy_(model[2].weight - model[2].weight.mean(1, keepdim=True) + 1e-7)
    images = torch.rand(2, 1, 10, 10)
    network = balance(convert(model, (1, 10, 10)), images, rates=[Rates(0.3)])
    assert largest_inputs(network)["2"] == pytest.approx(STRONGEST, rel=1e-3)
    export(network)
    monkeypatch.setattr("neuroseg.conversion.balance.STRONGEST", np.inf)
    unlimited = balance(convert(model, (1, 10, 10)), images, rates=[Rates(0.3)])
    assert integer_scales(unlimited)["2"] < integer_scales(network)["2"]


def test_threshold_balancing_divides_by_the_largest_input(unet, images):
    before = convert(unet, SHAPE)
    after = balance(before, images, method="threshold")
    spikes = encode(images, timesteps=8)
    first = before.populations[0]
    largest = float(before.currents(first, {"input": spikes}).max())
    torch.testing.assert_close(
        after.weights["enc_0_conv1:0"] * largest, before.weights["enc_0_conv1:0"], rtol=1e-5, atol=1e-7
    )


def test_balancing_leaves_its_input_alone(unet, images):
    network = convert(unet, SHAPE)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    balance(network, images)
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    with pytest.raises(ValueError, match="'magic' is unknown"):
        balance(network, images, method="magic")
