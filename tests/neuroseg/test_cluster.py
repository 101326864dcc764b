"""Work in several processes gives what it gives in one, and loses nothing when a worker is killed."""

from __future__ import annotations

import json
import os
import sys
import threading

import numpy as np
import pytest
import torch

from export import netx
from hardware_sim import SimulationError
from neuroseg.cluster import Cluster, ClusterError, each
from neuroseg.engine import Engine, run_shared
from neuroseg.experiments.crossval import Recipe, Variant, make_folds
from neuroseg.experiments.folds import run_folds
from neuroseg.runs import RunError
from neuroseg.training.finetune import FinetuneConfig
from neuroseg.training.train import TrainConfig
from neuroseg.training.unet import UNetConfig
from tests.commands import call
from tests.export.test_graph import chain
from tests.neuroseg.in_a_cluster import died, minus_one, picky_square, slow_square, square, square_of
from tests.neuroseg.training.test_training import blobs


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


@pytest.mark.slow
def test_a_run_that_is_shared_out_gives_the_trace_of_one(tmp_path):
    """By the command, and byte by byte."""
    graph, rng = chain(), np.random.default_rng(0)
    netx.write(graph, tmp_path / "m.net")
    np.save(tmp_path / "s.npy", (rng.random((9, 4, 1, 4, 4)) < 0.5).astype(np.uint8))
    files = [tmp_path / f"{name}.npz" for name in ("one", "two")]
    for file, options in zip(files, ((), ("--jobs", 2)), strict=True):
        call("simulate", tmp_path / "m.net", "--spikes", tmp_path / "s.npy", "--potentials", "--out", file, *options)
    one, two = (np.load(file) for file in files)
    assert set(one) == set(two)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    assert "--stream is one sample" in call(
        "simulate", tmp_path / "m.net", "--spikes", tmp_path / "s.npy", "--out", files[0], "-j", 2, "--stream", code=2
    )


def test_what_fails_in_a_part_ends_the_run_with_its_reason():
    wrong = torch.zeros(4, 6, 1, 4, 5, dtype=torch.uint8)
    with pytest.raises(SimulationError, match=r"spikes have shape \(2, 4, 1, 4, 5\)"):
        run_shared(Engine(), chain(), wrong, cluster=Cluster())


@pytest.mark.slow
def test_folds_that_are_shared_out_give_the_rows_of_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    recipe = Recipe(
        "blobs",
        config=TrainConfig(epochs=2, warm_up=5),
        variants=(Variant("tuned", 4, finetuned=True), Variant("converted", 4)),
        model=UNetConfig(channels=(3, 4)),
        tuning=FinetuneConfig(epochs=1),
    )
    folds, seen = make_folds(blobs(8), folds=2, seed=0), []
    try:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))  # as many as each of the two has
        run_folds(folds, tmp_path / "one", recipe, cluster=Cluster())
        run_folds(folds, tmp_path / "two", recipe, cluster=Cluster(2), on_done=lambda done, of: seen.append((done, of)))
        assert sorted(set(seen)) == [(k, 6) for k in range(7)]  # two ANNs, and two networks of each
        for name, place in (("ann", tmp_path / "one"), ("tuned", tmp_path / "two")):
            (place / "fold1-dice" / name / "run.json").write_text("{}")
            stored = (place / "fold2-dice.json").read_bytes()
            (place / "fold2-dice.json").unlink()
            with pytest.raises(RunError, match=rf"^fold 1, {name}: .*run\.json"):
                run_folds(folds, place, recipe, cluster=Cluster())
            assert (place / "fold2-dice.json").read_bytes() == stored  # of which nothing failed
    finally:
        torch.set_num_threads(threads)
    for number in (1, 2):
        one, two = (json.loads((tmp_path / name / f"fold{number}-dice.json").read_text()) for name in ("one", "two"))
        for row in (*one["rows"], *two["rows"]):
            del row["seconds"]
        assert one == two


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


@pytest.mark.slow
def test_work_that_a_scheduler_forgets_is_done_again():
    from distributed import Client, LocalCluster

    forgotten = threading.Event()
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as local, Client(local) as client:

        def forget(done: int, of: int) -> None:
            if done == 1 and not forgotten.is_set():
                forgotten.set()
                client.restart()

        cluster = Cluster(address=local.scheduler_address)
        assert each(cluster, slow_square, [1, 2, 3], failed=minus_one, on_done=forget) == [1, 4, 9]
    assert forgotten.is_set()


def test_without_dask_one_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match="pip install distributed"):
        each(Cluster(jobs=2), square, [1], failed=minus_one)
    assert each(Cluster(), square, [2], failed=minus_one) == [4]


def test_an_address_where_none_answers_is_named(monkeypatch):
    monkeypatch.setattr("neuroseg.cluster.CONNECT_SECONDS", 1)
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        each(Cluster(address="tcp://127.0.0.1:9"), square, [1], failed=minus_one)
