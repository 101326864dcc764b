"""Runs of Lava that end, fail, stall or are killed: nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import hardware_sim
from export.graph import Dense, Edge, Graph, Input, Meta, Neuron, Population
from hardware_sim import LavaWorker, SimulationError
from hardware_sim.comparison.compare import compare
from hardware_sim.lava_backend import launch
from tests.export.test_graph import chain


def left_behind(temporary: Path, launchers: set[int]) -> set[str]:
    """Of runs in a folder for temporary files, started by some processes: shared memory, processes, files."""
    memory = {name for name in os.listdir("/dev/shm") if any(name.startswith(f"neuroseg-{p}-") for p in launchers)}
    workers = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(temporary).encode() in entry.read_bytes() and int(entry.parent.name) not in launchers:
                workers.add(entry.parent.name)
        except OSError:
            continue
    return memory | workers | {path.name for path in temporary.iterdir()}


@pytest.fixture
def clean(tmp_path, monkeypatch):
    """Nothing is left afterwards of the runs of this process, nor of those that the test adds to the set."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    launchers = {os.getpid()}
    yield launchers
    for program in launchers - {os.getpid()}:  # one that did not end would run for ever
        with contextlib.suppress(ProcessLookupError):
            os.kill(program, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while left_behind(tmp_path, launchers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left_behind(tmp_path, launchers)


def test_a_worker_does_run_after_run_and_goes_on_after_one_that_failed(clean, monkeypatch):
    graph, spikes = chain(), np.ones((2, 4, 1, 4, 4), np.uint8)
    with LavaWorker() as worker:
        first = hardware_sim.run(graph, spikes, backend="lava", worker=worker)
        thread = when_running(lambda pid: os.kill(pid, signal.SIGKILL))
        with pytest.raises(SimulationError, match="Lava failed"):
            hardware_sim.run(*LONG, backend="lava", worker=worker)
        thread.join()
        again = hardware_sim.run(graph, spikes, backend="lava", fidelity="stock", worker=worker)
        assert compare(first, again).equal
        with pytest.raises(SimulationError, match="open already"), worker:
            pass
        found: list[str] = []

        def elsewhere() -> None:
            try:
                hardware_sim.run(graph, spikes, backend="lava", worker=worker)
            except SimulationError as error:
                found.append(str(error))

        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
        assert "belongs to the thread that opened it" in found[0]
        if not os.fork():  # a child that unwinds leaves the worker be
            worker.__exit__()
            os._exit(0)
        os.wait()
        assert compare(first, hardware_sim.run(graph, spikes, backend="lava", worker=worker)).equal
    with pytest.raises(SimulationError, match="is not open"):
        hardware_sim.run(graph, spikes, backend="lava", worker=worker)


def test_a_process_of_many_open_files_runs_lava(clean):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        hardware_sim.run(chain(), np.ones((1, 4, 1, 4, 4), np.uint8), backend="lava")
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_synapses_than_lava_takes_are_refused_before_it_starts(clean):
    edges = tuple(Edge("input", Dense(np.full((1, 2), 2))) for _ in range(33))
    graph = Graph((Input("input", (2, 1, 1)), Population("n", (1, 1, 1), edges, Neuron(9))), integer=True)
    with pytest.raises(SimulationError, match="n: 33 synapses feed it; 1 to 32 run in stock Lava"):
        hardware_sim.run(graph, np.ones((1, 8, 2, 1, 1), np.uint8), backend="lava", fidelity="stock")


def test_fused_many_synapses_of_one_source_are_one_message(clean):
    edges = tuple(Edge("input", Dense(np.full((1, 2), 2)), target_delay=np.full((1, 1, 1), k % 5)) for k in range(33))
    end = Population("end", (1, 1, 1), (Edge("n", Dense(np.full((1, 1), 2))),), Neuron(None))
    graph = Graph(
        (Input("input", (2, 1, 1)), Population("n", (1, 1, 1), edges, Neuron(9)), end),
        integer=True,
        meta=Meta(timesteps=8),
    )
    spikes = (np.arange(16).reshape(1, 8, 2, 1, 1) % 3 == 0).astype(np.uint8)
    ours = hardware_sim.run(graph, spikes, backend="reference")
    assert ours.total("n") and compare(ours, hardware_sim.run(graph, spikes, backend="lava")).equal


LONG = (chain(), np.ones((20_000, 4, 1, 4, 4), np.uint8))  # longer than any test waits


def test_a_normal_end_leaves_nothing(clean):
    hardware_sim.run(chain(), np.ones((2, 4, 1, 4, 4), np.uint8), backend="lava")


def test_an_exception_in_a_process_model_is_reported_and_leaves_nothing(clean, monkeypatch):
    prepare = launch._prepare

    def with_a_folder(files, job, graph, spikes):
        prepare(files, job, graph, spikes)
        files.spikes(0).mkdir()  # the layer's model fails when it opens its file

    monkeypatch.setattr(launch, "_prepare", with_a_folder)
    with pytest.raises(SimulationError, match=r"Lava failed: IsADirectoryError.*spikes_0\.bin"):
        hardware_sim.run(*LONG, backend="lava", stall_timeout=60)


def process_that_writes(file: str) -> int:
    """The Lava process of this test that has a file of the job open, and so is the layer that records into it."""
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            path = os.readlink(entry)
            if path.startswith(os.path.realpath(tempfile.gettempdir())) and path.endswith("/" + file):
                return int(entry.parts[2])
        except OSError:
            continue
    raise AssertionError(f"no process writes {file}")


def when_running(act) -> threading.Thread:
    """Call `act(pid)` on the Lava process of the population `hidden` once some steps are done."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            progress = list(Path(tempfile.gettempdir()).glob("neuroseg-*/run-*/progress.npy"))
            if any(np.load(p).max() > 10 for p in progress if p.stat().st_size > 128):
                act(process_that_writes("spikes_0.bin"))
                return
            time.sleep(0.05)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_stalled_run_is_ended_and_names_what_waits(clean):
    thread = when_running(lambda pid: os.kill(pid, signal.SIGSTOP))
    with pytest.raises(SimulationError, match=r"no progress for 3 s at step \d+; still waiting: hidden"):
        hardware_sim.run(*LONG, backend="lava", stall_timeout=3)
    thread.join()


def test_a_killed_lava_process_ends_the_run(clean):
    thread = when_running(lambda pid: os.kill(pid, signal.SIGKILL))
    with pytest.raises(SimulationError, match="Lava failed"):
        hardware_sim.run(*LONG, backend="lava", stall_timeout=60)
    thread.join()


PROGRAM = (
    "import signal, hardware_sim\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background shell has it ignored
    "from tests.hardware_sim.lava_backend.test_process import LONG\n"
    "seen = []\n"
    "def show(done, total):\n"
    "    seen or print('running', flush=True)\n"
    "    seen.append(done)\n"
    "print('starting', flush=True)\n"
    "hardware_sim.run(*LONG, backend='lava', on_step=show)\n"
)


def start_program(launchers: set[int]) -> subprocess.Popen:
    root = Path(__file__).resolve().parents[3]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=root, **pipes)
    launchers.add(program.pid)
    assert program.stdout.readline() == b"starting\n"
    return program


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupting_or_killing_the_program_leaves_nothing(clean, how):
    program = start_program(clean)
    assert program.stdout.readline() == b"running\n"
    program.send_signal(how)
    _, errors = program.communicate(timeout=60)
    assert program.returncode != 0
    assert how is signal.SIGKILL or b"KeyboardInterrupt" in errors


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("after", [0.2, 1.0, 1.6, 2.2])  # seconds; Lava is imported and its processes come up
def test_so_does_it_while_lava_comes_up(clean, how, after):
    program = start_program(clean)
    time.sleep(after)
    program.send_signal(how)
    program.communicate(timeout=12)  # no hang
    assert program.returncode != 0


def test_a_missing_lava_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "lava", None)
    with pytest.raises(SimulationError, match="Lava is not installed; `neuroseg lava install` installs it"):
        hardware_sim.run(chain(), np.ones((1, 4, 1, 4, 4), np.uint8), backend="lava")


def test_a_missing_loihi_is_one_clear_error(clean):
    with pytest.raises(SimulationError, match="needs a Loihi chip"):
        hardware_sim.run(chain(), np.ones((1, 4, 1, 4, 4), np.uint8), backend="loihi")
