"""How the reader of network files bears broken ones: every mutation of small files is read or refused, nothing else.

    python -m benchmarks.fuzz --files 100000

Half of the files have their bytes changed, half their fields (`benchmarks/mutations.py`); a file follows from its seed
alone. The reader opens them in a child of its own (`export/guard.py`), where libhdf5 may crash or loop: that is
refused, and counted here. All is done in worker processes, so that what gets past the guard costs one file. A file
fails the reader that ends in any exception but GraphError, a signal, more than LIMIT_SECONDS, or more than LIMIT_BYTES
of memory above what the worker started with. Where libhdf5 crashes as a file is made, none was read: counted apart.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import queue
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.mutations import mutate
from benchmarks.originals import Original, originals
from export import guard, netx
from export.graph import GraphError
from export.limits import check

RESULT = Path(__file__).with_name("results") / "fuzz.json"
BATCH = 2000  # files a worker reads
LIMIT_SECONDS = 5.0  # of computing
HANGING_SECONDS = 60.0  # of waiting
LIMIT_BYTES = 2**30
ADDRESS_SPACE = 8 * 2**30  # where allocations fail, so that the machine survives a reader that is not bounded
READ, UNFIT, REFUSED, STOPPED = "read", "read, not for Loihi", "refused", "refused, as libhdf5 was stopped"
NOT_MADE = "not made: libhdf5 crashed on what was changed before"


@dataclass(frozen=True)
class Result:
    """outcome: one of the above, or how the reader failed. peak: bytes above what the worker started with."""

    seed: int
    outcome: str
    milliseconds: float = 0.0
    peak: int = 0

    @property
    def failed(self) -> bool:
        return self.outcome not in (READ, UNFIT, REFUSED, STOPPED, NOT_MADE)


def fuzz(seeds: Sequence[int], folder: Path) -> Iterator[Result]:
    """Read the file of every seed in worker processes that write into `folder`."""
    context = multiprocessing.get_context("spawn")
    log, errors = folder / "results", folder / "errors"
    while seeds:
        for file in (log, errors):
            file.write_text("")
        worker = context.Process(target=work, args=(list(seeds[:BATCH]), folder, log, errors))
        worker.start()
        worker.join()
        results = [Result(**json.loads(line)) for line in log.read_text().splitlines()]
        yield from results
        done = len(results)
        if worker.exitcode:
            yield Result(seeds[done], _cause(worker.exitcode, errors.read_text(errors="replace")))
            done += 1
        seeds = seeds[done:]


def shared(seeds: Sequence[int], jobs: int) -> Iterator[Result]:
    """`fuzz`, by several workers at once: results as they come."""
    came: queue.SimpleQueue[Result | BaseException | None] = queue.SimpleQueue()

    def part(job: int) -> None:
        try:
            with tempfile.TemporaryDirectory() as folder:
                for result in fuzz(seeds[job::jobs], Path(folder)):
                    came.put(result)
            came.put(None)
        except BaseException as error:
            came.put(error)

    for job in range(jobs):
        threading.Thread(target=part, args=(job,), daemon=True).start()
    left = jobs
    while left:
        found = came.get()
        if isinstance(found, BaseException):
            raise found
        if found is None:
            left -= 1
        else:
            yield found


def _cause(code: int, errors: str) -> str:
    if code == -signal.SIGALRM:
        return f"no answer in {HANGING_SECONDS:g} s"
    lines = errors.strip().splitlines() or [""]
    return signal.Signals(-code).name if code < 0 else lines[-1]


def work(seeds: list[int], folder: Path, log: Path, errors: Path) -> None:
    """What a worker does: one line of the log a file; whatever else happens ends it and is found in `errors`."""
    with open(errors, "w") as stream:
        os.dup2(stream.fileno(), sys.stderr.fileno())
    faulthandler.enable()
    sources, path = originals(folder), folder / "mutated.net"
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    base = _peak()
    with open(log, "w") as lines:
        for seed in seeds:
            made = make(seed, sources, path)
            start = _computing()
            signal.setitimer(signal.ITIMER_REAL, HANGING_SECONDS)  # its default action ends even a loop in C
            outcome = read(path) if made else NOT_MADE
            signal.setitimer(signal.ITIMER_REAL, 0)
            milliseconds, peak = 1000 * (_computing() - start), _peak() - base
            if milliseconds > 1000 * LIMIT_SECONDS:
                raise SystemExit(f"{milliseconds / 1000:.1f} s")
            if peak > LIMIT_BYTES:
                raise SystemExit(f"{peak / 2**20:.0f} MiB of memory")
            lines.write(json.dumps(asdict(Result(seed, outcome, round(milliseconds, 3), peak))) + "\n")
            lines.flush()


def make(seed: int, sources: Sequence[Original], path: Path) -> bool:
    """Write the file of a seed, in a fork; False where that crashes, since a file is changed more than once."""
    pid = os.fork()
    if not pid:
        faulthandler.disable()
        try:
            mutate(seed, sources, path)
            os._exit(0)
        finally:  # an exception of its own is a mistake of the mutations
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code > 0:
        raise RuntimeError(f"the file of seed {seed} could not be made")
    return code == 0


def read(path: Path) -> str:
    try:
        graph = netx.read(path)
    except GraphError as error:
        return STOPPED if guard.STOPPED in str(error) else REFUSED
    try:
        check(graph)
    except GraphError:
        return UNFIT
    return READ


def _computing() -> float:
    """Seconds of computing, children's with them, so that a busy machine fails no file."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _peak() -> int:
    """Most memory that this process or a child of it had."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024


def summary(results: Sequence[Result], seconds: float) -> dict[str, object]:
    slowest = max(results, key=lambda result: result.milliseconds)
    return {
        "files": len(results),
        "seeds": [results[0].seed, results[-1].seed],
        "read": sum(result.outcome == READ for result in results),
        "read_but_not_for_loihi": sum(result.outcome == UNFIT for result in results),
        "refused": sum(result.outcome in (REFUSED, STOPPED) for result in results),
        "not_made": sum(result.outcome == NOT_MADE for result in results),
        "of_those_libhdf5_stopped": [result.seed for result in results if result.outcome == STOPPED],
        "failed": [asdict(result) for result in results if result.failed],
        "seconds": round(seconds, 1),
        "peak_mib_above_start": round(max(result.peak for result in results) / 2**20, 1),
        "slowest": {"seed": slowest.seed, "milliseconds": slowest.milliseconds},
    }


def main(
    files: Annotated[int, typer.Option(min=1, help="Files to read.")] = 100_000,
    first: Annotated[int, typer.Option(min=0, help="Seed of the first; even seeds change bytes, odd ones fields.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Workers, which share the files.")] = 1,
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULT,
) -> None:
    start = time.perf_counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    for result in shared(range(first, first + files), jobs):
        results.append(result)
        if len(results) % BATCH == 0 or len(results) == files:  # what there is, should it be stopped
            found = summary(sorted(results, key=lambda result: result.seed), time.perf_counter() - start)
            out.write_text(json.dumps(found, indent=2) + "\n")
    Console().print_json(data=found)
    raise typer.Exit(1 if found["failed"] else 0)


if __name__ == "__main__":
    typer.run(main)
