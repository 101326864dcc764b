"""Graph -> placement: for every population its tiles, for every core what it holds against each limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from export.graph import Graph, GraphError, Input, Population, Shape, in_lava_steps, levels, ternary
from export.mapping.axons import axons_out
from export.mapping.chips import RESOURCES, Board, Chip
from export.mapping.geometry import Tile
from export.mapping.tiles import choose, usage


@dataclass(frozen=True)
class Core:
    """One core: its number over all chips, and what it holds. neurons: compartments; words: of 64 bits."""

    number: int
    layer: str
    tile: Tile
    neurons: int
    words: int
    axons_in: int
    axons_out: int

    def shares(self, chip: Chip) -> dict[str, float]:
        """Of each of the chip's limits."""
        return {what: getattr(self, what) / chip.limit(what) for what in RESOURCES}


@dataclass(frozen=True)
class Layer:
    """A population (or an input with neurons) on its cores. deciding: what its fullest core has least left of."""

    name: str
    shape: Shape
    cores: tuple[Core, ...]
    deciding: str
    share: float

    @property
    def tile(self) -> Shape:
        """The largest tile (C, H, W)."""
        return self.cores[0].tile.shape


@dataclass(frozen=True)
class Placement:
    """A network on a chip's cores, layer after layer; an input without neurons takes none."""

    chip: Chip
    layers: tuple[Layer, ...]

    def __getitem__(self, name: str) -> Layer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    @property
    def cores(self) -> tuple[Core, ...]:
        return tuple(core for layer in self.layers for core in layer.cores)

    @property
    def chips(self) -> int:
        return -(-len(self.cores) // self.chip.cores)

    @property
    def board(self) -> Board | None:
        """The smallest that holds it; None where none does."""
        return next((board for board in self.chip.boards if board.chips >= self.chips), None)


def place(graph: Graph, chip: Chip) -> Placement:
    """Lay a graph of populations out on a chip.

    Needs a graph as `check` takes it, pools and concatenations gone; integer, since weights take bits. Raises
    GraphError naming the population, what it takes and the limit that no tiling keeps.
    """
    if not graph.integer:
        raise GraphError("the graph holds floats; quantize it before it is laid out")
    graph = in_lava_steps(graph)
    if levels(graph) and not chip.graded:
        source = graph.input
        raise GraphError(f"{source.name}: graded spikes of {source.levels} levels; {chip.title} knows spikes of 1")
    if ternary(graph) and not chip.graded:
        raise GraphError(f"{ternary(graph)[0]}: has ternary spikes, which have a sign; {chip.title} knows spikes of 1")
    nodes = {node.name: node for node in graph.nodes if isinstance(node, Population) or _has_neurons(node)}
    shapes = {node.name: node.shape for node in graph.nodes}
    most: dict[str, int] = {}
    tiles = {name: choose(chip, node, shapes) for name, node in nodes.items()}  # type: ignore[arg-type]
    while True:
        out = axons_out(chip, graph, tiles)
        over = [name for name in tiles if max(out[name]) > chip.axons_out]
        if not over:
            break
        for name in over:
            most[name] = max(tile.neurons for tile in tiles[name]) // 2
            if not most[name]:
                raise GraphError(
                    f"{name}: one of its neurons takes {max(out[name]):,} {RESOURCES['axons_out']}; "
                    f"{chip.axons_out:,} fit {chip.title}"
                )
            tiles[name] = choose(chip, nodes[name], shapes, most=most[name])  # type: ignore[arg-type]
    return Placement(chip, tuple(_layers(chip, nodes, shapes, tiles, out)))  # type: ignore[arg-type]


def _has_neurons(node: object) -> bool:
    return isinstance(node, Input) and node.neuron is not None


def _layers(
    chip: Chip,
    nodes: Mapping[str, Input | Population],
    shapes: Mapping[str, Shape],
    tiles: Mapping[str, tuple[Tile, ...]],
    out: Mapping[str, list[int]],
) -> Iterator[Layer]:
    number = 0
    for name, node in nodes.items():
        cores = []
        for tile, outgoing in zip(tiles[name], out[name], strict=True):
            taken = usage(chip, node, shapes, tile)
            core = Core(number, name, tile, taken["neurons"], taken["words"], taken["axons_in"], outgoing)
            cores.append(_checked(core, chip))
            number += 1
        share, deciding = max((share, what) for core in cores for what, share in core.shares(chip).items())
        yield Layer(name, node.shape, tuple(cores), deciding, share)


def _checked(core: Core, chip: Chip) -> Core:
    for what, share in core.shares(chip).items():
        if share > 1:
            raise GraphError(
                f"{core.layer}: tile {core.tile.shape} takes {getattr(core, what):,} {RESOURCES[what]}; "
                f"{chip.limit(what):,} fit {chip.title}"
            )
    return core
