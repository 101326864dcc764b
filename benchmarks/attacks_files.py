"""The mutations of `benchmarks/attacks.py`: files of weights, traces, settings and NIR that are broken, one a seed.

A file is read right if it gives what the sound file does, or what another sound file would: numbers can be changed to
other numbers. Changed bytes of weights and traces must never do the latter, as both have checksums. Anything but that
and one line of refusal fails the reader: another exception, a signal, more than LIMIT_SECONDS, LIMIT_BYTES of memory.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import attacks_mutators as mutators
from export import nir
from export.graph import Conv, Edge, Graph, GraphError, Input, Meta, Neuron, Population, same
from hardware_sim.engines import run
from hardware_sim.record import Record
from hardware_sim.trace import Trace, TraceError
from neuroseg import runs
from neuroseg.runs import Run, RunError
from neuroseg.settings import Settings
from neuroseg.training.train import TrainConfig
from neuroseg.training.unet import UNet, UNetConfig

LIMIT_SECONDS = 5.0  # of computing
HANGING_SECONDS = 90.0  # of waiting
LIMIT_BYTES = 2**30
ADDRESS_SPACE = 16 * 2**30
LINE_MAX = 2000  # characters of a message
RIGHT, OTHER, REFUSED = "right", "read as another sound file", "refused"


@dataclass(frozen=True)
class Kind:
    """A kind of files. checked: whether it has a checksum; same: whether two contents are equal."""

    name: str
    file: str
    make: Callable[[Path], None]
    mutate: Callable[[int, Path, Path], None]
    load: Callable[[Path], Any]
    refusal: type[Exception]
    same: Callable[[Any, Any], bool]
    checked: bool


@dataclass(frozen=True)
class Outcome:
    """outcome: one of the above, or how the reader failed. peak: bytes above what the worker started with."""

    seed: int
    outcome: str
    milliseconds: float = 0.0
    peak: int = 0

    @property
    def failed(self) -> bool:
        return self.outcome not in (RIGHT, OTHER, REFUSED)


def graph() -> Graph:
    rng = np.random.default_rng(0)
    first, second = (Conv(2 * rng.integers(-20, 30, shape), padding=(1, 1)) for shape in ((3, 2, 3, 3), (4, 3, 3, 3)))
    last = Conv(2 * rng.integers(-9, 9, (1, 4, 1, 1)))
    soft = Neuron(40, u0=1280, bias=np.full((3, 1, 1), 64, np.int32))
    nodes = (
        Input("input", (2, 6, 6)),
        Population("a", (3, 6, 6), (Edge("input", first),), soft),
        Population("b", (4, 6, 6), (Edge("a", second),), Neuron(50, reset="zero")),
        Population("out", (1, 6, 6), (Edge("b", last),), Neuron(None, "zero")),
    )
    return Graph(nodes, integer=True, meta=Meta(timesteps=4, logit_scale=0.5, class_names=("x", "y")))


def _trace(path: Path) -> None:
    spikes = (np.random.default_rng(1).random((3, 4, 2, 6, 6)) < 0.5).astype(np.uint8)
    run(graph(), spikes, record=Record(potentials="all")).save(path)


def _ann(path: Path) -> None:
    runs.save_ann(UNet(UNetConfig(channels=(2, 3))), [], path)


def _snn(path: Path) -> None:
    from neuroseg.conversion.convert import convert

    network = convert(UNet(UNetConfig(channels=(2, 3))), (1, 8, 8), timesteps=4)
    runs.save_snn(network, path, notes={"balance": "rate"})


def _settings(path: Path) -> None:
    names = tuple(f"subject_{k}" for k in range(4))
    made = Settings("data", 3, names[:2], names[2:3], UNetConfig(), TrainConfig(), (None, 56, 48), names[3:])
    Run(path.parent).save_settings(made)


def _same_traces(a: Trace, b: Trace) -> bool:
    def equal(x: Any, y: Any) -> bool:
        return x.keys() == y.keys() and all(np.array_equal(x[name], y[name]) for name in x)

    rest = [(t.output_name, t.timesteps, t.engine, dict(t.shapes)) for t in (a, b)]
    parts = (
        equal(a.packed, b.packed)
        and equal(a.graded, b.graded)
        and equal(a.potentials, b.potentials)
        and equal(a.tallied, b.tallied)
    )
    return rest[0] == rest[1] and parts and all(np.array_equal(*pair) for pair in _outputs(a, b))


def _outputs(a: Trace, b: Trace) -> list[tuple[Any, Any]]:
    return [(a.output, b.output), (a.stimulus, b.stimulus)]


def _same_ann(a: UNet, b: UNet) -> bool:
    return a.config == b.config and _same_state(a, b)


def _same_state(a: Any, b: Any) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(bool((first[name] == second[name]).all()) for name in first)


def _same_snn(a: Any, b: Any) -> bool:
    return same(a[0].graph, b[0].graph) and a[1] == b[1] and _same_state(a[0], b[0])


ANN = Kind("weights (ANN)", "ann.safetensors", _ann, mutators.weights, runs.load_ann, RunError, _same_ann, checked=True)
SNN = Kind("weights (SNN)", "snn.safetensors", _snn, mutators.weights, runs.load_snn, RunError, _same_snn, checked=True)
TRACES = Kind("traces", "trace.npz", _trace, mutators.trace, Trace.load, TraceError, _same_traces, checked=True)
SETTINGS = Kind(
    "run.json",
    "run.json",
    _settings,
    mutators.settings,
    lambda path: Run(path.parent).load_settings(),
    RunError,
    lambda a, b: a == b,
    checked=False,
)
NIR = Kind(
    "NIR",
    "network.nir",
    lambda path: nir.write(graph(), path) and None,
    mutators.nir,
    lambda path: nir.read(path, timesteps=4),
    GraphError,
    same,
    checked=False,
)
KINDS = (ANN, SNN, TRACES, SETTINGS, NIR)


def attempt(kind: Kind, seed: int, sound: Path, folder: Path) -> Outcome:
    """Read the file of a seed, which is written into `folder`."""
    path = folder / kind.file
    kind.mutate(seed, sound, path)
    before, start = _peak(), _computing()
    try:
        found = kind.load(path)
        if kind.same(found, kind.load(sound)):
            outcome = RIGHT
        else:
            outcome = "wrong numbers, silently" if kind.checked and seed % 2 == 0 else OTHER
    except kind.refusal as error:
        outcome = _judged(str(error), path)
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"[:LINE_MAX]
    spent, peak = _computing() - start, _peak() - before
    if spent > LIMIT_SECONDS:
        outcome = f"{spent:.1f} s"
    if peak > LIMIT_BYTES:
        outcome = f"{peak >> 20} MiB"
    return Outcome(seed, outcome, round(1000 * spent, 3), peak)


def _judged(message: str, path: Path) -> str:
    if str(path) not in message:
        return f"a refusal that does not name the file: {message}"[:LINE_MAX]
    return REFUSED if "\n" not in message and len(message) < LINE_MAX else f"no line: {message}"[:LINE_MAX]


def mutations(kind: Kind, files: int) -> Iterator[Outcome]:
    """Read the files of a kind in workers; one that dies costs a file."""
    context, seeds = multiprocessing.get_context("spawn"), list(range(files))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "log"
        while seeds:
            log.write_text("")
            worker = context.Process(target=_work, args=(KINDS.index(kind), seeds, folder, log))
            worker.start()
            worker.join()
            done = [Outcome(**json.loads(line)) for line in log.read_text().splitlines()]
            yield from done
            seeds = seeds[len(done) :]
            if worker.exitcode and seeds:
                yield Outcome(seeds.pop(0), f"the process ended with {worker.exitcode}")


def _work(number: int, seeds: Sequence[int], folder: Path, log: Path) -> None:
    kind = KINDS[number]
    warnings.simplefilter("ignore")  # of numpy, on the way to a refusal
    sound, target = folder / "sound", folder / "broken"
    for place in (sound, target):
        place.mkdir(exist_ok=True)
    if not (sound / kind.file).exists():
        kind.make(sound / kind.file)
    kind.load(sound / kind.file)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    with open(log, "a") as lines:
        for seed in seeds:
            signal.setitimer(signal.ITIMER_REAL, HANGING_SECONDS)  # its default action ends even a loop in C
            outcome = attempt(kind, seed, sound / kind.file, target)
            lines.write(json.dumps(asdict(outcome)) + "\n")
            lines.flush()


def row(kind: Kind, outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """What the table says of a kind."""
    return {
        "kind": kind.name,
        "tried": len(outcomes),
        "right": sum(outcome.outcome == RIGHT for outcome in outcomes),
        "another_sound_file": sum(outcome.outcome == OTHER for outcome in outcomes),
        "refused_in_one_line": sum(outcome.outcome == REFUSED for outcome in outcomes),
        "anything_else": sum(outcome.failed for outcome in outcomes),
        "failed": [asdict(outcome) for outcome in outcomes if outcome.failed],
        "slowest_milliseconds": max(outcome.milliseconds for outcome in outcomes),
        "peak_mib_above_start": round(max(outcome.peak for outcome in outcomes) / 2**20, 1),
        "seconds": round(seconds, 1),
    }


def attack(files: int) -> Iterator[dict[str, Any]]:
    """The row of each kind."""
    for kind in KINDS:
        start = time.perf_counter()
        outcomes = list(mutations(kind, files))
        yield row(kind, outcomes, time.perf_counter() - start)


def _computing() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def _peak() -> int:
    """Most memory that this process or a child of it had."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024
