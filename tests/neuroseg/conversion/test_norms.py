"""Norms of each image with statistics of calibration images: the formula by hand, from modules and from files."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuroseg.conversion.convert import ConversionError, explain
from neuroseg.conversion.model_file import read_model
from tests.neuroseg.conversion.test_program import save

SHAPE = (2, 6, 5)
NORMS = {  # the norm, and the axes of (B, C, H, W) over which it takes statistics; channels in two groups first
    "instance": (lambda: nn.InstanceNorm2d(4, affine=True), (2, 3)),
    "group": (lambda: nn.GroupNorm(2, 4), None),
    "layer": (lambda: nn.LayerNorm([4, 6, 5]), (1, 2, 3)),
    "root mean square": (lambda: nn.RMSNorm([4, 6, 5], eps=1e-5), (1, 2, 3)),
}


def frozen_by_hand(norm: nn.Module, x: torch.Tensor, seen: torch.Tensor, axes) -> torch.Tensor:
    """The norm's formula with the mean, over images, of each image's own mean and variance."""
    if axes is None:  # a group norm is an instance norm of its groups
        mean, variance = (
            torch.stack([getattr(image.reshape(2, -1), which)(1, **options) for image in seen]).mean(0)
            for which, options in (("mean", {}), ("var", {"correction": 0}))
        )
        mean, variance = (each.repeat_interleave(2).reshape(1, 4, 1, 1) for each in (mean, variance))
    else:
        centred = isinstance(norm, nn.RMSNorm)
        means = torch.zeros(len(seen), 1, 1, 1) if centred else seen.mean(axes, keepdim=True)
        mean, variance = (
            each.mean(0, keepdim=True) for each in (means, (seen - means).square().mean(axes, keepdim=True))
        )
    y = (x - mean) / torch.sqrt(variance + 1e-5)
    channels = (1, -1, 1, 1) if norm.weight.ndim == 1 else norm.weight.shape
    y = y * norm.weight.reshape(channels)
    return y if isinstance(norm, nn.RMSNorm) else y + norm.bias.reshape(channels)


WAYS = [(name, how) for name in NORMS for how in ("module", "one", "decomposed")]
WAYS.remove(("root mean square", "decomposed"))  # of which a square and a root are left, refused as such


@pytest.mark.parametrize(("name", "how"), WAYS)
def test_a_frozen_norm_uses_the_mean_of_the_images_statistics(name, how, tmp_path):
    torch.manual_seed(0)
    make, axes = NORMS[name]
    norm = make()
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.3, 1.2)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(4, 1, 1)).eval()
    given = model if how == "module" else read_model(save(model, SHAPE, tmp_path / "m.pt2", how), SHAPE)
    images = torch.rand(5, *SHAPE)
    done = explain(given, SHAPE, freeze_norms=images)
    with torch.no_grad():
        x = model[0](images)
        expected = model[3](torch.relu(frozen_by_hand(norm, x, x, axes)))
        found = done.network.analog(images)[done.network.output.name]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        a, b = expected > 0, model(images) > 0
    assert done.frozen == pytest.approx(float(2 * (a & b).sum() / (a.sum() + b.sum())))
    with pytest.raises(ConversionError, match=r"computes its statistics from each image.*--freeze-norms"):
        explain(given, SHAPE)


def test_an_instance_norm_with_running_statistics_is_a_batch_norm(tmp_path):
    norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(4, 1, 1))
    model(torch.rand(8, *SHAPE))
    read = read_model(save(model, SHAPE, tmp_path / "m.pt2"), SHAPE)
    assert explain(read, SHAPE).frozen is None
