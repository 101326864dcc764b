"""The road, walked by its commands on the template cohort with a small network; and comparisons that must fail."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import h5py
import nibabel as nib
import nir
import numpy as np
import pytest

from export import netx
from hardware_sim.trace import Trace
from neuroseg.cli.demo import clear_demo
from neuroseg.data import template
from neuroseg.pretrained import FOLDER as PRETRAINED
from neuroseg.pretrained import copy_pretrained
from neuroseg.runs import Run
from tests.commands import call


@pytest.fixture(scope="module", params=["subtract", "zero"])
def run(request, tmp_path_factory) -> Path:
    """A trained, converted, fine-tuned and exported small network."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    call(
        "train", "--data", "template:6", "--out", folder, "--epochs", 8, "--channels", "4,6,8", "--dropout", 0
    )  # fmt: skip
    call("convert", folder, "--reset", request.param, "--timesteps", 4)
    output = call("finetune", folder, "--epochs", 2)
    assert "before" in output and "enc_0_conv1" in output
    call("export", folder)
    return folder


def test_lava_equals_pytorch_on_the_template(run):
    output = call("validate", run, "--data", "mni152", "--backend", "lava")
    assert "none differs" in output
    report = json.loads((run / "report.json").read_text())
    assert report["spikes"]["equal"] is True and report["spikes"]["mismatched"] == 0
    assert report["spikes"]["total"] > 100_000
    assert set(report["dice"]) == {"ann", "converted", "finetuned", "quantized", "hardware"}
    assert report["dice"]["hardware"] == report["dice"]["quantized"]
    assert report["backend"] == "lava" and report["fidelity"] == "fused" and report["subjects"] == ["MNI152"]
    assert len(report["spikes"]["layers"]) == 12
    for layer in report["spikes"]["layers"]:
        assert set(layer) == {"name", "neurons", "software", "hardware", "mismatched", "rate"}


def test_stock_lava_equals_pytorch_on_the_template(run):
    call("validate", run, "--data", "mni152", "--fidelity", "stock")
    report = json.loads((run / "report.json").read_text())
    assert report["fidelity"] == "stock" and report["spikes"]["mismatched"] == 0
    assert report["dice"]["hardware"] == report["dice"]["quantized"]


def test_the_demo_segments_the_template_with_the_shipped_network(tmp_path):
    output = call("demo", "--out", tmp_path / "demo")
    assert "none differs" in output and "CARD.md" not in output
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert report["spikes"]["equal"] and report["dice"]["hardware"]["3d"] > 0.8
    assert (tmp_path / "demo" / "segmentation.png").stat().st_size > 10_000
    assert "Equal." in (tmp_path / "demo" / "report.html").read_text()
    call("demo", "--out", tmp_path / "demo")  # a demo's folder may be used again, another run's may not
    assert "holds a run" in call("pretrained", tmp_path / "demo", code=2)


def test_the_shipped_network_is_small_and_says_what_it_is():
    assert sum(file.stat().st_size for file in PRETRAINED.iterdir() if file.is_file()) < 1_000_000
    settings = json.loads((PRETRAINED / "run.json").read_text())
    assert settings["data"] == "Task04_Hippocampus" and len(settings["training"]) == 200
    card = (PRETRAINED / "CARD.md").read_text()
    for word in ("CC BY-SA 4.0", "make pretrained", "not for", "3D Dice"):
        assert word in card


def test_the_demo_takes_its_folder_of_an_earlier_version(tmp_path):
    run = Run(tmp_path / "demo")
    copy_pretrained(run)
    settings = json.loads(run.settings_file.read_text())
    run.settings_file.write_text(json.dumps({**settings, "train": {**settings["train"], "warm_up": 1}}))
    clear_demo(run)
    assert not run.settings_file.exists() and not run.ann.exists() and not run.snn.exists()


def test_training_on_all_subjects(tmp_path):
    output = call(
        "train", "--data", "template:4", "--out", tmp_path / "r", "--epochs", 1, "--channels", "2,3", "--validation", 0
    )
    assert "training on 4 subjects, 4 of them show how far it is" in output
    settings = json.loads((tmp_path / "r" / "run.json").read_text())
    assert len(settings["training"]) == 4 and set(settings["validation"]) <= set(settings["training"])


def test_labels_choose_what_is_trained_on(tmp_path):
    subject, data = template.subject(), tmp_path / "data"
    atlas = subject.mask.astype(np.int16) * 53
    atlas[:, :4], atlas[:, 4:8], atlas[:, 8:12] = 2, 3, 41
    for folder, values in (("images", subject.image), ("masks", atlas)):
        (data / folder).mkdir(parents=True)
        for name in "ab":
            nib.save(nib.Nifti1Image(values, subject.affine), data / folder / f"{name}.nii.gz")
    arguments = (
        "train",
        "--data",
        data,
        "--out",
        tmp_path / "r",
        "--epochs",
        1,
        "--channels",
        "2,3",
        "--validation",
        0,
    )
    assert "as an atlas does" in call("data", "check", data, code=1)
    assert "no usable subject" in call(*arguments, code=2) and not (tmp_path / "r").exists()
    call(*arguments, "--labels", "17,53")
    assert json.loads((tmp_path / "r" / "run.json").read_text())["labels"] == [17, 53]
    call("convert", tmp_path / "r", "-T", 2)  # reads the masks as the training did


def test_classes_go_all_the_way(tmp_path):
    subject, data, out = template.subject(), tmp_path / "data", tmp_path / "r"
    parts = subject.mask * np.where(np.arange(subject.mask.shape[1]) > 28, 1, 2)[:, None]  # anterior is further on
    listing = {"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}, "training": []}
    for folder, values in (("imagesTr", subject.image), ("labelsTr", parts.astype(np.uint8))):
        (data / folder).mkdir(parents=True)
        for name in "ab":
            nib.save(nib.Nifti1Image(values, subject.affine), data / folder / f"{name}.nii.gz")
    for name in "ab":
        listing["training"].append({"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"})
    (data / "dataset.json").write_text(json.dumps(listing))
    assert "the data set names Anterior, Posterior" in call("data", "check", data, "--labels", "head,body", code=2)
    size = ("--channels", "4,6", "--epochs", 12, "--validation", 0.5)
    call("train", "--data", data, "--out", out, *size, "--labels", "anterior,posterior")
    settings = json.loads((out / "run.json").read_text())
    assert (settings["labels"], settings["classes"]) == ([1, 2], ["anterior", "posterior"])
    assert "graded code" in call("convert", out, "-T", 2, "--encoder", "graded")
    call("finetune", out, "--epochs", 1)
    call("export", out)
    assert netx.read(out / "network.net").meta.class_names == ("background", "anterior", "posterior")
    assert "T = 2, graded code of 0 to 15" in call("inspect", out / "network.net")
    shown = call("validate", out)
    report = json.loads((out / "report.json").read_text())
    assert report["spikes"]["equal"] and report["dice"]["quantized"] == report["dice"]["hardware"]
    assert list(report["dice"]["ann"]) == ["3d", "2d", "3d anterior", "3d posterior", "3d mean"]
    assert "3D posterior" in shown and "3D posterior" in (out / "report.html").read_text()
    assert "anterior, volume" in report["agreement"]["quantities"]

    scan = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(subject.image, subject.affine), scan)
    table = call("segment", out, scan, "-o", tmp_path / "mask.nii.gz")
    found = np.unique(np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj))
    assert set(found) <= {0, 1, 2} and "right anterior" in table and "right posterior" in table
    call("convert", out, "--neuron", "sigma-delta")
    assert netx.read(out / "sigma_delta.net").output.shape[0] == 3


def test_a_run_folder_does_not_mix_runs(run, tmp_path):
    arguments = ("train", "--data", "template:6", "--out", run, "--channels", "4,6,8", "--dropout", 0)
    assert "holds a run with other settings" in call(*arguments, "--epochs", 9, code=2)
    assert "not the demo's" in call("demo", "--out", run, code=2)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    repeated = ("train", "--data", "template:6", "--out", copy, "--channels", "4,6,8", "--dropout", 0, "--epochs", 8)
    call(*repeated)  # done already: what was made of it stays
    call("finetune", copy, "--epochs", 2)
    assert (copy / "snn.safetensors").exists() and (copy / "network.net").exists()
    shutil.copyfile(PRETRAINED / "ann.safetensors", copy / "ann.safetensors")
    call(*repeated)  # another network than the one it was made of: it goes
    assert not (copy / "snn.safetensors").exists() and not (copy / "network.net").exists()
    copy = tmp_path / "another"
    shutil.copytree(run, copy)
    call("convert", copy, "--timesteps", 2)
    assert not (copy / "snn.safetensors").exists() and not (copy / "network.net").exists()
    assert "`neuroseg export" in call("validate", copy, code=2)


def test_inspect_lists_a_file_and_draws_it(run, tmp_path):
    output = call("inspect", run / "network.net", "--draw", tmp_path / "net.svg")
    assert "enc_0_conv1" in output and "depth 13, T = 4" in output and "<svg" in (tmp_path / "net.svg").read_text()
    assert "ends in .png or .svg" in call("inspect", run / "network.net", "--draw", tmp_path / "net.jpg", code=2)


def test_validation_keeps_to_held_out_subjects(run):
    call("validate", run, "--backend", "reference")
    settings, report = (json.loads((run / name).read_text()) for name in ("run.json", "report.json"))
    assert report["subjects"] == settings["validation"] and not set(report["subjects"]) & set(settings["training"])


@pytest.mark.parametrize(("layer", "source"), [("enc_1_conv2", "enc_1_conv1"), ("dec_1_conv1", "enc_0_conv2")])
def test_one_flipped_weight_is_found_in_its_layer(run, layer, source, tmp_path):
    """The comparison can fail, and it names the layer whose weight was changed."""
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    call("simulate", run / "network.net", "--data", "mni152", "--out", good, "--potentials")
    changed = tmp_path / "changed.net"
    changed.write_bytes((run / "network.net").read_bytes())
    with h5py.File(changed, "r+") as file:
        named = {file[f"layer/{k}/name"][()]: k for k in file["layer"] if "name" in file[f"layer/{k}"]}
        index = named[layer.encode()]
        weight = file[f"layer/{index}/weight"]
        busiest = int(Trace.load(good).counts[source].sum(axis=(0, 2, 3)).argmax())
        size = np.abs(weight[()][:, busiest])
        out, *tap = np.unravel_index(int(size.argmax()), size.shape)
        place = (out, busiest, *tap)
        weight[place] = -weight[place] if weight[place] != -256 else 254
        del file["meta"].attrs["sha256"]  # with it, the file would be refused
    call("simulate", changed, "--data", "mni152", "--out", bad, "--potentials")
    output = call("compare", good, bad, "--network", run / "network.net", code=1)
    named = ", ".join(str(int(k)) for k in place)
    assert (
        f"cause: {layer}: the hardware does not do what the file says; as if weight [{named}] from {source}" in output
    )
    assert re.search(rf"first: sample \d+, step \d+, population {layer}, neuron", output)
    assert "potentials after the step" in output
    assert "none differs" in call("compare", good, good)


def test_a_changed_file_makes_validate_fail(run, tmp_path):
    whole = (run / "network.net").read_bytes()
    try:
        with h5py.File(run / "network.net", "r+") as file:
            threshold = file["layer/1/neuron/vThMant"]
            threshold[()] = int(threshold[()]) * 2
        refused = call("validate", run, "--data", "mni152", "--backend", "reference", code=2)
        assert "checksum is wrong" in refused
        with h5py.File(run / "network.net", "r+") as file:
            del file["meta"].attrs["sha256"]
        output = call("validate", run, "--data", "mni152", "--backend", "reference", code=1)
        assert "different" in output and "cause: enc_0_conv1: the software does not do what the file says" in output
        assert "as if the threshold is" in output and "Where they part" in (run / "report.html").read_text()
    finally:
        (run / "network.net").write_bytes(whole)


def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path):
    folds = ("crossval", "--data", "template:8", "--out", tmp_path / "r", "--folds")
    new = ("train", "--data", "template:4", "--out", tmp_path / "r")
    for arguments, message in (
        (("train", "--data", tmp_path / "nowhere", "--out", tmp_path / "r"), "no such folder"),
        ((*new, "--channels", "a,b"), "16,32,64, are allowed"),
        ((*new, "--channels", "2,2,2,2,2,2"), "divide by 32"),
        ((*new, "--channels", "2,-2"), "positive widths"),
        ((*new, "--box", "24,56"), "24,56,48 or all,56,48"),
        ((*new, "--box", "24,55,48"), "must divide by 4"),
        (("convert", tmp_path), "run.json: no such file"),
        (("validate", run, "--data", "mni152", "--backend", "loihi"), "needs a Loihi chip"),
        (("simulate", run / "run.json", "--data", "mni152", "--out", tmp_path / "t"), "cannot be read as NetX"),
        (("compare", run / "network.net", run / "network.net"), "not a trace"),
        (("data", "check", tmp_path / "[old]"), "[old]: no such folder"),
        (("data", "fetch", "adni"), "'msd' is allowed"),
        ((*folds, 3, "--fold", 4), "1 to 3 are allowed"),
        ((*folds, 5), "5 folds of 8 subjects; 2 to 4"),
    ):
        output = call(*arguments, code=2)
        assert message in output and output.count("error:") == 1, output
    assert not list(tmp_path.iterdir())


def test_nir_in_and_out(tmp_path):
    """A NIR chain comes in, goes out again and comes in the same."""
    rng = np.random.default_rng(0)
    ones = np.ones((2, 8, 6))
    graph = nir.NIRGraph.from_list(
        nir.Input(np.array([1, 8, 6])),
        nir.Conv2d((8, 6), rng.normal(size=(2, 1, 3, 3)), 1, 1, 1, 1, np.zeros(2)),
        nir.IF(r=ones, v_threshold=ones, v_reset=0 * ones),
        nir.Output(np.array([2, 8, 6])),
    )
    nir.write(tmp_path / "a.nir", graph)
    assert "1 populations" in call("nir", "import", tmp_path / "a.nir", tmp_path / "a.net", "-T", 4)
    call("nir", "export", tmp_path / "a.net", tmp_path / "b.nir")
    call("nir", "import", tmp_path / "b.nir", tmp_path / "b.net", "-T", 4)
    first, second = (netx.read(tmp_path / name).populations[0] for name in ("a.net", "b.net"))
    assert (
        first.edges[0].op.weight == second.edges[0].op.weight
    ).all() and first.neuron.threshold == second.neuron.threshold
    assert "C,H,W like" in call(
        "nir", "import", tmp_path / "a.nir", tmp_path / "c", "-T", 4, "--input-shape", "a", code=2
    )
    assert not (tmp_path / "c").exists()


def test_data_check_lists_what_it_leaves_out(tmp_path):
    for folder, data in (
        ("images", np.random.default_rng(0).random((40, 60, 50))),
        ("masks", np.zeros((40, 60, 50))),
    ):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(data.astype(np.float32), np.eye(4)), tmp_path / folder / "one.nii.gz")
    output = call("data", "check", tmp_path, code=1)
    assert "one: mask is empty" in output and "0 usable, 1 left out" in output


def test_every_command_explains_itself_with_an_example():
    for command in (
        "train",
        "convert",
        "finetune",
        "export",
        "validate",
        "crossval",
        "inspect",
        "pretrained",
        "demo",
        "simulate",
        "compare",
        "bench",
        "data fetch",
        "data check",
        "segment",
        "nir import",
        "nir export",
    ):
        assert "Example: neuroseg" in call(*command.split(), "--help")
    assert "Exit codes: 0 done or equal, 1 different, 2 bad input" in call("--help")


def test_the_readme_example_runs(tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text()
    example = readme.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.strip() == "True"
