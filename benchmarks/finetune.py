"""A fine-tuning step against SpikingJelly's multi-step mode, snnTorch, and its own convolutions alone.

The same U-Net (16-32-64, no bias, no dropout), batch 26, T = 8, soft reset, Adam, Dice loss, each in a process of its
own, one after the other, in turns; ours is quantisation-aware, theirs is not. Memory is the peak of the process over
what it held before the first step. The convolutions are those of our step, forward and backward, in our memory layout:
once in float32, as the peers compute them, and once in bytes and bfloat16, as we do where the processor can.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import peers
from benchmarks.common import SHAPE, TIMESTEPS, machine
from benchmarks.peers import WIDTHS
from export.graph import Edge
from neuroseg.conversion.convert import convert
from neuroseg.conversion.lower import integer_scales
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.spiking.synapse import apply_synapse, apply_to_counts, gradients, spike_dtype, to_bytes
from neuroseg.training.losses import dice_loss
from neuroseg.training.memory import keep_freed_memory
from neuroseg.training.unet import UNet, UNetConfig

BATCH, WARM_UP, STEPS, ROUNDS = 26, 2, 5, 3


def run() -> dict[str, Any]:
    """Seconds and peak memory of each, and ratios. Raises FileNotFoundError where a peer is not installed."""
    peers.check("spikingjelly", "snntorch")
    rounds = [{name: _in_a_process(name) for name in CONTENDERS} for _ in range(ROUNDS)]
    best = {name: {key: min(r[name][key] for r in rounds) for key in ("seconds", "bytes")} for name in CONTENDERS}
    ours = best["neuroseg"]
    return {
        "step_seconds": {name: value["seconds"] for name, value in best.items()},
        "peak_megabytes": {name: value["bytes"] / 1e6 for name, value in best.items() if "convolutions" not in name},
        "spikingjelly_over_neuroseg": best["spikingjelly"]["seconds"] / ours["seconds"],
        "snntorch_over_neuroseg": best["snntorch"]["seconds"] / ours["seconds"],
        "neuroseg_over_float32_convolutions": ours["seconds"] / best["float32 convolutions"]["seconds"],
        "neuroseg_over_own_convolutions": ours["seconds"] / best["own convolutions"]["seconds"],
        "memory_of_spikingjelly": ours["bytes"] / best["spikingjelly"]["bytes"],
        "memory_of_snntorch": ours["bytes"] / best["snntorch"]["bytes"],
        "machine": machine(),
    }


def _in_a_process(name: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.finetune", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return json.loads(done.stdout.splitlines()[-1])


def neuroseg_step(spikes: torch.Tensor, masks: torch.Tensor) -> Callable[[], None]:
    network = _network().train()
    return _stepper(network, lambda: network(spikes, quantized=True), masks)


def _network() -> SpikingNetwork:
    keep_freed_memory()
    network = convert(UNet(UNetConfig(channels=WIDTHS, dropout=0.0)), SHAPE, timesteps=TIMESTEPS)
    return network.with_scales(integer_scales(network))


def convolutions_step(spikes: torch.Tensor, masks: torch.Tensor) -> Callable[[], None]:
    """The convolutions of the step in float32, as the peers have them."""

    def step(x: torch.Tensor, weight: torch.Tensor, synapse: Edge, up: torch.Tensor) -> None:
        apply_synapse(x, weight, synapse.op)
        gradients(up, x, weight, synapse.op, wanted=(synapse.source != "input", True))

    return _convolutions(spikes, step, precision=torch.float32, whole=False)


def own_convolutions_step(spikes: torch.Tensor, masks: torch.Tensor) -> Callable[[], None]:
    """The convolutions of the step as we have them: bytes forward, bfloat16 backward, where the processor can."""

    def step(x: torch.Tensor, weight: torch.Tensor, synapse: Edge, up: torch.Tensor) -> None:
        apply_to_counts(x, weight, synapse.op, whole=True)
        gradients(up, x, weight, synapse.op, wanted=(synapse.source != "input", True))

    return _convolutions(spikes, step, precision=spike_dtype(spikes.device), whole=True)


def _convolutions(
    spikes: torch.Tensor, step: Callable[..., None], *, precision: torch.dtype, whole: bool
) -> Callable[[], None]:
    """precision: of what comes back. whole: spikes are bytes, and not floats."""
    network = _network()
    values = network.walk(spikes, lambda p, values: (network.currents(p, values) > 1).float())
    jobs = []
    with torch.no_grad():
        for population in network.populations:
            for k, synapse in enumerate(population.edges):
                x = values[synapse.source].flatten(0, 1).contiguous(memory_format=torch.channels_last)
                weight = network.integer_weight(population, k).float()
                up = torch.ones_like(apply_synapse(x, weight, synapse.op)).to(precision)
                jobs.append((to_bytes(x) if whole else x, weight, synapse, up))
    return lambda: [step(*job) for job in jobs] and None


def spikingjelly_step(spikes: torch.Tensor, masks: torch.Tensor) -> Callable[[], None]:
    network, forward = peers.spikingjelly(spikes)
    return _stepper(network, forward, masks)


def snntorch_step(spikes: torch.Tensor, masks: torch.Tensor) -> Callable[[], None]:
    network, forward = peers.snntorch(spikes)
    return _stepper(network, forward, masks)


def _stepper(network: torch.nn.Module, forward: Callable[[], torch.Tensor], masks: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        dice_loss(forward(), masks).backward()
        optimizer.step()

    return step


CONTENDERS = {
    "neuroseg": neuroseg_step,
    "float32 convolutions": convolutions_step,
    "own convolutions": own_convolutions_step,
    "spikingjelly": spikingjelly_step,
    "snntorch": snntorch_step,
}


def _main(name: str) -> None:
    peers.check("spikingjelly", "snntorch")
    torch.manual_seed(0)
    spikes = (torch.rand(TIMESTEPS, BATCH, *SHAPE) < 0.4).float()
    masks = (torch.rand(BATCH, *SHAPE) < 0.1).float()
    step = CONTENDERS[name](spikes, masks)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(WARM_UP):
        step()
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    peak = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    sys.stdout.write(json.dumps({"seconds": min(times), "bytes": peak}) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1])
