"""Read NIR, the exchange format of snnTorch, Norse, SpikingJelly, Sinabs and others: `nodes` has the equations.

What it can say and Loihi can run comes through: Conv1d, Conv2d, Linear, Affine, Scale (one factor, one a channel, or of
spikes one a neuron), Delay (whole steps), SumPool2d, AvgPool2d, Flatten, neurons, Threshold, sums of in-edges, nested
graphs; neurons that feed themselves, a step late, or by the steps of a Delay in the loop; loops over several layers,
whose Delays are a step a layer at least. Between two neurons there is one weight at most, with pools before it or after
a convolution.

Where a framework steps its own network otherwise than `nodes` says, spikes differ, and no file tells: `frameworks` has
what is known of each. snnTorch 1.0.0 needs reset_delay=False for `Synaptic` that resets to zero, else it loses an input
a spike; and without a delay it misses a spike after a reset that leaves a potential above the threshold.
"""

from __future__ import annotations

import functools
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from export import hdf5
from export.graph import (
    BINARY_ENCODERS,
    Graph,
    GraphError,
    Meta,
    Shape,
    depths,
    pipelined,
)
from export.guard import guarded
from export.limits import RESETS
from export.nir.file import flat, parsed
from export.nir.frameworks import DT, FRAMEWORKS
from export.nir.layers import Options, Reader
from export.nir.nodes import (
    NOISE,
    load_nir,
    note,
)
from export.passes import align_delays, fold_pool

LOOPS = ("exact", "pipelined")
OWN = "NIR written for steps of"  # the note of a file of ours

log = logging.getLogger(__name__)


def read(
    path: Path | str,
    *,
    timesteps: int,
    framework: str | None = None,
    dt: float | None = None,
    encoder: str = "rate",
    reset: Literal["zero", "subtract"] | None = None,
    reset_delay: bool | None = None,
    input_shape: Shape | None = None,
    loops: Literal["exact", "pipelined"] = "exact",
) -> Graph:
    """Read a NIR file as a float graph without pools, delays aligned, ready for `quantize`.

    timesteps: steps a sample. framework: whose file it is, by `frameworks.FRAMEWORKS`, which no file says; without, a
    warning says how leaky neurons are stepped. dt: seconds a step, in the unit of the file's time constants. reset: of
    neurons whose metadata say nothing, as only ours do. reset_delay: whether a threshold is subtracted a step after the
    spike, as snnTorch does by default. All three are the framework's by default; without one, 1e-4, zero, which NIR
    itself means, and no. input_shape: (N,), (C, H, W) or, before a Conv1d, (C, L), where the file's has axes for batch
    or time. loops: of those over several layers, `exact`, refused unless their Delays leave each layer the step that it
    takes on the chip and in Lava; or `pipelined`: what would come back sooner comes as soon as it can, with a warning,
    since who wrote the file steps another network.
    Populations are named as the neurons are; weights that end in an output get neurons that integrate, named as it is.
    Raises GraphError naming the file, the node, what was found and what is allowed.
    """
    options = _options(timesteps, framework, dt, encoder, reset, reset_delay, input_shape, loops)
    load_nir()  # not in the child: another thread may be importing
    path = Path(path)
    if not path.is_file():
        raise GraphError(f"{path}: no such file")
    graph, leaks, slowed = guarded(functools.partial(_open, options=options), path)
    for loop in slowed:
        log.warning("%s: %s; the framework that wrote the file sends them back sooner", path, loop)
    if options.framework is None and OWN not in graph.meta.notes and leaks:
        log.warning(
            "%s: does not say how its leaky neurons are stepped; read with forward Euler steps of %g s and reset %s. "
            "Name the framework that wrote it to be sure: %s",
            path, options.dt, options.reset, ", ".join(FRAMEWORKS),
        )  # fmt: skip
    return graph


def _open(path: Path, *, options: Options) -> tuple[Graph, bool, tuple[str, ...]]:
    """The graph; whether any neurons leak, which frameworks step in their own ways; loops made slower."""
    try:
        with np.errstate(all="ignore"), hdf5.opened(path) as file:  # numpy's warnings come before a refusal
            return _graph(parsed(file, hdf5.budget(path)), options)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None
    except (
        OSError,
        RuntimeError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        AssertionError,
        ArithmeticError,
        MemoryError,
    ) as error:
        raise GraphError(f"{path}: cannot be read as NIR ({type(error).__name__}: {str(error)[:500]})") from error


def _graph(network: Any, options: Options) -> tuple[Graph, bool, tuple[str, ...]]:
    dt = options.dt
    written = note("the graph", network, "dt")
    if written is not None and not np.isclose(written, dt, rtol=NOISE):
        raise GraphError(f"was written for steps of {written:g} s; dt {dt:g} is asked for")
    own = written if note("the graph", network, "logit_scale") is not None else None  # only ours have both
    if own is not None and options.framework:  # what a framework leaves unsaid, our files say
        options = replace(options, framework=None, reset="zero", reset_delay=False)
    nodes, links = flat(network, "")
    if own is None:
        for node in (network, *nodes.values()):
            node.metadata = {}  # what others note there has no meaning here
    reader = Reader(nodes, links, options)
    notes = {"read from": f"NIR, dt {dt:g}", **({} if own is None else {OWN: f"{own:g}"})}
    context = int(note("the graph", network, "context") or 0)
    meta = Meta(options.timesteps, options.encoder, *_readout(network), notes=notes, context=context)
    graph, slowed = _with_loops(align_delays(fold_pool(Graph(reader.graph(), meta=meta))), options)
    stepped = (p for p in graph.populations if type(nodes.get(p.name)).__name__ != "Threshold")  # these keep nothing
    return graph, any(population.cuba.leaks for population in stepped), slowed


def _with_loops(graph: Graph, options: Options) -> tuple[Graph, tuple[str, ...]]:
    """The graph with loops that layers of a step each can do, and which were made slower for that."""
    if options.loops == "exact":
        try:
            depths(graph)
        except GraphError as error:
            raise GraphError(
                f"{error}; give it Delays on the way back, which are then its steps, or read it with loops 'pipelined'"
            ) from None
        return graph, ()
    slow = pipelined(graph)
    return slow, tuple(
        f"{after.name}: spikes of {new.source} come back {new.delay + 1} steps late"
        for before, after in zip(graph.populations, slow.populations, strict=True)
        for old, new in zip(before.edges, after.edges, strict=True)
        if old.delay != new.delay
    )


def _options(
    timesteps: int,
    name: str | None,
    dt: float | None,
    encoder: str,
    reset: str | None,
    reset_delay: bool | None,
    input_shape: Shape | None,
    loops: str,
) -> Options:
    """What was asked for, and what is left to the framework. Raises GraphError."""
    if name is not None and name not in FRAMEWORKS:
        raise GraphError(f"framework {name!r} is unknown; {', '.join(FRAMEWORKS)} are allowed")
    framework = FRAMEWORKS[name] if name else None
    dt = (framework.dt if framework else DT) if dt is None else dt
    reset = (framework.reset if framework else "zero") if reset is None else reset
    if timesteps < 1 or not 0 < dt < np.inf or encoder not in BINARY_ENCODERS or reset not in RESETS:
        raise GraphError(
            f"timesteps {timesteps}, dt {dt}, encoder {encoder!r}, reset {reset!r}; positive numbers, "
            f"{' or '.join(BINARY_ENCODERS)} and {' or '.join(RESETS)} are allowed"
        )
    if loops not in LOOPS:
        raise GraphError(f"loops {loops!r}; {' or '.join(LOOPS)} is allowed")
    late = bool(framework and framework.reset_delay) if reset_delay is None else reset_delay
    return Options(timesteps, framework, dt, encoder, reset, late, input_shape, loops)


def _readout(network: Any) -> tuple[float, tuple[str, ...]]:
    """logit_scale and class_names of a file of ours."""
    scale = note("the graph", network, "logit_scale")
    found = str(network.metadata.get("class_names", "[]"))
    try:
        names = json.loads(found)
    except ValueError:
        names = None
    if not isinstance(names, list):
        raise GraphError(f"the graph: class_names in its metadata is {found[:80]!r}; a JSON list of names is allowed")
    return 1.0 if scale is None else scale, tuple(str(name) for name in names)
