"""What a slice costs on the cores of a placement: operations counted, energy and time estimated from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from export.graph import Graph, GraphError
from export.mapping.chips import CORES_A_ROUTER, GRID, Chip
from export.mapping.energies import STATIC, Energies
from export.mapping.place import Placement
from export.mapping.traffic import HOST, flows

PARTS = ("synapses", "neurons", "network")  # of an energy


@dataclass(frozen=True)
class LayerCost:
    """A layer, a slice. updates: compartments times steps; messages: spikes times the cores that read them, sent.

    energy: joules by part; `network` is of the messages that the layer receives.
    """

    name: str
    spikes: float
    operations: float
    updates: float
    messages: float
    energy: Mapping[str, float]

    @property
    def joules(self) -> float:
        return sum(self.energy.values())


@dataclass(frozen=True)
class Cost:
    """A slice by one table of energies, an estimate. step: seconds; static: joules, None where no figure is known.

    borrowed: whether the figures are another chip's. between_chips: messages, whose energy nobody publishes.
    """

    chip: Chip
    table: Energies
    layers: tuple[LayerCost, ...]
    steps: int
    step: float
    static: float | None
    between_chips: float

    @property
    def borrowed(self) -> bool:
        return self.chip.synapses != "loihi1"

    @property
    def seconds(self) -> float:
        """A slice in a stream of slices."""
        return self.step * self.steps

    @property
    def dynamic(self) -> float:
        return sum(layer.joules for layer in self.layers)

    @property
    def energy(self) -> dict[str, float]:
        """Dynamic joules by part."""
        return {part: sum(layer.energy[part] for layer in self.layers) for part in PARTS}

    def total(self, what: str) -> float:
        """Of all layers: `spikes`, `operations`, `updates` or `messages`."""
        return sum(getattr(layer, what) for layer in self.layers)


def cost(
    graph: Graph,
    placement: Placement,
    counts: Mapping[str, np.ndarray],
    table: Energies,
    *,
    samples: int = 1,
    active: Mapping[str, float] | None = None,
) -> Cost:
    """Count what the spikes of a run make the cores do, and put figures to it.

    counts: spikes (C, H, W) of every node that another reads, over all samples. active: neuron steps of each layer,
    over all samples, in which a neuron was not at rest; without it every neuron is taken to be active at every step.
    Raises GraphError for spikes that are not the graph's.
    """
    sums = _Sums(placement, table)
    mean = {name: np.asarray(value, np.float64) / samples for name, value in counts.items()}
    for name, value in mean.items():
        if value.shape != graph[name].shape:
            raise GraphError(f"{name}: spikes have shape {value.shape}; {graph[name].shape} is needed")
    steps = graph.meta.timesteps
    for layer in placement.layers:
        busy = None if active is None else active.get(layer.name)
        share = 1.0 if busy is None else busy / (samples * steps * math.prod(layer.shape))
        sums.fire(layer.name, mean.get(layer.name), steps, share)
    for flow in flows(graph, placement, mean):
        sums.arrive(
            flow.layer, flow.core, flow.kind, dict(zip(flow.sources, flow.spikes, strict=True)), flow.operations
        )
    step = max(sums.busy) / steps + table.barrier_of(
        -(-min(len(placement.cores), placement.chip.cores) // CORES_A_ROUTER)
    )
    watts = STATIC.get(placement.chip.name)
    return Cost(
        chip=placement.chip,
        table=table,
        layers=tuple(sums.layer(layer.name) for layer in placement.layers),
        steps=steps,
        step=step,
        static=None if watts is None else watts * placement.chips * step * steps,
        between_chips=sums.between_chips,
    )


def router(number: int, cores: int) -> tuple[int, int, int]:
    """Chip, x and y of the router of a core; routers are numbered column by column, as in SANA-FE."""
    chip, rest = divmod(number, cores)
    x, y = divmod(rest // CORES_A_ROUTER, GRID[1])
    return chip, x, y


class _Sums:
    """Operations and seconds, core by core, gathered into layers."""

    def __init__(self, placement: Placement, table: Energies) -> None:
        self.placement, self.table = placement, table
        self.counted = {
            layer.name: dict.fromkeys(("spikes", "operations", "updates", "messages"), 0.0)
            for layer in placement.layers
        }
        self.energy = {layer.name: dict.fromkeys(PARTS, 0.0) for layer in placement.layers}
        self.busy = np.zeros(len(placement.cores))  # seconds a slice
        self.between_chips = 0.0
        self.layer_of = {core.number: core.layer for core in placement.cores}

    def fire(self, name: str, spikes: np.ndarray | None, steps: int, active: float) -> None:
        for core in self.placement[name].cores:
            updates = core.neurons * steps
            fired = 0.0 if spikes is None else float(spikes[core.tile.slices].sum())
            self.counted[name]["updates"] += updates
            self.counted[name]["spikes"] += fired
            pairs = ((self.table.access, updates), (self.table.update, updates * active), (self.table.spike, fired))
            self.energy[name]["neurons"] += sum(joules * n for (joules, _), n in pairs)
            self.busy[core.number] += sum(seconds * n for (_, seconds), n in pairs)

    def arrive(self, name: str, core: int, kind: str, spikes: Mapping[int, float], operations: float) -> None:
        joules, seconds = self.table.synapse[kind]
        self.counted[name]["operations"] += operations
        self.energy[name]["synapses"] += joules * operations
        self.busy[core] += seconds * operations
        for source, number in spikes.items():
            self.busy[core] += self.table.message_in[1] * number
            if source == HOST or not number:
                continue
            self.counted[self.layer_of[source]]["messages"] += number
            self.busy[source] += self.table.message[1] * number
            self.energy[name]["network"] += number * (self.table.message[0] + self._way(source, core, number))

    def _way(self, source: int, target: int, number: float) -> float:
        """Joules of a message's hops; on another chip they are not known."""
        cores = self.placement.chip.cores
        (chip, x, y), (other, there_x, there_y) = router(source, cores), router(target, cores)
        if chip != other:
            self.between_chips += number
            return 0.0
        along_x, along_y = self.table.hop
        return abs(x - there_x) * along_x + abs(y - there_y) * along_y

    def layer(self, name: str) -> LayerCost:
        done = self.counted[name]
        return LayerCost(
            name, done["spikes"], done["operations"], done["updates"], done["messages"], dict(self.energy[name])
        )
