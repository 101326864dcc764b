"""Two processes that train together reach what one does, and go on where they were stopped."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from neuroseg import storage
from neuroseg.training.team import ALONE, Team
from tests.neuroseg.training.in_a_team import weights

ROOT = Path(__file__).parents[3]
SCRIPT = "tests.neuroseg.training.in_a_team"


def run(out: Path, *more: str) -> subprocess.CompletedProcess:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *torchrun, "-m", SCRIPT, str(out), *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def started(out: Path, *more: str) -> None:
    done = run(out, *more)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one_and_go_on(tmp_path):
    started(tmp_path / "two")
    first, second = (storage.load(tmp_path / f"two{rank}.safetensors") for rank in range(2))
    alone = weights(ALONE, tmp_path / "one.checkpoint", None)
    assert alone.keys() == first.keys() and len(alone) > 8
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-4, msg=name)
    started(tmp_path / "again", "5")  # into the second epoch
    assert (tmp_path / "again.checkpoint").exists() and not (tmp_path / "again0.safetensors").exists()
    shutil.copy(tmp_path / "again.checkpoint", tmp_path / "apart.checkpoint0")
    started(tmp_path / "again")
    for name, value in storage.load(tmp_path / "again0.safetensors").items():
        assert torch.equal(value, first[name]), name
    # One has a checkpoint that the other has not: as with a run folder on each machine's own disk.
    done = run(tmp_path / "apart", "99", "apart")
    assert done.returncode != 0 and "differ in data, settings or how far they are" in done.stderr
    assert not list(tmp_path.glob("apart*.safetensors"))


def test_batches_are_shared_out_in_turns():
    batch = torch.arange(7.0)
    assert [Team(rank=rank, size=3).share(batch).tolist() for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert Team(rank=1, size=9).share(batch).tolist() == batch.tolist()  # too few to share
    assert ALONE.share(batch) is batch and ALONE.gather(batch, 7) is batch and ALONE.told(lambda: 0.1) == 0.1
