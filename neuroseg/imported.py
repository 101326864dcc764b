"""The steps of the road for a network that came by file, on images: convert, finetune, validate."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuroseg import runs
from neuroseg.agreement import Agreement, OnImages, validate_images
from neuroseg.calibration import CALIBRATION_SLICES, Conversion, balanced, sample
from neuroseg.conversion.balance import agreement_over_time, balance
from neuroseg.conversion.convert import Row, explain
from neuroseg.conversion.lower import integer_scales
from neuroseg.conversion.model_file import read_model
from neuroseg.data.images import Images, read_images
from neuroseg.engine import Engine
from neuroseg.report import provenance, write_image_report
from neuroseg.runs import Run
from neuroseg.settings import Imported
from neuroseg.spiking.activity import measure
from neuroseg.spiking.device import place
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.steps import Tuning, held_by_team, read_network
from neuroseg.training.finetune import FinetuneConfig, finetune_images
from neuroseg.training.loop import OnStep
from neuroseg.training.team import ALONE, CPU, Team

LONG = 64  # steps, at which a converted network shows how far it is from its model
HIGHEST = 99.9  # percentile of activations that is a threshold then: few are cut off, and 64 steps resolve the rest


@dataclasses.dataclass(frozen=True, eq=False)
class ModelConversion:
    """A model's spiking network, what its operations became, and how far it decides as the model on its images.

    agreement: `metrics.agreement` at the network's own steps and, with thresholds for so many, at LONG; frozen: of the
    model itself when its norms are frozen.
    """

    network: SpikingNetwork
    rows: tuple[Row, ...]
    agreement: Mapping[int, float]
    frozen: float | None


def convert_model(
    run: Run,
    file: Path,
    images: Images,
    conversion: Conversion = Conversion(),
    *,
    freeze_norms: bool = False,
    device: torch.device = CPU,
) -> ModelConversion:
    """Turn the model in a file into a spiking network, balanced on some of the images, with integer scales.

    freeze_norms: whether norms that depend on the image use the statistics of these images. device: where it is
    balanced. Makes run.json,
    ann.safetensors (the network before it is balanced: as an ANN it is the model) and converted.safetensors. Raises
    ProgramError, ConversionError, and RunError where the folder holds a run of scans.
    """
    model = read_model(file, images.shape)
    with run.held("convert", made_by=None):
        if run.settings_file.exists():
            run.load_imported()
        imported = Imported(file.name, hashlib.sha256(file.read_bytes()).hexdigest())
        chosen = sample(images.pixels, conversion.slices, seed=imported.seed)
        done = explain(
            model,
            images.shape,
            timesteps=conversion.timesteps,
            reset=conversion.reset,
            u0=conversion.u0,
            encoder=conversion.encoder,
            ternary=conversion.ternary,
            freeze_norms=chosen if freeze_norms else None,
        )
        ann = done.network
        network = balanced(ann, chosen, method=conversion.method, seed=imported.seed, device=device)
        network = network.with_scales(integer_scales(network))
        run.save_settings(imported)
        run.forget_after(run.ann)
        runs.save_snn(ann, run.ann, notes={})
        runs.save_snn(network, run.converted, notes={"balance": conversion.method, "model": file.name})
    at_length = balance(ann, chosen, method="activation", percentiles=(HIGHEST,), seed=imported.seed)
    reached = {
        T: agreement_over_time(made, chosen, timesteps=T, ann=ann, seed=imported.seed)
        for T, made in ((LONG, at_length), (conversion.timesteps, network))
    }
    return ModelConversion(network, done.rows, reached, done.frozen)


def images_for(run: Run, path: Path) -> Images:
    """Images for the network of a run. Raises RunError where it is one of scans, FileNotFoundError, ImageError."""
    run.load_imported()
    return read_images(path, shape=ann_of(run).graph.input.shape)


def ann_of(run: Run) -> SpikingNetwork:
    """The network of a run as it was before balancing. Raises RunError."""
    return runs.load_snn(run.ann, made_by="neuroseg convert MODEL.pt2")[0].eval()


def finetune_run_images(
    run: Run,
    images: Images,
    labels: np.ndarray,
    config: FinetuneConfig,
    *,
    on_step: OnStep | None = None,
    team: Team = ALONE,
) -> Tuning:
    """Fine-tune the converted network of a run on labelled images; resumes. Makes snn.safetensors."""
    with held_by_team(run, "finetune", team):
        network, notes = runs.load_snn(run.converted)
        tuned, history = finetune_images(
            network,
            images.pixels,
            labels,
            config=config,
            teacher=ann_of(run) if config.distill else None,
            checkpoint=run.checkpoint(run.snn),
            on_step=on_step,
            team=team,
        )
        if team.leads and not runs.holds(run.snn, tuned):
            run.forget_after(run.snn)
            notes = {**notes, "finetuned": json.dumps(dataclasses.asdict(config))}
            runs.save_snn(tuned, run.snn, notes=notes)
    chosen = sample(images.pixels, CALIBRATION_SLICES, seed=config.seed)
    return Tuning(history, *(measure(part, chosen, quantized=True).rates for part in (network, tuned)))


def validate_run_images(
    run: Run,
    images: Images,
    engine: Engine,
    *,
    labels: np.ndarray | None = None,
    command: str,
    on_step: OnImages | None = None,
    device: torch.device = CPU,
) -> tuple[Agreement, dict[str, Any]]:
    """Hold the exported network of a run against PyTorch on images. Makes report.json and drawings of network and chip.

    command: what repeats it. Returns what was found, and the content of report.json. Raises as `steps.validate_run`.
    """
    with run.held("validate"):
        imported = run.load_imported()
        network, _ = runs.load_final(run)
        raw, graph = read_network(run)
        run.forget_after(run.network)
        place(network, device)
        found = validate_images(network, graph, images, engine, ann=ann_of(run), on_step=on_step)
        repeat = provenance(raw, command=command, seed=imported.seed, encoder=graph.meta.encoder)
        return found, write_image_report(run, found, labels, repeat=repeat)
