"""A network of snnTorch, written by its own NIR exporter, quantised, written as NetX, run by the reference and in Lava.

snnTorch's floats and Loihi's integers do the same arithmetic where every number is one that both hold: weights and
biases that are multiples of 1/64 of the threshold, alpha and beta 1/2, few steps. There snnTorch's own spikes are ours.
Elsewhere weights round to 8 bits, 1 - beta to 12, and potentials towards zero at each leak, so that spikes near the
threshold differ, and those of later layers with them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import nir
import numpy as np
import pytest
import snntorch
import torch
from snntorch.export_nir import export_to_nir
from snntorch.utils import reset as reset_hidden
from torch import nn

import hardware_sim
from export import netx
from export.graph import Graph
from export.limits import check
from export.nir import read as read_nir
from export.quantize import quantize
from hardware_sim import Record
from hardware_sim.comparison.compare import compare

SAMPLES = 3
NEURONS = ("1", "4", "7")  # the names of the neurons: nirtorch names nodes by their place


def leaky(shape: tuple[int, ...], beta: float, reset: str, *, late: bool = False) -> snntorch.Leaky:
    """Parameters by neuron: nir 1.0.8 takes the shapes of nodes from them, and refuses what snnTorch has by default.

    late: its default, a delayed reset by subtraction; to zero, both are the same. Without delay it misses a spike after
    a potential that is still above the threshold when reset; here none is.
    """
    return snntorch.Leaky(
        beta=torch.full(shape, beta),
        threshold=torch.ones(shape),
        reset_mechanism=reset,
        init_hidden=True,
        reset_delay=late or reset == "zero",
    )


def synaptic(shape: tuple[int, ...], beta: float, reset: str, *, late: bool = False) -> snntorch.Synaptic:
    """With a delayed reset to zero, snnTorch's Synaptic would lose the input of the step after a spike."""
    return snntorch.Synaptic(
        alpha=torch.full(shape, 0.5),
        beta=torch.full(shape, beta),
        threshold=torch.ones(shape),
        reset_mechanism=reset,
        init_hidden=True,
        reset_delay=late,
    )


def network(neurons: Callable[..., nn.Module], beta: float, reset: str, *, exact: bool, late: bool) -> nn.Sequential:
    torch.manual_seed(0)
    neurons = partial(neurons, late=late)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=True),
        neurons((4, 8, 8), beta, reset),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=True),
        neurons((6, 2, 2), beta, reset),
        nn.Flatten(),
        nn.Linear(24, 10, bias=True),
        neurons((10,), beta, reset),
    )
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.1, 0.4 if parameter.ndim > 1 else 0.1)
        if exact:  # a step of 1/64, or of 1/16 where the pool divides it by 4; and one as large as 8 bits go
            step = 16 if parameter.shape[1:2] == (4,) else 64
            parameter.data = torch.round(parameter.data * step) / step
            if parameter.ndim > 1:
                parameter.data.view(-1)[0] = -254 / 128 * 64 / step
    return model


def imported(model: nn.Sequential, folder: Path, *, reset: str, late: bool, timesteps: int) -> Graph:
    """snnTorch -> NIR file -> float graph -> integers -> NetX file -> graph."""
    reset_hidden(model)
    path = folder / "snntorch.nir"
    nir.write(path, export_to_nir(model, torch.zeros(1, 1, 8, 8), ignore_dims=[0]))
    reset_hidden(model)
    graph = check(quantize(read_nir(path, timesteps=timesteps, framework="snntorch", reset=reset, reset_delay=late)))
    return netx.read(netx.write(graph, folder / "network.net"))


def own_spikes(model: nn.Sequential, spikes: np.ndarray) -> dict[str, np.ndarray]:
    """What every layer of snnTorch's own forward emits: (samples, T, C, H, W) by name."""
    found: dict[str, list[torch.Tensor]] = {name: [] for name in NEURONS}
    hooks = [model[int(name)].register_forward_hook(lambda *a, n=name: found[n].append(a[2])) for name in NEURONS]
    with torch.no_grad():
        for t in range(spikes.shape[1]):
            model(torch.from_numpy(spikes[:, t]).float())
    for hook in hooks:
        hook.remove()
    return {name: torch.stack(steps, 1).numpy() for name, steps in found.items()}


@pytest.mark.parametrize(
    ("neurons", "reset", "late", "exact"),
    [
        (leaky, "zero", False, True),
        (leaky, "subtract", False, True),
        (leaky, "subtract", True, True),
        (synaptic, "zero", False, True),
        (synaptic, "subtract", True, True),
        (leaky, "zero", False, False),
        (leaky, "subtract", True, False),
        (synaptic, "zero", False, False),
    ],
)
def test_a_network_of_snntorch_does_the_same_in_lava(neurons, reset, late, exact, tmp_path, worker):
    timesteps = 6 if exact else 12
    model = network(neurons, 0.5 if exact else 0.9, reset, exact=exact, late=late)
    graph = imported(model, tmp_path, reset=reset, late=late, timesteps=timesteps)
    rate = 0.7 if late else 0.4  # a late reset takes more than the threshold
    spikes = (np.random.default_rng(0).random((SAMPLES, timesteps, 1, 8, 8)) < rate).astype(np.uint8)
    everything = Record(potentials="all")
    ours = hardware_sim.run(graph, spikes, record=everything)
    lavas = hardware_sim.run(graph, spikes, backend="lava", record=everything, worker=worker)
    comparison = compare(ours, lavas)
    assert comparison.equal, comparison.cause
    for name, potentials in ours.potentials.items():
        np.testing.assert_array_equal(lavas.potentials[name], potentials, err_msg=name)

    theirs = own_spikes(model, spikes)
    assert set(theirs) == {name for name in ours.packed if not name.endswith(".bias")}  # those always fire
    for name, emitted in theirs.items():
        found = lavas.spikes[name].reshape(emitted.shape)
        assert emitted.mean() > 0.02, name
        agreement = float((found == emitted).mean())
        assert agreement == 1 if exact else agreement > 0.95, name
