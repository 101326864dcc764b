"""Which tile a core holds. The rules reproduce Intel's compiler on every convolution that its logs show.

A convolution's tile is w x h x c: w a power of two, which counts whole where the layer ends before it, h and c the
height and the channels halved so many times, rounded up. On Loihi 2 the channels are divided only where no tile holds
them all, as in the logs. Of what fits the fewest cores win, then the most channels, then the least that a tile reads;
the logs settle such ties in a way that is not known, at the same number of cores. A dense
layer is divided by how many times over its limit it is, again and again: 2560 x 100 synapses of 24 words are 5.1 times
12,000, so 17 neurons; they are 1.07 times, so 9, so 12 cores (the "Violation" lines of PilotNet's log). What single
synapses lead to is divided as the target of a convolution, with a look at every tile, since each may be another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping

from export.graph import Dense, GraphError, Input, Population, Shape, SigmaDelta, Sparse
from export.mapping.axons import axons_in
from export.mapping.chips import RESOURCES, Chip
from export.mapping.geometry import Span, Tile, cut, grid, has, neurons_read
from export.mapping.memory import synapse_words


def compartments(chip: Chip, node: Input | Population) -> int:
    """Of a core, that each neuron takes. Raises GraphError for neurons or a reset that the chip has not got."""
    neuron = node.neuron
    if neuron is None:
        return 1
    if isinstance(neuron, SigmaDelta):
        if not chip.graded:
            raise GraphError(f"{node.name}: has sigma-delta neurons, whose spikes carry values; {chip.title} has none")
        return 1
    if neuron.threshold is None:
        return 1
    if neuron.reset not in chip.compartments:
        raise GraphError(f"{node.name}: reset is {neuron.reset!r}; {', '.join(chip.compartments)} run on {chip.title}")
    return chip.compartments[neuron.reset]


def usage(chip: Chip, node: Input | Population, sources: Mapping[str, Shape], tile: Tile) -> dict[str, int]:
    """What a tile takes of a core, but for output axons, which depend on who reads it."""
    edges = node.edges if isinstance(node, Population) else ()
    return {
        "neurons": tile.neurons * compartments(chip, node),
        "words": sum(synapse_words(chip, edge, sources[edge.source], tile) for edge in edges),
        "axons_in": sum(axons_in(chip, edge, sources[edge.source], tile) for edge in edges),
    }


def choose(
    chip: Chip, node: Input | Population, sources: Mapping[str, Shape], *, most: int | None = None
) -> tuple[Tile, ...]:
    """Tiles of a population or input, one a core. most: neurons a tile, where output axons allow no more.

    Raises GraphError naming the limit that a tile of one neuron breaks.
    """
    if isinstance(node, Population) and has(node, Dense):
        return _dense(chip, node, sources, most)
    channels = _halves(node.shape[0])
    for some in [[c] for c in channels] if chip.channels_last else [channels]:
        fitting = _fewest(chip, node, sources, some, most)
        if fitting:
            return min(fitting, key=lambda tiles: (-tiles[0].shape[0], _reading(node, sources, tiles)))
    raise _too_small(chip, node, sources)


def _fewest(
    chip: Chip, node: Input | Population, sources: Mapping[str, Shape], channels: list[int], most: int | None
) -> list[tuple[Tile, ...]]:
    """All ways to cut a population, with tiles of so many channels, into the fewest cores."""
    _, h, w = node.shape
    sizes = sorted(itertools.product(channels, _halves(h), _powers(w)), key=lambda size: _number(node.shape, size))
    fitting: list[tuple[Tile, ...]] = []
    for size in sizes:
        if fitting and _number(node.shape, size) > len(fitting[0]):
            break
        tiles = _fitting(chip, node, sources, size, most)
        fitting += [tiles] if tiles else []
    return fitting


def _number(shape: Shape, size: Shape) -> int:
    """Tiles of a size that a population takes."""
    return math.prod(-(-n // step) for n, step in zip(shape, size, strict=True))


def _halves(size: int) -> list[int]:
    found = [size]
    while found[-1] > 1:
        found.append(-(-found[-1] // 2))
    return found


def _powers(size: int) -> list[int]:
    """Powers of two, down from the first that holds all."""
    return [2**k for k in range((size - 1).bit_length(), -1, -1)]


def _fitting(
    chip: Chip, node: Input | Population, sources: Mapping[str, Shape], size: Shape, most: int | None
) -> tuple[Tile, ...] | None:
    """The tiles of a size; None where a core cannot hold one. A width counts whole, what lies beyond the layer too."""
    if math.prod(size) * compartments(chip, node) > chip.neurons:
        return None
    tiles = cut(node.shape, size)
    if most is not None and tiles[0].neurons > most:
        return None
    for tile in _kinds(node, tiles):
        if any(value > chip.limit(what) for what, value in usage(chip, node, sources, tile).items()):
            return None
    return tiles


def _kinds(node: Input | Population, tiles: tuple[Tile, ...]) -> Iterable[Tile]:
    """Those that may differ in what they read: on each axis the first two, the last two and two between them.

    All of those that single synapses lead to.
    """
    if isinstance(node, Population) and has(node, Sparse):
        return tiles

    def some(spans: list[Span]) -> list[Span]:
        middle = len(spans) // 2
        return sorted({spans[k] for k in (0, 1, middle, middle + 1, -2, -1) if -len(spans) <= k < len(spans)})

    return (Tile(*spans) for spans in itertools.product(*(some(spans) for spans in grid(tiles))))


def _reading(node: Input | Population, sources: Mapping[str, Shape], tiles: tuple[Tile, ...]) -> int:
    """Neurons that a tile in the middle reads."""
    edges = node.edges if isinstance(node, Population) else ()
    return sum(neurons_read(edge.op, sources[edge.source], tiles[len(tiles) // 2]) for edge in edges)


def _dense(chip: Chip, node: Population, sources: Mapping[str, Shape], most: int | None) -> tuple[Tile, ...]:
    c, h, w = node.shape
    size = c
    while True:
        tiles = cut(node.shape, (size, h, w))
        largest = tiles if has(node, Sparse) else tiles[:1]
        found = [usage(chip, node, sources, tile) for tile in largest]
        times = [-(-max(taken[what] for taken in found) // chip.limit(what)) for what in found[0]]
        times += [] if most is None else [-(-tiles[0].neurons // most)]
        if max(times) <= 1:
            return tiles
        if size == 1:
            raise _too_small(chip, node, sources)
        size = -(-size // max(times)) if -(-size // max(times)) < size else size - 1


def _too_small(chip: Chip, node: Input | Population, sources: Mapping[str, Shape]) -> GraphError:
    worst: dict[str, int] = {}
    for tile in _kinds(node, cut(node.shape, (1, 1, 1))):
        for what, value in usage(chip, node, sources, tile).items():
            worst[what] = max(worst.get(what, 0), value)
    what = max(worst, key=lambda what: worst[what] / chip.limit(what))
    reads = math.prod(node.shape)
    return GraphError(
        f"{node.name}: one of its {reads:,} neurons takes {worst[what]:,} {RESOURCES[what]} of a core; "
        f"{chip.limit(what):,} fit {chip.title}"
    )
