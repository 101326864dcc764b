"""Reading forks a child; what other threads have open meanwhile, and hold locked, is none of its business."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import threading
import time
from pathlib import Path

import h5py
import pytest

from export import netx
from export.graph import Graph, Meta, same
from export.guard import guarded
from tests.examples import some
from tests.export.test_graph import chain

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files are read in a child on Linux only")
THREADS, READS = 4, some(50)


def test_threads_read_and_write_at_once(tmp_path):
    """200 reads. A child that kept the lock of a file being written made the next to open it fail."""
    graph, wrong = chain(), []

    def work(number: int) -> None:
        path = tmp_path / f"{number}.net"
        try:
            for _ in range(max(READS // 5, 1)):
                netx.write(graph, path)
                with h5py.File(path, "r+") as file:  # as others do: with a lock
                    del file["meta"].attrs["sha256"]
                for _ in range(5):
                    if not same(netx.read(path), graph):
                        wrong.append("another graph")
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert not any(thread.is_alive() for thread in threads), "it hangs"
    assert not wrong


def files_open(path: Path) -> Graph:
    """What the child has open, in the notes of a graph."""
    names = {}
    for number in filter(lambda number: int(number) > 2, os.listdir("/proc/self/fd")):
        with contextlib.suppress(FileNotFoundError):  # the list of them was one
            names[number] = os.readlink(f"/proc/self/fd/{number}")
    return Graph(chain().nodes, integer=True, meta=Meta(notes=names))


def test_the_child_has_nothing_of_its_parents_open(tmp_path):
    path = netx.write(chain(), tmp_path / "n.net")
    with open(tmp_path / "lock", "w") as lock, h5py.File(tmp_path / "open.h5", "w"):
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = guarded(files_open, path).meta.notes
    assert [name.partition(":")[0] for name in found.values()] == ["pipe"]  # to the parent


def test_a_file_that_this_process_has_open_is_read(tmp_path):
    """libhdf5 would look for it among the files of the parent."""
    path = netx.write(chain(), tmp_path / "n.net")
    for mode in ("r", "r+"):
        with h5py.File(path, mode):
            assert same(netx.read(path), chain())


def test_no_child_is_left(tmp_path):
    path = netx.write(chain(), tmp_path / "n.net")
    children = Path("/proc/self/task", str(os.getpid()), "children")
    before = children.read_text()
    for _ in range(3):
        netx.read(path)
    assert children.read_text() == before


def wait(path: Path) -> Graph:
    time.sleep(60)
    return chain()


def test_an_interrupt_ends_the_child(tmp_path):
    path = netx.write(chain(), tmp_path / "n.net")
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        guarded(wait, path)
    assert time.monotonic() - start < 10


def test_an_interrupt_while_forking_ends_the_child(tmp_path):
    """A hook of os.fork swallows what a signal's handler raises in it, and logging has such a hook."""
    path = netx.write(chain(), tmp_path / "n.net")
    parent, interrupted = os.getpid(), []
    os.register_at_fork(after_in_parent=lambda: interrupted or (interrupted.append(1), os.kill(parent, signal.SIGINT)))
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        guarded(wait, path)
    assert interrupted
    assert time.monotonic() - start < 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
