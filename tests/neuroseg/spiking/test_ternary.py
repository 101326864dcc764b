"""Spikes of -1, 0 and 1: neurons that fire at both thresholds, in PyTorch, in every engine and in Lava's TernaryLIF."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import hardware_sim
from export import netx, nir
from export.bounds import input_bound, input_bound_in_place
from export.graph import (
    Conv,
    Dense,
    Edge,
    Graph,
    GraphError,
    Input,
    Meta,
    Neuron,
    Pool,
    Population,
    graded,
    same,
    ternary,
)
from export.inspect import inspect
from export.limits import check
from export.mapping.chips import LOIHI1, LOIHI2
from hardware_sim.comparison.compare import compare
from hardware_sim.comparison.diagnose import diagnose
from hardware_sim.neurons import scan
from hardware_sim.reference import edge_input
from hardware_sim.reporting.deployment import deploy
from hardware_sim.reporting.metrics import trace_metrics
from hardware_sim.reporting.page import count_cells, rasters
from hardware_sim.trace import pack
from neuroseg.conversion.balance import METHODS, balance
from neuroseg.conversion.convert import convert
from neuroseg.conversion.lower import export, integer_scales
from neuroseg.conversion.sigma_delta import to_sigma_delta
from neuroseg.engine import Engine, image_spikes
from neuroseg.spiking.activity import measure
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.spiking.neuron import integrate_fire
from neuroseg.spiking.structure import describe, parse
from neuroseg.training.finetune import FinetuneConfig, finetune_images
from neuroseg.validation import software_trace
from tests.networks import PLAIN, build


class Bottleneck(nn.Module):
    """A linear layer between others that have a ReLU, which two layers read, as MobileNetV2's blocks have one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.narrow = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
        self.wide, self.back = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 3, 1)
        self.last = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.narrow(torch.relu(self.first(x)))
        return self.last(torch.relu(x + self.back(torch.relu(self.wide(x)))))


def model() -> Bottleneck:
    torch.manual_seed(1)
    return Bottleneck().eval()


def images(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network(*, reset: str = "subtract", u0: float = 0.0, timesteps: int = 8, method: str = "rate") -> SpikingNetwork:
    made = convert(model(), (1, 8, 8), ternary=True, reset=reset, u0=u0, timesteps=timesteps)
    made = balance(made, images(), method=method)
    return made.with_scales(integer_scales(made)).eval()


def one(neuron: Neuron, weight: int = 2, *, steps: int = 6) -> Graph:
    """A neuron that reads another's spikes, whose sign it shows."""
    first = Population("first", (1, 1, 1), (Edge("input", Dense(np.array([[weight]]))),), neuron)
    second = Population("second", (1, 1, 1), (Edge("first", Dense(np.array([[4]]))),), Neuron(None))
    return Graph((Input("input", (1, 1, 1)), first, second), integer=True, meta=Meta(timesteps=steps))


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_a_neuron_fires_at_both_thresholds(reset):
    """By hand, of threshold 5: below -5 it fires -1; a spike takes 5 back, or leaves 0."""
    currents = torch.tensor([4.0, 2, -3, -9, -1, -4, 0])
    spikes, potentials = scan(currents, Neuron(5, reset, ternary=True))
    after = {"subtract": [4, 1, -2, -6, -2, -1, -1], "zero": [4, 0, -3, 0, -1, -5, -5]}[reset]
    wanted = {"subtract": [0, 1, 0, -1, -1, -1, 0], "zero": [0, 1, 0, -1, 0, 0, 0]}[reset]
    assert spikes.tolist() == wanted and (potentials / 64).tolist() == after
    ours = integrate_fire(currents, threshold=5.0, reset=reset, ternary=True)
    assert ours.tolist() == wanted


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


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_pytorch_and_every_engine_spike_alike(reset, method, tmp_path):
    made = network(reset=reset, u0=0.5 if reset == "subtract" else 0.0, method=method)
    graph = netx.read(netx.write(export(made), tmp_path / "net.net"))
    spikes = image_spikes(graph, images())
    software = software_trace(made, spikes)
    assert software.graded["narrow"].min() == -1
    for engine in (Engine("reference"), Engine("fast"), Engine("lava", "fused"), Engine("lava", "stock")):
        comparison = compare(software, engine.run(graph, spikes))
        assert comparison.equal and comparison.total, (engine, comparison.cause)


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


@given(weights=st.lists(st.integers(-20, 20).map(lambda n: 2 * n), min_size=1, max_size=6))
def test_bounds_are_the_most_that_signs_can_make(weights):
    """Against every combination of spikes."""
    n = len(weights)
    first = Population("first", (n, 1, 1), (Edge("input", Dense(np.eye(n, dtype=int))),), Neuron(5, ternary=True))
    second = Population("second", (1, 1, 1), (Edge("first", Dense(np.array([weights]))),), Neuron(None))
    graph = Graph((Input("input", (n, 1, 1)), first, second), integer=True)
    sums = np.array(np.meshgrid(*[(-1, 0, 1)] * n)).reshape(n, -1).T @ np.array(weights)
    assert input_bound_in_place(graph, second) == (sums.min(), sums.max())
    assert input_bound(second, {"first": (-1, 1)}) == (sums.min(), sums.max())
    assert check(graph, stock=False) is graph


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_a_file_says_it(reset, tmp_path):
    graph = one(Neuron(3, reset, ternary=True))
    path = netx.write(graph, tmp_path / "signs.net")
    assert same(netx.read(path), graph)
    assert [row.reset for row in inspect(netx.read(path))] == ["", f"{reset}, ternary", ""]


def test_what_knows_no_signs_refuses_them(tmp_path):
    made = network()
    graph = export(made)
    with pytest.raises(GraphError, match="narrow: ternary spikes, which NIR does not tell"):
        nir.write(graph, tmp_path / "net.nir")
    with pytest.raises(GraphError, match=r"narrow: has ternary spikes, .* Loihi 1 knows spikes of 1"):
        deploy(graph, LOIHI1)
    with pytest.raises(GraphError, match="narrow: ternary; sigma-delta neurons"):
        to_sigma_delta(convert(model(), (1, 8, 8), ternary=True), images())
    with pytest.raises(GraphError, match="input: ternary neurons turn images into spikes"):
        Graph((Input("input", (1, 1, 1), Neuron(3, ternary=True)),))
    with pytest.raises(GraphError, match="first: ternary, and has no threshold"):
        check(one(Neuron(None, ternary=True)))


def test_a_spike_of_minus_one_counts_as_one():
    made = network()
    graph = export(made)
    trace = Engine("fast").run(graph, image_spikes(graph, images()))
    told = np.abs(trace.spikes["narrow"]).sum()
    assert graded(graph) == {"narrow"} and trace.total("narrow") == told == trace.counts["narrow"].sum()
    assert measure(made, images(), quantized=True).rates["narrow"] == told / trace.spikes["narrow"].size
    layers = {layer.name: layer for layer in trace_metrics(graph, trace).layers}
    assert layers["wide"].macs == 0 < layers["wide"].acs  # a sign adds or subtracts
    assert deploy(graph, LOIHI2, trace).costs[0].total("spikes") == sum(map(trace.total, trace.spikes)) / len(images())
    with pytest.raises(hardware_sim.SimulationError, match="0 and 1 are allowed"):  # what comes in has none
        Engine("fast").run(graph, -image_spikes(graph, images()))


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


def test_a_report_shows_the_sign():
    made = network()
    graph = export(made)
    trace = Engine("fast").run(graph, image_spikes(graph, images()))
    wrong = replace(trace, graded={"narrow": -trace.graded["narrow"]})
    first = next(raster for raster in rasters(trace, wrong) if raster.label.startswith("narrow"))
    assert first.software and first.software == tuple((t, -value) for t, value in first.hardware)
    cells = count_cells(trace, wrong)
    assert "narrow" not in cells and any(cell.software != cell.hardware for cell in cells["narrow, spikes of 1"])
    for sign in (1, -1):
        total = sum(cell.software * cell.neurons for cell in cells[f"narrow, spikes of {sign}"])
        assert total == (trace.spikes["narrow"] == sign).sum()


def test_signs_that_a_synapse_loses_are_a_cause():
    made = network()
    graph = export(made)
    spikes = image_spikes(graph, images())
    right = Engine("reference").run(graph, spikes)
    wide = graph["wide"]
    given = torch.from_numpy(right.spikes["narrow"]).transpose(0, 1).float()
    for lost, words in ((given.abs(), "are read as 1"), (given.clamp(min=0), "are not read")):
        fired, _ = scan(edge_input(wide.edges[0], lost), wide.neuron)
        bits = pack(fired.transpose(0, 1).numpy().astype(np.uint8))
        found = diagnose(graph, right, replace(right, packed={**right.packed, "wide": bits}))
        assert found.population == "wide" and f"spikes of -1 of narrow {words}" in found.verdict
        assert all(arrival.spikes[0] > 0 for arrival in found.arrivals)


@pytest.mark.parametrize("state", [{"bias": np.full((1, 1, 1), -6 * 64, np.int32)}, {"u0": -6 * 64}])
def test_what_fires_below_before_a_sample_begins_is_refused_with_late_spikes(state):
    """As what fires above: in stock processes those would reach the sample."""
    graph = one(Neuron(5, "subtract" if "u0" in state else "zero", ternary=True, **state))
    second = graph["second"]
    late = replace(second, edges=(replace(second.edges[0], target_delay=np.full((1, 1, 1), 2)),))
    graph = replace(graph, nodes=(*graph.nodes[:2], late))
    with pytest.raises(hardware_sim.SimulationError, match="fires before a sample begins"):
        Engine("lava", "stock").run(graph, torch.zeros(6, 1, 1, 1, 1))


def test_a_network_without_linear_layers_stays_as_it_is():
    """All of the U-Net's layers have a ReLU."""
    plain, signs = (build(replace(PLAIN, ternary=each))[0] for each in (False, True))
    assert ternary(signs.graph) == () and same(plain.graph, signs.graph)


def test_convolutions_and_pools_take_signs():
    """Padding has no spike, though bytes say 1 where there is none."""
    rng = np.random.default_rng(0)
    weights = [2 * rng.integers(-9, 10, shape) for shape in ((4, 1, 3, 3), (3, 4, 3, 3), (2, 3, 2, 2))]
    convs = [Conv(w, padding=(1, 1)) for w in weights[:2]] + [
        Conv(np.repeat(weights[2][:, :, :1, :1], 2, 2).repeat(2, 3), (2, 2))
    ]
    shapes = [(4, 8, 8), (3, 8, 8), (2, 4, 4)]
    nodes = [Input("input", (1, 8, 8))]
    for k, (op, shape) in enumerate(zip(convs, shapes, strict=True)):
        neuron = Neuron(12, ternary=True) if k < 2 else Neuron(None)
        nodes.append(Population(f"p{k}", shape, (Edge(nodes[-1].name, op),), neuron))
    graph = Graph(tuple(nodes), integer=True, meta=Meta(timesteps=5))
    spikes = (rng.random((3, 5, 1, 8, 8)) < 0.5).astype(np.uint8)
    ours, theirs = (hardware_sim.run(graph, spikes, backend=name) for name in ("fast", "reference"))
    assert compare(theirs, ours).equal and theirs.spikes["p1"].min() == -1
