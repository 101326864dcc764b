"""The same work on many things: one after the other, or by Dask in several processes, here or on other machines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numba
import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
CONNECT_SECONDS = 20
TRIES_ALONE = 3  # of an item whose worker died
WORKERS = 16  # that a scheduler is taken to have
SILENT_SECONDS = 30  # without a result, until a look at whether workers are left
# Dask holds a worker's death against all items that wait for it, so that none is tried again before it is alone.
ONE_DEATH = {"distributed.scheduler.allowed-failures": 0}
# A worker is not ended for the memory that it takes: the limit that Dask would set knows nothing of the work.
UNLIMITED = {f"distributed.worker.memory.{what}": False for what in ("target", "spill", "pause", "terminate")}


class ClusterError(ValueError):
    """Dask is not installed, or no scheduler answers."""


@dataclass(frozen=True)
class Cluster:
    """jobs: processes on this machine. address: of a Dask scheduler instead, whose workers see the same files."""

    jobs: int = 1
    address: str | None = None

    @property
    def alone(self) -> bool:
        return self.jobs == 1 and self.address is None

    @property
    def workers(self) -> int:
        """Processes to make work for; how many a scheduler has is not known before."""
        return self.jobs if self.address is None else WORKERS


def each(
    cluster: Cluster,
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    failed: Callable[[Item, str], Result],
    on_done: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """What work gives for each item, in their order; the same however many processes do it.

    work: a function of a module (or a partial of one), which handles what it expects to go wrong. failed: what an item
    gives whose worker died each time, also with no other item on it. on_done: called with items done and items in all.
    Raises ClusterError.
    """
    if cluster.alone:
        done = []
        for k, item in enumerate(items):
            _tell(on_done, k, len(items))
            done.append(work(item))
        _tell(on_done, len(items), len(items))
        return done
    task, results = _Task(work, _threads(cluster)), dict[int, Result]()

    def keep(outcomes: Iterator[tuple[int, Any]]) -> list[int]:
        """The items among them whose worker died."""
        died = []
        for k, outcome in outcomes:
            if isinstance(outcome, _Died):
                died.append(k)
            else:
                results[k] = failed(items[k], outcome.why) if isinstance(outcome, _Failed) else outcome
            _tell(on_done, len(results), len(items))
        return died

    def dies_alone(k: int) -> bool:
        with _client(Cluster(), 1) as client:
            return bool(keep(_outcomes(client, task, [(k, items[k])], local=True)))

    _tell(on_done, 0, len(items))
    with _client(cluster, len(items)) as client:
        died = keep(_outcomes(client, task, list(enumerate(items)), local=cluster.address is None))
        if cluster.address is not None:
            died = [k for k in died if keep(_outcomes(client, task, [(k, items[k])], local=False))]
    if cluster.address is None:
        for _ in range(TRIES_ALONE):
            died = [k for k in died if dies_alone(k)]
    for k in died:
        results[k] = failed(items[k], "its worker died each time, with nothing else on it; is there memory enough?")
        _tell(on_done, len(results), len(items))
    return [results[k] for k in range(len(items))]


@dataclass(frozen=True)
class _Died:
    """In place of a result: the worker died, of this item or of another that it had."""


@dataclass(frozen=True)
class _Failed:
    """In place of a result: the work raised an error that it does not handle."""

    why: str


def _outcomes(client: Any, task: _Task, items: Sequence[tuple[int, Item]], *, local: bool) -> Iterator[tuple[int, Any]]:
    """(place, result, _Died or _Failed) as they come. As many items are under way as there are workers.

    local: a worker that dies while it starts does not come again; where none is left, all others are given as _Died.
    """
    from distributed import CancelledError, KilledWorker, wait  # noqa: PLC0415 - only here, so that others need it not

    left, running = iter(items), dict[Any, int]()
    workers = _workers(client)
    while True:
        for k, item in islice(left, workers - len(running)):
            running[client.submit(task, item, pure=False)] = k
        if not running:
            return
        try:
            done = wait(list(running), timeout=SILENT_SECONDS if local else None, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            if client.scheduler_info(n_workers=-1)["workers"]:
                continue
            for k in (*running.values(), *(k for k, _ in left)):
                yield k, _Died()
            return
        except CancelledError:  # raised for all where the scheduler forgot some: it was started again
            for future in [future for future in running if future.cancelled()] or list(running):
                yield running.pop(future), _Died()
            continue
        for future in done:
            k = running.pop(future)
            try:
                yield k, future.result()
            except (KilledWorker, CancelledError):
                yield k, _Died()
            except Exception as error:  # whatever it is, the others go on
                yield k, _Failed(f"{type(error).__name__}: {error}")
            future.release()


def _tell(on_done: Callable[[int, int], None] | None, done: int, of: int) -> None:
    if on_done:
        on_done(done, of)


def _workers(client: Any) -> int:
    return max(1, sum(worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()))


def _threads(cluster: Cluster) -> int | None:
    """Of each process on this machine, so that together they have its cores."""
    return max(1, (os.cpu_count() or 1) // cluster.jobs) if cluster.address is None else None


@dataclass(frozen=True)
class _Task:
    """Work as a worker does it. threads: that PyTorch and numba may take."""

    work: Callable[[Any], Any]
    threads: int | None

    def __call__(self, item: Any) -> Any:
        if self.threads:
            torch.set_num_threads(self.threads)
            numba.set_num_threads(min(self.threads, numba.get_num_threads()))
        return self.work(item)


@contextmanager
def _client(cluster: Cluster, items: int) -> Iterator[Any]:
    try:
        import dask  # noqa: PLC0415
        from distributed import Client, LocalCluster  # noqa: PLC0415
    except ImportError:
        raise ClusterError("Dask is not installed: pip install distributed") from None
    if cluster.address is not None:
        if cluster.jobs > 1:
            raise ClusterError(f"{cluster.jobs} jobs and the scheduler {cluster.address}; one of the two is allowed")
        try:
            client = Client(cluster.address, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise ClusterError(f"no Dask scheduler answers at {cluster.address} ({error})") from None
        with client:
            try:
                client.wait_for_workers(1, timeout=CONNECT_SECONDS)
            except TimeoutError:
                raise ClusterError(f"the Dask scheduler at {cluster.address} has no worker") from None
            yield client
        return
    # No dashboard: it would be a port that others see.
    jobs, quiet = max(1, min(cluster.jobs, items)), {"dashboard_address": None, "host": "127.0.0.1"}
    with (
        dask.config.set(UNLIMITED | ONE_DEATH),
        LocalCluster(n_workers=jobs, threads_per_worker=1, memory_limit=0, **quiet) as local,
        Client(local) as client,
    ):
        yield client
