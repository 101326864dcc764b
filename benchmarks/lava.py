"""A fused Lava run against stock Lava, and against its own messaging floor.

Same exported file, same spikes, one run after the other: Lava's own processes (`stock`), those with our models of Conv,
Sparse and LIF (`fast`), event-driven layers, of copies of the network in a process a core (`fused`), of one copy that
these share, of one with a process a layer, and such processes passing the same messages and computing nothing
(`floor`). A step is one of a sample: where copies do one each, Lava's step is as many. Then what tutorials teach, a
RingBuffer sink read with Var.get, whose cost for one element is measured and multiplied.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

import hardware_sim
from benchmarks.common import graph_and_spikes, machine
from export.graph import Graph, depths
from hardware_sim.comparison.compare import compare
from hardware_sim.lava_backend.grouping import cores, share
from hardware_sim.lava_backend.job import FAST, FLOOR
from hardware_sim.lava_backend.launch import run_lava, time_lava
from hardware_sim.trace import Trace

SLICES = 40
STOCK_SLICES = 2  # stock takes a fifth of a second a step
ROUNDS = 7
STALL_TIMEOUT = 120.0


def run() -> dict[str, Any]:
    """Ratios and milliseconds a step; every spike of the runs is compared."""
    graph, spikes = graph_and_spikes(SLICES)
    everything = hardware_sim.Record()
    stock = hardware_sim.run(graph, spikes[:STOCK_SLICES], backend="lava", fidelity="stock")
    fast = run_lava(
        graph, spikes[:STOCK_SLICES], backend="lava", fidelity=FAST, record=everything, stall_timeout=STALL_TIMEOUT
    )
    start = time.perf_counter()
    fused = hardware_sim.run(graph, spikes, backend="lava", fidelity="fused")
    subject_seconds = time.perf_counter() - start
    reference = hardware_sim.run(graph, spikes)
    part = hardware_sim.run(graph, spikes[:STOCK_SLICES])
    equal = all(compare(a, b).equal for a, b in ((fused, reference), (stock, part), (fast, part)))
    layers = len(graph.populations)
    (processes, number), steps = share(graph, SLICES), SLICES * graph.meta.timesteps
    runs = (
        ("fused", processes, number),
        ("fused", cores(), 0),
        ("fused", layers, 0),
        (FLOOR, cores(), 0),
        (FLOOR, layers, 0),
    )
    rounds = [
        [
            time_lava(graph, spikes, fidelity=f, record=everything, processes=n, copies=c)["run"] / steps
            for f, n, c in runs
        ]
        for _ in range(ROUNDS)
    ]
    fused_step, single_step, alone_step, least_step, floor_step = (
        statistics.median(values) for values in zip(*rounds, strict=True)
    )
    depth = max(depths(graph).values())
    stock_step, fast_step = (
        trace.seconds["run"] / (STOCK_SLICES * graph.meta.timesteps + depth) for trace in (stock, fast)
    )
    element = var_get_seconds_per_element()
    tutorial = stock.seconds["build"] + (steps + depth) * (stock_step + neurons(graph) * element)
    return {
        "equal": equal,
        "stock_ms_per_step": 1e3 * stock_step,
        "fused_ms_per_step": 1e3 * fused_step,
        "processes": processes,
        "copies_in_a_process": number,
        "layers": layers,
        "fused_one_copy_ms_per_step": 1e3 * single_step,
        "fused_process_a_layer_ms_per_step": 1e3 * alone_step,
        "floor_ms_per_step": 1e3 * floor_step,
        "floor_of_fewer_processes_ms_per_step": 1e3 * least_step,
        "fast_ms_per_step": 1e3 * fast_step,
        "stock_over_fast": stock_step / fast_step,
        "stock_over_fused": stock_step / fused_step,
        "fused_over_floor": fused_step / floor_step,
        "fused_one_copy_over_floor": single_step / floor_step,
        "process_a_layer_over_fused": alone_step / fused_step,
        "subject_seconds_fused": subject_seconds,
        "subject_seconds_beyond_steps": subject_seconds - fused.seconds["run"],
        "subject_seconds_stock_with_var_get_extrapolated": tutorial,
        "subject_ratio": tutorial / subject_seconds,
        "read_back_share": read_back_share(fused),
        "machine": machine(),
    }


def neurons(graph: Graph) -> int:
    return sum(p.shape[0] * p.shape[1] * p.shape[2] for p in graph.populations if p.neuron.threshold is not None)


def read_back_share(trace: Trace) -> float:
    """Seconds to count every layer's spikes from the recorded bits, over the seconds of the run."""
    start = time.perf_counter()
    for name in trace.packed:
        trace.total(name)
    return (time.perf_counter() - start) / trace.seconds["run"]


_VAR_GET = """
import time
import numpy as np
from hardware_sim.lava_backend.compat import mend
mend()  # before Lava is imported for the first time
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source
source, sink = Source(data=np.ones((43008, 1), np.int32)), Sink(shape=(43008,), buffer=2)
source.s_out.connect(sink.a_in)
source.run(condition=RunSteps(num_steps=2), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
start = time.perf_counter()
sink.data.get()
print((time.perf_counter() - start) / (2 * 43008))
source.stop()
"""


def var_get_seconds_per_element() -> float:
    """What Var.get takes for one element of a sink of 43,008 neurons over two steps."""
    done = subprocess.run([sys.executable, "-c", _VAR_GET], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])
