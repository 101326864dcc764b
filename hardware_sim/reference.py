"""The reference engine: exact integers, layer by layer, batched over samples. Needs no Lava.

Convolutions run in torch's float32 (an integer graph: every partial sum is an integer below 2^24, which float32
holds exactly) or float64 (a float graph, for tests of rewrites; spikes that carry whatever values, whose sums are
integers below 2^53); neurons as in `neurons`. Layers are simultaneous, which is what depth-shifted layers do.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from export.graph import (
    Concat,
    Conv,
    Dense,
    Dropout,
    Edge,
    Graph,
    GraphError,
    Input,
    Neuron,
    Node,
    Operator,
    Pool,
    Population,
    SigmaDelta,
    Sparse,
    graded,
    in_lava_steps,
    spans,
    stretches,
)
from export.limits import INPUT_MAX, INPUT_MIN, POTENTIAL_MAX, POTENTIAL_SHIFT, THRESHOLD_MAX, beyond
from hardware_sim.neurons import State, delta_messages, neuron_spikes, scan, state_of
from hardware_sim.record import Progress, Record, SimulationError
from hardware_sim.trace import Trace, pack

CHUNK = 16  # samples at a time


def run_reference(
    graph: Graph,
    spikes: np.ndarray,
    *,
    record: Record = Record(),
    on_step: Progress | None = None,
    stream: bool = False,
) -> Trace:
    """Run a graph (integer, or float for tests) on spikes (samples, T, C, H, W); see `hardware_sim.run`."""
    start = time.perf_counter()
    want_spikes, want_potentials = record.names(graph, "spikes"), record.names(graph, "potentials")
    counts: dict[str, list[np.ndarray]] = {name: [] for name in record.names(graph, "counts")}
    spoken: dict[str, list[np.ndarray]] = {name: [] for name in want_spikes}
    potentials: dict[str, list[np.ndarray]] = {name: [] for name in want_potentials}
    outputs: list[np.ndarray] = []
    watched = beyond(graph) if graph.integer else ()
    values = graded(graph)
    for first in range(0, len(spikes), CHUNK):
        chunk = torch.from_numpy(spikes[first : first + CHUNK]).transpose(0, 1)  # T, B, C, H, W
        kept = set(want_potentials) | {graph.output.name}
        emitted, membrane = simulate(graph, chunk, keep=kept, watched=watched, first=first, stream=stream)
        for name in want_spikes:
            of_samples = emitted[name].transpose(0, 1).numpy()
            spoken[name].append(of_samples.astype(np.int32) if name in values else pack(of_samples.astype(np.uint8)))
        for name, parts in counts.items():
            parts.append((emitted[name] != 0).sum(0).numpy().astype(np.int32))
        for name in want_potentials:
            potentials[name].append(membrane[name].transpose(0, 1).numpy())
        outputs.append(membrane[graph.output.name][-1].numpy())
        if on_step:
            steps = graph.meta.timesteps
            on_step(min(first + CHUNK, len(spikes)) * steps, len(spikes) * steps)
    whole = {name: np.concatenate(parts) for name, parts in spoken.items()}
    return Trace(
        packed={name: value for name, value in whole.items() if name not in values},
        graded={name: value for name, value in whole.items() if name in values},
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
    graph: Graph,
    spikes: torch.Tensor,
    *,
    keep: set[str],
    watched: Collection[str] = (),
    first: int = 0,
    stream: bool = False,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Evaluate every node on spikes (T, B, C, H, W).

    Returns what each node emits and, for the populations in `keep`, the potentials after reset: (T, B, C, H, W).
    watched: populations that may exceed Loihi's range, at which SimulationError is raised. first: number of the first
    sample, for that. stream: what is emitted arrives a step later, as in Lava, where layers are not simultaneous.
    """
    exact = graph.integer and not watched
    dtype = torch.float32 if exact and graded(graph) == spans(graph).keys() else torch.float64
    graph, spikes = in_lava_steps(graph) if stream else graph, spikes.to(dtype)
    values: dict[str, torch.Tensor] = {}
    membrane: dict[str, torch.Tensor] = {}
    for nodes in stretches(graph):
        populations = [node for node in nodes if isinstance(node, Population)]
        if any(population.recurrent for population in populations):
            currents, after = _together(nodes, values, spikes, integer=graph.integer, stream=stream)
        else:
            currents, after = _apart(nodes[0], values, spikes, integer=graph.integer, stream=stream)
        for population in populations:
            name = population.name
            if name in watched:
                _watch(population, values, currents[name], after[name], first)
        membrane |= {name: of for name, of in after.items() if name in keep}
    return values, membrane


Course = dict[str, torch.Tensor]  # of populations, at all steps: (T, B, C, H, W)


def _apart(node: Node, values: Course, spikes: torch.Tensor, *, integer: bool, stream: bool) -> tuple[Course, Course]:
    """A node after all that it reads, whose `values` it gets, too; the inputs and potentials of a population."""
    match node:
        case Input():
            values[node.name] = spikes
        case Population():
            currents = sum_inputs(node, values, stream=stream)
            values[node.name], after = scan(currents, node.neuron, integer=integer)
            return {node.name: currents}, {node.name: after}
        case Pool():
            source = values[node.source]
            values[node.name] = F.avg_pool2d(source.flatten(0, 1), node.kernel).unflatten(0, source.shape[:2])
        case Concat():
            values[node.name] = torch.cat([values[name] for name in node.sources], dim=2)
        case Dropout():  # of training alone
            values[node.name] = values[node.source]
    return {}, {}


def _together(
    nodes: Sequence[Node], values: Course, spikes: torch.Tensor, *, integer: bool, stream: bool
) -> tuple[Course, Course]:
    """`_apart` of nodes between which something comes back: all do a step before any does the next."""
    currents, after = {}, {}
    states: dict[str, State] = {}
    ways: dict[str, list[_Way]] = {}
    inside = {node.name for node in nodes}
    for node in nodes:
        if not isinstance(node, Population):
            raise GraphError(f"{node.name}: a {type(node).__name__} in a loop; run the passes first")
        name, whole = node.name, (*spikes.shape[:2], *node.shape)
        apart = tuple(edge for edge in node.forward if edge.source not in inside)
        zeros = spikes.new_zeros(whole)
        currents[name] = sum_inputs(replace(node, edges=apart), values, stream=stream) if apart else zeros
        values[name] = torch.zeros_like(zeros)
        after[name] = torch.empty_like(zeros, dtype=torch.int32 if integer else zeros.dtype)
        states[name] = state_of(node.neuron, zeros[0], integer=integer)
        ways[name] = [_Way(node, edge, stream=stream) for edge in node.edges if edge not in apart]
    for t in range(len(spikes)):
        for name, state in states.items():
            for way in ways[name]:
                currents[name][t] += way.arriving(t, values[way.edge.source])
            values[name][t], after[name][t] = state.step(currents[name][t])
    return currents, after


class _Way:
    """An edge a step at a time, between populations of which none can be run before the other."""

    def __init__(self, population: Population, edge: Edge, *, stream: bool) -> None:
        self.edge = edge
        self.late = 1 + edge.delay if stream or population.hears_late(edge) else 0
        further = edge.target_delay
        self.further = None if further is None else torch.from_numpy(further.astype(np.int64))
        most = 1 if further is None else int(further.max()) + 1
        self.brought = deque[torch.Tensor](maxlen=most)  # what steps made of it, before delays by target neuron

    def arriving(self, t: int, emitted: torch.Tensor) -> torch.Tensor | float:
        """The input (B, C, H, W) that spikes (T, B, C, H, W) up to now bring at step t."""
        if t < self.late:
            return 0.0
        self.brought.append(apply_operator(self.edge.op, emitted[t - self.late]))
        return self.brought[-1] if self.further is None else delayed(torch.stack(tuple(self.brought)), self.further)[-1]


def _watch(
    population: Population,
    values: Mapping[str, torch.Tensor],
    currents: torch.Tensor,
    after: torch.Tensor,
    first: int,
) -> None:
    """Raise SimulationError where a step's input or a neuron's state exceeds what Loihi holds: (T, B, ...)."""
    shift = 1 << POTENTIAL_SHIFT
    if isinstance(population.neuron, SigmaDelta):
        sigma, bias = currents.cumsum(0), population.neuron.bias
        reached = [("input", currents), ("sigma", sigma)]
        reached += [] if bias is None else [("sigma with bias", sigma + torch.from_numpy(bias))]
        if len(population.edges) > 1:  # each is a synapse of its own, 24 bits wide
            reached += [
                (f"input from {edge.source}", edge_input(edge, values[edge.source])) for edge in population.edges
            ]
        bounds = [(what, value, -POTENTIAL_MAX, POTENTIAL_MAX) for what, value in reached]
    else:
        bounds = [("input", currents, INPUT_MIN, INPUT_MAX)]
        if population.neuron.threshold is None:
            bounds.append(("potential, >> 6,", after / shift, -THRESHOLD_MAX, THRESHOLD_MAX))
    for what, value, low, high in bounds:
        least, most = value.aminmax()
        if least < low or most > high:
            wrong = (value < low) | (value > high)
            t, sample = (int(place) for place in wrong.nonzero()[0][:2])
            found = value[t, sample][wrong[t, sample]][0].item()
            raise SimulationError(
                f"{population.name}: {what} is {found:.0f} in sample {first + sample}, step {t}; {low} to {high} is "
                "what Loihi holds"
            )


def sum_inputs(population: Population, values: Mapping[str, torch.Tensor], *, stream: bool = False) -> torch.Tensor:
    """Weighted input (T, B, C, H, W) of a population from the nodes before it, in weight units.

    stream: each a step after it was emitted, and by its edge's delay later.
    """
    total = None
    for edge in population.forward:
        y = edge_input(edge, values[edge.source])
        if stream:
            late = 1 + edge.delay
            y = torch.cat([torch.zeros_like(y[:late]), y[:-late]])
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
    """Spikes (samples, T, C, H, W) of a graph's input neurons, for intensities (samples, C, H, W): uint8.

    CUBA neurons get round(gain * intensity + offset) << 6 at every step. Sigma-delta neurons tell that number, by
    messages, int32; of frames (samples, T, C, H, W) that of each step. Raises GraphError without such neurons,
    SimulationError for what these do not hold.
    """
    source = graph.input
    if source.neuron is None:
        raise GraphError(f"{source.name}: the input has no neurons; encode the images instead")
    values = np.round(images.astype(np.float64) * source.gain + source.offset)
    steps = graph.meta.timesteps
    if isinstance(source.neuron, Neuron):
        return neuron_spikes(source.neuron, values.astype(np.int32), timesteps=steps)
    still = values.ndim == len(source.shape) + 1
    frames = np.broadcast_to(values[:, None], (len(values), steps, *source.shape)) if still else values
    try:
        return delta_messages(source.neuron, frames)
    except SimulationError as error:
        raise SimulationError(f"{source.name}: {error}") from None
