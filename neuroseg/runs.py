"""A run folder: what each step of the road leaves for the next."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from neuroseg.data.volume import Box
from neuroseg.spec import LAYER_KINDS, LayerSpec, NetworkSpec, SynapseSpec
from neuroseg.spiking import SpikingNetwork
from neuroseg.train import Epoch, TrainConfig, save_atomically
from neuroseg.unet import UNet, UNetConfig


class RunError(ValueError):
    """A run folder that lacks a step or holds a broken file; names the file and the command that makes it."""


@dataclass(frozen=True)
class Settings:
    """run.json: where the data came from and who was trained on. test: subjects kept for the end, if any."""

    data: str
    seed: int
    training: tuple[str, ...]
    validation: tuple[str, ...]
    model: UNetConfig
    train: TrainConfig
    box: Box | None = None
    test: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """The files of a run."""

    folder: Path

    @property
    def settings_file(self) -> Path:
        return self.folder / "run.json"

    @property
    def ann(self) -> Path:
        return self.folder / "ann.pt"

    @property
    def converted(self) -> Path:
        return self.folder / "converted.pt"

    @property
    def snn(self) -> Path:
        return self.folder / "snn.pt"

    @property
    def network(self) -> Path:
        return self.folder / "network.net"

    @property
    def report(self) -> Path:
        return self.folder / "report.json"

    @property
    def page(self) -> Path:
        return self.folder / "report.html"

    @property
    def drawing(self) -> Path:
        return self.folder / "network.svg"

    @property
    def picture(self) -> Path:
        return self.folder / "segmentation.png"

    def exported(self) -> Path:
        """`network`, if it is there. Raises RunError."""
        if not self.network.exists():
            raise RunError(f"{self.network}: no such file; `neuroseg export {self.folder}` makes it")
        return self.network

    def checkpoint(self, step: Path) -> Path:
        """State of a training that may be killed."""
        return step.with_suffix(".ckpt")

    def forget_after(self, step: Path) -> None:
        """Delete what later steps made: it does not belong to what `step` will hold now."""
        made = (self.ann, self.converted, self.snn, self.network, self.drawing, self.report, self.page, self.picture)
        for file in made[made.index(step) + 1 :]:
            file.unlink(missing_ok=True)
        if step in (self.ann, self.converted):
            self.checkpoint(self.snn).unlink(missing_ok=True)

    def save_settings(self, settings: Settings) -> None:
        write_json(asdict(settings), self.settings_file)

    def load_settings(self) -> Settings:
        try:
            fields = json.loads(self.settings_file.read_text())
            model, train = fields["model"], fields["train"]
            return Settings(
                data=fields["data"],
                seed=fields["seed"],
                training=tuple(fields["training"]),
                validation=tuple(fields["validation"]),
                model=UNetConfig(**{**model, "channels": tuple(model["channels"])}),
                train=TrainConfig(**train),
                box=tuple(fields["box"]) if fields.get("box") else None,
                test=tuple(fields.get("test", ())),
            )
        except FileNotFoundError:
            raise RunError(f"{self.settings_file}: no such file; `neuroseg train` makes a run folder") from None
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.settings_file}: not the settings of a run ({error!r})") from error


def save_ann(network: UNet, history: list[Epoch], path: Path) -> None:
    """Save a trained ANN with its configuration."""
    content = {
        "model": asdict(network.config),
        "state": network.state_dict(),
        "history": [asdict(row) for row in history],
    }
    save_atomically(content, path)


def load_ann(path: Path) -> UNet:
    """Load what `save_ann` saved, in evaluation mode. Raises RunError."""
    with _reading(path, made_by="neuroseg train"):
        content = torch.load(path, map_location="cpu", weights_only=True)
        model = {**content["model"], "channels": tuple(content["model"]["channels"])}
        network = UNet(UNetConfig(**model))
        network.load_state_dict(content["state"])
    return network.eval()


def holds(path: Path, network: torch.nn.Module) -> bool:
    """Whether a file of `save_ann` or `save_snn` has these weights already; what was made from it then stays good."""
    try:
        with _reading(path, made_by="this step"):
            stored = torch.load(path, map_location="cpu", weights_only=True)["state"]
            state = network.state_dict()
            return stored.keys() == state.keys() and all(torch.equal(stored[name], state[name]) for name in state)
    except RunError:
        return False


def save_snn(network: SpikingNetwork, path: Path, *, notes: dict[str, str]) -> None:
    """Save a spiking network with its spec; notes say how it was made and travel into the exported file."""
    spec = network.spec
    layers = [{"kind": type(layer).__name__, **asdict(layer)} for layer in spec.layers]
    fields = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.name != "layers"}
    save_atomically({"spec": fields, "layers": layers, "state": network.state_dict(), "notes": notes}, path)


def load_snn(path: Path, *, made_by: str = "neuroseg convert") -> tuple[SpikingNetwork, dict[str, str]]:
    """Load what `save_snn` saved, in evaluation mode, with its notes. Raises RunError."""
    with _reading(path, made_by=made_by):
        content = torch.load(path, map_location="cpu", weights_only=True)
        spec = NetworkSpec(layers=tuple(_layer(fields) for fields in content["layers"]), **content["spec"])
        network = SpikingNetwork(spec)
        network.load_state_dict(content["state"])
        notes = dict(content["notes"])
    return network.eval(), notes


def _layer(fields: dict[str, Any]) -> LayerSpec:
    kind = LAYER_KINDS[fields["kind"]]
    rest = {key: value for key, value in fields.items() if key != "kind"}
    if "synapses" in rest:
        rest["synapses"] = tuple(SynapseSpec(**synapse) for synapse in rest["synapses"])
    return kind(**rest)


def write_json(content: Any, path: Path) -> None:
    """Write JSON beside the place, then rename."""
    write_text(json.dumps(content, indent=2) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write text beside the place, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    try:
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def _reading(path: Path, *, made_by: str) -> Iterator[None]:
    """Turn whatever a missing, torn or foreign file raises into a RunError."""
    try:
        yield
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; `{made_by}` makes it") from None
    except (RuntimeError, EOFError, OSError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from error
