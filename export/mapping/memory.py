"""Words of synaptic memory that a tile's weights take.

Loihi 1: nengo-loihi's `SynapseConfig.bits_per_axon`, with its lists: one for each input channel and each set of taps
that a source place sends into the tile. Loihi 2 is fitted to Intel's logs, since nothing else is published: for a
convolution one list for each input channel and tap, with a header of 32 bits (17 to 48 would do); for a dense layer
one for each input, in Loihi 1's format with one bit a weight more. Both give every row of PilotNet's logs to the word
(benchmarks/mapping.py). A delay of a whole edge is taken to lie in the header. Transposed convolutions stand in no
log; they are taken to be stored as convolutions are. So are single synapses as dense ones, in lists of those there are.
"""

from __future__ import annotations

import math

import numpy as np

from export.graph import Conv, ConvT, Dense, Edge, Shape, Sparse, channels
from export.mapping.chips import WORD_BITS, Chip
from export.mapping.geometry import Tile, fan_out, tap_sets

GROUP, GROUP_BITS = 64, 10  # synapses that share a header, and its bits (4 of format, 6 of number): bits_per_axon
LOIHI1_WEIGHT_BITS = 8  # nengo-loihi, SynapseConfig: weight_bits=7 is 8 bits
LOIHI1_INDEX_BITS = (6, 7, 8, 9, 10, 11, 12)  # nengo-loihi, INDEX_BITS_MAP
DELAY_BITS = 6  # a synapse, where target neurons have delays of their own: Loihi's delays go to 62
LOIHI2_CONV_HEADER_BITS = 32  # a list: fit
LOIHI2_DENSE_BITS = 11  # beyond the weight's, index among them: fit


def synapse_words(chip: Chip, edge: Edge, source: Shape, tile: Tile) -> int:
    """Words (64 bits) that the weights of an edge from a source (C, H, W) take on the core of a tile."""
    if chip.synapses == "loihi1":
        return _loihi1_words(edge, source, tile)
    bits = weight_bits(edge.op.weight)
    if isinstance(edge.op, Dense | Sparse):
        each = bits + LOIHI2_DENSE_BITS + (DELAY_BITS if edge.target_delay is not None else 0)
        return sum(count * list_words(synapses, each) for synapses, count in _lists(edge.op, source, tile))
    return sum(
        inputs * math.prod(edge.op.weight.shape[2:]) * words(outputs * bits + LOIHI2_CONV_HEADER_BITS)
        for inputs, outputs in _groups(edge.op, tile)
    )


def words(bits: int) -> int:
    """Whole words that hold so many bits."""
    return -(-bits // WORD_BITS)


def list_words(synapses: int, bits: int) -> int:
    """Words of a list of synapses of `bits` each in Loihi 1's format: a header for each group of 64."""
    return words(synapses * bits + GROUP_BITS * -(-synapses // GROUP))


def weight_bits(weight: np.ndarray) -> int:
    """Bits of the stored (even) weights: ceil(log2(max |w|)) + 1."""
    most = float(np.abs(weight).max(initial=0))
    return math.ceil(math.log2(max(most, 1.0))) + 1


def _lists(op: Dense | Sparse, source: Shape, tile: Tile) -> list[tuple[int, int]]:
    """A list for each neuron of a source (C, H, W) that a tile reads: how many synapses, and how many lists so long."""
    if isinstance(op, Dense):
        return [(tile.neurons, op.weight.shape[1])]
    lengths, counts = np.unique(fan_out(op, source, tile), return_counts=True)
    return [(int(n), int(count)) for n, count in zip(lengths, counts, strict=True) if n]


def _groups(op: Conv | ConvT, tile: Tile) -> list[tuple[int, int]]:
    """For each group of a convolution that has outputs in the tile: its inputs, and its outputs there."""
    cin, cout = channels(op)
    group = np.arange(*tile.channels) // (cout // op.groups)
    return [(cin // op.groups, int(count)) for count in np.unique(group, return_counts=True)[1]]


def _loihi1_words(edge: Edge, source: Shape, tile: Tile) -> int:
    op = edge.op
    index = next((bits for bits in LOIHI1_INDEX_BITS if tile.neurons <= 2**bits), LOIHI1_INDEX_BITS[-1])
    delayed = edge.delay or edge.target_delay is not None
    bits = LOIHI1_WEIGHT_BITS + index + (DELAY_BITS if delayed else 0)
    if isinstance(op, Dense | Sparse):
        return sum(count * _rounded_list(synapses, bits) for synapses, count in _lists(op, source, tile))
    lists: dict[int, int] = {}  # synapses -> how many lists have so many, of one input channel and one output
    for r in tap_sets(op, 0, source[1], tile.rows):
        for c in tap_sets(op, 1, source[2], tile.columns):
            lists[r * c] = lists.get(r * c, 0) + 1
    return sum(
        inputs * count * _rounded_list(synapses * outputs, bits)
        for inputs, outputs in _groups(op, tile)
        for synapses, count in lists.items()
    )


def _rounded_list(synapses: int, bits: int) -> int:
    """As `list_words`, with every group of 64 rounded up to whole words: nengo-loihi, bits_per_axon."""
    full, rest = divmod(synapses, GROUP)
    return full * words(GROUP * bits + GROUP_BITS) + (words(rest * bits + GROUP_BITS) if rest else 0)
