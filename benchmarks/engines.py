"""The engines without Lava beside the ANN, PyTorch's integer network, and other libraries' inference of the same U-Net.

Milliseconds a slice, and ratios. The peers (SpikingJelly, snnTorch, lava-dl's SLAYER) run untrained weights on spikes
of the same images, each in a process of its own, with as many threads. Then what people wait for around the engines:
a validation, Lava's steps and all around them, and the start of commands.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hardware_sim
from benchmarks import peers
from benchmarks.common import TIMESTEPS, best_of, images, machine
from export import netx
from export.graph import Graph
from hardware_sim.comparison.compare import compare
from hardware_sim.fast.bytes import bytes_are_fast
from hardware_sim.lava_backend.grouping import cores, share
from hardware_sim.lava_backend.job import FLOOR
from hardware_sim.lava_backend.launch import time_lava
from hardware_sim.record import Record
from neuroseg.conversion.lower import export
from neuroseg.data import template
from neuroseg.engine import Engine
from neuroseg.pretrained import FOLDER
from neuroseg.runs import Run, load_ann, load_snn
from neuroseg.spiking.encode import encode
from neuroseg.validation import validate

SLICES = 40
REPEATS = 7
ROUNDS = 5
COMMANDS = (("--help",), ("inspect", "FILE.net"), ("map", "FILE.net"))
NOTHING = Record(spikes=())


def run() -> dict[str, Any]:
    """The shipped network on slices of the template, the same batch for all.

    Raises FileNotFoundError where a peer is not installed.
    """
    peers.check("spikingjelly", "snntorch")
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
        "validate_over_ann": _validation() / (seconds["ann"] / SLICES),
        "lava": _lava(graph, spikes),
        "seconds_of_commands": {" ".join(command): round(_command(command), 2) for command in COMMANDS},
        "machine": machine(),
    }


def _validation() -> float:
    """Seconds a slice of a whole validation: PyTorch's integers, the fast engine, every spike compared, Dice."""
    network, subjects = load_snn(Run(FOLDER).snn)[0], template.cohort(2, seed=0).subjects
    graph = export(network)
    took = best_of(lambda: validate(network, graph, subjects, Engine()), 3)
    return took / sum(len(subject.image) for subject in subjects)


def _lava(graph: Graph, spikes: np.ndarray) -> dict[str, float]:
    """A step of a sample in layers that share processes, in a process each, and of messages alone; all that is no step.

    Copies of the network side by side do a step of a sample each in one of Lava's.
    """
    record, layers = Record(), len(graph.populations)
    processes, copies = share(graph, len(spikes))
    runs = {
        "shared": ("fused", None, None),
        "one_copy": ("fused", cores(), 0),
        "process_a_layer": ("fused", layers, 0),
        "floor": (FLOOR, layers, 0),
    }
    steps: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, (fidelity, number, each) in runs.items():
            took = time_lava(graph, spikes, fidelity=fidelity, record=record, processes=number, copies=each)
            steps[name].append(1e3 * took["run"] / spikes[:, :, 0, 0, 0].size)
    middle = {name: statistics.median(found) for name, found in steps.items()}
    start = time.perf_counter()
    trace = hardware_sim.run(graph, spikes, backend="lava")
    whole = time.perf_counter() - start
    return {
        "processes": processes,
        "copies_in_a_process": copies,
        **{f"{name}_ms_per_step": round(value, 3) for name, value in middle.items()},
        "shared_over_floor": round(middle["shared"] / middle["floor"], 2),
        "one_copy_over_floor": round(middle["one_copy"] / middle["floor"], 2),
        "process_a_layer_over_shared": round(middle["process_a_layer"] / middle["shared"], 2),
        "seconds_beyond_steps": round(whole - trace.seconds["run"], 2),
    }


def _command(arguments: tuple[str, ...]) -> float:
    """The least seconds of a command, of three."""
    with tempfile.TemporaryDirectory() as folder:
        file = netx.write(export(load_snn(Run(FOLDER).snn)[0]), Path(folder) / "network.net")
        command = [sys.executable, "-m", "neuroseg", *(str(file) if part == "FILE.net" else part for part in arguments)]
        return best_of(lambda: subprocess.run(command, capture_output=True, check=True), 3)


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
