"""Work in several processes gives what it gives in one, and loses nothing when a worker is killed."""

from __future__ import annotations

import sys

import pytest

from neuroseg.cluster import Cluster, ClusterError, each
from tests.neuroseg.in_a_cluster import died, minus_one, picky_square, square, square_of


@pytest.mark.slow
def test_two_workers_give_results_in_order():
    seen: list[tuple[int, int]] = []
    items = list(range(7))
    found = each(Cluster(jobs=2), square, items, failed=minus_one, on_done=lambda done, of: seen.append((done, of)))
    assert found == each(Cluster(), square, items, failed=minus_one) == [n * n for n in items]
    assert seen == [(k, 7) for k in range(8)]


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(tmp_path):
    files = [tmp_path / f"{k}.txt" for k in range(5)]
    for file in files:
        file.write_text("")
    files[2].write_text("x")  # once
    files[3].write_text("x" * 9)  # whenever it is tried
    assert each(Cluster(jobs=2), square_of, files, failed=died) == [0, 1, 4, -1, 16]


def test_a_scheduler_of_others_does_it():
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as local:
        cluster = Cluster(address=local.scheduler_address)
        assert not cluster.alone and each(cluster, square, [3, 4], failed=minus_one) == [9, 16]


def test_an_error_that_none_expects_ends_one_item_alone_and_no_worker_is_said(monkeypatch):
    from distributed import LocalCluster

    errors: list[str] = []
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as local:
        cluster = Cluster(address=local.scheduler_address)
        found = each(cluster, picky_square, [1, 2, 3], failed=lambda item, error: errors.append(error) or -1)
        assert found == [1, -1, 9] and errors == ["TypeError: two is none of mine"]
        with pytest.raises(ClusterError, match="2 jobs and the scheduler"):
            each(Cluster(2, local.scheduler_address), square, [1], failed=minus_one)
    monkeypatch.setattr("neuroseg.cluster.CONNECT_SECONDS", 1)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=None) as local,
        pytest.raises(ClusterError, match="has no worker"),
    ):
        each(Cluster(address=local.scheduler_address), square, [1], failed=minus_one)


def test_without_dask_one_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match="pip install distributed"):
        each(Cluster(jobs=2), square, [1], failed=minus_one)
    assert each(Cluster(), square, [2], failed=minus_one) == [4]


def test_an_address_where_none_answers_is_named(monkeypatch):
    monkeypatch.setattr("neuroseg.cluster.CONNECT_SECONDS", 1)
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        each(Cluster(address="tcp://127.0.0.1:9"), square, [1], failed=minus_one)
