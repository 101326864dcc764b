"""Fine-tuning through integers, and the files of a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from export.graph import same
from neuroseg import runs
from neuroseg.conversion.balance import balance
from neuroseg.conversion.convert import convert
from neuroseg.conversion.lower import integer_scales
from neuroseg.data import stack_slices
from neuroseg.metrics import mean_dice
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.training.finetune import FinetuneConfig, finetune, logits_of
from neuroseg.training.team import CPU
from neuroseg.training.train import TrainConfig, predict, train
from neuroseg.training.unet import UNetConfig
from tests.neuroseg.conftest import SHAPE
from tests.neuroseg.training.test_training import Killed, blobs


@pytest.fixture(scope="module")
def small() -> SpikingNetwork:
    subjects = blobs(20)
    config = TrainConfig(epochs=25, batch=8, warm_up=20, learning_rate=5e-3)
    ann, _ = train(subjects[:16], subjects[16:], model=UNetConfig(channels=(3, 4), dropout=0.1), config=config)
    return balance(convert(ann, (1, 8, 8), timesteps=4), stack_slices(subjects[:6])[0])


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_finetuning_through_integers_repairs_a_disturbed_network(small, reset):
    subjects = blobs(16)
    disturbed = small.copy(reset=reset)
    generator = torch.Generator().manual_seed(0)
    for weight in disturbed.weights.values():
        weight.data.mul_(1 + 1.2 * torch.randn(weight.shape, generator=generator))
    disturbed = disturbed.with_scales(integer_scales(disturbed))
    truths = [s.mask for s in subjects[12:]]
    before = mean_dice(predict(lambda x: disturbed.predict(x, quantized=True), subjects[12:]), truths)["3d"]
    tuned, history = finetune(
        disturbed,
        subjects[:12],
        subjects[12:],
        config=FinetuneConfig(epochs=25, batch=8, learning_rate=4e-3),
    )
    after = mean_dice(predict(lambda x: tuned.predict(x, quantized=True), subjects[12:]), truths)["3d"]
    assert after == pytest.approx(max(row.validation_dice for row in history))
    assert after > before + 0.1
    assert integer_scales(tuned) == {p.name: tuned.scale(p) for p in tuned.populations}


def test_a_killed_finetuning_resumes_to_the_same_network(small, tmp_path):
    subjects, config = blobs(6), FinetuneConfig(epochs=3, batch=5)
    arguments = {"config": config}
    whole, _ = finetune(small, subjects[:4], subjects[4:], **arguments)

    def kill(step):
        if step.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        finetune(small, subjects[:4], subjects[4:], checkpoint=tmp_path / "c", on_step=kill, **arguments)
    resumed, _ = finetune(small, subjects[:4], subjects[4:], checkpoint=tmp_path / "c", **arguments)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()))


class Bright(torch.nn.Module):
    """Says where an image is brighter than something."""

    def __init__(self, than: float) -> None:
        super().__init__()
        self.than = torch.nn.Parameter(torch.tensor(than))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 8 * (images - self.than)


def test_a_teacher_is_learnt_from_beside_the_masks(small, unet, tmp_path):
    """Where masks say nothing the network gives what the teacher says; another teacher is another training."""
    subjects = [replace(subject, mask=np.zeros_like(subject.mask)) for subject in blobs(8)]
    images, _ = stack_slices(blobs(8))
    config = FinetuneConfig(epochs=8, batch=8, learning_rate=4e-3, distill=50.0)
    told = {"teacher": Bright(0.5), "config": config}
    tuned, _ = finetune(small, subjects, subjects, **told)
    alone, _ = finetune(small, subjects, subjects, teacher=told["teacher"], config=replace(config, distill=0.0))
    plain, _ = finetune(small, subjects, subjects, config=config)
    for one, other in zip(alone.state_dict().values(), plain.state_dict().values()):
        assert torch.equal(one, other)
    with torch.no_grad():
        wanted = (images > 0.5).float()
        decided = [(net.predict(images, quantized=True) > 0).float() for net in (tuned, plain)]
    taught, left = (float(one.eq(wanted).float().mean()) for one in decided)
    assert taught > 0.9 and taught > left + 0.02

    threads = torch.get_num_threads()
    finetune(small, subjects, subjects, checkpoint=tmp_path / "c", **told)
    try:
        torch.set_num_threads(threads + 1)  # sums of floats may differ: that is no other teacher
        finetune(small, subjects, subjects, checkpoint=tmp_path / "c", **told)
    finally:
        torch.set_num_threads(threads)
    with pytest.raises(ValueError, match="other settings or data"):
        finetune(small, subjects, subjects, checkpoint=tmp_path / "c", teacher=Bright(0.4), config=config)


def test_an_ann_teaches_by_its_logits(small, unet):
    images = torch.rand(3, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(logits_of(unet, CPU)(images), unet.eval()(images))
        torch.testing.assert_close(logits_of(small, CPU)(images), small.analog(images)[small.output.name])


def test_networks_survive_their_files(small, unet, tmp_path):
    runs.save_snn(small, tmp_path / "snn.safetensors", notes={"balance": "rate"})
    loaded, notes = runs.load_snn(tmp_path / "snn.safetensors")
    assert same(loaded.graph, small.graph) and notes == {"balance": "rate"}
    spikes = (torch.rand(4, 2, 1, 8, 8) < 0.5).float()
    assert torch.equal(loaded(spikes), small(spikes))
    runs.save_ann(unet, [], tmp_path / "ann.safetensors")
    image = torch.rand(1, *SHAPE)
    assert torch.equal(runs.load_ann(tmp_path / "ann.safetensors")(image), unet(image))


def test_broken_run_files_are_named(tmp_path):
    with pytest.raises(runs.RunError, match=r"ann\.safetensors: no such file; `neuroseg train`"):
        runs.load_ann(tmp_path / "ann.safetensors")
    (tmp_path / "ann.safetensors").write_bytes(b"PK nonsense")
    with pytest.raises(runs.RunError, match="cannot be read"):
        runs.load_ann(tmp_path / "ann.safetensors")
    with pytest.raises(runs.RunError, match=r"run\.json: no such file"):
        runs.Run(tmp_path).load_settings()
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(runs.RunError, match="not the settings of a run"):
        runs.Run(tmp_path).load_settings()
