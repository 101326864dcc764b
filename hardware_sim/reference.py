"""The reference engine: exact integers, layer by layer, batched over samples. Needs no Lava.

Convolutions run in torch's float32 (an integer graph: every partial sum is an integer below 2^24, which float32
holds exactly) or float64 (a float graph, for tests of rewrites); neurons in integers as lava-nc's
PyLifModelBitAcc has them. Layers are simultaneous, which is what depth-shifted layers do.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Collection

import numpy as np
import torch
import torch.nn.functional as F

from export.graph import (
    Concat,
    Conv,
    Decay,
    Dense,
    Dropout,
    Edge,
    Graph,
    GraphError,
    Input,
    Neuron,
    Operator,
    Pool,
    Population,
    Sparse,
)
from export.limits import (
    DECAY_MAX,
    INPUT_MAX,
    INPUT_MIN,
    POTENTIAL_MAX,
    POTENTIAL_SHIFT,
    THRESHOLD_MAX,
    beyond,
)
from hardware_sim.record import Record, SimulationError
from hardware_sim.trace import Trace, pack

CHUNK = 16  # samples at a time


def run_reference(
    graph: Graph,
    spikes: np.ndarray,
    *,
    record: Record = Record(),
    on_step: Callable[[int, int], None] | None = None,
) -> Trace:
    """Run a graph (integer, or float for tests) on spikes uint8 (samples, T, C, H, W); see `hardware_sim.run`."""
    start = time.perf_counter()
    want_spikes, want_potentials = record.names(graph, "spikes"), record.names(graph, "potentials")
    counts: dict[str, list[np.ndarray]] = {name: [] for name in record.names(graph, "counts")}
    packed: dict[str, list[np.ndarray]] = {name: [] for name in want_spikes}
    potentials: dict[str, list[np.ndarray]] = {name: [] for name in want_potentials}
    outputs: list[np.ndarray] = []
    watched = beyond(graph) if graph.integer else ()
    for first in range(0, len(spikes), CHUNK):
        chunk = torch.from_numpy(spikes[first : first + CHUNK]).transpose(0, 1)  # T, B, C, H, W
        kept = set(want_potentials) | {graph.output.name}
        fired, membrane = simulate(graph, chunk, keep=kept, watched=watched, first=first)
        for name in want_spikes:
            packed[name].append(pack(fired[name].transpose(0, 1).numpy().astype(np.uint8)))
        for name, parts in counts.items():
            parts.append(fired[name].sum(0).numpy().astype(np.int32))
        for name in want_potentials:
            potentials[name].append(membrane[name].transpose(0, 1).numpy())
        outputs.append(membrane[graph.output.name][-1].numpy())
        if on_step:
            steps = graph.meta.timesteps
            on_step(min(first + CHUNK, len(spikes)) * steps, len(spikes) * steps)
    return Trace(
        packed={name: np.concatenate(parts) for name, parts in packed.items()},
        shapes={name: graph[name].shape for name in want_spikes},
        potentials={name: np.concatenate(parts) for name, parts in potentials.items()},
        tallied={name: np.concatenate(parts) for name, parts in counts.items()},
        output=np.concatenate(outputs),
        output_name=graph.output.name,
        timesteps=graph.meta.timesteps,
        engine="reference",
        seconds={"run": time.perf_counter() - start},
    )


def simulate(
    graph: Graph, spikes: torch.Tensor, *, keep: set[str], watched: Collection[str] = (), first: int = 0
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Evaluate every node on spikes (T, B, C, H, W).

    Returns what each node emits and, for the populations in `keep`, the potentials after reset: (T, B, C, H, W).
    watched: populations that may exceed Loihi's range, at which SimulationError is raised. first: number of the first
    sample, for that.
    """
    dtype = torch.float32 if graph.integer and not watched else torch.float64
    values: dict[str, torch.Tensor] = {}
    membrane: dict[str, torch.Tensor] = {}
    for node in graph.nodes:
        match node:
            case Input():
                values[node.name] = spikes.to(dtype)
            case Population():
                currents = sum_inputs(node, values)
                step = integer_scan if graph.integer else _float_scan
                values[node.name], after = step(currents, node.neuron)
                if node.name in watched:
                    _watch(node, currents, after, first)
                if node.name in keep:
                    membrane[node.name] = after
            case Pool():
                source = values[node.source]
                values[node.name] = F.avg_pool2d(source.flatten(0, 1), node.kernel).unflatten(0, source.shape[:2])
            case Concat():
                values[node.name] = torch.cat([values[name] for name in node.sources], dim=2)
            case Dropout():  # of training alone
                values[node.name] = values[node.source]
    return values, membrane


def _watch(population: Population, currents: torch.Tensor, after: torch.Tensor, first: int) -> None:
    """Raise SimulationError where inputs of a step exceed 16 bits, or an output a Loihi neuron's range: (T, B, ...)."""
    shift = 1 << POTENTIAL_SHIFT
    reached = [("input", currents, INPUT_MIN, INPUT_MAX)]
    if population.neuron.threshold is None:
        reached.append(("potential, >> 6,", after / shift, -THRESHOLD_MAX, THRESHOLD_MAX))
    for what, values, low, high in reached:
        wrong = (values < low) | (values > high)
        if wrong.any():
            t, sample = (int(place) for place in wrong.nonzero()[0][:2])
            found = values[t, sample][wrong[t, sample]][0].item()
            raise SimulationError(
                f"{population.name}: {what} is {found:g} in sample {first + sample}, step {t}; {low} to {high} is what "
                "Loihi holds"
            )


def sum_inputs(population: Population, values: dict[str, torch.Tensor]) -> torch.Tensor:
    """Weighted input (T, B, C, H, W) of a population, in weight units."""
    total = None
    for edge in population.edges:
        y = edge_input(edge, values[edge.source])
        total = y if total is None else total + y
    assert total is not None
    return total


def edge_input(edge: Edge, x: torch.Tensor) -> torch.Tensor:
    """Weighted input (T, B, C, H, W) that one edge makes of its source's spikes (T, B, C, H, W)."""
    y = apply_operator(edge.op, x.flatten(0, 1)).unflatten(0, x.shape[:2])
    if edge.target_delay is None:
        return y
    return delayed(y, torch.from_numpy(edge.target_delay.astype(np.int64)))


def delayed(y: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Input (T, B, C, H, W) that reaches each neuron (C, H, W) some steps later; what falls behind the end is lost."""
    when = torch.arange(len(y)).view(-1, 1, 1, 1, 1) - steps
    return y.gather(0, when.clamp(min=0).expand_as(y)) * (when >= 0)


def apply_operator(op: Operator, x: torch.Tensor) -> torch.Tensor:
    """A synapse's linear map on (N, C, H, W), in the dtype of x."""
    weight = torch.from_numpy(np.ascontiguousarray(op.weight)).to(x.dtype)
    if isinstance(op, Dense):
        return F.linear(x.flatten(1), weight)[:, :, None, None]
    if isinstance(op, Sparse):
        places = torch.from_numpy(np.stack([op.target, op.source]))
        shape = (math.prod(op.shape), x[0].numel())
        matrix = torch.sparse_coo_tensor(places, weight, shape, check_invariants=False)  # the graph has checked them
        return (matrix @ x.flatten(1).T).T.reshape(len(x), *op.shape)
    if isinstance(op, Conv):
        x = x.contiguous(memory_format=torch.channels_last)  # where the CPU's convolutions are faster
        return F.conv2d(x, weight, None, op.stride, op.padding, op.dilation, op.groups)
    return F.conv_transpose2d(x, weight, None, op.stride, op.padding, op.output_padding, op.groups, op.dilation)


def input_spikes(graph: Graph, images: np.ndarray) -> np.ndarray:
    """Spikes uint8 (samples, T, C, H, W) of a graph's input neurons, for intensities (samples, C, H, W).

    Each neuron gets round(gain * intensity + offset) << 6 at every step. Raises GraphError without such neurons.
    """
    source = graph.input
    if source.neuron is None:
        raise GraphError(f"{source.name}: the input has no neurons; encode the images instead")
    currents = np.round(images.astype(np.float64) * source.gain + source.offset)
    return neuron_spikes(source.neuron, currents.astype(np.int32), timesteps=graph.meta.timesteps)


def neuron_spikes(neuron: Neuron, currents: np.ndarray, *, timesteps: int) -> np.ndarray:
    """Spikes uint8 (samples, T, ...) of neurons under constant currents int32 (samples, ...), in weight units."""
    driven = dataclasses.replace(neuron, bias=currents.astype(np.int32) << POTENTIAL_SHIFT)
    silence = torch.zeros(timesteps, *currents.shape)
    spikes, _ = integer_scan(silence, driven)
    return spikes.transpose(0, 1).numpy().astype(np.uint8)


def integer_scan(currents: torch.Tensor, neuron: Neuron) -> tuple[torch.Tensor, torch.Tensor]:
    """The CUBA neuron in Loihi's integers: potentials << 6, 24 bits, clipped; decays round towards zero.

    currents: weighted input (T, ...), in weight units. Returns spikes and potentials after reset, of the same shape.
    """
    leaky = neuron.leaks
    dtype = torch.int64 if leaky else torch.int32  # a decay multiplies 24 bits by 12
    inputs = currents.to(dtype) << POTENTIAL_SHIFT
    current = torch.zeros_like(inputs[0])
    potential = torch.full_like(inputs[0], int(neuron.u0))
    bias = None if neuron.bias is None else torch.from_numpy(neuron.bias).to(dtype)
    spikes = torch.zeros_like(currents)
    after = torch.empty_like(currents, dtype=torch.int32)
    threshold = None if neuron.threshold is None else int(neuron.threshold) << POTENTIAL_SHIFT
    subtracted = np.asarray((threshold or 0) if neuron.drop is None else neuron.drop, np.int64)
    drop = torch.from_numpy(subtracted).to(dtype)
    for t, arriving in enumerate(inputs):
        if leaky:
            current = _wrap(_decay(current, neuron.current_decay) + arriving)
            potential = _decay(potential, neuron.voltage_decay) + current
        else:
            potential.add_(arriving)
        if bias is not None:
            potential.add_(bias)
        potential.clamp_(-POTENTIAL_MAX, POTENTIAL_MAX)
        if threshold is not None:
            fired = potential > threshold
            spikes[t] = fired
            if neuron.reset == "subtract":
                potential.sub_(fired.to(dtype) * drop)
            else:
                potential.masked_fill_(fired, 0)
        after[t] = potential
    return spikes, after


def _wrap(current: torch.Tensor) -> torch.Tensor:
    """Loihi's current is 24 bits wide and wraps around (AbstractPyLifModelFixed.subthr_dynamics)."""
    top = POTENTIAL_MAX + 1
    current = torch.where(current > top, current - 2 * top, current)
    return torch.where(current <= -top, current + 2 * top, current)


def _decay(state: torch.Tensor, decay: Decay) -> torch.Tensor:
    left = DECAY_MAX - decay if isinstance(decay, int) else torch.from_numpy(DECAY_MAX - decay.astype(np.int64))
    return state.sign() * ((state.abs() * left) >> 12)


def _float_scan(currents: torch.Tensor, neuron: Neuron) -> tuple[torch.Tensor, torch.Tensor]:
    """The same neuron in floats, without rounding or clip: for float graphs."""
    potential = torch.full_like(currents[0], neuron.u0)
    kept, left = (
        torch.from_numpy(np.asarray(1 - decay / DECAY_MAX)) for decay in (neuron.current_decay, neuron.voltage_decay)
    )
    current = torch.zeros_like(potential)
    bias = 0.0 if neuron.bias is None else torch.from_numpy(neuron.bias.astype(np.float64))
    spikes, after = torch.zeros_like(currents), torch.empty_like(currents)
    for t, weighted in enumerate(currents):
        current = kept * current + weighted
        potential = left * potential + current + bias
        if neuron.threshold is not None:
            spikes[t] = potential > neuron.threshold
            drop = torch.as_tensor(neuron.threshold if neuron.drop is None else neuron.drop)
            reset = potential - drop if neuron.reset == "subtract" else torch.zeros_like(potential)
            potential = torch.where(spikes[t] > 0, reset, potential)
        after[t] = potential
    return spikes, after
