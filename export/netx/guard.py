"""A place where libhdf5 may fail. Some damaged files send it into an endless loop or make it crash, checked or not.

So a file is opened in a forked child with limits on time and memory, which sends back the graph. That costs some
milliseconds. Linux only; elsewhere, and in daemonic processes, a file is read where it is asked for.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from export.graph import Graph, GraphError

if sys.platform == "linux":
    import resource

SECONDS = 4  # of computing, for a small file; more by its size
BYTES_A_SECOND = 2**24
MEMORY_BYTES = 2**30  # above what the process has at the start
PATIENCE = 15  # times as many seconds of waiting: the machine may be busy, the file far away
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGXCPU)
STOPPED = "libhdf5 was stopped"


def guarded(read: Callable[[Path], Graph], path: Path) -> Graph:
    """What `read` makes of a file. Raises its GraphError, or one that says how libhdf5 came to its end."""
    if sys.platform != "linux" or multiprocessing.current_process().daemon:  # which may have no children
        return read(path)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    seconds = SECONDS + path.stat().st_size // BYTES_A_SECOND
    child = context.Process(target=_child, args=(read, path, seconds, receiver, sender))
    child.start()
    sender.close()
    try:
        if not receiver.poll(seconds * PATIENCE):
            raise GraphError(f"{path}: not read after {seconds * PATIENCE} s")
        found: Graph | GraphError = receiver.recv()
    except (EOFError, OSError):
        child.join()
        code = child.exitcode or 0
        if -code not in CRASHES:
            raise RuntimeError(f"{path}: the reader ended with {code}, see its traceback if it has one") from None
        cause = f"after {seconds} s" if -code == signal.SIGXCPU else f"by {signal.Signals(-code).name}"
        raise GraphError(f"{path}: {STOPPED} {cause}; the file is damaged") from None
    finally:
        child.kill()  # if it still runs: it took too long, or the parent was interrupted
        receiver.close()
        child.join()
    if isinstance(found, GraphError):
        raise found
    return found


def _child(read: Callable[[Path], Graph], path: Path, seconds: int, receiver: Connection, sender: Connection) -> None:
    receiver.close()  # else nobody would notice that the parent is gone
    faulthandler.disable()  # the parent tells of a crash
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit(resource.RLIMIT_CPU, seconds)
    memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY_BYTES
    _limit(resource.RLIMIT_AS, memory)
    try:
        sender.send(read(path))
    except GraphError as error:
        sender.send(error)
    except MemoryError:
        sender.send(GraphError(f"{path}: takes more than {MEMORY_BYTES >> 20} MiB to read"))


def _limit(what: int, value: int) -> None:
    """Set a limit, under a stricter one if there is."""
    hard = resource.getrlimit(what)[1]
    least = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (least, hard))
