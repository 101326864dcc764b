"""A network as sigma-delta neurons gives what the ANN gives, to 8 bits of weights, in one step; in Lava the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import hardware_sim
from export import netx
from export.graph import Dense, Edge, Graph, GraphError, Input, Neuron, Population, SigmaDelta, same
from export.limits import POTENTIAL_MAX, WEIGHT_MAX
from export.quantize import MESSAGE_MAX, Reach, quantize_sigma_delta
from hardware_sim.analog import analog, peaks
from hardware_sim.comparison.compare import compare
from neuroseg.calibration import explain_sigma_delta
from neuroseg.conversion.convert import convert
from neuroseg.conversion.sigma_delta import to_sigma_delta
from neuroseg.engine import Engine, image_spikes, logits
from tests.networks import PLAIN, build

KINDS = [
    {},
    {"activation": "leaky", "residual": True},
    {"activation": "relu6", "down": "max"},
    {"down": "strided", "biased": True},
    {"up": "bilinear", "norm": "before"},
    {"up": "nearest", "norm": "after", "biased": True, "classifier": True},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: ", ".join(map(str, kind.values())) or "plain")
def test_networks_give_what_the_ann_gives(kind):
    """To the bits that weights, messages and the input have."""
    network, _, _ = build(replace(PLAIN, size=(16, 16), seed=5, **kind))
    images = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    graph = to_sigma_delta(network, images)
    with torch.no_grad():
        expected = network.eval().analog(images)[graph.output.name].double().numpy()
    found = logits(graph, Engine().run(graph, image_spikes(graph, images)))
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.05 * expected.std() + 1e-6


def network_graph(network) -> Graph:
    from neuroseg.conversion.lower import lower

    return lower(network)


@pytest.mark.parametrize("fidelity", ["fused", "stock"])
def test_lava_does_the_same(fidelity, worker):
    network, _, _ = build(replace(PLAIN, biased=True, residual=True, classifier=True, norm="after", activation="leaky"))
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = to_sigma_delta(network, images)
    spikes = image_spikes(graph, images).transpose(0, 1).numpy()
    ours = hardware_sim.run(graph, spikes, backend="reference")
    lavas = hardware_sim.run(graph, spikes, backend="lava", fidelity=fidelity, worker=worker)
    comparison = compare(ours, lavas)
    assert comparison.equal and comparison.total > 100, comparison.cause


def test_a_file_holds_it(tmp_path):
    network, _, _ = build(replace(PLAIN, biased=True))
    graph = to_sigma_delta(network, torch.rand(2, 1, 8, 8), class_names=("a",))
    again = netx.read(netx.write(graph, tmp_path / "n.net"))
    images = torch.rand(2, 1, 8, 8)
    spikes = image_spikes(graph, images)
    assert torch.equal(spikes, image_spikes(again, images))
    traces = [Engine().run(one, spikes) for one in (graph, again)]
    assert compare(*traces).equal and (traces[0].output == traces[1].output).all()
    assert again.meta.timesteps == 1 and again.meta.class_names == ("a",)


def test_frames_after_the_first_tell_what_changed():
    """A video: each frame's logits are those of the frame alone, but for what rounding left of the frames before."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
    still, moving = torch.rand(1, 1, 8, 8), torch.rand(5, 1, 8, 8) * 0.1
    frames = (0.8 * still + moving).clamp(0, 1)
    made = explain_sigma_delta(convert(model, (1, 8, 8)), frames)
    graph = replace(made.graph, meta=replace(made.graph.meta, timesteps=5))
    messages = image_spikes(graph, frames[None])  # one sample of five steps
    trace = Engine().run(graph, messages, record=hardware_sim.Record(potentials="all"))
    found = trace.potentials.get(graph.output.name, trace.output)[0, :, 0] * graph.meta.logit_scale
    with torch.no_grad():
        np.testing.assert_allclose(found, model(frames)[:, 0].numpy(), atol=0.05)
    assert made.agreement > 0.9


def two_layers(weights: tuple[float, float], bias: float = 0.0) -> Graph:
    one = (1, 1, 1)
    first = Edge("input", Dense(np.array([[weights[0]]])))
    second = Edge("a", Dense(np.array([[weights[1]]])))
    hidden = Population("a", one, (first,), Neuron(1.0))
    head = Population("head", one, (second,), Neuron(None, bias=np.full(one, bias) if bias else None))
    return Graph((Input("input", one), hidden, head))


def test_numbers_use_the_bits_that_there_are():
    graph = two_layers((0.5, 3.0))
    images = np.full((1, 1, 1, 1), 1.0)
    reach = peaks(graph, images)
    assert reach == {"input": Reach(1.0), "a": Reach(0.5, (0.5,)), "head": Reach(1.5, (1.5,))}
    made = quantize_sigma_delta(graph, reach, margin=2.0)
    weights = [int(population.edges[0].op.weight.item()) for population in made.populations]
    assert weights[0] > WEIGHT_MAX / 4 and weights[1] == WEIGHT_MAX
    trace = hardware_sim.run(made, image_spikes(made, torch.ones(1, 1, 1, 1)).transpose(0, 1).numpy())
    message, total = trace.graded["a"].item(), trace.output.item()
    assert MESSAGE_MAX / 8 < message <= MESSAGE_MAX / 2 and total <= POTENTIAL_MAX / 2
    assert total * made.meta.logit_scale == pytest.approx(1.5, rel=2e-3)


@pytest.mark.parametrize("bias", [0.75, -2.0])
def test_the_bias_of_an_output_is_told_by_neurons_beside_it(bias):
    graph = two_layers((0.5, 1.0), bias)
    made = quantize_sigma_delta(graph, peaks(graph, np.ones((1, 1, 1, 1))))
    assert made.output.neuron.bias is None
    for x in (0.0, 0.25, 1.0):
        spikes = image_spikes(made, torch.full((1, 1, 1, 1), x)).transpose(0, 1).numpy()
        found = hardware_sim.run(made, spikes).output.item() * made.meta.logit_scale
        assert found == pytest.approx(0.5 * x + bias, abs=0.02)


def test_what_is_beyond_the_calibration_ends_with_an_error():
    graph = two_layers((1.0, 1.0))
    made = quantize_sigma_delta(graph, peaks(graph, np.full((1, 1, 1, 1), 0.01)))
    with pytest.raises(hardware_sim.SimulationError, match="is what Loihi holds"):
        hardware_sim.run(made, image_spikes(made, torch.ones(1, 1, 1, 1)).transpose(0, 1).numpy())


def test_what_does_not_fit_is_named():
    graph = two_layers((1.0, 1.0))
    leaky = replace(graph["a"], neuron=Neuron(1.0, voltage_decay=100))
    reach = peaks(graph, np.ones((1, 1, 1, 1)))
    with pytest.raises(GraphError, match="a: leaks, or hears what comes back; sigma-delta neurons do neither"):
        quantize_sigma_delta(replace(graph, nodes=(graph.input, leaky, graph["head"])), reach)
    with pytest.raises(GraphError, match="integer already"):
        quantize_sigma_delta(replace(graph, integer=True), {})
    with pytest.raises(GraphError, match="input: what reads it needs messages of less than one unit"):
        quantize_sigma_delta(graph, {**reach, "a": Reach(1e6, (1e6,))})


def test_the_relu_network_of_a_graph_is_pytorchs():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 2, 2))
    images = torch.rand(2, 1, 8, 8)
    graph = network_graph(convert(model, (1, 8, 8)))
    with torch.no_grad():
        np.testing.assert_allclose(analog(graph, images.numpy())[graph.output.name], model(images), atol=1e-5)
    assert isinstance(to_sigma_delta(convert(model, (1, 8, 8)), images).output.neuron, SigmaDelta)
    assert same(graph, graph)
