"""Cross-validation: the paper's table (Yue et al., arXiv 2302.07328), fold by fold, and a better one beside it.

Every network of a fold is a run folder of its own, which `neuroseg export` and `neuroseg validate` take to Lava.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export import files
from neuroseg import runs
from neuroseg.calibration import Conversion, calibrated
from neuroseg.conversion.convert import convert
from neuroseg.conversion.lower import integer_scales
from neuroseg.data.labels import Labels, values_and_classes
from neuroseg.data.volume import Subject, stack_slices
from neuroseg.experiments.scoring import converged, measured, measured_sigma_delta, scores
from neuroseg.runs import Run
from neuroseg.settings import Settings
from neuroseg.spiking.activity import ann_operations
from neuroseg.steps import sigma_delta_run
from neuroseg.training.finetune import FinetuneConfig, finetune
from neuroseg.training.loop import OnStep
from neuroseg.training.team import CPU, Team
from neuroseg.training.train import TrainConfig, predict, train
from neuroseg.training.unet import UNetConfig, channels_for

VALIDATION_SUBJECTS = 16  # of a fold's training subjects, to choose the best epoch on

ROWS = "rows.json"
ANN = "ann"  # its folder in that of a fold

Bar = Callable[[str], AbstractContextManager[OnStep]]


@dataclass(frozen=True)
class Variant:
    """One spiking network of the table.

    u0: in thresholds; finetuned, or just converted; deployed: int8 has a row. sigma_delta: of such neurons, whose
    spikes carry values, there are no float weights and nothing to fine-tune.
    """

    name: str
    timesteps: int
    balance: str = "rate"
    encoder: str = "rate"
    reset: str = "subtract"
    u0: float = 0.0
    finetuned: bool = False
    deployed: bool = True
    sigma_delta: bool = False

    @property
    def conversion(self) -> Conversion:
        return Conversion(self.timesteps, self.reset, self.u0, self.encoder, self.balance)


FINETUNED = "finetuned-T8"
VARIANTS = (
    Variant("paper-T200", 200, balance="threshold", encoder="poisson", deployed=False),
    Variant("converted-T128", 128, balance="activation", deployed=False),
    Variant("converted-T8", 8),
    Variant(FINETUNED, 8, finetuned=True),
    Variant("finetuned-T4", 4, finetuned=True),
    Variant("finetuned-T8-zero", 8, reset="zero", finetuned=True),
    Variant("graded-T4", 4, encoder="graded", u0=0.5, finetuned=True),
    Variant("graded-T2", 2, encoder="graded", u0=0.5, finetuned=True),
    Variant("graded-T1", 1, encoder="graded", u0=0.5, finetuned=True),
    Variant("sigma-delta-T1", 1, sigma_delta=True),
)


@dataclass(frozen=True)
class Fold:
    """Whose subjects do what. number counts from 1."""

    number: int
    training: tuple[Subject, ...]
    validation: tuple[Subject, ...]
    test: tuple[Subject, ...]


def make_folds(subjects: Sequence[Subject], *, folds: int, seed: int) -> tuple[Fold, ...]:
    """Split by subject, seeded: each subject is tested on once. Raises ValueError for too few subjects.

    Validation subjects are the first of the rest, so the folds after the first share them.
    """
    if not 2 <= folds <= len(subjects) // 2:
        raise ValueError(f"{folds} folds of {len(subjects)} subjects; 2 to {len(subjects) // 2} are possible")
    order = np.random.default_rng(seed).permutation(len(subjects))
    parts = np.array_split(order, folds)
    made = []
    for number, part in enumerate(parts, start=1):
        rest = [subjects[i] for other in parts if other is not part for i in other]
        held_out = max(1, min(VALIDATION_SUBJECTS, len(rest) // 5))
        test = tuple(subjects[i] for i in part)
        made.append(Fold(number, tuple(rest[held_out:]), tuple(rest[:held_out]), test))
    return tuple(made)


@dataclass(frozen=True)
class Recipe:
    """What all folds of a cross-validation have in common; see `run_fold`."""

    data: str
    model: UNetConfig = field(default_factory=UNetConfig)
    labels: Labels | None = None
    config: TrainConfig = field(default_factory=TrainConfig)
    tuning: FinetuneConfig = field(default_factory=FinetuneConfig)
    variants: Sequence[Variant] = VARIANTS
    device: torch.device = CPU

    def settings(self, fold: Fold) -> Settings:
        values, classes = values_and_classes(self.labels)
        return Settings(
            data=self.data,
            seed=self.config.seed,
            training=tuple(s.id for s in fold.training),
            validation=tuple(s.id for s in fold.validation),
            test=tuple(s.id for s in fold.test),
            model=replace(self.model, out_channels=channels_for(classes)),
            train=self.config,
            labels=values,
            classes=classes,
        )

    @property
    def tuned(self) -> FinetuneConfig:
        """Fine-tuning minimises the ANN's loss, from its seed."""
        return replace(self.tuning, loss=self.config.loss, seed=self.config.seed)


def run_fold(fold: Fold, folder: Path, recipe: Recipe, *, bar: Bar) -> dict[str, Any]:
    """Train the ANN and every variant of a fold; returns and stores the fold's rows.

    What is done already is read from `folder`, what was interrupted goes on. `bar` makes a progress bar. Raises
    RunError where `folder` holds something else.
    """
    with holding(folder):
        return run_networks(fold, folder, recipe, bar=bar)


def holding(folder: Path) -> AbstractContextManager[None]:
    """Keeps other cross-validations from a fold's folder meanwhile. Raises RunError."""
    return Run(folder).held("crossval", made_by=None)


def run_networks(fold: Fold, folder: Path, recipe: Recipe, *, bar: Bar) -> dict[str, Any]:
    """`run_fold`, of a folder that is held."""
    rows = run_ann(fold, folder, recipe, bar=bar)
    for variant in recipe.variants:
        rows += run_variant(fold, folder, recipe, variant, bar=bar)
    shown = {**asdict(recipe.settings(fold)), "data": Path(recipe.data).name}  # not where it lies here
    result = {"fold": fold.number, "loss": recipe.config.loss, "settings": shown, "rows": rows}
    files.write_json(result, folder.with_suffix(".json"))
    return result


def run_ann(fold: Fold, folder: Path, recipe: Recipe, *, bar: Bar) -> list[dict[str, Any]]:
    """The row of a fold's ANN, which is trained if it is not there; in `folder`/ann."""
    run, settings = Run(folder / ANN), recipe.settings(fold)
    _enter(run, settings)
    return _stored(run) or _store([_train_ann(fold, run, settings, bar, recipe.device)], run)


def run_variant(fold: Fold, folder: Path, recipe: Recipe, variant: Variant, *, bar: Bar) -> list[dict[str, Any]]:
    """The rows of a spiking network of a fold, which is made of its ANN if it is not there; in a folder of its name."""
    run, settings, tuning = Run(folder / variant.name), recipe.settings(fold), recipe.tuned
    _enter(run, settings)
    stored = _stored(run)
    if any("variant" not in row for row in stored):
        raise runs.RunError(f"{run.folder / ROWS} is of an earlier version; delete it, and its network is scored again")
    for row in stored:
        _check_made_so(run, row, _how_made(variant, tuning))
    ann = Run(folder / ANN)
    return stored or _store(_make_variant(fold, settings, variant, ann, run, tuning, bar, recipe.device), run)


def _how_made(variant: Variant, tuning: FinetuneConfig) -> dict[str, Any]:
    """How a network is made, as its rows say it; those of before there were graded ones say nothing of that."""
    shown = {key: value for key, value in asdict(variant).items() if key != "sigma_delta" or value}
    return {"variant": shown, "tuning": asdict(tuning) if variant.finetuned else None}


def _check_made_so(run: Run, row: dict[str, Any], made: dict[str, Any]) -> None:
    """Raise RunError that names what differs: of another version, perhaps, which knew fewer choices."""
    for key, value in made.items():
        for name in {**(value or {}), **(row[key] or {})}:
            found, wanted = ((side or {}).get(name, "none") for side in (row[key], value))
            if found != wanted:
                raise runs.RunError(
                    f"{run.folder / ROWS} holds a network with {key} {name} = {found}, where {wanted} is asked for; "
                    "delete its folder or choose another"
                )


def _other_variant(run: Run) -> runs.RunError:
    return runs.RunError(f"{run.folder} holds another variant; delete it or choose another folder")


def _enter(run: Run, settings: Settings) -> None:
    if run.settings_file.exists() and run.load_settings() != settings:
        raise runs.RunError(f"{run.folder} holds a run with other settings; delete it or choose another folder")
    run.save_settings(settings)


def _stored(run: Run) -> list[dict[str, Any]]:
    """The rows that an earlier call left, if it came to the end."""
    file = run.folder / ROWS
    return json.loads(file.read_text()) if file.exists() else []


def _store(rows: list[dict[str, Any]], run: Run) -> list[dict[str, Any]]:
    files.write_json(rows, run.folder / ROWS)
    return rows


def _train_ann(fold: Fold, run: Run, settings: Settings, bar: Bar, device: torch.device) -> dict[str, Any]:
    start = time.perf_counter()
    with bar(f"fold {fold.number} ANN") as show:
        network, history = train(
            fold.training,
            fold.validation,
            model=settings.model,
            config=settings.train,
            checkpoint=run.checkpoint(run.ann),
            on_step=show,
            team=Team(device),
        )
    runs.save_ann(network, history, run.ann)
    context = settings.model.context
    images, _ = stack_slices(fold.test[:1], context=context)  # for their shape
    return {
        "method": "ann",
        **scores(predict(network, fold.test, context=context), fold.test, settings.classes),
        "epochs": converged(history),
        "operations": ann_operations(convert(network, tuple(images.shape[1:]))),
        "seconds": time.perf_counter() - start,
    }


def _make_variant(
    fold: Fold,
    settings: Settings,
    variant: Variant,
    ann: Run,
    run: Run,
    tuning: FinetuneConfig,
    bar: Bar,
    device: torch.device,
) -> list[dict[str, Any]]:
    start = time.perf_counter()
    network = runs.load_ann(ann.ann)
    if not runs.holds(run.ann, network):
        run.forget_after(run.ann)
        runs.save_ann(network, [], run.ann)
    if variant.sigma_delta:
        graph = sigma_delta_run(run, stack_slices(fold.training, context=settings.model.context)[0]).graph
        row = {**_how_made(variant, tuning), "epochs": None, "seconds": time.perf_counter() - start}
        return [
            {
                "method": variant.name,
                "weights": "int8",
                **row,
                **measured_sigma_delta(graph, fold.test, settings.classes),
            }
        ]
    if not run.converted.exists():  # made again, on another machine, it may differ in its last bits
        spiking = calibrated(network, fold.training, variant.conversion, seed=tuning.seed)
        spiking = spiking.with_scales(integer_scales(spiking))
        runs.save_snn(spiking, run.converted, notes={"balance": variant.balance})
    spiking, notes = runs.load_snn(run.converted)
    made = [spiking.timesteps, spiking.neuron.reset, spiking.neuron.u0, spiking.encoder]
    if [*made, notes["balance"]] != [variant.timesteps, variant.reset, variant.u0, variant.encoder, variant.balance]:
        raise _other_variant(run)
    epochs = None
    if variant.finetuned:
        with bar(f"fold {fold.number} {variant.name}") as show:
            spiking, history = finetune(
                spiking,
                fold.training,
                fold.validation,
                config=tuning,
                teacher=network,
                checkpoint=run.checkpoint(run.snn),
                on_step=show,
                team=Team(device),
            )
        epochs = converged(history)
        runs.save_snn(spiking, run.snn, notes={**notes, "finetuned": json.dumps(asdict(tuning))})
    row = {**_how_made(variant, tuning), "epochs": epochs, "seconds": time.perf_counter() - start}
    modes = {"float": False, "int8": True} if variant.deployed else {"float": False}
    return [
        {
            "method": variant.name,
            "weights": weights,
            **row,
            **measured(spiking, fold.test, settings.classes, quantized=quantized),
        }
        for weights, quantized in modes.items()
    ]
