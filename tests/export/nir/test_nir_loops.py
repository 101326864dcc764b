"""NIR graphs in which later neurons feed earlier ones: each layer takes a step on the chip, and so does a loop's."""

from __future__ import annotations

import nir
import numpy as np
import pytest

from export.graph import GraphError, depths, same
from export.limits import check
from export.nir import read as read_nir
from export.nir.frameworks import DT
from export.quantize import quantize
from hardware_sim import run
from hardware_sim.reference import run_reference
from tests.export.nir.test_nir_others import lif, saved, spiking

STEPS, N = 30, 6


def random_weights(*shapes: tuple[int, int], seed: int = 3) -> list[np.ndarray]:
    """Weights that 8 bits hold."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-20, 64, shape) / 64 for shape in shapes]


def two_layers(path, *, steps: int | None, weights: list[np.ndarray]):
    """in -> a -> b -> out, and b -> a: behind a Delay of some steps, or None."""
    w, forth, back = weights
    nodes = {
        "in": nir.Input(np.array([4])),
        "w": nir.Linear(w),
        "a": lif(N, beta=0.75),
        "forth": nir.Linear(forth),
        "b": lif(N, beta=0.5),
        "back": nir.Linear(back),
        "out": nir.Output(np.array([N])),
    }
    links = [("in", "w"), ("w", "a"), ("a", "forth"), ("forth", "b"), ("b", "out"), ("b", "back")]
    if steps is None:
        return saved(path, nodes, [*links, ("back", "a")])
    late = {"late": nir.Delay(np.full(N, steps * DT))}
    return saved(path, {**nodes, **late}, [*links, ("back", "late"), ("late", "a")])


def stepped(spikes: np.ndarray, weights: list[np.ndarray], *, late: int) -> dict[str, np.ndarray]:
    """The same, plainly: both layers do a step at once, b's spikes reach a `late` steps later."""
    w, forth, back = weights
    v, u = np.zeros(N), np.zeros(N)
    sent: dict[str, list[np.ndarray]] = {"a": [], "b": []}
    for t in range(STEPS):
        again = back @ sent["b"][t - late] if t >= late else 0
        v = 0.75 * v + w @ spikes[0, t].ravel() + again
        sent["a"].append(v > 1)
        v = np.where(v > 1, 0.0, v)
        u = 0.5 * u + forth @ sent["a"][t]
        sent["b"].append(u > 1)
        u = np.where(u > 1, 0.0, u)
    return {name: np.array(each, np.uint8) for name, each in sent.items()}


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_a_loop_over_two_layers_takes_the_steps_of_its_delay(steps, tmp_path):
    weights = random_weights((N, 4), (N, N), (N, N))
    graph = read_nir(two_layers(tmp_path / "n.nir", steps=steps, weights=weights), timesteps=STEPS)
    assert [(edge.source, edge.feedback, edge.delay) for edge in graph["a"].edges][1] == ("b", True, steps - 1)
    spikes = (np.random.default_rng(0).random((1, STEPS, 4, 1, 1)) < 0.5).astype(np.uint8)
    expected, trace = stepped(spikes, weights, late=steps), run_reference(graph, spikes)
    for name, fired in expected.items():
        np.testing.assert_array_equal(trace.spikes[name][0, :, :, 0, 0], fired)
        assert 10 < fired.sum() < fired.size - 10
    assert run(check(quantize(graph)), spikes).total("a")


@pytest.mark.parametrize("steps", [None, 1])
def test_a_loop_that_leaves_a_layer_no_step_is_refused_or_made_slower(steps, tmp_path, caplog):
    weights = random_weights((N, 4), (N, N), (N, N))
    path = two_layers(tmp_path / "n.nir", steps=steps, weights=weights)
    with pytest.raises(
        GraphError, match=r"n.nir: a: is fed back by b 1 step late; 2 or more are allowed, .*'pipelined'"
    ):
        read_nir(path, timesteps=STEPS)
    slow = read_nir(path, timesteps=STEPS, loops="pipelined")
    assert "n.nir: a: spikes of b come back 2 steps late; the framework that wrote the file sends them" in caplog.text
    said = two_layers(tmp_path / "said.nir", steps=2, weights=weights)
    assert same(slow, read_nir(said, timesteps=STEPS))
    with pytest.raises(GraphError, match="loops 'slow'; exact or pipelined is allowed"):
        read_nir(path, timesteps=STEPS, loops="slow")


def test_loops_within_loops(tmp_path):
    """a -> b -> c, c -> b and c -> a: both as soon as layers of a step each can."""
    w, ab, bc, cb, ca = random_weights((N, 4), (N, N), (N, N), (N, N), (N, N), seed=5)
    matrices = {"w": w, "ab": ab, "bc": bc, "cb": cb, "ca": ca}
    nodes = {"in": nir.Input(np.array([4])), **{name: spiking(N) for name in "abc"}, "out": nir.Output(np.array([N]))}
    nodes |= {name: nir.Linear(matrix) for name, matrix in matrices.items()}
    links = [("in", "w"), ("w", "a"), ("c", "out"), ("a", "ab"), ("ab", "b"), ("b", "bc"), ("bc", "c")]
    links += [("c", "cb"), ("cb", "b"), ("c", "ca"), ("ca", "a")]
    graph = read_nir(saved(tmp_path / "n.nir", nodes, links), timesteps=STEPS, loops="pipelined")
    assert [node.name for node in graph.populations] == ["a", "b", "c"] and depths(graph)["c"] == 3
    spikes = (np.random.default_rng(0).random((1, STEPS, 4, 1, 1)) < 0.5).astype(np.uint8)
    trace, v = run_reference(graph, spikes), np.zeros((3, N))
    sent = np.zeros((3, STEPS, N))
    for t in range(STEPS):
        for k, forth in enumerate((w @ spikes[0, t].ravel(), ab, bc)):
            v[k] += forth if k == 0 else forth @ sent[k - 1, t]
            if k < 2 and t >= 3 - k:  # to a three steps late, to b two
                v[k] += (ca, cb)[k] @ sent[2, t - 3 + k]
            sent[k, t] = v[k] > 1
            v[k][v[k] > 1] = 0
    for k, name in enumerate("abc"):
        np.testing.assert_array_equal(trace.spikes[name][0, :, :, 0, 0], sent[k])
        assert 10 < sent[k].sum() < sent[k].size - 10


def test_which_layer_comes_first_is_known_or_asked(tmp_path):
    one = np.eye(N)
    nodes = {"in": nir.Input(np.array([N])), "a": spiking(N), "b": spiking(N), "w": nir.Linear(one)}
    nodes |= {"v": nir.Linear(one), "out": nir.Output(np.array([N]))}
    links = [("in", "a"), ("in", "v"), ("v", "b"), ("a", "w"), ("w", "b"), ("b", "a"), ("b", "out")]
    with pytest.raises(GraphError, match="loop of 2 layers of neurons, into which the input leads behind any of a, b;"):
        read_nir(saved(tmp_path / "two.nir", nodes, links), timesteps=4)
    links = [("in", "v"), ("v", "out"), ("a", "w"), ("w", "b"), ("b", "a")]
    with pytest.raises(GraphError, match="loop of 2 layers of neurons, into which the input leads nowhere;"):
        read_nir(saved(tmp_path / "apart.nir", nodes, links), timesteps=4)


@pytest.mark.parametrize("seed", range(8))
def test_loops_within_loops_are_read_in_any_order(seed, tmp_path):
    """a -> b -> c -> d, d -> b and c -> a, whatever the names and the order of the edges."""
    order = np.random.default_rng(seed)
    named = dict(zip("abcd", map(str, order.permutation(list("uvxy"))), strict=True))
    nodes = {"in": nir.Input(np.array([N])), **{named[k]: spiking(N) for k in "abcd"}, "out": nir.Output(np.array([N]))}
    links = [("in", named["a"]), (named["d"], "out")]
    for source, target in ("ab", "bc", "cd", "db", "ca"):
        weights = f"{order.integers(1000)}.{source}{target}"
        nodes[weights] = nir.Linear(np.eye(N))
        links += [(named[source], weights), (weights, named[target])]
    links = [links[k] for k in order.permutation(len(links))]
    nodes = {name: nodes[name] for name in map(str, order.permutation(list(nodes)))}
    graph = read_nir(saved(tmp_path / "n.nir", nodes, links), timesteps=4, loops="pipelined")
    assert [node.name for node in graph.populations] == [named[k] for k in "abcd"]
    back = {p.name: {(e.source, e.delay) for e in p.recurrent} for p in graph.populations}
    assert back[named["a"]] == {(named["c"], 2)} and back[named["b"]] == {(named["d"], 2)}


def test_what_never_fires_brings_nothing_back(tmp_path):
    one = np.ones(N)
    silent = nir.LI(tau=one, r=one, v_leak=0 * one)
    nodes = {"in": nir.Input(np.array([N])), "a": spiking(N), "w": nir.Linear(np.eye(N)), "b": silent}
    nodes |= {"back": nir.Linear(np.eye(N)), "out": nir.Output(np.array([N]))}
    links = [("in", "a"), ("a", "w"), ("w", "b"), ("b", "back"), ("b", "out")]
    for name, more in (("b", ("back", "a")), ("b", ("back", "b"))):
        with pytest.raises(GraphError, match=f"{name}: a LI in a loop, which never fires; .*LIF.* may be"):
            read_nir(saved(tmp_path / "n.nir", nodes, [*links, more]), timesteps=4, loops="pipelined")


def test_what_comes_back_is_not_read_by_what_comes_after(tmp_path):
    one = np.eye(N)
    nodes = {"in": nir.Input(np.array([N])), **{name: spiking(N) for name in "abc"}, "w": nir.Linear(one)}
    nodes |= {"v": nir.Linear(one), "out": nir.Output(np.array([N]))}
    links = [("in", "a"), ("a", "w"), ("w", "b"), ("b", "v"), ("v", "a"), ("v", "c"), ("c", "out")]
    with pytest.raises(GraphError, match="c: reads what b sends back, too; weights of its own are needed there"):
        read_nir(saved(tmp_path / "n.nir", nodes, links), timesteps=4)
