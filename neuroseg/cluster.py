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
# A worker has one, so that none waits on another's worker, whose death Dask would hold against both.
SLOT = {"slot": 1}
WORKERS = 16  # that a scheduler is taken to have
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
    gives whose worker died again and again. on_done: called with items done and items in all. Raises ClusterError.
    """
    if cluster.alone:
        results = []
        for k, item in enumerate(items):
            _tell(on_done, k, len(items))
            results.append(work(item))
        _tell(on_done, len(items), len(items))
        return results
    with _client(cluster, len(items)) as client:
        slot = None if cluster.address else SLOT
        return _shared(client, _Task(work, _threads(cluster)), items, failed, on_done, slot)


def _shared(
    client: Any,
    task: _Task,
    items: Sequence[Item],
    failed: Callable[[Item, str], Result],
    on_done: Callable[[int, int], None] | None,
    slot: dict[str, int] | None,
) -> list[Result]:
    """One item a worker at a time, so that a worker that dies takes no other with it; what is done is fetched."""
    from distributed import KilledWorker, as_completed  # noqa: PLC0415 - only here, so that others need it not

    found: dict[int, Result] = {}
    left = iter(enumerate(items))
    place: dict[str, int] = {}

    def submit(k: int, item: Item) -> Any:
        future = client.submit(task, item, pure=False, resources=slot)
        place[future.key] = k
        return future

    running = as_completed([submit(k, item) for k, item in islice(left, _workers(client))])
    _tell(on_done, 0, len(items))
    for future in running:
        k = place[future.key]
        try:
            found[k] = future.result()
        except KilledWorker as error:
            died = getattr(error, "allowed_failures", 0) + 1
            found[k] = failed(items[k], f"its worker died {died} times; is there memory enough?")
        except Exception as error:  # whatever it is, the others go on
            found[k] = failed(items[k], f"{type(error).__name__}: {error}")
        future.release()
        _tell(on_done, len(found), len(items))
        following = next(left, None)
        if following:
            running.add(submit(*following))
    return [found[k] for k in range(len(items))]


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
        dask.config.set(UNLIMITED),
        LocalCluster(n_workers=jobs, threads_per_worker=1, memory_limit=0, resources=SLOT, **quiet) as local,
        Client(local) as client,
    ):
        yield client
