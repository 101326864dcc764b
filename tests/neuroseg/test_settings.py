"""Run folders that lie: each field of run.json, of the weights' descriptions and of folds is checked, and named."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.attacks_files import ANN, REFUSED, SETTINGS, SNN, Kind, attempt
from neuroseg import runs, storage
from neuroseg.experiments.tables import load_folds
from neuroseg.pretrained import FOLDER
from neuroseg.runs import Run, RunError
from neuroseg.settings import Imported, Settings
from neuroseg.training.train import TrainConfig
from neuroseg.training.unet import UNet, UNetConfig
from tests.examples import some

SOUND = Settings("data", 3, ("a", "b"), ("c",), UNetConfig(), TrainConfig(), (None, 56, 48), ("d",), (17, 53))


def changed(content: Any, path: str, value: Any) -> Any:
    """A copy with another value at a place like model.channels.0; DELETED takes it out."""
    content = copy.deepcopy(content)
    *outer, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    holder = content
    for key in outer:
        holder = holder[key]
    if value is DELETED:
        del holder[last]
    else:
        holder[last] = value
    return content


DELETED = object()
WRONG = {
    "data": (None, 1, [], "a\0b", "\ud800"),
    "seed": (-1, 2**41, 10**400, 0.5, True, "1", None, [1]),
    "training": ("abc", None, {"a": 1}, [1], [None], [["a"]], ["\0"]),
    "validation": (DELETED, 3, [{}]),
    "test": ("abc", [1], {}),
    "box": ([1, 2], [1, 2, 3, 4], "abc", [0, 56, 48], [None, None, 48], [None, 56, 48.0], [None, 10**9, 48]),
    "model": (DELETED, None, [], "x"),
    "model.channels": ([], "abc", [0], [-1, 2], [1.5], [True], [10**9], [2] * 17, [[16]], None),
    "model.in_channels": (0, 2**40, "1", None, 1.0),
    "model.out_channels": (0, -1, [1]),
    "model.dropout": (-0.1, 1.1, "0", None, True, 10**400),
    "model.more": (1,),
    "train": (DELETED, [], 1),
    "train.epochs": (0, -1, 2**40, 1.5, "20", None),
    "train.batch": (0, None, [26]),
    "train.learning_rate": (-1, 1e300, "fast", None, [1]),
    "train.augment": (1, "yes", None),
    "train.warm_up": (-1, 1e9, None),
    "train.loss": ("hinge", "", None, 1, ["dice"]),
    "train.seed": (-1, 10**30, "0"),
    "train.more": (1,),
    "more": (1,),
}


@pytest.mark.parametrize("field", WRONG)
def test_each_field_of_the_settings_is_checked(field, tmp_path):
    run = Run(tmp_path)
    for value in WRONG[field]:
        content = changed(json.loads(json.dumps(asdict(SOUND))), field, value)
        run.settings_file.write_text(json.dumps(content))
        with pytest.raises(RunError, match=r"run\.json: not the settings of a run") as caught:
            run.load_settings()
        message = str(caught.value)
        assert f"({field}" in message and len(message) < 500 and "\n" not in message
        assert "is allowed)" in message or "is missing)" in message or "are allowed)" in message


def test_settings_are_read_as_they_were_written_and_as_older_versions_wrote_them(tmp_path):
    run = Run(tmp_path)
    for settings in (SOUND, dataclasses.replace(SOUND, box=None, test=())):
        run.save_settings(settings)
        assert run.load_settings() == settings
    content = json.loads(run.settings_file.read_text())
    for field in ("box", "test", "train.seed", "train.loss", "model.dropout"):
        content = changed(content, field, DELETED)
    run.settings_file.write_text(json.dumps(content))
    assert run.load_settings() == dataclasses.replace(SOUND, box=None, test=())
    Run(FOLDER).load_settings()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe\xfa", "it is no text|Expecting"),
        (b"[" * 100_000, "nested too deeply; 64 levels are allowed"),
        (b'{"a":' * 100_000, "nested too deeply; 64 levels are allowed"),
        (b'{"a":' + b"[" * 70 + b"]" * 70 + b"}", "nested too deeply; 64 levels are allowed"),
        (b'{"seed": NaN}', "it holds NaN; finite numbers are allowed"),
        (b'{"seed": -Infinity}', "it holds -Infinity; finite numbers are allowed"),
        (b'{"data": "d", "seed": ' + b"1" * 5000 + b"}", "4300 digits"),
        (b"null", "all of it is null; an object with names is allowed"),
        (b"[]", "all of it is a list of 0; an object with names is allowed"),
    ],
)
def test_settings_that_are_no_object_are_refused(raw, message, tmp_path):
    (tmp_path / "run.json").write_bytes(raw)
    with pytest.raises(RunError, match=message):
        Run(tmp_path).load_settings()


def test_settings_without_end_or_in_no_file_are_refused(tmp_path):
    with open(tmp_path / "run.json", "wb") as file:
        file.truncate(2**40)  # takes no room
    with pytest.raises(RunError, match="it is larger than 64 MiB"):
        Run(tmp_path).load_settings()
    (tmp_path / "run.json").unlink()
    (tmp_path / "run.json").mkdir()
    with pytest.raises(RunError, match="it cannot be opened: Is a directory"):
        Run(tmp_path).load_settings()


@pytest.mark.parametrize("kind", [SETTINGS, ANN, SNN], ids=lambda kind: kind.name)
def test_mutations_are_read_or_refused(kind: Kind, tmp_path):
    sound = tmp_path / "sound" / kind.file
    sound.parent.mkdir()
    kind.make(sound)
    outcomes = [attempt(kind, seed, sound, tmp_path) for seed in range(some(150))]
    assert not [outcome for outcome in outcomes if outcome.failed]
    assert sum(outcome.outcome == REFUSED for outcome in outcomes) > 0.6 * len(outcomes)


@pytest.fixture(scope="module")
def snn(tmp_path_factory) -> Any:
    path = tmp_path_factory.mktemp("snn") / "snn.safetensors"
    SNN.make(path)
    return storage.load(path)


STRUCTURE = {
    "graph": (None, [], "x", {}, {"kind": "Graph"}, {"array": [1]}),
    "graph.kind": ("Input", "os.system", None, 1),
    "graph.nodes": ([], {}, None, [1], [[]]),
    "graph.integer": (1, None, "no"),
    "graph.nodes.0.kind": (None, "Population", "Neuron", "Graph", ["Input"]),
    "graph.nodes.0.shape": ([], [1, 8], [1, 8, -8], [2**40] * 3, [2**13] * 3, [1, 8, 8.0], "188", None),
    "graph.nodes.0.name": (1, None, "\0"),
    "graph.nodes.1.edges": (None, {}, [1]),
    "graph.nodes.1.edges.0.source": (DELETED, None, 1),
    "graph.nodes.1.edges.0.delay": (-1, 0.5, 2**60, None),
    "graph.nodes.1.edges.0.op": (None, [], {"kind": "Edge"}, {"kind": "Neuron"}),
    "graph.nodes.1.edges.0.op.weight": (
        None, 1, [1], {}, {"array": None}, {"array": [2**60]}, {"array": [2**20, 2**20]}, {"array": [1, -1]},
        {"array": [1] * 5}, {"array": [0]}, {"array": [1], "more": 1},
    ),
    "graph.nodes.1.edges.0.op.stride": ([0, 1], [1], [1, 1, 1], 1, None, [2**40, 1], [1.0, 1]),
    "graph.nodes.1.edges.0.op.groups": (0, 2**40, None, 1.0),
    "graph.nodes.1.edges.0.op.more": (1,),
    "graph.nodes.1.neuron": (None, [], {"kind": "Meta"}),
    "graph.nodes.1.neuron.threshold": (DELETED, "1", -1, 1e300, [1]),
    "graph.nodes.1.neuron.reset": ("soft", None, 1),
    "graph.nodes.1.neuron.current_decay": (-1, 4097, 0.5),
    "graph.meta": (None, [], {"kind": "Graph"}),
    "graph.meta.timesteps": (0, -1, 2**40, 1.5),
    "graph.meta.encoder": ("morse", None),
    "graph.meta.notes": ([], {"a": 1}, None),
    "alpha": (None, "1", 1e300, [1]),
    "state": (None, [], "x"),
    "state.scales": (None, 1, [1.0]),
    "notes": (None, [], {"a": 1}),
}  # fmt: skip


@pytest.mark.parametrize("field", STRUCTURE)
def test_each_field_of_a_network_is_checked(field, snn, tmp_path):
    path = tmp_path / "snn.safetensors"
    for value in STRUCTURE[field]:
        storage.save(changed(snn, field, value), path)
        with pytest.raises(RunError, match=r"snn\.safetensors: cannot be read: ") as caught:
            runs.load_snn(path)
        *_, last = field.split(".")
        assert last in str(caught.value) and len(str(caught.value)) < 700, value


def test_a_structure_is_not_built_before_its_weights_are_there(tmp_path, snn):
    """16 TiB of parameters are described: what is compared first are shapes."""
    weight = "graph.nodes.1.edges.0.op.weight"
    storage.save(changed(snn, weight, {"array": [2**13, 2**13, 1, 1]}), tmp_path / "snn.safetensors")
    with pytest.raises(RunError, match=r"makes|fit|has shape"):
        runs.load_snn(tmp_path / "snn.safetensors")
    runs.save_ann(UNet(UNetConfig(channels=(2, 3))), [], tmp_path / "ann.safetensors")
    content = changed(storage.load(tmp_path / "ann.safetensors"), "model.channels", [2**15] * 3)
    storage.save(content, tmp_path / "ann.safetensors")
    with pytest.raises(RunError, match=r"state\.enc\.0\.conv1\.weight has shape \(2, 1, 3, 3\); its description says"):
        runs.load_ann(tmp_path / "ann.safetensors")


def test_a_tensor_too_many_is_named_in_one_line(snn, tmp_path):
    storage.save(changed(snn, "state.more", torch.zeros(1)), tmp_path / "snn.safetensors")
    with pytest.raises(RunError, match=r"state\.more is unknown; .*") as caught:
        runs.load_snn(tmp_path / "snn.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: torch.full_like(t, torch.nan), "is NaN or infinite in places; finite numbers are allowed"),
        (lambda t: t * torch.inf, "is NaN or infinite in places; finite numbers are allowed"),
        (lambda t: t.to(torch.int8), "is a tensor of torch.int8; a tensor of floats is allowed"),
        (lambda t: t.flatten(), "has shape .*; its description says"),
    ],
)
def test_tensors_of_a_network_are_checked(change, message, tmp_path):
    network = UNet(UNetConfig(channels=(2, 3)))
    runs.save_ann(network, [], tmp_path / "ann.safetensors")
    content = storage.load(tmp_path / "ann.safetensors")
    content["state"]["head.weight"] = change(content["state"]["head.weight"])
    storage.save(content, tmp_path / "ann.safetensors")
    with pytest.raises(RunError, match=rf"state\.head\.weight {message}"):
        runs.load_ann(tmp_path / "ann.safetensors")


FOLD = {
    "fold": 1,
    "loss": "dice",
    "settings": {"test": ["a"], "seed": 0},
    "rows": [{"method": "ann", "dice": {"3d": 0.9, "2d": 0.8}, "operations": 1e6, "epochs": 3, "rate": None}],
}
WRONG_FOLDS = {
    "fold": (0, "1", None, 1.5, DELETED),
    "loss": ("hinge", None, ["dice"]),
    "settings": (None, [], DELETED),
    "settings.test": ("abc", [1], None, DELETED),
    "rows": (None, {}, [1], DELETED),
    "rows.0.method": (None, 1, DELETED),
    "rows.0.weights": (1, None),
    "rows.0.dice": (None, [], 0.9),
    "rows.0.dice.3d": ("0.9", -1, 1.1, None, DELETED),
    "rows.0.operations": ("many", -1, None, 10**400),
    "rows.0.epochs": ("3", -1),
    "rows.0.rate": ([], -0.1),
}


@pytest.mark.parametrize("field", WRONG_FOLDS)
def test_each_field_of_a_fold_is_checked(field, tmp_path):
    file: Path = tmp_path / "fold1-dice.json"
    file.write_text(json.dumps(FOLD))
    assert load_folds(tmp_path) == [FOLD]
    for value in WRONG_FOLDS[field]:
        file.write_text(json.dumps(changed(FOLD, field, value)))
        with pytest.raises(RunError, match=r"fold1-dice\.json: not a fold of `neuroseg crossval`") as caught:
            load_folds(tmp_path)
        assert field.replace(".0", "[0]").rpartition(".")[2] in str(caught.value)


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"rows": NaN}', b"\xff", b""])
def test_a_fold_that_is_no_object_is_refused(raw, tmp_path):
    (tmp_path / "fold1-dice.json").write_bytes(raw)
    with pytest.raises(RunError, match=r"fold1-dice\.json: not a fold"):
        load_folds(tmp_path)


def test_settings_of_a_network_by_file_are_read_as_they_were_written_or_refused(tmp_path):
    run, imported = Run(tmp_path), Imported("model.pt2", "00ff")
    run.save_settings(imported)
    assert run.load_imported() == imported and run.is_imported
    with pytest.raises(RunError, match=r"a network of model\.pt2, not of scans; give --images"):
        run.load_settings()
    run.settings_file.write_text('{"program": 3, "sha256": "", "seed": 0}')
    with pytest.raises(RunError, match="program is 3; a text"):
        run.load_imported()
    run.save_settings(SOUND)
    assert not run.is_imported
    with pytest.raises(RunError, match="a network of scans"):
        run.load_imported()
