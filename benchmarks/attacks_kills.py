"""Kills of `benchmarks/attacks.py`: a command dies at a random moment (SIGKILL), is started again, and must end right.

Right is what the uninterrupted command gave, number by number. Nothing of the killed one may go on: no process, no
shared memory. All of it runs with a /dev/shm of its own where this user may have one (`in_a_namespace`), so that what
lies there is ours; its processes carry a mark in their environment.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from export import netx
from hardware_sim.lava_backend.limits import MEMORY
from hardware_sim.trace import Trace
from neuroseg import storage
from neuroseg.runs import Run

ROOT = Path(__file__).resolve().parents[1]
MARK = "NEUROSEG_ATTACK"
GRACE_SECONDS = 10.0  # for what dies with its parent
DATA = ("--data", "template:3")
SMALL = ("--channels", "2,3", "--dropout", "0", "--epochs", "3")


@dataclass(frozen=True)
class Command:
    """A command that is killed. arguments: in the folder of a copied run; result: what it must give, as bytes."""

    name: str
    arguments: Callable[[Path], tuple[object, ...]]
    result: Callable[[Path], bytes]
    fresh: bool = False  # starts without a run


@dataclass
class Row:
    """kind: the command. left: what outlived the killed one; wrong: reruns that gave something else."""

    kind: str
    tried: int = 0
    killed_while_running: int = 0
    right_after_rerun: int = 0
    wrong: list[float] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "anything_else": len(self.wrong) + len(self.left)}


def in_a_namespace() -> None:
    """Start this program again with a /dev/shm of its own; go on as it is where that is not allowed."""
    if MARK in os.environ or not shutil.which("unshare"):
        return
    alone = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0:
        again = [sys.executable, "-m", "benchmarks.attacks", *sys.argv[1:]]
        os.execvpe(alone[0], [*alone, *again], {**os.environ, MARK: "namespace"})


def kill(commands: Sequence[Command], rounds: int, minutes: float, seed: int = 0) -> Iterator[Row]:
    """Kill every command `rounds` times, or until the time is over; a row after every command."""
    rng, end = np.random.default_rng(seed), time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        for arguments in (("train", *DATA, "--out", made, *SMALL), ("convert", made, "-T", 4), ("export", made)):
            _run(arguments, Path(folder))
        for command in commands:
            yield _kill_often(command, made, Path(folder), rounds, rng, end)


def _kill_often(command: Command, made: Path, folder: Path, rounds: int, rng: np.random.Generator, end: float) -> Row:
    row = Row(command.name)
    place = _copy(command, made, folder)
    start = time.monotonic()
    _run(command.arguments(place), folder)
    seconds, right = time.monotonic() - start, command.result(place)
    for _ in range(rounds):
        if time.monotonic() > end:
            break
        place = _copy(command, made, folder)
        row.tried += 1
        moment = float(rng.uniform(0, seconds))
        row.killed_while_running += _kill_at(moment, command.arguments(place), folder)
        row.left += left_behind()
        said = _end(_start(command.arguments(place), folder))
        if said and "holds a run" not in said:  # what was complete already is not made again
            raise RuntimeError(said)
        if command.result(place) == right:
            row.right_after_rerun += 1
        else:
            row.wrong.append(moment)
    return row


def _copy(command: Command, made: Path, folder: Path) -> Path:
    place = folder / "run"
    shutil.rmtree(place, ignore_errors=True)
    if not command.fresh:
        shutil.copytree(made, place)
    return place


def _start(arguments: tuple[object, ...], folder: Path) -> subprocess.Popen:
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    environment = {**os.environ, MARK: str(os.getpid()), "TMPDIR": str(scratch)}
    command = [sys.executable, "-m", "neuroseg", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )


def _run(arguments: tuple[object, ...], folder: Path) -> None:
    if said := _end(_start(arguments, folder)):
        raise RuntimeError(said)


def _end(process: subprocess.Popen) -> str:
    """Wait for a command; what it said if it failed."""
    said = process.communicate()[1].decode(errors="replace")
    return f"{process.args} ended with {process.returncode}: {said}" if process.returncode else ""


def _kill_at(moment: float, arguments: tuple[object, ...], folder: Path) -> bool:
    """Whether it still ran at that moment."""
    process = _start(arguments, folder)
    time.sleep(moment)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.stderr:
        process.stderr.close()
    return running


def left_behind() -> list[str]:
    """Processes and shared memory of a killed command that are there after a while."""
    end = time.monotonic() + GRACE_SECONDS
    while (found := [*_processes(), *_memory()]) and time.monotonic() < end:
        time.sleep(0.05)
    for process in found:
        if process.isdigit():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
    return found


def _processes() -> list[str]:
    mark, found = f"{MARK}={os.getpid()}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):  # a zombie has none
                found.append(folder.name)
    return found


def _memory() -> list[str]:
    """In a namespace all that lies there is ours."""
    alone = os.environ.get(MARK) == "namespace"
    return sorted(file.name for file in MEMORY.glob("*" if alone else "neuroseg-*"))


def _weights(name: str) -> Callable[[Path], bytes]:
    def result(folder: Path) -> bytes:
        state = storage.load(folder / name)["state"]
        return _digest({key: value.numpy() for key, value in state.items()})

    return result


def _network(folder: Path) -> bytes:
    graph = netx.read(Run(folder).network)
    return _digest({f"{p.name}:{k}": e.op.weight for p in graph.populations for k, e in enumerate(p.edges)})


def _trace(folder: Path) -> bytes:
    trace = Trace.load(folder / "trace.npz")
    return _digest({**trace.packed, "output": trace.output})


def _digest(arrays: dict[str, np.ndarray]) -> bytes:
    total = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
    return total.digest()


def _simulate(fidelity: str) -> Callable[[Path], tuple[object, ...]]:
    def arguments(run: Path) -> tuple[object, ...]:
        lava = ("--backend", "lava", "--fidelity", fidelity)
        return ("simulate", Run(run).network, "--data", "template:1", *lava, "--out", run / "trace.npz")

    return arguments


COMMANDS = (
    Command("train", lambda run: ("train", *DATA, "--out", run, *SMALL), _weights("ann.safetensors"), fresh=True),
    Command("finetune", lambda run: ("finetune", run, "--epochs", 2), _weights("snn.safetensors")),
    Command("export", lambda run: ("export", run), _network),
    Command("pretrained", lambda run: ("pretrained", run), _weights("snn.safetensors"), fresh=True),
    Command("simulate, Lava fused", _simulate("fused"), _trace),
    Command("simulate, Lava stock", _simulate("stock"), _trace),
)
