"""Files of weights: what is written is read, what is damaged is refused, and nothing in one can run code."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from neuroseg import runs, storage
from neuroseg.runs import Run, RunError
from neuroseg.training.train import TrainConfig, train
from neuroseg.training.unet import UNetConfig
from tests.neuroseg.training.test_training import blobs

CONTENT = {
    "state": {"a": torch.arange(6.0).view(2, 3), "b.c": torch.tensor(1.5, dtype=torch.float64)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 7: {}}, "groups": [{"lr": 0.1, "params": [0, 7]}]},
    "empty": torch.zeros(0, 3, dtype=torch.bfloat16),
    "history": [{"loss": 0.1234567890123456, "best": None, "ok": True}],
}


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_what_is_written_is_read(tmp_path):
    storage.save(CONTENT, tmp_path / "c.safetensors")
    assert equal(storage.load(tmp_path / "c.safetensors"), CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


def test_others_can_open_the_file(tmp_path):
    from safetensors import safe_open

    storage.save(CONTENT, tmp_path / "c.safetensors")
    with safe_open(tmp_path / "c.safetensors", "np") as file:
        np.testing.assert_array_equal(file.get_tensor("state.a"), CONTENT["state"]["a"].numpy())
        assert json.loads(file.metadata()["neuroseg"])["history"] == CONTENT["history"]


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    path = tmp_path / "c.safetensors"
    storage.save(CONTENT, path)
    good = path.read_bytes()
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << (place % 8)
        path.write_bytes(bad)
        try:  # a blank that becomes another blank changes nothing
            assert equal(storage.load(path), CONTENT), place
        except storage.StorageError:
            continue


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1])
def test_torn_files_are_refused(size, tmp_path):
    path = tmp_path / "c.safetensors"
    storage.save(CONTENT, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(storage.StorageError):
        storage.load(path)


def test_a_foreign_file_is_refused_by_what_it_lacks(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "f.safetensors")
    with pytest.raises(storage.StorageError, match="lacks 'neuroseg'"):
        storage.load(tmp_path / "f.safetensors")


ATTACK = """
import sys, torch

MARK = sys.argv[1]

class Attack(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mark = MARK
        self.made = torch.zeros(1)

    def forward(self, x):
        return x

    @torch.jit.export
    def __getstate__(self):
        return self.mark, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.mark = state[0]
        self.training = state[1]
        self.made = torch.from_file(self.mark, True, 8)  # makes the file

torch.jit.save(torch.jit.script(Attack()), sys.argv[2])
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A TorchScript archive that makes the file `mark` when it is loaded, and that file's path."""
    folder = tmp_path_factory.mktemp("attack")
    mark, path = folder / "mark", folder / "archive"
    subprocess.run([sys.executable, "-W", "ignore", "-c", ATTACK, str(mark), str(path)], check=True)
    loading = [sys.executable, "-W", "ignore", "-c", "import sys, torch; torch.jit.load(sys.argv[1])", str(path)]
    subprocess.run(loading, check=True)
    assert mark.exists(), "the attack is none"
    mark.unlink()
    return path.read_bytes(), mark


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".ckpt", ".checkpoint.safetensors"])
@pytest.mark.parametrize("name", ["ann", "converted", "snn"])
def test_an_archive_that_would_run_code_is_refused(name, ending, archive, tmp_path):
    raw, mark = archive
    run = Run(tmp_path)
    (tmp_path / f"{name}{ending}").write_bytes(raw)
    for load in (runs.load_ann, runs.load_snn):
        with pytest.raises(RunError):
            load(getattr(run, name))
    subjects = blobs(3)
    arguments = {"model": UNetConfig(channels=(2, 3)), "config": TrainConfig(epochs=1)}
    if ending == ".checkpoint.safetensors":
        with pytest.raises(ValueError, match="cannot be read"):
            train(subjects[:2], subjects[2:], checkpoint=run.checkpoint(getattr(run, name)), **arguments)
    assert not mark.exists()


def test_weights_of_an_older_version_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "ann.pt").write_bytes(b"old")
    with pytest.raises(RunError, match=r"ann\.pt is of an older version.*not read any more.*`neuroseg train`"):
        runs.load_ann(Run(tmp_path).ann)
