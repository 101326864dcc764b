"""The engines without Lava beside the ANN, PyTorch's integer network, and other libraries' inference of the same U-Net.

Milliseconds a slice, and ratios. The peers (SpikingJelly, snnTorch, lava-dl's SLAYER) run untrained weights on spikes
of the same rate, each in a process of its own, with as many threads.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import hardware_sim
from benchmarks import peers
from benchmarks.common import TIMESTEPS, best_of, images, machine
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
        **_beside_peers(seconds["fast"] / SLICES),
        "machine": machine(),
    }


def _beside_peers(fast: float) -> dict[str, Any]:
    """Milliseconds a slice of each peer, and how many times as long as the fast engine it takes."""
    command = [sys.executable, "-m", "benchmarks.engines"]
    root = Path(__file__).parents[1]
    done = {
        name: subprocess.run([*command, name], capture_output=True, text=True, check=True, cwd=root) for name in PEERS
    }
    took = {name: float(found.stdout.splitlines()[-1]) for name, found in done.items()}
    return {
        "peers_milliseconds_a_slice": {name: round(1e3 * value, 3) for name, value in took.items()},
        "peers_over_fast": {name: round(value / fast, 2) for name, value in took.items()},
    }


def _main(name: str) -> None:
    """Print the seconds a slice of a peer."""
    peers.check("spikingjelly", "snntorch")
    torch.manual_seed(0)
    spikes = encode(images(SLICES), timesteps=TIMESTEPS).float()
    network, forward = PEERS[name](spikes)
    network.eval()
    with torch.no_grad():
        forward()
        sys.stdout.write(f"{best_of(forward, 3) / SLICES}\n")


PEERS = {"spikingjelly": peers.spikingjelly, "snntorch": peers.snntorch, "slayer": peers.slayer}

if __name__ == "__main__":
    _main(sys.argv[1])
