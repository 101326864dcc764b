"""A place where libhdf5 may fail. Some damaged files send it into an endless loop or make it crash, checked or not.

So a file is opened in a forked child with limits on time and memory, which sends back the graph. That costs some
milliseconds. Linux only; elsewhere a file is read where it is asked for.

Other threads of the parent may have files open at that moment, and forking doubles those: a lock on one would last
until the child ends (HDF5 locks what it writes, a run folder is locked while a command works on it), and what h5py
closes, libhdf5 writes. So the child closes all that it has not opened, and lets no garbage collector at the rest.
That no other thread is inside libhdf5 meanwhile, h5py sees to: it holds its lock while a process forks.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from export.graph import GraphError

if sys.platform == "linux":
    import resource

SECONDS = 4  # of computing, for a small file; more by its size
MORE_SECONDS = 8  # at most, for a megabyte each: a file of a thousand layers is many small datasets
BYTES_A_SECOND = 2**24
MEMORY_BYTES = 2**30  # above what the process has at the start, for a small file; more by its size
MEMORY_PER_BYTE = 32  # twice as much as may be read
PATIENCE = 15  # times as many seconds of waiting: the machine may be busy, the file far away
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGXCPU)
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED = "libhdf5 was stopped"
FIRST_FILE = 3  # after the standard streams
Found = TypeVar("Found")
FORKING = threading.Lock()  # packages with hooks at a fork (filelock) refuse two at once


def guarded(read: Callable[[Path], Found], path: Path) -> Found:
    """What `read` makes of a file. Raises its GraphError, or one that says how libhdf5 came to its end.

    `read` should import nothing: another thread of the parent may have been importing, and its lock stays shut.
    """
    if sys.platform != "linux":
        return read(path)
    size = path.stat().st_size
    seconds = SECONDS + min(size >> 20, MORE_SECONDS) + size // BYTES_A_SECOND
    receiver, sender = Pipe(duplex=False)
    pid, code = -1, None
    try:
        with FORKING, _signals_wait():
            pid = os.fork()
            if not pid:
                _child(read, path, seconds, sender)
        sender.close()  # the child's end is then the only one, and its death is the end of the file
        if not receiver.poll(seconds * PATIENCE):
            raise GraphError(f"{path}: not read after {seconds * PATIENCE} s")
        found: Found | GraphError | RuntimeError = receiver.recv()
    except (EOFError, OSError):
        code = _ended(pid)
        if -code not in CRASHES:
            raise RuntimeError(f"{path}: the reader ended with {code}") from None
        cause = f"after {seconds} s" if -code == signal.SIGXCPU else f"by {signal.Signals(-code).name}"
        raise GraphError(f"{path}: {STOPPED} {cause}; the file is damaged") from None
    finally:
        if code is None and pid > 0:
            os.kill(pid, signal.SIGKILL)  # if it still runs: it took too long, or the parent was interrupted
            _ended(pid)
        receiver.close()
    if isinstance(found, GraphError | RuntimeError):
        raise found
    return found


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Signals are answered after the block: what a handler raises in a hook of os.fork (logging has one) is lost."""
    if threading.current_thread() is not threading.main_thread():  # no handler runs in another
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


def _ended(pid: int) -> int:
    """Wait for the child; its exit code, or less the number of the signal that ended it."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:  # whoever ignores SIGCHLD is not told
        return 0


def _child(read: Callable[[Path], Any], path: Path, seconds: int, sender: Connection) -> NoReturn:
    try:
        gc.freeze()
        faulthandler.disable()  # the parent tells of a crash
        for number in HANDLED:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)  # the parent ends it
        _close_all_but(sender.fileno())
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _limit(resource.RLIMIT_CPU, seconds)
        memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        memory += MEMORY_BYTES + MEMORY_PER_BYTE * path.stat().st_size
        _limit(resource.RLIMIT_AS, memory)
        sender.send(_outcome(read, path))
    finally:
        os._exit(0)  # whatever is unfinished is the parent's


def _outcome(read: Callable[[Path], Found], path: Path) -> Found | GraphError | RuntimeError:
    try:
        return read(path)
    except GraphError as error:
        return error
    except MemoryError:
        return GraphError(f"{path}: takes more than {MEMORY_BYTES >> 20} MiB to read")
    except Exception:  # a mistake of the reader's own
        return RuntimeError(f"{path}: the reader failed:\n{traceback.format_exc()}")


def _close_all_but(kept: int) -> None:
    end = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    end = 2**20 if end == resource.RLIM_INFINITY else end
    os.closerange(FIRST_FILE, kept)
    os.closerange(max(kept + 1, FIRST_FILE), end)


def _limit(what: int, value: int) -> None:
    """Set a limit, under a stricter one if there is."""
    hard = resource.getrlimit(what)[1]
    least = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (least, hard))
