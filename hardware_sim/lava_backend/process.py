"""The process that runs Lava, from the launcher's side; `entry` is the other.

A process of its own can be ended whatever state Lava is in: no child and no shared memory stays behind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from hardware_sim.lava_backend import entry
from hardware_sim.record import SimulationError

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
GRACE_SECONDS = 15.0  # for the process to end its actors
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
ENDINGS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}


class LavaWorker:
    """A process that has imported Lava and does one run after another, each in a fork of its own.

    To import Lava takes longer than a small run: whoever makes many opens one for all of them, as in
    `with LavaWorker() as worker: run(graph, spikes, backend="lava", worker=worker)`. It belongs to the thread that
    opened it. A run that fails or is interrupted ends the process; the next one starts another.
    """

    def __init__(self) -> None:
        self._place: Path | None = None  # no TemporaryDirectory: that would end with a fork of this process, too
        self._process: subprocess.Popen | None = None
        self._orders: socket.socket | None = None  # a line for each job there, its exit code back
        self._errors = -1  # the end of a pipe on which the process says why it failed
        self._owner = (0, 0)  # process and thread

    def __enter__(self) -> LavaWorker:
        if self._place:
            raise SimulationError("the Lava worker is open already")
        self._owner = (os.getpid(), threading.get_ident())
        self._place = Path(tempfile.mkdtemp(prefix="neuroseg-"))
        try:
            self._start()  # it imports Lava while the first run is prepared
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        if self._place and self._owner[0] == os.getpid():  # in a fork of the owner, all of it is the owner's
            self._end()
            shutil.rmtree(self._place, ignore_errors=True)
        self._place = None

    @property
    def folder(self) -> Path:
        """Where the runs' folders lie. Raises SimulationError unless the worker is open."""
        if self._place is None:
            raise SimulationError("the Lava worker is not open; `with LavaWorker() as worker:` opens it")
        if self._owner != (os.getpid(), threading.get_ident()):
            raise SimulationError("the Lava worker belongs to the thread that opened it; each may open its own")
        return self._place

    @contextlib.contextmanager
    def doing(self, job: Path) -> Iterator[None]:
        """Begin the job in a subfolder; on the way out of the block it has to be done, or the process is ended."""
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._start()
        assert self._orders
        done = False
        try:
            with contextlib.suppress(OSError):  # it has failed to start; `is_done` says why
                self._orders.sendall(f"{job.name}\n".encode())
            yield
            done = True
        finally:
            if not done:
                self._end()

    def is_done(self, *, within: float) -> bool:
        """Wait some seconds for the job's end. Raises SimulationError if it failed."""
        assert self._orders and self._process
        self._orders.settimeout(within)
        try:
            answer = self._orders.recv(64)
        except TimeoutError:
            return False
        except ConnectionResetError:
            answer = b""
        code = int(answer) if answer else self._process.wait()
        if code or not answer:
            raise SimulationError(f"Lava failed: {self._cause(code)}")
        return True

    def _start(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        self._errors, said = os.pipe()
        self._orders, theirs = socket.socketpair()
        script = [sys.executable, "-P", str(Path(entry.__file__).resolve())]
        numbers = [str(os.getpid()), root, str(said), str(theirs.fileno())]
        try:
            with _uninterrupted(), open(self._log, "wb") as output:
                self._process = subprocess.Popen(
                    [*script, str(self.folder), *numbers],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches this process alone, which ends the other in order
                    pass_fds=(said, theirs.fileno()),
                    cwd=self.folder,
                    env=_environment(self.folder),
                )
        finally:
            os.close(said)
            theirs.close()

    @property
    def _log(self) -> Path:
        return self.folder / "worker.log"

    def _cause(self, code: int) -> str:
        """Why the process failed, in its own words; everything it wrote goes to the log."""
        output = self._log.read_text(errors="replace").strip()
        log.info("the Lava worker said:\n%s", output)
        os.set_blocking(self._errors, False)  # the process itself may live on, and hold the other end
        with contextlib.suppress(BlockingIOError):
            if reason := os.read(self._errors, 2**16).decode(errors="replace"):
                return reason
        if code == -signal.SIGKILL:
            return "its process was killed; was the memory full? (--verbose shows what it said)"
        return f"its process ended with code {code}: {output.splitlines()[-1] if output else 'it said nothing'}"

    def _end(self) -> None:
        """End the process if there is one; the last resort kills its whole session. Its shared memory is freed."""
        if self._orders:
            self._orders.close()
            os.close(self._errors)
            self._orders = None
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        _kill_session(process.pid)
        entry.unlink_memory(entry.memory_prefix(self.folder, os.getpid()))


def _environment(folder: Path) -> dict[str, str]:
    """The process's: one thread each, temporary files in its folder, relative entries of PYTHONPATH kept."""
    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    # Through /proc the path is short enough for a socket, wherever the folder lies.
    temporary = "/proc/self/cwd" if sys.platform == "linux" else str(folder)
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(paths), "TMPDIR": temporary}


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off signals that would end this process between the start of a child and its name being known."""
    if threading.current_thread() is not threading.main_thread():  # others get none
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill_session(leader: int) -> None:
    """Wait for the rest of the process's session, its resource tracker among them; then kill what is left."""
    deadline = time.monotonic() + GRACE_SECONDS
    with contextlib.suppress(ProcessLookupError):  # all of them ended by themselves
        while time.monotonic() < deadline:
            os.killpg(leader, 0)
            if sys.platform == "linux" and not _alive(leader):
                return
            time.sleep(POLL_SECONDS)
        os.killpg(leader, signal.SIGKILL)


def _alive(session: int) -> bool:
    """Whether a process of a session still runs. Those that ended may wait for long until init buries them."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, found = file.read_text().rpartition(")")[2].split()[:4]  # proc(5): state, ppid, pgrp, session
            if int(found) == session and state not in "ZX":
                return True
    return False
