"""Slices with their neighbours as channels: cut, trained on, told by files, refused where a file does not say so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from export import netx
from export.graph import GraphError
from export.nir import read as read_nir
from export.nir import write as write_nir
from neuroseg import runs
from neuroseg.conversion.balance import balance
from neuroseg.conversion.convert import convert
from neuroseg.conversion.lower import export, lower
from neuroseg.data import stack_slices, template
from neuroseg.data.locate import Place
from neuroseg.data.volume import Subject, with_neighbours
from neuroseg.segment.masks import segment
from neuroseg.segment.regions import cut
from neuroseg.spiking import structure
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.training.unet import UNetConfig
from tests.commands import call

SHAPE = (4, 3, 2)


@pytest.mark.parametrize("context", [0, 1, 2, 5])
def test_neighbours_lie_around_a_slice_and_beyond_the_ends_all_is_black(context):
    image = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    found = with_neighbours(image, context)
    assert found.shape == (4, 2 * context + 1, 3, 2) and found.dtype == np.float32
    assert found.flags.c_contiguous and found.flags.writeable
    for x, k in np.ndindex(*found.shape[:2]):
        place = x + k - context
        assert np.array_equal(found[x, k], image[place] if 0 <= place < 4 else np.zeros((3, 2)))


def test_neighbours_are_never_those_of_another_subject():
    rng = np.random.default_rng(1)
    subjects = [
        Subject(f"s{k}", rng.random(SHAPE).astype(np.float32) + 1, np.ones(SHAPE, np.uint8), np.eye(4))
        for k in range(2)
    ]
    images, masks = stack_slices(subjects, context=1)
    assert images.shape == (8, 3, 3, 2) and masks.shape == (8, 1, 3, 2)
    assert (images[[3, 7], 2] == 0).all() and (images[[0, 4], 0] == 0).all() and (images[:, 1] >= 1).all()


def network(context: int) -> nn.Sequential:
    torch.manual_seed(0)
    channels = 2 * context + 1
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(4, 1, 1, bias=False))


def spiking(context: int) -> SpikingNetwork:
    images = torch.rand(3, 2 * context + 1, 8, 8, generator=torch.Generator().manual_seed(1))
    made = convert(network(context), tuple(images.shape[1:]), timesteps=4, context=context)
    return balance(made, images)


def test_a_file_says_what_comes_in_with_a_slice(tmp_path):
    for context in (0, 2):
        graph = export(spiking(context))
        netx.write(graph, tmp_path / "n.net")
        with h5py.File(tmp_path / "n.net") as file:
            assert file["meta"].attrs.get("context", 0) == context and ("context" in file["meta"].attrs) is bool(
                context
            )
        assert netx.read(tmp_path / "n.net").meta.context == graph.meta.context == context


def test_nir_keeps_it(tmp_path):
    for context in (0, 1):
        assert read_nir(write_nir(lower(spiking(context)), tmp_path / "n.nir"), timesteps=4).meta.context == context


def test_weights_say_it_too_and_those_of_before_do_not(tmp_path):
    made = spiking(1)
    runs.save_snn(made, tmp_path / "snn.safetensors", notes={})
    loaded, _ = runs.load_snn(tmp_path / "snn.safetensors")
    assert loaded.graph.meta.context == 1
    described = structure.describe(spiking(0).graph)
    del described["meta"]["context"]
    assert structure.parse(described).meta.context == 0


@pytest.mark.parametrize("context", [-1, 2, 2**70])
def test_a_file_that_says_other_neighbours_than_it_has_channels_is_refused(context, tmp_path):
    path = tmp_path / "n.net"
    netx.write(export(spiking(1)), path)
    with h5py.File(path, "r+") as file:
        del file["meta"].attrs["sha256"], file["meta"].attrs["context"]
        file["meta"].attrs["context"] = json.dumps(context) if context > 2**60 else context
    message = r"context -1; 0 or more" if context < 0 else rf"3 channels; slices with {context} neighbours .* have"
    with pytest.raises(GraphError, match=message):
        netx.read(path)


def test_an_even_number_of_channels_has_no_slice_in_the_middle():
    assert [UNetConfig(in_channels=n).context for n in (1, 3, 7)] == [0, 1, 3]
    with pytest.raises(ValueError, match="2 channels come in; a slice and its neighbours are an odd number"):
        _ = UNetConfig(in_channels=2).context


def test_a_segmentation_gives_the_network_the_neighbours_of_each_slice():
    rng = np.random.default_rng(2)
    scan = nib.Nifti1Image(rng.random((60, 70, 60)).astype(np.float32), np.eye(4))
    regions = cut(scan, {"right": Place((30.0, 35.0, 30.0))})
    seen: list[torch.Tensor] = []

    def predict(slices: torch.Tensor) -> np.ndarray:
        seen.append(slices)
        return slices[:, 1:2].numpy()

    segment(scan, regions, predict, batch=5, context=1)
    given = torch.cat(seen).numpy()
    assert given.shape[1] == 3 and np.array_equal(given, with_neighbours(regions[0].image, 1))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A small network of slices with a neighbour on either side, walked down the road."""
    folder = tmp_path_factory.mktemp("runs") / "context"
    call(
        "train", "--data", "template:4", "--out", folder, "--epochs", 3, "--channels", "4,6", "--context", 1
    )  # fmt: skip
    call("convert", folder, "--timesteps", 2, "--encoder", "graded")
    call("finetune", folder, "--epochs", 1)
    call("export", folder)
    return folder


def test_the_road_with_neighbours(run, tmp_path):
    assert json.loads((run / "run.json").read_text())["model"]["in_channels"] == 3
    graph = netx.read(run / "network.net")
    assert graph.input.shape == (3, 56, 48) and graph.meta.context == 1
    assert "slices with 1 neighbours on either side" in call("inspect", run / "network.net")
    call("validate", run, "--data", "mni152", "--backend", "lava")
    report = json.loads((run / "report.json").read_text())
    assert report["spikes"]["equal"] and report["spikes"]["total"] > 10_000
    assert report["dice"]["hardware"] == report["dice"]["quantized"]
    call("simulate", run / "network.net", "--data", "mni152", "--backend", "fast", "--out", tmp_path / "t.npz")
    call("convert", run, "--neuron", "sigma-delta")
    assert netx.read(run / "sigma_delta.net").meta.context == 1


def test_a_scan_is_segmented_by_the_run_and_by_its_file(run, tmp_path):
    subject = template.subject()
    crop = tmp_path / "crop.nii.gz"
    nib.save(nib.Nifti1Image((subject.image * 1000).astype(np.int16), subject.affine), crop)
    masks = []
    for k, net in enumerate((run, run / "network.net")):
        call("segment", net, crop, "-o", tmp_path / f"{k}.nii.gz")
        masks.append(np.asanyarray(nib.load(tmp_path / f"{k}.nii.gz").dataobj))
    assert np.array_equal(*masks) and masks[0].any()


def test_channels_that_no_file_calls_neighbours_are_refused(run, tmp_path):
    graph = netx.read(run / "network.net")
    silent = dataclasses.replace(graph, meta=dataclasses.replace(graph.meta, context=0))
    netx.write(silent, tmp_path / "n.net")
    output = call("simulate", tmp_path / "n.net", "--data", "mni152", "--out", tmp_path / "t.npz", code=2)
    assert "the network takes (3, 56, 48)" in output
    output = call("segment", tmp_path / "n.net", tmp_path / "x.nii.gz", "-o", tmp_path / "m.nii.gz", code=2)
    assert "or a slice and the neighbours that the network says it was trained with" in output
