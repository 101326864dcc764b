"""Where the process of Lava runs begins: `python -P entry.py FOLDER LAUNCHER_PID ROOT ERROR_FD ORDER_FD`.

It needs no package. What has to hold whatever happens later is set up before anything else is imported: every process
of the runs dies with its parent, their shared memory can be told by its name, their temporary files lie in the folder,
and what goes wrong is said to the launcher. `-P` keeps the working directory out of sys.path, where a user's random.py
may lie. Lava is imported once. Then each run that the launcher orders is done by a fork, so that none finds what
another left.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import shared_memory
from pathlib import Path
from shutil import rmtree

PR_SET_PDEATHSIG = 1  # linux/prctl.h
MEMORY = Path("/dev/shm")
LINUX = sys.platform == "linux"


def memory_prefix(folder: Path, launcher: int) -> str:
    """How the names of all shared memory of a run begin, where names may be that long (Linux)."""
    return f"neuroseg-{launcher}-{folder.name}-"


def unlink_memory(prefix: str) -> None:
    """Free what is left of a run's shared memory."""
    for segment in MEMORY.glob(f"{prefix}*") if LINUX else ():
        segment.unlink(missing_ok=True)


def main(folder: Path, launcher: int, root: str, error_fd: int, order_fd: int) -> None:
    """Run the jobs whose subfolders of `folder` are ordered, a line each; answer with an exit code, a line each."""
    prefix = memory_prefix(folder, launcher)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the launcher starts us with its signals blocked
    running = [0]  # the fork that does a run
    _end_with_parent(folder, launcher, prefix, running)
    _bind_children()
    _name_memory(prefix)
    orders = socket.socket(fileno=order_fd)
    try:
        _import_from(root)
        from hardware_sim.lava_backend.worker import get_ready, run  # noqa: PLC0415 - after all of the above

        while order := orders.recv(256):  # until the launcher closes its end
            job = folder / order.decode().rstrip("\n")
            get_ready(job)
            running[0] = os.fork()
            if not running[0]:
                orders.close()
                run(job, prefix)
                _leave(0)
            code = os.waitstatus_to_exitcode(os.waitpid(running[0], 0)[1])
            running[0] = 0
            orders.sendall(f"{code}\n".encode())
        _leave(0)
    except BaseException as error:
        reason = str(error) if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        os.write(error_fd, reason.encode(errors="replace")[:60_000])  # less than a pipe holds
        traceback.print_exc()
        unlink_memory(prefix)
        _leave(1)


def _leave(code: int) -> None:
    """End without taking down a thousand modules, which takes most of a second."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_with_parent(folder: Path, launcher: int, prefix: str, running: list[int]) -> None:
    """Leave at once on SIGTERM, and when the launcher dies; the children follow, see `_bind_children`.

    The launcher's death comes as SIGUSR1: getppid does not tell, as long as another thread of the launcher still ends.
    running: the pid of the fork that makes shared memory, which has to be gone before that is freed.
    """
    owner = os.getpid()

    def leave(number: int, _frame: object) -> None:
        if os.getpid() == owner:  # not a child, which inherited the handler
            if running[0]:
                with suppress(OSError):  # it has ended meanwhile
                    os.kill(running[0], signal.SIGKILL)
                    os.waitpid(running[0], 0)
            unlink_memory(prefix)
            if number == signal.SIGUSR1:  # nobody else is left to do it
                rmtree(folder, ignore_errors=True)
        os._exit(1)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGUSR1, leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if LINUX:
        _prctl()(PR_SET_PDEATHSIG, signal.SIGUSR1)
        if os.getppid() != launcher:  # it was gone before we asked
            leave(signal.SIGUSR1, None)


def _bind_children() -> None:
    """Every child, and every child's child, is killed when its parent dies; also one that has only just been forked."""
    if not LINUX:
        return
    prctl, forker = _prctl(), [os.getpid()]

    def before() -> None:
        forker[0] = os.getpid()

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != forker[0]:
            os._exit(1)

    os.register_at_fork(before=before, after_in_child=in_child)


def _prctl() -> Callable[..., int]:
    return ctypes.CDLL(None).prctl


def _name_memory(prefix: str) -> None:
    """Name shared memory after the run. Where this Python names it elsewhere, its resource tracker alone frees it."""
    if LINUX and hasattr(shared_memory, "_make_filename"):
        shared_memory._make_filename = lambda: f"/{prefix}{os.urandom(6).hex()}"


def _import_from(root: str) -> None:
    """Find our packages at `root`, behind the standard library: a module there must not stand in for one of its own."""
    places = [k for k, path in enumerate(sys.path) if path.endswith(("site-packages", "dist-packages"))]
    sys.path.insert(places[0] if places else len(sys.path), root)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
