"""What a graph holds, layer by layer, as rows and as a drawing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export import files
from export.graph import (
    AnyNeuron,
    Conv,
    ConvT,
    Dense,
    Edge,
    Graph,
    Operator,
    Population,
    Shape,
    SigmaDelta,
    Sparse,
    depths,
)
from export.text import printable


@dataclass(frozen=True)
class Row:
    """A synapse into a population, or the input. `delay`: least and most steps beyond the usual one.

    late: steps of a sample after which spikes come back, of a recurrent synapse.
    weights: least and greatest; bits: of a signed mantissa that holds them all. synapses: connections, zeros included.
    """

    layer: str
    kind: str
    shape: Shape
    source: str = ""
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    delay: tuple[int, int] = (0, 0)
    late: int = 0
    weights: tuple[float, float] | None = None
    bits: int | None = None
    threshold: float | None = None
    reset: str = ""
    neurons: int = 0
    synapses: int = 0


BEND = 0.25  # of a skip's arc
FIRST_BACK, NEXT_BACK = 32, 14  # points that arcs of what comes back reach down, and more for each step
KINDS: dict[type, str] = {Conv: "conv", ConvT: "convT", Dense: "dense", Sparse: "sparse"}


def inspect(graph: Graph) -> list[Row]:
    """One row for the input and for every edge; a population's neurons are counted in its first."""
    rows = [Row(graph.input.name, "input", graph.input.shape, neurons=math.prod(graph.input.shape))]
    for population in graph.populations:
        for k, edge in enumerate(population.edges):
            rows.append(_row(graph, population, edge, first=k == 0))
    return rows


def _row(graph: Graph, population: Population, edge: Edge, *, first: bool) -> Row:
    op, weight, neuron = edge.op, edge.op.weight, population.neuron
    further = (0, 0) if edge.target_delay is None else (int(edge.target_delay.min()), int(edge.target_delay.max()))
    return Row(
        layer=population.name,
        kind=KINDS[type(op)],
        shape=population.shape,
        source=edge.source,
        kernel=(weight.shape[2], weight.shape[3]) if isinstance(op, Conv | ConvT) else None,
        stride=op.stride if isinstance(op, Conv | ConvT) else None,
        delay=(edge.delay + further[0], edge.delay + further[1]),
        late=1 + edge.delay if population.hears_late(edge) else 0,
        weights=(float(weight.min()), float(weight.max())) if weight.size else (0.0, 0.0),
        bits=_bits(weight) if graph.integer else None,
        threshold=neuron.threshold,
        reset=_reset(neuron),
        neurons=math.prod(population.shape) if first else 0,
        synapses=synapse_count(op, graph[edge.source].shape, population.shape),
    )


def _reset(neuron: AnyNeuron) -> str:
    if isinstance(neuron, SigmaDelta):
        return "sigma-delta" if neuron.threshold is not None else "sigma"
    if neuron.threshold is None:
        return ""
    return f"{neuron.reset}, ternary" if neuron.ternary else neuron.reset


def synapse_count(op: Operator, source: Shape, target: Shape) -> int:
    """Connections that an operator makes between neurons, those of weight 0 included."""
    if isinstance(op, Dense | Sparse):
        return op.weight.size
    per_place = op.weight.shape[0] * op.weight.shape[1]  # pairs of channels that a tap joins
    return per_place * math.prod(_pairs(op, axis, source[1 + axis], target[1 + axis]) for axis in range(2))


def _pairs(op: Conv | ConvT, axis: int, source: int, target: int) -> int:
    """Pairs of places along one axis that any tap joins."""
    moving, still = (source, target) if isinstance(op, ConvT) else (target, source)
    tap = np.arange(op.weight.shape[2 + axis])[None] * op.dilation[axis]
    reached = np.arange(moving)[:, None] * op.stride[axis] - op.padding[axis] + tap
    return int(((reached >= 0) & (reached < still)).sum())


def _bits(weight: np.ndarray) -> int:
    """Of a signed integer; even weights need one less, as Loihi keeps them."""
    halved = weight / 2 if not (weight % 2).any() else weight
    low, high = halved.min(initial=0), halved.max(initial=0)
    return 1 + max(math.ceil(math.log2(max(-low, 1))), math.ceil(math.log2(high + 1)))


def _way(edge: Edge, steps: int, one_step: float) -> tuple[str, str, float, float]:
    """How an edge over some steps of depth is drawn: colours of its arrow and its words, bend, and where these stand.

    one_step: points of a step. Words stand as many points above the middle, below it if negative.
    """
    if edge.feedback:
        down = FIRST_BACK + NEXT_BACK * abs(steps)
        return "#7A3E9D", "#7A3E9D", 2 * down / (max(abs(steps), 1) * one_step), -down - 6
    if steps > 1:
        return "#D55E00", "#B04A00", BEND, BEND / 2 * steps * one_step + 6  # the top of the arc
    return "#555555", "#333333", 0.0, -30.0


def _short(number: int) -> str:
    """Three figures: 942, 12.3k, 1.61M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def draw(graph: Graph, path: Path) -> None:
    """The network by depth from left to right, with neurons, synapses, and skips as arcs with delays. PNG or SVG."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - a second of loading that tables need not wait for

    depth = depths(graph)
    column: dict[int, list[str]] = {}
    for name, step in depth.items():
        column.setdefault(step, []).append(name)
    place = {name: (step, -names.index(name)) for step, names in column.items() for name in names}
    figure = Figure(figsize=(1.2 * len(column) + 1, 2.6 + 0.9 * max(map(len, column.values()))))
    axis = figure.add_subplot()
    axis.set_xlim(-0.7, max(depth.values()) + 0.7)
    axis.set_ylim(min(y for _, y in place.values()) - 0.6, 0.2 + 0.13 * max(depth.values()))
    one_step = (axis.transData.transform((1, 0)) - axis.transData.transform((0, 0)))[0] * 72 / figure.dpi  # points
    for name, (x, y) in place.items():
        shape = graph[name].shape
        box = {"boxstyle": "round,pad=0.35", "facecolor": "#E8F1F8", "edgecolor": "#0072B2"}
        text = f"{printable(name)}\n{' x '.join(map(str, shape))}\n{math.prod(shape):,} n"
        axis.text(x, y, text, ha="center", va="center", fontsize=7.5, bbox=box, zorder=2, parse_math=False)
    for population in graph.populations:
        for edge in population.edges:
            (x0, y0), (x1, y1) = place[edge.source], place[population.name]
            if edge.source == population.name:
                again = f"and itself, {1 + edge.delay} steps later" if edge.delay else "and itself, a step later"
                axis.annotate(again, (x0, y0), (0, 20), textcoords="offset points", ha="center", fontsize=7)
                continue
            arrow, colour, bent, above = _way(edge, x1 - x0, one_step)
            style = {"arrowstyle": "-|>", "color": arrow, "shrinkA": 28, "shrinkB": 28}
            bend = f"arc3,rad={-bent}"
            axis.annotate("", (x1, y1), (x0, y0), arrowprops={**style, "connectionstyle": bend}, zorder=1)
            synapses = synapse_count(edge.op, graph[edge.source].shape, population.shape)
            later = edge.delay + edge.feedback
            text = f"{_short(synapses)} s" + (f", {later} steps later" if later else "")
            middle = ((x0 + x1) / 2, max(y0, y1) if x1 - x0 > 1 else (y0 + y1) / 2)
            axis.annotate(
                text, middle, (0, above), textcoords="offset points", ha="center", va="center", fontsize=7, color=colour
            )
    axis.set_xlabel("depth (time steps behind the input); n: neurons, s: synapses")
    axis.set_yticks([])
    axis.spines[["top", "left", "right"]].set_visible(False)
    with files.replacing(path) as (scratch,):
        figure.savefig(scratch, format=path.suffix[1:], bbox_inches="tight", dpi=150)
