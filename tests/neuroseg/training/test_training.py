"""U-Net, losses, metrics, the resumable loop."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import neuroseg.training.train as train_module
from neuroseg import metrics
from neuroseg.data import Subject
from neuroseg.training.loop import minimise, one_cycle
from neuroseg.training.losses import balanced_bce_loss, bce_dice_loss, bce_loss, dice_loss, distillation_loss
from neuroseg.training.train import TrainConfig, predict, split, train
from neuroseg.training.unet import UNet, UNetConfig

TINY = UNetConfig(channels=(3, 4), dropout=0.1)


def blobs(n: int, seed: int = 0) -> list[Subject]:
    """Subjects whose mask is a bright disc in noise: (3, 8, 8) each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:8, :8]
    subjects = []
    for k in range(n):
        centre = rng.uniform(2, 6, (3, 2))
        mask = np.stack([(y - a) ** 2 + (x - b) ** 2 < 5 for a, b in centre]).astype(np.uint8)
        image = np.clip(0.7 * mask + 0.3 * rng.random(mask.shape), 0, 1).astype(np.float32)
        subjects.append(Subject(f"s{k}", image, mask, np.eye(4)))
    return subjects


def test_unet_has_no_bias_no_norm_and_the_documented_size():
    network = UNet()
    assert all(name.endswith("weight") for name, _ in network.named_parameters())
    assert not list(network.buffers())
    assert sum(p.numel() for p in network.parameters()) == 116_384
    assert network(torch.rand(2, 1, 56, 48)).shape == (2, 1, 56, 48)


@given(st.integers(0, 1000))
def test_losses_against_their_formulas(seed):
    rng = np.random.default_rng(seed)
    logits, target = rng.normal(size=(2, 1, 4, 3)) * 3, (rng.random((2, 1, 4, 3)) < 0.4).astype(float)
    p = 1 / (1 + np.exp(-logits))
    bce = -sum(t * np.log(q) + (1 - t) * np.log(1 - q) for t, q in zip(target.ravel(), p.ravel())) / target.size
    dice = (2 * sum(t * q for t, q in zip(target.ravel(), p.ravel())) + 1e-5) / (p.sum() + target.sum() + 1e-5)
    z, t = torch.tensor(logits), torch.tensor(target)
    assert float(bce_loss(z, t)) == pytest.approx(bce)
    assert float(dice_loss(z, t)) == pytest.approx(1 - dice)
    assert float(bce_dice_loss(z, t)) == pytest.approx(0.3 * bce + 0.7 * (1 - dice))


@given(st.integers(0, 1000))
def test_losses_of_classes_against_their_formulas(seed):
    rng = np.random.default_rng(seed)
    logits, target = rng.normal(size=(2, 3, 4, 3)) * 3, rng.integers(0, 3, (2, 1, 4, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    voxels = [(b, y, x) for b in range(2) for y in range(4) for x in range(3)]
    chances = [p[b, target[b, 0, y, x], y, x] for b, y, x in voxels]
    ce, dices = -sum(np.log(chances)) / len(voxels), []
    for k in (1, 2):
        inside = np.array([target[b, 0, y, x] == k for b, y, x in voxels])
        each = np.array([p[b, k, y, x] for b, y, x in voxels])
        dices.append((2 * each[inside].sum() + 1e-5) / (each.sum() + inside.sum() + 1e-5))
    z, t = torch.tensor(logits), torch.tensor(target, dtype=torch.float64)
    assert float(bce_loss(z, t)) == pytest.approx(ce)
    assert float(dice_loss(z, t)) == pytest.approx(1 - np.mean(dices))
    assert float(bce_dice_loss(z, t)) == pytest.approx(0.3 * ce + 0.7 * (1 - np.mean(dices)))
    present = [np.log([c for c, (b, y, x) in zip(chances, voxels) if target[b, 0, y, x] == k]) for k in range(3)]
    means = [-each.mean() for each in present if len(each)]
    assert float(balanced_bce_loss(z, t)) == pytest.approx(np.mean(means))


@pytest.mark.parametrize("channels", [1, 3])
def test_distillation_against_its_formula(channels):
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(2, channels, 3, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    total = 0.0
    for b, y, x in np.ndindex(2, 3, 4):
        ours, theirs = ([float(value) for value in one[b, :, y, x]] for one in (logits, teacher))
        if channels == 1:  # of two classes, the other one's logit is 0
            ours, theirs = [0.0, *ours], [0.0, *theirs]
        p, q = ([math.exp(value) / sum(map(math.exp, one)) for value in one] for one in (ours, theirs))
        total -= sum(theirs * math.log(ours) for ours, theirs in zip(p, q, strict=True)) / 24
    assert float(distillation_loss(logits, teacher)) == pytest.approx(total)


def test_classes_that_a_network_has_no_channel_for_are_refused():
    subjects = [dataclasses.replace(s, mask=s.mask * 2) for s in blobs(3)]
    with pytest.raises(ValueError, match=r"masks hold class 2; an output of 1 channel\(s\) knows classes up to 1"):
        train(subjects[:2], subjects[2:], model=TINY)


def test_dice_of_classes():
    truth = np.array([[[0, 1, 2, 2], [0, 1, 2, 2]]])
    mask = np.array([[[1, 1, 1, 2], [0, 1, 2, 2]]])
    scores = metrics.subject_dice(mask, truth, ("a", "b"))
    assert scores == {
        "3d": pytest.approx(2 * 6 / 13),
        "2d": pytest.approx(2 * 6 / 13),
        "3d a": pytest.approx(2 * 2 / 6),
        "3d b": pytest.approx(2 * 3 / 7),
        "3d mean": pytest.approx((2 / 3 + 6 / 7) / 2),
    }
    assert metrics.goal([mask], [truth], 3) == scores["3d mean"] and metrics.goal([mask], [truth], 1) == scores["3d"]


def test_balanced_loss_weighs_both_classes_equally():
    target = torch.zeros(1, 1, 10, 10)
    target[0, 0, 0, 0] = 1
    logits = torch.zeros_like(target, requires_grad=True)
    balanced_bce_loss(logits, target).backward()
    assert float(logits.grad.sum()) == pytest.approx(0, abs=1e-6)


@given(arrays(bool, (3, 4, 5)), arrays(bool, (3, 4, 5)))
def test_dice_counts_voxels(a, b):
    both = len({tuple(v) for v in np.argwhere(a)} & {tuple(v) for v in np.argwhere(b)})
    expected = 2 * both / (a.sum() + b.sum()) if a.any() or b.any() else 1.0
    assert metrics.dice(a, b) == pytest.approx(expected)


def test_2d_dice_leaves_out_empty_slices():
    truth, prediction = np.zeros((3, 4, 4)), np.zeros((3, 4, 4))
    truth[0, :2], prediction[0, :2] = 1, 1
    prediction[1, 0] = 1  # nothing there: 0
    assert metrics.dice_2d(prediction, truth) == pytest.approx(0.5)
    assert metrics.dice_2d(truth * 0, truth * 0) == 1
    with pytest.raises(ValueError, match="shape"):
        metrics.dice(truth, truth[0])


def test_volume_in_mm3():
    assert metrics.volume_mm3(np.ones((2, 3, 4)), np.diag([0.5, 2, 1, 1])) == pytest.approx(24)


def test_split_is_by_subject_seeded_and_whole():
    subjects = blobs(10)
    training, held_out = split(subjects, validation=0.3, seed=1)
    assert len(held_out) == 3 and {s.id for s in training} | {s.id for s in held_out} == {s.id for s in subjects}
    assert [s.id for s in split(subjects, validation=0.3, seed=1)[1]] == [s.id for s in held_out]
    with pytest.raises(ValueError, match="at least 2"):
        split(subjects[:1])


class Killed(Exception):
    pass


def test_a_killed_training_resumes_to_the_same_network(tmp_path):
    subjects = blobs(6)
    config = TrainConfig(epochs=4, batch=5, warm_up=3)
    whole, history = train(subjects[:4], subjects[4:], model=TINY, config=config)

    def kill(step):
        if step.epoch == 3:
            raise Killed

    checkpoint = tmp_path / "ann.checkpoint.safetensors"
    with pytest.raises(Killed):
        train(subjects[:4], subjects[4:], model=TINY, config=config, checkpoint=checkpoint, on_step=kill)
    epochs = []
    resumed, resumed_history = train(
        subjects[:4],
        subjects[4:],
        model=TINY,
        config=config,
        checkpoint=checkpoint,
        on_step=lambda step: epochs.append(step.epoch),
    )
    assert set(epochs) == {3, 4} and resumed_history == history
    for a, b in zip(whole.parameters(), resumed.parameters()):
        assert torch.equal(a, b)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    subjects, config = blobs(3), TrainConfig(epochs=1)
    train(subjects[:2], subjects[2:], model=TINY, config=config, checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match="other settings"):
        other = dataclasses.replace(config, learning_rate=0.5)
        train(subjects[:2], subjects[2:], model=TINY, config=other, checkpoint=tmp_path / "c")


def test_training_learns_classes():
    subjects = []
    for s in blobs(20):
        mask = s.mask * (1 + (np.arange(8) > 3)).astype(np.uint8)
        striped = s.image * np.where(np.arange(8) % 2, 1, 0.2).astype(np.float32)
        subjects.append(dataclasses.replace(s, mask=mask, image=np.where(mask == 2, striped, s.image)))
    config = TrainConfig(epochs=25, batch=8, warm_up=20, learning_rate=1e-2)
    model = UNetConfig(out_channels=3, channels=(8, 8), dropout=0)
    network, history = train(subjects[:16], subjects[16:], model=model, config=config)
    masks = predict(network, subjects[16:])
    reached = metrics.mean_dice(masks, [s.mask for s in subjects[16:]], ("left", "right"))
    assert reached["3d mean"] == pytest.approx(max(row.validation_dice for row in history))
    assert min(reached["3d left"], reached["3d right"]) > 0.5, reached


def one_weight(*, scores: list[float], clip: float = math.inf) -> float:
    """How far a single weight moves whose gradient is 300, in as many epochs of one batch as there are scores."""
    network, left = torch.nn.Conv2d(1, 1, 1, bias=False), iter(scores)
    before = network.weight.item()
    minimise(
        network,
        forward=network,
        images=torch.ones(1, 1, 1, 1),
        targets=torch.ones(1, 1, 1, 1),
        objective=lambda logits, _truth: 300 * logits.sum(),
        validate=lambda: next(left),
        truths=[],
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        epochs=len(scores),
        batch=1,
        seed=0,
        identity={},
        clip=clip,
    )
    return before - network.weight.item()


@pytest.mark.parametrize(("clip", "moved"), [(0.5, 0.5), (math.inf, 300.0)])
def test_a_batch_of_a_large_gradient_moves_weights_no_further_than_clip(clip, moved):
    assert one_weight(scores=[1.0], clip=clip) == pytest.approx(moved * one_cycle(0), rel=1e-4)


@pytest.mark.parametrize(("scores", "told"), [([0.0, 0.0], True), ([0.0, 0.1, 0.0], False)])
def test_a_network_that_finds_nothing_is_told(scores, told, caplog):
    one_weight(scores=scores)
    assert ("validation score is 0 after every epoch" in caplog.text) is told


def test_training_learns():
    subjects = blobs(20)
    config = TrainConfig(epochs=25, batch=8, warm_up=20, learning_rate=5e-3)
    network, history = train(subjects[:16], subjects[16:], model=TINY, config=config)
    assert max(row.validation_dice for row in history) > 0.8
    assert all(weight.is_contiguous() for weight in network.parameters())  # however it was multiplied
    masks = predict(network, subjects[16:])
    assert metrics.mean_dice(masks, [s.mask for s in subjects[16:]])["3d"] == pytest.approx(
        max(row.validation_dice for row in history)
    )


def test_training_learns_in_bfloat16_and_leaves_float32():
    """Other products than those of float32 while it trains; the same network, in float32, when it decides."""
    subjects = blobs(20)
    config = TrainConfig(epochs=25, batch=8, warm_up=20, learning_rate=5e-3, precision="bfloat16")
    network, history = train(subjects[:16], subjects[16:], model=TINY, config=config)
    best = max(row.validation_dice for row in history)
    assert best > 0.7 and {p.dtype for p in network.parameters()} == {torch.float32}
    masks = predict(network, subjects[16:])
    assert metrics.mean_dice(masks, [s.mask for s in subjects[16:]])["3d"] == pytest.approx(best)
    short = dataclasses.replace(config, epochs=1)
    first, again, other = (
        train(subjects[:4], subjects[4:6], model=TINY, config=each)[0]
        for each in (short, short, dataclasses.replace(short, precision="float32"))
    )
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
        torch.testing.assert_close(a, c, rtol=0.2, atol=0.05)


def test_bfloat16_where_a_processor_has_none_is_told(monkeypatch, caplog):
    subjects, config = blobs(3), TrainConfig(epochs=1)
    for precision, there, told in (("bfloat16", False, True), ("bfloat16", True, False), ("float32", False, False)):
        caplog.clear()
        monkeypatch.setattr(train_module, "multiplies_bfloat16", lambda there=there: there)
        train(subjects[:2], subjects[2:], model=TINY, config=dataclasses.replace(config, precision=precision))
        assert ("no instructions for bfloat16" in caplog.text) is told


@pytest.mark.parametrize(("wrong", "message"), [({"loss": "hinge"}, "hinge"), ({"precision": "float16"}, "float16")])
def test_unknown_choices_are_refused(wrong, message):
    with pytest.raises(ValueError, match=f"'{message}' is unknown"):
        train(blobs(1), blobs(1), model=TINY, config=TrainConfig(**wrong))
