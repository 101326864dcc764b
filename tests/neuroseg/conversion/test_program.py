"""Models out of .pt2 files: what torch exports is read and is the model; whatever would run code is refused, unrun."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from neuroseg.conversion.calls import ProgramError
from neuroseg.conversion.convert import convert
from neuroseg.conversion.model_file import read_model
from neuroseg.conversion.program import read_program
from neuroseg.training.unet import UNet, UNetConfig

MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
RGB = (3, 16, 16)


class Classifier(nn.Module):
    """Ten classes; flattens by `view`, which a batch of one freezes into the program. Names that modules have, too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(4 * 64, 10)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.drop(nn.functional.avg_pool2d(torch.relu_(self.norm(self.calls(x))), 2))
        return {"logits": self.head(x.view(x.size(0), -1))}


def three_classes() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.ReLU(), nn.ConvTranspose2d(8, 3, 3, padding=1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "unet": (lambda: UNet(UNetConfig(channels=(4, 6, 8))), (1, 12, 8)),
    "classifier": (Classifier, RGB),
    "classes": (three_classes, RGB),
}


def save(model: nn.Module, shape: tuple[int, ...], path: Path, how: str = "one") -> Path:
    batch = torch.export.Dim("batch")
    dynamic = ({0: batch},) if how == "batch" else ({0: batch, 2: torch.export.Dim.AUTO},) if how == "sides" else None
    images = torch.rand(1 if dynamic is None else 2, *shape)
    program = torch.export.export(model.eval(), (images,), dynamic_shapes=dynamic)
    torch.export.save(program.run_decompositions() if how == "decomposed" else program, path)
    return path


@pytest.mark.parametrize("how", ["one", "batch", "sides", "decomposed"])
@pytest.mark.parametrize("name", MODELS)
def test_an_exported_model_is_the_model(name, how, tmp_path):
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make()
    read = read_model(save(model, shape, tmp_path / "m.pt2", how), shape)
    images = torch.rand(3, *shape)
    expected = model(images)
    expected = expected["logits"] if isinstance(expected, dict) else expected
    torch.testing.assert_close(read(images), expected, rtol=1e-4, atol=1e-5)
    assert dict(read.named_parameters()).keys() == dict(model.named_parameters()).keys()
    ours, theirs = (convert(m, shape) for m in (read, model))
    assert [p.name for p in ours.populations] == [p.name for p in theirs.populations]


def test_what_is_no_model_for_such_images_is_refused(tmp_path):
    file = save(three_classes(), RGB, tmp_path / "m.pt2")
    with pytest.raises(ProgramError, match=r"images are 1x16x16 \(CxHxW\); the model was exported for 3x16x16"):
        read_model(file, (1, 16, 16))
    torch.export.save(torch.export.export(three_classes().eval(), (torch.rand(4, *RGB),)), file)
    with pytest.raises(ProgramError, match=r"its input is \(4, 3, 16, 16\).*batch of 1 or of any size"):
        read_model(file, RGB)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_model(tmp_path / "none.pt2", RGB)
    (tmp_path / "m.pth").touch()
    with pytest.raises(ProgramError, match=r"ends in .pt2 or .onnx is allowed; torch.export.save"):
        read_model(tmp_path / "m.pth", RGB)
    torch.export.save(torch.export.export(Classifier().train(), (torch.rand(2, *RGB),)), file)
    with pytest.raises(ProgramError, match=r"call model.eval\(\) before"):
        read_model(file, RGB)


class Evil:
    """What a pickle runs when it is loaded: it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def bomb(trace: Path) -> bytes:
    """A file of torch.save that runs code when torch.load reads it."""
    buffer = io.BytesIO()
    torch.save(Evil(trace), buffer)
    return buffer.getvalue()


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """An archive with other files in it, by their name without the folder."""
    with zipfile.ZipFile(source) as archive:
        content = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(content)
    with zipfile.ZipFile(target, "w") as archive:
        for name, raw in content.items():
            archive.writestr(f"m/{name}", raw)
    return target


def edit(content: dict[str, bytes], name: str, change: Callable[[dict], None]) -> None:
    value = json.loads(content[name])
    change(value)
    content[name] = json.dumps(value).encode()


def first_node(program: dict) -> dict:
    return program["graph_module"]["graph"]["nodes"][0]


def pickled_weight(content, trace):
    content["data/weights/weight_0"] = bomb(trace)
    edit(content, WEIGHTS, lambda w: next(iter(w["config"].values())).update(use_pickle=True))


def old_weights(content, trace):
    content["data/weights/model.pt"] = bomb(trace)
    del content[WEIGHTS]


def constant_object(content, trace, name="custom_obj_0", raw=None):
    content[f"data/constants/{name}"] = raw or bomb(trace)
    meta = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}
    edit(content, CONSTANTS, lambda c: c["config"].update(thing=meta))


def opaque_object(content, trace):
    constant_object(content, trace, "opaque_obj_0", pickle.dumps(Evil(trace)))


def compiled(content, trace):
    content["data/aotinductor/model/evil.so"] = b"\x7fELF"


def calling(target, *arguments):
    def change(content, trace):
        inputs = [{"name": "x", "kind": 1, "arg": {"as_string": a.format(trace=trace)}} for a in arguments]
        edit(content, MODEL, lambda m: first_node(m).update(target=target, **({"inputs": inputs} if inputs else {})))

    return change


def an_older_archive(content, trace):
    content.clear()
    content.update({"version": b"8.1", "serialized_state_dict.pt": bomb(trace)})


def of_torchscript(content, trace):
    del content["archive_format"]
    content["data.pkl"] = pickle.dumps(Evil(trace))


REFUSED = {
    pickled_weight: "is a pickle",
    old_weights: "lacks 'data/weights/model_weights_config.json'",
    constant_object: "is a pickle",
    opaque_object: "is a pickle",
    compiled: "compiled code",
    an_older_archive: "no archive of torch.export.save",
    of_torchscript: "no archive of torch.export.save",
    calling("os.mkdir", "{trace}"): "calls 'os.mkdir'",
    calling("torch.hub.load", "{trace}", "x"): "calls 'torch.hub.load'|as_string is",
    calling("torch.load"): "calls 'torch.load'",
    calling("torch.ops.aten.from_file.default"): "calls 'torch.ops.aten.from_file.default'",
    calling("torch.ops.aten._unsafe_index.Tensor"): "_unsafe_index",
    calling("torch.ops.evil.conv2d.default"): "calls 'torch.ops.evil.conv2d.default'",
    calling("torch.ops.aten.conv2d.default.__globals__"): "calls",
    calling("torch.ops.aten.conv2d.out"): "calls",
}


@pytest.mark.parametrize("attack", REFUSED, ids=lambda a: getattr(a, "__name__", "attack"))
def test_what_would_run_code_is_refused_and_not_run(attack, tmp_path):
    trace = tmp_path / "made"
    good = save(three_classes(), RGB, tmp_path / "good.pt2")
    file = rewritten(good, tmp_path / "bad.pt2", lambda content: attack(content, trace))
    with pytest.raises(ProgramError, match=REFUSED[attack]) as caught:
        read_program(file)
    assert str(file) in str(caught.value) and len(str(caught.value)) < 700 and "\n" not in str(caught.value)
    assert not trace.exists()


def harmless_to_us(content, trace):
    """Sample inputs, sizes and guards that torch's own loader would run."""
    code = f"__import__('os').mkdir({str(trace)!r})"
    content["data/sample_inputs/model.pt"] = bomb(trace)
    content["data/extra/note"] = b"text"

    def change(program):
        program["guards_code"] = [code]
        sizes = program["graph_module"]["graph"]["tensor_values"]["input"]["sizes"]
        sizes[0] = {"as_expr": {"expr_str": code, "hint": {"as_int": 1}}}

    edit(content, MODEL, change)


def test_what_torch_would_run_and_we_do_not_need_is_not_looked_at(tmp_path):
    trace = tmp_path / "made"
    good = save(three_classes(), RGB, tmp_path / "good.pt2")
    file = rewritten(good, tmp_path / "bad.pt2", lambda content: harmless_to_us(content, trace))
    assert read_model(file, RGB)(torch.rand(2, *RGB)).shape == (2, 3, 16, 16)
    assert not trace.exists()
    torch.load(io.BytesIO(bomb(trace)), weights_only=False)  # the payload is a real one
    assert trace.exists()


def larger(content):
    edit(content, WEIGHTS, lambda w: next(iter(w["config"].values()))["tensor_meta"]["sizes"][0].update(as_int=10**9))


def beyond(content):
    edit(content, WEIGHTS, lambda w: next(iter(w["config"].values()))["tensor_meta"]["storage_offset"].update(as_int=9))


def padded(content):
    def change(program):
        argument = next(a for a in program["graph_module"]["graph"]["nodes"][-1]["inputs"] if a["name"] == "padding")
        argument["arg"] = {"as_ints": [-(10**6), -(10**6)]}

    edit(content, MODEL, change)


def without_weight(content):
    edit(content, WEIGHTS, lambda w: w["config"].pop(next(iter(w["config"]))))


def reading_nothing(content):
    edit(content, MODEL, lambda m: first_node(m)["inputs"][0].update(arg={"as_tensor": {"name": "nowhere"}}))


def newer(content):
    edit(content, MODEL, lambda m: m["schema_version"].update(major=99))


LIES = {
    larger: "claims torch.float32",
    beyond: "claims torch.float32",
    padded: "numbers of an image|cannot run",
    without_weight: "is no tensor of the file",
    reading_nothing: "'nowhere', which nothing before it yields",
    newer: "schema is version 99; 8 is allowed",
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_archives_that_lie_are_refused(lie, tmp_path):
    good = save(three_classes(), RGB, tmp_path / "good.pt2")
    with pytest.raises(ProgramError, match=LIES[lie]):
        read_model(rewritten(good, tmp_path / "bad.pt2", lie), RGB)


def test_torn_and_packed_archives_are_refused(tmp_path):
    good = save(three_classes(), RGB, tmp_path / "good.pt2")
    torn = tmp_path / "torn.pt2"
    for size in (0, 10, good.stat().st_size // 2):
        torn.write_bytes(good.read_bytes()[:size])
        with pytest.raises(ProgramError, match="it is no zip file"):
            read_program(torn)
    with zipfile.ZipFile(torn, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/archive_format", b"pt2" + bytes(10**7))
    with pytest.raises(ProgramError, match="unpacks to 10000003 bytes"):
        read_program(torn)


def test_onnx_says_what_to_do_or_is_read(tmp_path):
    file = tmp_path / "m.onnx"
    file.write_bytes(b"no model")
    with pytest.raises(ProgramError, match=r"onnx2pytorch (cannot read it|, which is not here)|neuroseg\[onnx\]"):
        read_model(file, RGB)
    pytest.importorskip("onnx2pytorch")
    model = UNet(UNetConfig(channels=(4, 6, 8))).eval()
    images = torch.rand(1, 1, 12, 8)
    torch.onnx.export(model, (images,), file, dynamo=False)
    read = read_model(file, (1, 12, 8))
    torch.testing.assert_close(read(images), model(images), rtol=1e-4, atol=1e-5)
    assert all("/" not in population.name for population in convert(read, (1, 12, 8)).populations)
