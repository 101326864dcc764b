"""The same work on many things: one after the other, or by Dask in several processes, here or on other machines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
RETRIES = 3  # of work whose worker dies under it
CONNECT_SECONDS = 20


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
    done = 0

    def count() -> None:
        nonlocal done
        if on_done:
            on_done(done, len(items))
        done += 1

    if cluster.alone:
        results = []
        for item in items:
            count()
            results.append(work(item))
        count()
        return results
    with _client(cluster) as client:
        from distributed import KilledWorker, as_completed  # noqa: PLC0415 - only here, so that others need it not

        threads = max(1, (os.cpu_count() or 1) // cluster.jobs) if cluster.address is None else None
        futures = [client.submit(_Task(work, threads), item, pure=False, retries=RETRIES) for item in items]
        found: dict[str, Result] = {}
        places = {future.key: item for future, item in zip(futures, items, strict=True)}
        count()
        for future in as_completed(futures):
            try:
                found[future.key] = future.result()
            except KilledWorker:
                text = f"its worker died {RETRIES + 1} times; is there memory enough?"
                found[future.key] = failed(places[future.key], text)
            count()
        return [found[future.key] for future in futures]


@dataclass(frozen=True)
class _Task:
    """Work as a worker does it. threads: of PyTorch, so that the workers of a machine share its cores."""

    work: Callable[[Any], Any]
    threads: int | None

    def __call__(self, item: Any) -> Any:
        if self.threads:
            torch.set_num_threads(self.threads)
        return self.work(item)


@contextmanager
def _client(cluster: Cluster) -> Iterator[Any]:
    try:
        from distributed import Client, LocalCluster  # noqa: PLC0415
    except ImportError:
        raise ClusterError("Dask is not installed: pip install distributed") from None
    if cluster.address is not None:
        try:
            client = Client(cluster.address, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise ClusterError(f"no Dask scheduler answers at {cluster.address} ({error})") from None
        with client:
            yield client
        return
    # No dashboard: it would be a port that others see.
    with (
        LocalCluster(n_workers=cluster.jobs, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as local,
        Client(local) as client,
    ):
        yield client
