"""Spikes of -1, 0 and 1: neurons that fire at both thresholds, in PyTorch and in conversion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from export.graph import (
    Conv,
    Edge,
    Graph,
    Input,
    Meta,
    Neuron,
    Pool,
    Population,
    same,
    ternary,
)
from hardware_sim.comparison.compare import compare
from neuroseg.conversion.balance import balance
from neuroseg.conversion.convert import convert
from neuroseg.conversion.lower import export, integer_scales
from neuroseg.engine import Engine, image_spikes
from neuroseg.spiking.activity import measure
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.spiking.neuron import integrate_fire
from neuroseg.spiking.structure import describe, parse
from neuroseg.training.finetune import FinetuneConfig, finetune_images
from neuroseg.validation import software_trace
from tests.networks import PLAIN, build
from tests.ternary import images, model, network


def test_gradients_pass_at_both_thresholds():
    """max(0, 1 - ||u| - v|/v) at the potential before the reset, through time as of other neurons."""
    currents = torch.tensor([[0.6, -0.6], [0.9, -0.9], [-2.8, 2.8]], requires_grad=True)
    spikes = integrate_fire(currents, ternary=True)
    assert spikes.tolist() == [[0, 0], [1, -1], [-1, 1]]
    spikes.sum().backward()
    charged = [0.6, 1.5, -2.3]  # the first neuron's, by hand; the second's have the other sign
    height = [max(0.0, 1 - abs(abs(u) - 1)) for u in charged]
    wanted = torch.tensor([sum(height[t:]) for t in range(3)])
    for neuron in range(2):
        torch.testing.assert_close(currents.grad[:, neuron], wanted, atol=0.02, rtol=0)  # kept in 126 steps


def test_a_linear_layer_is_one_population():
    pairs, single = (convert(model(), (1, 8, 8), ternary=signs) for signs in (False, True))
    assert ternary(pairs.graph) == () and ternary(single.graph) == ("narrow",)
    assert len(pairs.populations) == len(single.populations) + 1  # instead of what is above 0 and what is below
    x = images()
    for made in (pairs, single):
        torch.testing.assert_close(made.analog(x)[made.output.name], model()(x))
    assert single.analog(x)["narrow"].min() < 0


def test_it_comes_as_near_the_model_as_two_populations_do():
    x, wanted = images(), model()(images()).detach()
    far = {}
    for signs in (False, True):
        made = balance(convert(model(), (1, 8, 8), ternary=signs, timesteps=64), x, method="activation")
        with torch.no_grad():
            far[signs] = float((made.predict(x) - wanted).abs().mean())
    assert far[True] < 1.2 * far[False] < 0.2


class Sums(nn.Module):
    """Nine branches summed, which is a layer of neurons; what follows it, and a ReLU after that."""

    def __init__(self, then: nn.Module) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Conv2d(1, 2, 3, padding=1) for _ in range(9))
        self.second = nn.ModuleList(nn.Conv2d(2, 4, 3, padding=1) for _ in range(9))
        self.then, self.last = then, nn.LazyConv2d(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = sum(b(torch.relu(a(x))) for a, b in zip(self.first, self.second, strict=True))
        return self.last(torch.relu(self.then(total)))


class Joined(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, torch.relu(x)], 1)


BEHIND = (nn.AvgPool2d(2), nn.Dropout(0.2), Joined(), nn.MaxPool2d(2), nn.Upsample(scale_factor=2))


@pytest.mark.parametrize("then", BEHIND, ids=lambda then: type(then).__name__)
def test_a_relu_behind_spikes_of_both_signs_is_not_left_out(then):
    torch.manual_seed(0)
    sums = Sums(then)
    sums(images())
    made = convert(sums.eval(), (1, 8, 8), ternary=True)  # which holds the network against the model
    assert len(ternary(made.graph)) >= 1
    made = made.with_scales(integer_scales(made)).eval()
    graph, spikes = export(made), image_spikes(export(made), images())
    assert compare(software_trace(made, spikes), Engine("fast").run(graph, spikes)).equal


def test_neurons_that_have_a_sign_start_at_zero():
    made = network(u0=0.5)
    assert made.neuron.u0 == 0.5 and not made.neuron.ternary
    assert all(p.cuba.u0 == (0 if p.cuba.ternary else 0.5) for p in made.populations if p.cuba.threshold)
    assert made.copy(u0=0.25).neuron.u0 == 0.25
    first = made.graph["narrow"]
    for wrong in (replace(first.neuron, u0=0.5), replace(first.neuron, reset="zero")):
        nodes = tuple(replace(n, neuron=wrong) if n.name == "narrow" else n for n in made.graph.nodes)
        with pytest.raises(ValueError, match="narrow: "):
            SpikingNetwork(replace(made.graph, nodes=nodes))


def test_fine_tuning_reaches_weights_on_both_sides_of_it():
    made = network(timesteps=4)
    before = {name: weight.detach().clone() for name, weight in made.weights.items()}
    labels = model()(images(12)).argmax(1).numpy()
    config = FinetuneConfig(epochs=2, batch=4)
    tuned, _ = finetune_images(made, images(12), labels, config=config)
    for name in ("first:0", "narrow:0"):
        assert not torch.equal(tuned.weights[name], before[name])
    graph, spikes = export(tuned.eval()), image_spikes(export(tuned), images())
    assert compare(software_trace(tuned, spikes), Engine("fast").run(graph, spikes)).equal


def test_structure_of_a_run_says_it():
    graph = network().graph
    assert same(parse(describe(graph)), graph)
    old = describe(graph)
    for node in old["nodes"]:
        node.get("neuron", {}) and node["neuron"].pop("ternary", None)  # as of before there were such
    assert ternary(parse(old)) == ()


def test_operations_do_not_cancel_in_a_pool():
    """A spike of 1 and one of -1 in a window are two, crossed by a synapse each."""
    weight = np.array([4.0, -4.0])[:, None, None, None]
    first = Population("first", (2, 1, 2), (Edge("input", Conv(weight)),), Neuron(1.0, ternary=True))
    joined = Conv(np.ones((2, 2, 1, 1)))
    second = Population("second", (2, 1, 2), (Edge("first", joined),), Neuron(1.0, ternary=True))
    pool = Pool("pool", (2, 1, 1), "first", (1, 2))
    last = Population("last", (1, 1, 1), (Edge("pool", Conv(np.ones((1, 2, 1, 1)))),), Neuron(None))
    graph = Graph((Input("input", (1, 1, 2)), first, second, pool, last), meta=Meta(timesteps=4))
    plain = torch.ones(1, 1, 1, 2)
    turned = replace(first, edges=(Edge("input", Conv(np.abs(weight))),))
    of_one_sign = replace(graph, nodes=(graph.input, turned, second, pool, last))
    ours, theirs = (measure(SpikingNetwork(each).eval(), plain).operations for each in (graph, of_one_sign))
    assert ours == theirs > 0
    values = torch.tensor([[[[1.0, 0.0]]]])
    assert measure(SpikingNetwork(graph).eval(), values).operations < ours


def test_a_network_without_linear_layers_stays_as_it_is():
    """All of the U-Net's layers have a ReLU."""
    plain, signs = (build(replace(PLAIN, ternary=each))[0] for each in (False, True))
    assert ternary(signs.graph) == () and same(plain.graph, signs.graph)
