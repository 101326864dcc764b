"""The event-driven kernels against plain Python and against the reference."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from export.graph import Conv, ConvT, Dense, GraphError, output_shape
from hardware_sim.lava_backend import kernels
from hardware_sim.lava_backend.tables import make_pooled, make_tables
from hardware_sim.trace import pack
from tests.examples import examples
from tests.graphs import single
from tests.hardware_sim.test_reference import reach

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    st.sampled_from(["conv", "convT", "dense", "sparse"]),
    st.sampled_from([1, 2]),
    st.sampled_from([2, 8]),  # channels of a group; eight are looked at together
    st.sampled_from([1, 3]),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    PAIRS,
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    PAIRS,
    st.floats(0, 1),
    st.integers(0, 10_000),
)
@examples(300)
def test_scatter_reaches_what_a_loop_reaches(
    kind, groups, channels, outputs, kernel, stride, padding, dilation, rate, seed
):
    rng = np.random.default_rng(seed)
    source = (channels * groups, int(rng.integers(2, 9)), int(rng.integers(2, 9)))
    if kind == "conv":
        op = Conv(rng.integers(-128, 128, (outputs * groups, channels, *kernel)) * 2, stride, padding, dilation, groups)
    elif kind == "convT":
        weight = rng.integers(-128, 128, (source[0], outputs, *kernel)) * 2
        op = ConvT(weight, stride, padding, (stride[0] - 1, stride[1] - 1), dilation, groups)
    elif kind == "sparse":
        op = single(rng, source, (outputs, *kernel), rng.random())
    else:
        op = Dense(rng.integers(-128, 128, (5, int(np.prod(source)))) * 2)
    try:
        target = output_shape(op, source)
    except GraphError:  # the kernel is larger than its input
        return
    spikes = (rng.random(source) < rate).astype(np.uint8)
    expected = np.zeros(target, int)
    for place in np.argwhere(spikes):
        reach(op, expected, place, source)
    total = np.zeros(int(np.prod(target)), np.int16)
    kernels.scatter(make_tables(op, source, target), np.ascontiguousarray(spikes.T).ravel(), total)
    np.testing.assert_array_equal(total.reshape(target[::-1]).T, expected.astype(np.int16))


@given(
    st.integers(2, 4),
    st.sampled_from([1, 3, 8]),
    PAIRS,
    PAIRS,
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.floats(0, 1),
    st.integers(0, 10_000),
)
@examples(200)
def test_sums_of_pixels_make_what_their_spikes_make(side, channels, kernel, stride, padding, rate, seed):
    rng = np.random.default_rng(seed)
    source = (channels, *(side * int(n) for n in rng.integers(1, 6, 2)))
    weight = (rng.integers(-16, 17, (3, channels, *kernel)) * 2).repeat(side, 2).repeat(side, 3)
    op = Conv(weight, tuple(side * n for n in stride), tuple(side * n for n in padding))
    try:
        target = output_shape(op, source)
    except GraphError:  # the kernel is larger than its input
        return
    spikes = (rng.random(source) < rate).astype(np.uint8)
    pool = make_pooled(op, source, target)
    assert pool is not None and pool.sides[0] % side == 0
    total = np.zeros(int(np.prod(target)), np.int16)
    kernels.scatter_sums(pool, np.ascontiguousarray(spikes.T).ravel(), total)
    expected = np.zeros(target, int)
    for place in np.argwhere(spikes):
        reach(op, expected, place, source)
    np.testing.assert_array_equal(total.reshape(target[::-1]).T, expected)


@given(
    st.sampled_from([1, 3, 8, 13, 16, 40]),
    st.integers(1, 5),
    st.sampled_from([1, 4, 5, 8, 16]),
    st.floats(0, 1),
    st.integers(0, 1000),
)
@examples(120)
def test_bits_are_those_of_packbits(channels, height, width, rate, seed):
    spikes = (np.random.default_rng(seed).random((channels, height, width)) < rate).astype(np.uint8)
    expected = pack(spikes[None, None])[0, 0]
    bits = np.zeros_like(expected)
    kernels.pack_spikes(np.ascontiguousarray(spikes.T).ravel(), channels, height, width, bits)
    np.testing.assert_array_equal(bits, expected)
