"""Small networks of frameworks that write NIR, with the spikes that each gives itself: tests/export/nir/files.

    pip install --target DIR --no-deps norse==1.1.0 sinabs==3.1.3 spikingjelly==2.0.0 pbr loguru
    PYTHONPATH=DIR python -m benchmarks.nir_corpus norse sinabs spikingjelly

Each framework runs its own network on spikes that are drawn here and writes it by its own exporter.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from rich.console import Console

FILES = Path(__file__).resolve().parents[1] / "tests" / "export" / "nir" / "files"
STEPS, INPUTS, HIDDEN, OUTPUTS = 40, 12, 10, 5


def _weights(outputs: int, inputs: int, seed: int, *, low: float, high: float) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(low, high, (outputs, inputs))).float()


def _linear(outputs: int, inputs: int, seed: int, *, low: float, high: float) -> torch.nn.Linear:
    layer = torch.nn.Linear(inputs, outputs, bias=False)
    layer.weight.data = _weights(outputs, inputs, seed, low=low, high=high)
    return layer


def _stepped(layers: list[Any], spikes: torch.Tensor, neurons: dict[str, int]) -> dict[str, np.ndarray]:
    """Spikes (T, N) of the layers that are named, of modules that take a step and their state."""
    states: list[Any] = [None] * len(layers)
    found: dict[str, list[np.ndarray]] = {name: [] for name in neurons}
    for x in spikes:
        y = x[None]
        for k, layer in enumerate(layers):
            y, states[k] = (layer(y), None) if isinstance(layer, torch.nn.Linear) else layer(y, states[k])
            for name, place in neurons.items():
                if place == k:
                    found[name].append(y[0].numpy())
    return {name: np.stack(steps).astype(np.uint8) for name, steps in found.items()}


def norse(spikes: torch.Tensor) -> tuple[Any, dict[str, np.ndarray]]:
    """LIFBoxCell, whose dt is 1e-3, and IAFCell."""
    module, export = importlib.import_module("norse.torch"), importlib.import_module("norse.torch.utils.export_nir")
    each = {"v_th": torch.full((HIDDEN,), 1.0), "v_reset": torch.zeros(HIDDEN), "v_leak": torch.full((HIDDEN,), 0.125)}
    box = module.LIFBoxCell(p=module.LIFBoxParameters(tau_mem_inv=torch.linspace(50, 250, HIDDEN), **each))
    iaf = module.IAFCell(p=module.IAFParameters(v_th=torch.full((OUTPUTS,), 1.0)))
    layers = [
        _linear(HIDDEN, INPUTS, 0, low=-2, high=8),
        box,
        _linear(OUTPUTS, HIDDEN, 1, low=-0.5, high=1),
        iaf,
    ]
    graph = export.to_nir(module.SequentialState(*layers), torch.zeros(1, INPUTS))
    return graph, _stepped(layers, spikes, {"1": 1, "3": 3})


def sinabs(spikes: torch.Tensor) -> tuple[Any, dict[str, np.ndarray]]:
    """LIF, whose time constant is in steps, and IAF; one spike a step, which is not their default."""
    layers, activation = importlib.import_module("sinabs.layers"), importlib.import_module("sinabs.activation")
    options = {"batch_size": 1, "spike_fn": activation.SingleSpike, "min_v_mem": None}
    threshold = torch.full((HIDDEN,), 1.01)  # which no potential just meets
    tau = -1 / torch.log(torch.linspace(2944, 3664, HIDDEN) / 4096)  # decays that Loihi's 12 bits hold
    model = torch.nn.Sequential(
        _linear(HIDDEN, INPUTS, 0, low=-1, high=3),
        layers.LIFSqueeze(tau_mem=tau, spike_threshold=threshold, **options),
        _linear(OUTPUTS, HIDDEN, 1, low=-0.5, high=0.8),
        layers.IAFSqueeze(spike_threshold=torch.full((OUTPUTS,), 1.01), **options),
    )
    found: dict[str, np.ndarray] = {}
    for name in ("1", "3"):
        model[int(name)].register_forward_hook(
            lambda _module, _given, y, name=name: found.__setitem__(name, y.numpy().astype(np.uint8))
        )
    model(spikes)
    ran = dict(found)  # the exporter runs it again, from where it is
    return importlib.import_module("sinabs.nir").to_nir(model, spikes), ran


def spikingjelly(spikes: torch.Tensor) -> tuple[Any, dict[str, np.ndarray]]:
    """LIFNode whose input is divided by tau, and IFNode; both reset to zero, at thresholds that nothing just meets."""
    neuron = importlib.import_module("spikingjelly.activation_based.neuron")
    layer = importlib.import_module("spikingjelly.activation_based.layer")
    exchange = importlib.import_module("spikingjelly.activation_based.nir_exchange")

    def linear(outputs: int, inputs: int, seed: int, *, low: float, high: float) -> Any:
        made = layer.Linear(inputs, outputs, bias=False)
        made.weight.data = _weights(outputs, inputs, seed, low=low, high=high)
        return made

    model = torch.nn.Sequential(
        linear(HIDDEN, INPUTS, 0, low=-1, high=4),
        neuron.LIFNode(tau=8.0, v_threshold=1.01, v_reset=0.0),
        linear(OUTPUTS, HIDDEN, 1, low=-0.5, high=1),
        neuron.IFNode(v_threshold=1.01, v_reset=0.0),
    )
    found: dict[str, list[np.ndarray]] = {"1": [], "3": []}
    for x in spikes:
        y = x[None]
        for k, part in enumerate(model):
            y = part(y)
            if str(k) in found:
                found[str(k)].append(y[0].numpy())
    for part in model:
        if hasattr(part, "reset"):
            part.reset()
    graph = exchange.export_to_nir(model, spikes[:1])
    return graph, {name: np.stack(steps).astype(np.uint8) for name, steps in found.items()}


RECIPES: dict[str, Callable[[torch.Tensor], tuple[Any, dict[str, np.ndarray]]]] = {
    "norse": norse,
    "sinabs": sinabs,
    "spikingjelly": spikingjelly,
}


def main(names: list[str]) -> None:
    """Write FRAMEWORK.nir and FRAMEWORK.npz: `input` and each neuron's spikes, uint8 (T, N)."""
    FILES.mkdir(exist_ok=True)
    spikes = torch.from_numpy((np.random.default_rng(7).random((STEPS, INPUTS)) < 0.4).astype(np.float32))
    for name in names:
        with torch.no_grad():
            graph, found = RECIPES[name](spikes)
        nir.write(FILES / f"{name}.nir", graph)
        np.savez_compressed(FILES / f"{name}.npz", input=spikes.numpy().astype(np.uint8), **found)
        Console().print(name, {layer: int(steps.sum()) for layer, steps in found.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
