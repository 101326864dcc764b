"""The road of networks that are no hippocampus, walked by its commands: from .pt2 and images to equal spikes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hardware_sim.trace import Trace
from tests.commands import call


class Segmenter(nn.Module):
    """RGB to three classes, with a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.coarse = nn.Conv2d(6, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 6, 2, stride=2)
        self.head = nn.Conv2d(12, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = torch.relu(self.norm(self.fine(x)))
        coarse = torch.relu(self.coarse(nn.functional.avg_pool2d(fine, 2)))
        return self.head(torch.cat((fine, torch.relu(self.up(coarse))), 1))


def trained(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images.float() / 255), labels).backward()
        optimizer.step()
    return model.eval()


def scenes() -> tuple[torch.Tensor, torch.Tensor]:
    """Green and blue squares on grey: uint8 (24, 3, 8, 12), and the class of each pixel."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 80, (24, 3, 8, 12), np.uint8), np.zeros((24, 8, 12), np.int64)
    for k in range(24):
        for colour in (1, 2):
            y, x = random.integers(0, 5), random.integers(0, 8)
            images[k, :, y : y + 4, x : x + 4] = np.array([20, 20, 20], np.uint8)[:, None, None]
            images[k, colour, y : y + 4, x : x + 4] = 220
            labels[k, y : y + 4, x : x + 4] = colour
    return torch.from_numpy(images), torch.from_numpy(labels)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """A bright row in one of ten places: uint8 (40, 1, 10, 6), and which."""
    labels = torch.arange(40) % 10
    images = torch.randint(0, 60, (40, 1, 10, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[torch.arange(40), 0, labels] = 230
    return images, labels


@pytest.fixture(scope="module", params=["segmenter", "classifier"])
def run(request, tmp_path_factory) -> Path:
    """A run of a network by file, exported; beside it images and labels as arrays, and those of pixels in folders."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    if request.param == "segmenter":
        images, labels = scenes()
        program = torch.export.export(trained(Segmenter(), images, labels, 60), (images[:1] / 255,))
        for k, (image, label) in enumerate(zip(images, labels)):
            for name, value in (("images", image.permute(1, 2, 0)), ("labels", label.byte())):
                (folder / name).mkdir(exist_ok=True)
                Image.fromarray(value.numpy()).save(folder / name / f"{k:02}.png")
    else:
        images, labels = digits()
        layers = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(60, 10))
        model = trained(nn.Sequential(*layers), images, labels, 150)
        dynamic = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(model, (images[:2] / 255,), dynamic_shapes=dynamic)
    torch.export.save(program, folder / "model.pt2")
    np.save(folder / "images.npy", images.numpy())
    np.save(folder / "labels.npy", labels.numpy())
    call("convert", folder / "model.pt2", "--calibrate", folder / "images.npy", "--out", folder / "run", "-T", 6)
    call("export", folder / "run")
    return folder


def test_what_a_run_holds(run):
    assert json.loads((run / "run" / "run.json").read_text())["program"] == "model.pt2"
    assert "model: model.pt2" in call("inspect", run / "run" / "network.net")
    assert "cores" in call("map", run / "run" / "network.net")


def test_the_network_runs_on_images_and_on_spikes(run, tmp_path):
    network, labels = run / "run" / "network.net", np.load(run / "labels.npy")
    outputs = {name: tmp_path / f"{name}.npy" for name in ("logits", "labels")}
    given = [x for name, path in outputs.items() for x in (f"--{name}", path)]
    call("simulate", network, "--images", run / "images.npy", "--out", tmp_path / "a.npz", *given)
    found = {name: np.load(path) for name, path in outputs.items()}
    assert found["logits"].dtype == np.float32 and found["logits"].ndim == 4
    assert found["labels"].shape == labels.shape and (found["labels"] == labels).mean() > 0.9
    trace = Trace.load(tmp_path / "a.npz")
    spikes = np.unpackbits(trace.stimulus, axis=-1, count=np.load(run / "images.npy")[0].size)
    np.save(tmp_path / "s.npy", spikes.reshape(len(labels), 6, *np.load(run / "images.npy").shape[1:]))
    for again in ("a.npz", "s.npy"):
        call("simulate", network, "--spikes", tmp_path / again, "--out", tmp_path / "b.npz")
        assert "none differs" in call("compare", tmp_path / "a.npz", tmp_path / "b.npz")


def test_lava_equals_pytorch(run):
    output = call("validate", run / "run", "--images", run / "images.npy", "--labels", run / "labels.npy")
    assert "none differs" in output and "as the ANN" in output and "accuracy" in output
    report = json.loads((run / "run" / "report.json").read_text())
    assert report["spikes"]["equal"] and report["spikes"]["total"] > 1000 and report["backend"] == "lava"
    decisions = report["decisions"]
    assert decisions["hardware"] == decisions["quantized"] and decisions["hardware"]["as the ANN"] > 0.9
    assert decisions["ann"]["as the ANN"] == 1 and decisions["ann"]["accuracy"] > 0.95
    assert ("dice 2" in decisions["hardware"]) == (run / "labels").is_dir()


def test_it_is_fine_tuned_on_images_and_labels(run):
    folders = (run / "labels").is_dir()
    images, labels = (run / (name if folders else f"{name}.npy") for name in ("images", "labels"))
    assert "best validation score" in call(
        "finetune", run / "run", "--images", images, "--labels", labels, "--epochs", 2
    )
    call("export", run / "run")
    output = call("validate", run / "run", "--images", images, "--labels", labels, "--backend", "reference")
    assert "none differs" in output
    report = json.loads((run / "run" / "report.json").read_text())
    assert report["decisions"]["hardware"]["accuracy"] > 0.9


def test_what_does_not_go_together_is_said(run, tmp_path):
    model, folder, images = run / "model.pt2", run / "run", run / "images.npy"
    assert "it needs --calibrate IMAGES and --out RUN" in call("convert", model, code=2)
    assert "belong to MODEL.pt2" in call("convert", folder, "--calibrate", images, code=2)
    assert "came by file: neuroseg convert model.pt2" in call("convert", folder, code=2)
    assert "give --images" in call("validate", folder, code=2)
    assert "go together" in call("finetune", folder, "--images", images, code=2)
    network = folder / "network.net"
    assert "nothing to write" in call("simulate", network, "--images", images, code=2)
    assert "one of --data, --images, --spikes and --frames" in call(
        "simulate", network, "--out", tmp_path / "t.npz", code=2
    )
    np.save(tmp_path / "x.npy", np.zeros((2, 5, 5)))
    refused = call("simulate", network, "--images", tmp_path / "x.npy", "--out", tmp_path / "t.npz", code=2)
    assert "images of 1x5x5 (CxHxW); the network takes" in refused
    np.save(tmp_path / "x.npy", np.full((2, 6, 3, 8, 12), 0.5))
    refused = call("simulate", network, "--spikes", tmp_path / "x.npy", "--out", tmp_path / "t.npz", code=2)
    assert "0 and 1 of (samples, 6" in refused
    call("pretrained", tmp_path / "shipped")
    refused = call("convert", model, "--calibrate", images, "--out", tmp_path / "shipped", code=2)
    assert "a network of scans" in refused
    assert "a network of scans" in call("validate", tmp_path / "shipped", "--images", images, code=2)


class Bottleneck(nn.Module):
    """A classifier with a linear layer that two others read, as MobileNetV2 has them."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 12, 3, padding=1)
        self.back, self.head = nn.Conv2d(12, 3, 1), nn.Linear(180, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.narrow(x)
        return self.head(torch.relu(x + self.back(torch.relu(self.wide(x)))).flatten(1))


def test_signs_go_all_the_way(tmp_path):
    """Convert, fine-tune, export, map, and Lava against PyTorch, of a network whose linear layer sends -1, 0 and 1."""
    torch.manual_seed(0)
    images, labels = digits()
    torch.export.save(
        torch.export.export(trained(Bottleneck(), images, labels, 100), (images[:1] / 255,)), tmp_path / "model.pt2"
    )
    np.save(tmp_path / "images.npy", images.numpy())
    np.save(tmp_path / "labels.npy", labels.numpy())
    run, given = tmp_path / "run", ("--images", tmp_path / "images.npy", "--labels", tmp_path / "labels.npy")
    made = call("convert", tmp_path / "model.pt2", "--calibrate", given[1], "--out", run, "--neuron", "ternary")
    assert "1 with spikes of -1, 0 and 1: narrow" in made
    call("finetune", run, *given, "--epochs", 2)
    call("export", run)
    assert "subtract, ternary" in call("inspect", run / "network.net")
    trace = tmp_path / "trace.npz"
    call("simulate", run / "network.net", *given[:2], "--out", trace)
    assert "cores" in call("map", run / "network.net", "--trace", trace)
    assert "spikes, which have a sign; Loihi 1 knows" in call("map", run / "network.net", "--chip", "loihi1", code=2)
    output = call("validate", run, *given)
    assert "none differs" in output
    report = json.loads((run / "report.json").read_text())
    assert report["spikes"]["equal"] and report["decisions"]["hardware"] == report["decisions"]["quantized"]
    assert report["decisions"]["hardware"]["accuracy"] > 0.9
    plain = call("convert", tmp_path / "model.pt2", "--calibrate", given[1], "--out", tmp_path / "pairs")
    assert "with spikes of -1" not in plain
