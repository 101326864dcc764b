"""The engines without Lava beside the ANN and PyTorch's integer network: milliseconds a slice, and ratios."""

from __future__ import annotations

from typing import Any

import torch

import hardware_sim
from benchmarks.common import best_of, images, machine
from hardware_sim.comparison.compare import compare
from hardware_sim.fast.bytes import bytes_are_fast
from hardware_sim.record import Record
from neuroseg.conversion.lower import export
from neuroseg.pretrained import FOLDER
from neuroseg.runs import Run, load_ann, load_snn
from neuroseg.spiking.encode import encode

SLICES = 40
REPEATS = 7
NOTHING = Record(spikes=())


def run() -> dict[str, Any]:
    """The shipped network on slices of the template, the same batch for all."""
    ann, network, slices = load_ann(Run(FOLDER).ann).eval(), load_snn(Run(FOLDER).snn)[0], images(SLICES)
    graph = export(network)
    spikes = encode(slices, timesteps=network.timesteps).transpose(0, 1).byte().numpy()
    fast = hardware_sim.run(graph, spikes)
    equal = compare(hardware_sim.run(graph, spikes, backend="reference"), fast).equal
    with torch.no_grad():
        seconds = {
            "ann": best_of(lambda: ann(slices), REPEATS),
            "pytorch_integers": best_of(lambda: network.predict(slices, quantized=True), REPEATS),
            "fast": best_of(lambda: hardware_sim.run(graph, spikes, record=NOTHING), REPEATS),
            "fast_all_spikes_kept": best_of(lambda: hardware_sim.run(graph, spikes), REPEATS),
            "reference": best_of(lambda: hardware_sim.run(graph, spikes, backend="reference", record=NOTHING), 3),
        }
    layers = hardware_sim.run(graph, spikes, record=NOTHING).seconds
    return {
        "equal": equal,
        "spikes": sum(fast.total(name) for name in fast.packed),
        "bytes_are_fast": bytes_are_fast(),
        "milliseconds_a_slice": {name: round(1e3 * value / SLICES, 3) for name, value in seconds.items()},
        "reference_over_fast": seconds["reference"] / seconds["fast"],
        "fast_over_ann": seconds["fast"] / seconds["ann"],
        "share_of_layers": {
            name.removeprefix("layer "): round(value / (sum(layers.values()) - layers["run"]), 3)
            for name, value in layers.items()
            if name.startswith("layer ")
        },
        "machine": machine(),
    }
