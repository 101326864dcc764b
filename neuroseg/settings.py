"""What run.json holds: where the data came from, who was trained on, and how; or which file a network came by."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass

from export import checked
from export.checked import Fields
from neuroseg.data.labels import BACKGROUND, CLASSES, Labels
from neuroseg.data.volume import Box
from neuroseg.training.losses import LOSSES
from neuroseg.training.train import PRECISIONS, TrainConfig
from neuroseg.training.unet import UNetConfig

SEED_MAX, COUNT_MAX, SIDE_MAX = 2**40, 2**31, 2**15  # more is no setting, but a broken file
LABELS_MAX = 2**10
HIPPOCAMPUS = "hippocampus"


@dataclass(frozen=True)
class Settings:
    """run.json: where the data came from and who was trained on.

    test: subjects kept for the end, if any. labels: values of the masks that are hippocampus, empty for what
    `data.labels.hippocampus` takes by itself. classes: their names, where each is a class of its own.
    """

    data: str
    seed: int
    training: tuple[str, ...]
    validation: tuple[str, ...]
    model: UNetConfig
    train: TrainConfig
    box: Box | None = None
    test: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def chosen(self) -> Labels | None:
        """The labels, as `data.open_cohort` takes them."""
        return dict(zip(self.classes, self.labels, strict=True)) if self.classes else self.labels or None

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the channels of the network's output are."""
        return (BACKGROUND, *self.classes) if self.classes else (HIPPOCAMPUS,)


@dataclass(frozen=True)
class Imported:
    """run.json of a network that came by file: the file's name and its SHA-256."""

    program: str
    sha256: str
    seed: int = 0


def parse_imported(given: Fields) -> Imported:
    """As `parse_settings`."""
    given.only([field.name for field in dataclasses.fields(Imported)])
    return Imported(given.text("program"), given.text("sha256"), given.integer("seed", 0, SEED_MAX))


def parse_settings(given: Fields) -> Settings:
    """Settings from JSON. Raises ValueError naming the field, what was found and what is allowed."""
    given.only([field.name for field in dataclasses.fields(Settings)])
    return Settings(
        data=given.text("data"),
        seed=given.integer("seed", 0, SEED_MAX),
        training=given.texts("training"),
        validation=given.texts("validation"),
        model=parse_model(given.sub("model")),
        train=_training(given.sub("train")),
        box=_box(given) if "box" in given else None,
        test=given.texts("test") if "test" in given else (),
        labels=given.integers("labels", (0, LABELS_MAX), 1, COUNT_MAX) if "labels" in given else (),
        classes=_classes(given) if "classes" in given else (),
    )


def _classes(given: Fields) -> tuple[str, ...]:
    """Names for all labels, or none; the network has a channel more."""
    names = given.texts("classes", CLASSES)
    labels, channels = given.items("labels", LABELS_MAX), given.sub("model").value.get("out_channels")
    if names and not (len(set(names)) == len(names) == len(labels) and channels == len(names) + 1):
        allowed = f"a different name for each of {len(labels)} labels, and a channel more, are allowed"
        raise ValueError(f"{given.path('classes')} are {', '.join(names)} of {channels} channels; {allowed}")
    return names


def _box(given: Fields) -> Box:
    depth, *slice_sides = given.items("box", 3, 3)
    if depth is not None:
        depth = checked.integer(depth, given.path("box[0]"), 1, SIDE_MAX)
    height, width = (checked.integer(n, given.path(f"box[{k}]"), 1, SIDE_MAX) for k, n in enumerate(slice_sides, 1))
    return depth, height, width


def parse_model(given: Fields) -> UNetConfig:
    """A network's settings from JSON, as `parse_settings`. Fields that are missing are as they are by default."""
    given = _filled(given, UNetConfig())
    return UNetConfig(
        in_channels=given.integer("in_channels", 1, SIDE_MAX),
        out_channels=given.integer("out_channels", 1, SIDE_MAX),
        channels=given.integers("channels", (1, 16), 1, SIDE_MAX),
        dropout=given.number("dropout", 0, 1),
    )


def _training(given: Fields) -> TrainConfig:
    given = _filled(given, TrainConfig())
    return TrainConfig(
        epochs=given.integer("epochs", 1, COUNT_MAX),
        batch=given.integer("batch", 1, COUNT_MAX),
        learning_rate=given.number("learning_rate", 0, 1e6),
        augment=given.flag("augment"),
        warm_up=given.integer("warm_up", 0, COUNT_MAX),
        loss=given.text("loss", LOSSES),
        seed=given.integer("seed", 0, SEED_MAX),
        precision=given.text("precision", PRECISIONS),
    )


def _filled(given: Fields, default: UNetConfig | TrainConfig) -> Fields:
    known = asdict(default)
    given.only(known)
    return Fields({**known, **given.value}, given.where)
