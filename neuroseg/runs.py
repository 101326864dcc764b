"""A run folder: what each step of the road leaves for the next."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import torch

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from export import checked, files
from export.checked import Fields
from export.graph import Graph
from export.text import printable
from neuroseg import storage
from neuroseg.settings import Imported, Settings, parse_imported, parse_model, parse_settings
from neuroseg.spiking import structure
from neuroseg.spiking.network import SpikingNetwork, bias_key
from neuroseg.training.loop import Epoch
from neuroseg.training.unet import UNet

WEIGHTS, OLD_WEIGHTS = ".safetensors", ".pt"
LOCK = ".lock"


class RunError(ValueError):
    """A run folder that lacks a step or holds a broken file; names the file and the command that makes it."""


@dataclass(frozen=True)
class Run:
    """The files of a run."""

    folder: Path

    @property
    def settings_file(self) -> Path:
        return self.folder / "run.json"

    @property
    def ann(self) -> Path:
        return self.folder / f"ann{WEIGHTS}"

    @property
    def converted(self) -> Path:
        return self.folder / f"converted{WEIGHTS}"

    @property
    def sigma_delta(self) -> Path:
        return self.folder / "sigma_delta.net"

    @property
    def snn(self) -> Path:
        return self.folder / f"snn{WEIGHTS}"

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
    def chip(self) -> Path:
        return self.folder / "chip.svg"

    @property
    def agreement(self) -> Path:
        return self.folder / "agreement.svg"

    @property
    def picture(self) -> Path:
        return self.folder / "segmentation.png"

    @contextmanager
    def held(self, step: str, *, made_by: str | None = "neuroseg train") -> Iterator[None]:
        """Keep others from changing the run meanwhile: two commands on one folder would mix what they make.

        made_by: the command that makes such a folder, for the error where there is none; None for a step that makes it.
        The lock ends with the process, however that ends. Raises RunError that names who holds it. Not on Windows.
        """
        if made_by is None:
            self.folder.mkdir(parents=True, exist_ok=True)
        elif not self.folder.is_dir():
            raise RunError(f"{self.folder}: no such folder; `{made_by}` makes it")
        with open(self.folder / LOCK, "a+", encoding="utf-8") as file:
            if fcntl:
                _lock(file, self.folder)
            file.truncate(0)
            file.write(f"`neuroseg {step}`, process {os.getpid()}")
            file.flush()
            yield

    def exported(self) -> Path:
        """`network`, if it is there. Raises RunError."""
        if not self.network.exists():
            raise RunError(f"{self.network}: no such file; `neuroseg export {self.folder}` makes it")
        return self.network

    def checkpoint(self, step: Path) -> Path:
        """State of a training that may be killed."""
        return step.with_name(f"{step.stem}.checkpoint{WEIGHTS}")

    def forget_after(self, step: Path) -> None:
        """Delete what later steps made: it does not belong to what `step` will hold now."""
        looked_at = (self.drawing, self.chip, self.agreement, self.report, self.page, self.picture)
        made = (self.ann, self.sigma_delta, self.converted, self.snn, self.network, *looked_at)
        for file in made[made.index(step) + 1 :]:
            file.unlink(missing_ok=True)
        if step in (self.ann, self.converted):
            self.checkpoint(self.snn).unlink(missing_ok=True)

    def save_settings(self, settings: Settings | Imported) -> None:
        files.write_json(asdict(settings), self.settings_file)

    def load_settings(self) -> Settings:
        """What `save_settings` wrote. Raises RunError naming the field, what was found and what is allowed."""
        found = self.load_any()
        if isinstance(found, Imported):
            raise RunError(f"{self.folder}: a network of {found.program}, not of scans; give --images")
        return found

    def load_imported(self) -> Imported:
        """As `load_settings`, of a run whose network came by file."""
        found = self.load_any()
        if isinstance(found, Settings):
            raise RunError(f"{self.folder}: a network of scans ({found.data}), which takes --data, not --images")
        return found

    @property
    def is_imported(self) -> bool:
        """Whether its network came by file. Raises RunError for a broken run.json."""
        return self.settings_file.exists() and isinstance(self.load_any(), Imported)

    def load_any(self) -> Settings | Imported:
        """Either. Raises RunError."""
        try:
            given = checked.read(self.settings_file)
            return parse_imported(given) if "program" in given else parse_settings(given)
        except FileNotFoundError:
            raise RunError(f"{self.settings_file}: no such file; `neuroseg train` makes a run folder") from None
        except ValueError as error:
            raise RunError(f"{self.settings_file}: not the settings of a run ({error})") from error


def _lock(file: TextIO, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = printable(file.read(100).strip()) or "another process"
        raise RunError(f"{folder} is in use by {holder}; wait for it or choose another folder") from None


def save_ann(network: UNet, history: list[Epoch], path: Path) -> None:
    """Save a trained ANN with its configuration."""
    content = {
        "model": asdict(network.config),
        "state": network.state_dict(),
        "history": [asdict(row) for row in history],
    }
    storage.save(content, path)


def load_ann(path: Path) -> UNet:
    """Load what `save_ann` saved, in evaluation mode. Raises RunError."""
    with _reading(path, made_by="neuroseg train"):
        content = checked.fields(storage.load(path), "")
        config, state = parse_model(content.sub("model")), _state(content)
        with torch.device("meta"):  # which takes no memory: what it claims may be more than there is
            _check_sizes(state, {name: tuple(value.shape) for name, value in UNet(config).state_dict().items()})
        network = UNet(config)
        network.load_state_dict(state)
    return network.eval()


def holds(path: Path, network: torch.nn.Module) -> bool:
    """Whether a file of `save_ann` or `save_snn` has these weights already; what was made from it then stays good."""
    try:
        with _reading(path, made_by="this step"):
            stored = storage.load(path)["state"]
            state = network.state_dict()
            return stored.keys() == state.keys() and all(torch.equal(stored[name], state[name]) for name in state)
    except RunError:
        return False


def save_snn(network: SpikingNetwork, path: Path, *, notes: dict[str, str]) -> None:
    """Save a spiking network with its structure; notes say how it was made and travel into the exported file."""
    content = {
        "graph": structure.describe(network.graph),
        "alpha": network.alpha,
        "state": network.state_dict(),
        "notes": notes,
    }
    storage.save(content, path)


def load_snn(path: Path, *, made_by: str = "neuroseg convert") -> tuple[SpikingNetwork, dict[str, str]]:
    """Load what `save_snn` saved, in evaluation mode, with its notes. Raises RunError."""
    with _reading(path, made_by=made_by):
        content = checked.fields(storage.load(path), "")
        graph, state = structure.parse(content.get("graph")), _state(content)
        _check_sizes(state, _sizes(graph))  # before the module takes as much memory as the description claims
        network = SpikingNetwork(graph, alpha=float(content.number("alpha", -1e6, 1e6)))
        network.load_state_dict(state)
        notes = content.sub("notes")
        said = {name: notes.text(name) for name in notes.value}
    return network.eval(), said


def load_final(run: Run) -> tuple[SpikingNetwork, dict[str, str]]:
    """The fine-tuned network of a run where there is one, else the converted one; with its notes. Raises RunError."""
    return load_snn(run.snn if run.snn.exists() else run.converted)


def _state(content: Fields) -> dict[str, torch.Tensor]:
    """Tensors of finite numbers. Raises ValueError."""
    state = content.sub("state")
    for name, value in state.value.items():
        if not isinstance(value, torch.Tensor) or not value.dtype.is_floating_point:
            found = f"a tensor of {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise ValueError(f"{state.path(name)} is {found}; a tensor of floats is allowed")
        if not torch.isfinite(value).all():
            raise ValueError(f"{state.path(name)} is NaN or infinite in places; finite numbers are allowed")
    return dict(state.value)


def _sizes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of a spiking network."""
    sizes: dict[str, tuple[int, ...]] = {"scales": (len(graph.populations),), "logit_scale": ()}
    for population in graph.populations:
        for k, edge in enumerate(population.edges):
            sizes[f"weights.{population.name}:{k}"] = edge.op.weight.shape
        if population.neuron.bias is not None:
            sizes[f"biases.{bias_key(population.name)}"] = (population.neuron.bias.size,)
    return sizes


def _check_sizes(state: dict[str, torch.Tensor], sizes: dict[str, tuple[int, ...]]) -> None:
    for name, shape in sizes.items():
        if name not in state:
            raise ValueError(f"state.{name} is missing")
        if tuple(state[name].shape) != shape:
            raise ValueError(f"state.{name} has shape {tuple(state[name].shape)}; its description says {shape}")
    Fields(state, "state").only(sizes)


@contextmanager
def _reading(path: Path, *, made_by: str) -> Iterator[None]:
    """Turn whatever a missing, torn or foreign file raises into a RunError."""
    old = path.with_suffix(OLD_WEIGHTS)
    try:
        yield
    except FileNotFoundError:
        if old.exists():
            raise RunError(
                f"{old} is of an older version, whose files could run code and are not read any more; "
                f"make the run again (`{made_by}`)"
            ) from None
        raise RunError(f"{path}: no such file; `{made_by}` makes it") from None
    except (RuntimeError, OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RunError(f"{path}: cannot be read: {str(error)[:500]}") from error
