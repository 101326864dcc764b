"""NIR graphs whose neurons feed themselves: what is sent at a step arrives with the input of the next."""

from __future__ import annotations

import nir
import numpy as np
import pytest
import snntorch as snn
import torch
from snntorch.export_nir import export_to_nir

from export.graph import GraphError
from export.limits import check
from export.nir import read as read_nir
from export.nir import write as write_nir
from export.quantize import quantize
from hardware_sim import run
from hardware_sim.reference import run_reference
from tests.export.nir.test_nir_others import conv2d, lif, saved, spiking

STEPS, N = 30, 6


def nested(neurons: nir.NIRNode, back: nir.NIRNode) -> nir.NIRGraph:
    """As snnTorch and the NIR paper write a recurrent layer."""
    shape = np.array([N])
    nodes = {"input": nir.Input(shape), "lif": neurons, "w_rec": back, "output": nir.Output(shape)}
    links = [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")]
    return nir.NIRGraph(nodes, links, type_check=False)


@pytest.mark.parametrize("direct", [False, True], ids=["through weights", "directly"])
def test_a_loop_is_one_step_late(direct, tmp_path):
    """Leaky neurons by NIR's equations, stepped here in floats."""
    rng = np.random.default_rng(4)
    w, back = rng.integers(6, 40, (N, 4)) / 64, np.eye(N) if direct else rng.integers(-30, 24, (N, N)) / 64
    nodes = {"in": nir.Input(np.array([4])), "w": nir.Linear(w), "out": nir.Output(np.array([N]))}
    links = [("in", "w"), ("w", "n"), ("n", "out")]
    if direct:
        path = saved(tmp_path / "n.nir", {**nodes, "n": lif(N, beta=0.75)}, [*links, ("n", "n")])
        name = "n"
    else:
        affine = nir.Affine(back, np.full(N, 0.0625))
        path, name = saved(tmp_path / "n.nir", {**nodes, "n": nested(lif(N, beta=0.75), affine)}, links), "n.lif"
    graph = read_nir(path, timesteps=STEPS)
    assert [edge.source for edge in graph[name].edges] == ["in", name]
    spikes = (rng.random((1, STEPS, 4, 1, 1)) < 0.5).astype(np.uint8)
    trace, v, fired, count = run_reference(graph, spikes), np.zeros(N), np.zeros(N), 0
    for t in range(STEPS):
        v = 0.75 * v + w @ spikes[0, t].ravel() + back @ fired + (0 if direct else 0.0625)
        fired = v > 1
        v = np.where(fired, 0.0, v)
        np.testing.assert_array_equal(trace.spikes[name][0, t].ravel(), fired)
        count += fired.sum()
    assert 10 < count < STEPS * N - 10
    assert run(check(quantize(graph)), spikes).total(name)
    with pytest.raises(GraphError, match=f"{name}: feeds itself; networks without recurrence"):
        write_nir(graph, tmp_path / "again.nir")


def test_a_convolution_comes_back_to_an_image(tmp_path):
    rng = np.random.default_rng(1)
    shape, kernel = (2, 5, 4), rng.integers(-9, 16, (2, 2, 3, 3)) / 64
    neurons = nir.IF(r=np.ones(shape), v_threshold=np.ones(shape), v_reset=np.zeros(shape))
    back = conv2d(kernel, padding=1, input_shape=(5, 4))
    nodes = {"in": nir.Input(np.array(shape)), "n": neurons, "back": back, "out": nir.Output(np.array(shape))}
    path = saved(tmp_path / "c.nir", nodes, [("in", "n"), ("n", "back"), ("back", "n"), ("n", "out")])
    graph = read_nir(path, timesteps=STEPS)
    spikes = (rng.random((1, STEPS, *shape)) < 0.4).astype(np.uint8)
    trace, v, fired = run_reference(graph, spikes), np.zeros(shape), torch.zeros(1, *shape, dtype=torch.float64)
    for t in range(STEPS):
        came = torch.nn.functional.conv2d(fired, torch.from_numpy(kernel), padding=1)[0].numpy()
        v = v + spikes[0, t] + came
        hit = v > 1
        v, fired = np.where(hit, 0.0, v), torch.from_numpy(hit[None]).double()
        np.testing.assert_array_equal(trace.spikes["n"][0, t], hit)
    assert trace.total("n") > 50


@pytest.mark.parametrize("kind", ["RLeaky", "RSynaptic"])
def test_recurrent_layers_of_snntorch_spike_as_there(kind, tmp_path):
    torch.manual_seed(3)
    decays = {"beta": torch.full((N,), 0.875), "threshold": torch.ones(N), "linear_features": N, "init_hidden": True}
    alpha = {} if kind == "RLeaky" else {"alpha": torch.full((N,), 0.5)}
    recurrent = getattr(snn, kind)(**alpha, **decays, reset_mechanism="subtract")
    head = snn.Leaky(beta=torch.full((3,), 0.875), threshold=torch.ones(3), init_hidden=True)
    net = torch.nn.Sequential(torch.nn.Linear(4, N), recurrent, torch.nn.Linear(N, 3), head)
    for linear, scale in ((net[0], 1.5), (recurrent.recurrent, 1.0), (net[2], 1.5)):
        linear.weight.data.mul_(scale).mul_(64).round_().div_(64)
        linear.bias.data.abs_().mul_(64).round_().div_(64)
    path = tmp_path / "rnn.nir"
    nir.write(path, export_to_nir(net, torch.rand(4)))
    spikes = (torch.rand(STEPS, 1, 4) < 0.5).float()
    fired: dict[int, list[torch.Tensor]] = {1: [], 3: []}
    with torch.no_grad():
        for x in spikes:
            for k, module in enumerate(net):
                x = module(x)
                if k in fired:
                    x = x[0] if isinstance(x, tuple) else x
                    fired[k].append(x)
    graph = read_nir(path, timesteps=STEPS, framework="snntorch")
    trace = run_reference(graph, spikes.transpose(0, 1)[..., None, None].numpy().astype(np.uint8))
    for k, name in ((1, "1.lif"), (3, "3")):
        theirs = torch.stack(fired[k])[:, 0].numpy()
        assert 5 < theirs.sum() < theirs.size - 5, f"{name} says nothing"
        np.testing.assert_array_equal(trace.spikes[name][0, :, :, 0, 0], theirs, err_msg=name)


def test_weights_may_be_shared_by_what_comes_in_and_what_comes_back(tmp_path):
    nodes = {"in": nir.Input(np.array([N])), "w": nir.Linear(np.eye(N)), "n": spiking(N), "out": nir.Output(np.ones(1))}
    path = saved(tmp_path / "w.nir", nodes, [("in", "w"), ("w", "n"), ("n", "w"), ("n", "out")])
    assert [edge.source for edge in read_nir(path, timesteps=4)["n"].edges] == ["in", "n"]


def test_neurons_may_have_several_loops(tmp_path):
    """Two through weights of their own, one of them inside a nested graph."""
    rng = np.random.default_rng(7)
    w, one, other = (rng.integers(-20, 30, shape) / 64 for shape in ((N, 4), (N, N), (N, N)))
    nodes = {
        "in": nir.Input(np.array([4])),
        "w": nir.Linear(w),
        "n": lif(N, beta=0.75),
        "out": nir.Output(np.array([N])),
    }
    links = [("in", "w"), ("w", "n"), ("n", "out")]
    loops = [("n", "one"), ("one", "n"), ("n", "other"), ("other", "n")]
    flat = saved(tmp_path / "flat.nir", {**nodes, "one": nir.Linear(one), "other": nir.Linear(other)}, links + loops)
    inner = {**nodes, "n": nested(lif(N, beta=0.75), nir.Linear(one)), "other": nir.Linear(other)}
    deep = saved(tmp_path / "deep.nir", inner, [*links, ("n", "other"), ("other", "n")])
    spikes = (rng.random((1, STEPS, 4, 1, 1)) < 0.5).astype(np.uint8)
    v, fired, expected = np.zeros(N), np.zeros(N), []
    for t in range(STEPS):
        v = 0.75 * v + w @ spikes[0, t].ravel() + (one + other) @ fired
        fired = v > 1
        v = np.where(fired, 0.0, v)
        expected.append(fired)
    assert 10 < np.sum(expected) < STEPS * N - 10
    for path, name in ((flat, "n"), (deep, "n.lif")):
        trace = run_reference(read_nir(path, timesteps=STEPS), spikes)
        np.testing.assert_array_equal(trace.spikes[name][0, :, :, 0, 0], expected)


def test_loops_that_no_pipeline_has_are_named(tmp_path):
    wide = {"in": nir.Input(np.array([N])), "a": spiking(N), "b": spiking(N), "out": nir.Output(np.array([N]))}
    links = [("in", "a"), ("a", "b"), ("b", "a"), ("b", "out")]
    with pytest.raises(GraphError, match="a: is fed back by b 1 step late; 2 or more are allowed, as a layer takes a"):
        read_nir(saved(tmp_path / "two.nir", wide, links), timesteps=4)
    weights = {"w": nir.Linear(np.eye(N)), "v": nir.Linear(np.eye(N)), **wide}
    links = [("in", "a"), ("a", "w"), ("w", "v"), ("v", "w"), ("v", "b"), ("b", "out")]
    with pytest.raises(GraphError, match="a recurrent loop without neurons"):
        read_nir(saved(tmp_path / "none.nir", weights, links), timesteps=4)
    links = [("in", "a"), ("b", "w"), ("w", "b"), ("b", "out")]
    with pytest.raises(GraphError, match="b: only feeds itself; a path from the input must"):
        read_nir(saved(tmp_path / "alone.nir", {k: v for k, v in weights.items() if k != "v"}, links), timesteps=4)
    links = [("in", "a"), ("a", "w"), ("w", "a"), ("w", "b"), ("b", "out")]
    with pytest.raises(GraphError, match="b: reads what a sends back, too; weights of its own are needed there"):
        read_nir(saved(tmp_path / "shared.nir", {k: v for k, v in weights.items() if k != "v"}, links), timesteps=4)
    pool = nir.AvgPool2d(np.array([1, 1]), np.array([1, 1]), np.array([0, 0]))
    image = {"in": nir.Input(np.array([1, 2, 2])), "n": spiking((1, 2, 2)), "p": pool, "out": nir.Output(np.ones(3))}
    links = [("in", "n"), ("n", "p"), ("p", "n"), ("n", "out")]
    with pytest.raises(GraphError, match="p: pools in a recurrent loop; weights are allowed there"):
        read_nir(saved(tmp_path / "pool.nir", image, links), timesteps=4)
