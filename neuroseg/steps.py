"""The steps of the road on a run folder: train, convert, finetune, export, validate; each makes a file for the next."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export import netx
from export.graph import Graph
from neuroseg import runs
from neuroseg.calibration import (
    CALIBRATION_SLICES,
    Conversion,
    SigmaDeltaConversion,
    calibrated,
    explain_sigma_delta,
    sample,
)
from neuroseg.conversion.convert import convert
from neuroseg.conversion.lower import export, integer_scales
from neuroseg.data import ScanError
from neuroseg.data.volume import Subject, stack_slices
from neuroseg.engine import Engine
from neuroseg.report import provenance, write_report
from neuroseg.runs import Run, RunError
from neuroseg.settings import Settings
from neuroseg.spiking.activity import measure
from neuroseg.spiking.device import place
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.training.finetune import FinetuneConfig, finetune
from neuroseg.training.loop import Epoch, OnStep
from neuroseg.training.team import ALONE, CPU, Team
from neuroseg.training.train import predict, train
from neuroseg.validation import OnSubject, Validation, validate


def held_by_team(
    run: Run, step: str, team: Team, *, made_by: str | None = "neuroseg train"
) -> AbstractContextManager[None]:
    """The run, for the leading process of a team alone: the others write nothing."""
    return run.held(step, made_by=made_by) if team.leads else nullcontext()


def train_run(
    run: Run,
    settings: Settings,
    training: Sequence[Subject],
    validation: Sequence[Subject],
    *,
    on_step: OnStep | None = None,
    team: Team = ALONE,
) -> list[Epoch]:
    """Train the ANN of a run, or go on where that stopped; returns its history. Makes ann.safetensors.

    team: processes that do it together, the leading one of which writes. Raises RunError where the folder holds a run
    with other settings.
    """
    settings.model.check_slice(*training[0].image.shape[1:])
    with held_by_team(run, "train", team, made_by=None):
        return _train(run, settings, training, validation, on_step, team)


def _train(
    run: Run,
    settings: Settings,
    training: Sequence[Subject],
    validation: Sequence[Subject],
    on_step: OnStep | None,
    team: Team,
) -> list[Epoch]:
    if run.settings_file.exists() and run.load_settings() != settings:
        raise RunError(f"{run.folder} holds a run with other settings; delete it or choose another folder")
    if team.leads:
        run.save_settings(settings)
    network, history = train(
        training,
        validation,
        model=settings.model,
        config=settings.train,
        checkpoint=run.checkpoint(run.ann),
        on_step=on_step,
        team=team,
    )
    if team.leads and not runs.holds(run.ann, network):
        run.forget_after(run.ann)
        runs.save_ann(network, history, run.ann)
    return history


def convert_run(
    run: Run, training: Sequence[Subject], conversion: Conversion = Conversion(), *, device: torch.device = CPU
) -> SpikingNetwork:
    """Turn the ANN of a run into a balanced spiking network with integer scales. Makes converted.safetensors.

    device: where it is balanced.
    """
    settings = run.load_settings()
    with run.held("convert"):
        network = calibrated(runs.load_ann(run.ann), training, conversion, seed=settings.seed, device=device)
        network = network.with_scales(integer_scales(network))
        run.forget_after(run.converted)
        notes = {"balance": conversion.method, "data": Path(settings.data).name}
        runs.save_snn(network, run.converted, notes=notes)
    return network


def sigma_delta_run(
    run: Run, images: torch.Tensor, *, slices: int = CALIBRATION_SLICES, threshold: float = 0.0
) -> SigmaDeltaConversion:
    """Turn the ANN of a run into a network of sigma-delta neurons, calibrated on some images (B, C, H, W).

    threshold: a change of an activation that is not told. Makes sigma_delta.net.
    """
    with run.held("convert"):
        class_names: tuple[str, ...] = ()
        if run.is_imported:
            network, seed = runs.load_snn(run.ann)[0], run.load_imported().seed
        else:
            ann = runs.load_ann(run.ann)
            network = convert(ann, tuple(images.shape[1:]), timesteps=1, context=ann.config.context)
            settings = run.load_settings()
            seed, class_names = settings.seed, settings.class_names
        chosen = sample(images, slices, seed=seed)
        done = explain_sigma_delta(network, chosen, threshold=threshold, class_names=class_names)
        netx.write(done.graph, run.sigma_delta)
    return done


@dataclass(frozen=True)
class Tuning:
    """What fine-tuning reached. before, after: spikes per neuron and step of each population, on training slices."""

    history: list[Epoch]
    before: dict[str, float]
    after: dict[str, float]


def finetune_run(
    run: Run,
    training: Sequence[Subject],
    validation: Sequence[Subject],
    config: FinetuneConfig,
    *,
    on_step: OnStep | None = None,
    team: Team = ALONE,
) -> Tuning:
    """Fine-tune the converted network of a run, or go on where that stopped. Makes snn.safetensors."""
    with held_by_team(run, "finetune", team):
        network, notes = runs.load_snn(run.converted)
        checkpoint = run.checkpoint(run.snn)
        tuned, history = finetune(
            network,
            training,
            validation,
            config=config,
            teacher=runs.load_ann(run.ann) if config.distill else None,
            checkpoint=checkpoint,
            on_step=on_step,
            team=team,
        )
        if team.leads and not runs.holds(run.snn, tuned):
            run.forget_after(run.snn)
            notes = {**notes, "finetuned": json.dumps(dataclasses.asdict(config))}
            runs.save_snn(tuned, run.snn, notes=notes)
    images, _ = stack_slices(training, context=network.graph.meta.context)
    chosen = sample(images, CALIBRATION_SLICES, seed=config.seed)
    rates = (measure(part, chosen, quantized=True).rates for part in (network, tuned))
    return Tuning(history, *rates)


def export_run(run: Run, *, class_names: tuple[str, ...] | None = None) -> Graph:
    """Write the fine-tuned network of a run, or the converted one, checked against Loihi. Makes network.net."""
    with run.held("export"):
        network, notes = runs.load_final(run)
        if class_names is None:
            class_names = () if run.is_imported else run.load_settings().class_names
        graph = export(network, class_names=class_names, notes=notes)
        run.forget_after(run.network)
        netx.write(graph, run.network)
    return graph


def held_out(run: Run, subjects: Sequence[Subject], *, source: str) -> list[Subject]:
    """The subjects that a run did not train on: its test subjects, if it has such. Raises ScanError where none is left.

    By name alone: the data may lie elsewhere than when it was trained on.
    """
    settings = run.load_settings()
    test = [subject for subject in subjects if subject.id in settings.test]
    chosen = test or [subject for subject in subjects if subject.id not in settings.training]
    if not chosen:
        raise ScanError(f"{source}: every subject was trained on; none is left to validate with")
    return chosen


def validate_run(
    run: Run,
    subjects: Sequence[Subject],
    engine: Engine,
    *,
    command: str,
    on_step: OnSubject | None = None,
    device: torch.device = CPU,
) -> tuple[Validation, dict[str, Any]]:
    """Hold the exported network of a run against PyTorch. Makes report.json, report.html, segmentation.png.

    command: what repeats it. Returns what was found, and the content of report.json. Raises RunError where network.net
    changes while it is read.
    """
    with run.held("validate"):
        return _validate(run, subjects, engine, command, on_step, device)


def _validate(
    run: Run,
    subjects: Sequence[Subject],
    engine: Engine,
    command: str,
    on_step: OnSubject | None,
    device: torch.device,
) -> tuple[Validation, dict[str, Any]]:
    network, _ = runs.load_final(run)
    raw, graph = read_network(run)
    run.forget_after(run.network)
    stages = masks_by_stage(run, network, subjects)
    place(network, device)
    found = validate(network, graph, subjects, engine, stages=stages, on_step=on_step)
    place(network, CPU)
    seed = run.load_settings().seed
    repeat = provenance(raw, command=command, seed=seed, encoder=graph.meta.encoder)
    return found, write_report(run, found, network, repeat=repeat)


def read_network(run: Run) -> tuple[bytes, Graph]:
    """The bytes of the exported network of a run, and what they hold. Raises RunError where they change meanwhile."""
    raw = run.exported().read_bytes()
    graph = netx.read(run.network)
    if hashlib.sha256(run.network.read_bytes()).digest() != hashlib.sha256(raw).digest():
        raise RunError(f"{run.network} changed while it was read; is it being exported? Try again")
    return raw, graph


def masks_by_stage(run: Run, network: SpikingNetwork, subjects: Sequence[Subject]) -> dict[str, list[np.ndarray]]:
    """What the float networks of a run make of subjects, as far as it has them."""
    context = network.graph.meta.context
    masks = {"ann": predict(runs.load_ann(run.ann), subjects, context=context)}
    if run.converted.exists():
        masks["converted"] = predict(runs.load_snn(run.converted)[0].predict, subjects, context=context)
    if run.snn.exists():
        masks["finetuned"] = predict(network.predict, subjects, context=context)
    return masks
