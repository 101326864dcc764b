"""What a validation leaves in its run folder: report.json, report.html, segmentation.png and drawings."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from export import files
from export.graph import Graph, GraphError
from export.inspect import draw as draw_graph
from export.mapping.chips import LOIHI2
from export.mapping.summary import summary
from hardware_sim.reporting import bland_altman
from hardware_sim.reporting.bland_altman import Measured
from hardware_sim.reporting.chip import draw_chip
from hardware_sim.reporting.deployment import deploy
from hardware_sim.reporting.metrics import Metrics, ann_metrics, as_json, trace_metrics
from hardware_sim.reporting.page import count_cells, make_viewer, rasters, render
from hardware_sim.reporting.pictures import draw_masks, mask_rows
from hardware_sim.reporting.report import build_report
from hardware_sim.trace import Trace
from neuroseg import __version__, runs
from neuroseg.agreement import Agreement
from neuroseg.conversion.convert import convert
from neuroseg.conversion.lower import lower
from neuroseg.data.volume import stack_slices
from neuroseg.metrics import dice, volume_mm3
from neuroseg.runs import Run
from neuroseg.spiking.activity import measure
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.validation import Validation

STAGES = {
    "ann": "ANN",
    "converted": "converted",
    "finetuned": "fine-tuned",
    "quantized": "quantised",
    "hardware": "hardware",
}
METHODS = ("ANN", "hardware")  # whose agreement is shown
VIEWED = 3  # subjects whose slices report.html shows
VERSIONS = ("torch", "numpy", "lava-nc", "h5py", "nibabel")


def write_report(
    run: Run, validation: Validation, network: SpikingNetwork, *, repeat: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the files; returns the content of report.json. repeat: see `provenance`."""
    shown = validation.shown
    report = build_report(
        validation.comparisons,
        samples=[len(subject.image) for subject in validation.subjects],
        subjects=[subject.id for subject in validation.subjects],
        dice=validation.dice,
        backend=validation.engine.backend,
        fidelity=shown.hardware.engine.rpartition("/")[2],
        timesteps=network.timesteps,
        seconds=validation.seconds,
        repeat=repeat,
        chip=_chip(run, validation.graph, shown.hardware),
        metrics=_metrics(run, validation),
    )
    measured = _measured(validation)
    report["agreement"] = bland_altman.as_json(measured, report["subjects"], METHODS) if measured else None
    files.write_json(report, run.report)
    if len(validation.subjects) > 1 and measured:
        bland_altman.draw(measured, METHODS, run.agreement)
    first = validation.subjects[0]
    masks = {STAGES[stage]: found[0] for stage, found in validation.masks.items()}
    draw_masks(mask_rows(first.image, first.mask, masks), run.picture)
    draw_graph(validation.graph, run.drawing)
    files.write_text(_page(run, validation, network, report), run.page)
    return report


def _measured(validation: Validation) -> tuple[Measured, ...]:
    """Dice and volume, and those of each class, of each subject by the ANN and by the engine; none without an ANN."""
    if "ann" not in validation.masks:
        return ()
    pairs = [validation.masks[stage] for stage in ("ann", "hardware")]
    parts = [("", range(1, 256)), *((f"{name}, ", (k,)) for k, name in enumerate(validation.classes, start=1))]
    found = []
    for name, labels in parts:
        scores, volumes = [], []
        for masks in pairs:
            both = [
                (np.isin(m, labels), np.isin(s.mask, labels)) for m, s in zip(masks, validation.subjects, strict=True)
            ]
            scores.append(tuple(dice(mask, truth) for mask, truth in both))
            sizes = zip(both, validation.subjects, strict=True)
            volumes.append(tuple(volume_mm3(mask, subject.affine) for (mask, _), subject in sizes))
        found += [Measured(f"{name}Dice", "", *scores), Measured(f"{name}volume", "mm³", *volumes)]
    return tuple(found)


def write_image_report(
    run: Run, found: Agreement, truth: np.ndarray | None, *, repeat: Mapping[str, Any]
) -> dict[str, Any]:
    """report.json of a network on images, with what each stage decides in place of Dice; truth: labels, if any."""
    trace = found.shown.hardware
    starts = np.cumsum([0, *found.sizes])[:-1].tolist()
    metrics = {
        "ANN": metrics_of_ann(run, found.images.pixels[: trace.samples]),
        "SNN": trace_metrics(found.graph, trace),
    }
    report = build_report(
        found.comparisons,
        samples=found.sizes,
        subjects=[f"images {start} to {start + size - 1}" for start, size in zip(starts, found.sizes, strict=True)],
        dice={},
        backend=found.engine.backend,
        fidelity=trace.engine.rpartition("/")[2],
        timesteps=found.graph.meta.timesteps,
        seconds=found.seconds,
        repeat=repeat,
        chip=_chip(run, found.graph, trace),
        metrics={name: as_json(value) for name, value in metrics.items()},
    )
    report["images"], report["decisions"] = len(found.images), found.scores(truth)
    files.write_json(report, run.report)
    draw_graph(found.graph, run.drawing)
    return report


def metrics_of_ann(run: Run, images: torch.Tensor) -> Metrics:
    """NeuroBench's metrics of a run's ANN on slices (B, C, H, W): the float network of its populations with ReLUs."""
    if run.is_imported:
        ann, _ = runs.load_snn(run.ann)
    else:
        ann = convert(runs.load_ann(run.ann), tuple(images.shape[1:]), timesteps=1)
    return ann_metrics(lower(ann), images.numpy())


def _chip(run: Run, graph: Graph, trace: Trace) -> dict[str, Any]:
    """The network on Loihi 2, drawn, with what the slices that are shown cost; or why it does not fit there."""
    try:
        found = deploy(graph, LOIHI2, trace)
    except GraphError as error:
        return {"chip": LOIHI2.title, "refused": str(error)}
    draw_chip(found.placement, run.chip)
    return summary(found.placement, found.costs)


def _metrics(run: Run, validation: Validation) -> dict[str, Any]:
    images, _ = stack_slices([validation.shown.subject], context=validation.graph.meta.context)
    found = {"ANN": metrics_of_ann(run, images)} if run.ann.exists() else {}
    found["SNN"] = trace_metrics(validation.graph, validation.shown.hardware)
    return {name: as_json(value) for name, value in found.items()}


def provenance(network_file: bytes, *, command: str, seed: int, encoder: str) -> dict[str, Any]:
    """What the outcome of a validation depends on. network_file: the bytes that were read and run."""
    installed = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    return {
        "command": command,
        "seed": seed,
        "encoder": encoder,
        "network.net, SHA-256": hashlib.sha256(network_file).hexdigest(),
        "versions": {
            "neuroseg": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in VERSIONS if name in installed},
        },
        "machine": f"{platform.system()} {platform.machine()}",
        "made": time.strftime("%Y-%m-%d %H:%M %Z"),
    }


def _page(run: Run, validation: Validation, network: SpikingNetwork, report: Mapping[str, Any]) -> str:
    """report.html; its slices are of the first subjects, the one whose spikes are shown before all."""
    shown, subjects = validation.shown, validation.subjects
    order = sorted(range(len(subjects)), key=lambda k: subjects[k].id != shown.subject.id)[:VIEWED]
    viewers = [
        make_viewer(
            subjects[k].id,
            subjects[k].image,
            subjects[k].mask,
            {STAGES[stage]: found[k] for stage, found in validation.masks.items()},
            compared=(STAGES["quantized"], STAGES["hardware"]),
        )
        for k in order
    ]
    images, _ = stack_slices([shown.subject], context=validation.graph.meta.context)
    networks = {"converted": runs.load_snn(run.converted)[0]} if run.converted.exists() else {}
    networks |= {"fine-tuned": network} if run.snn.exists() else {}
    return render(
        report,
        viewers=viewers,
        rates={name: measure(part, images, quantized=True).rates for name, part in networks.items()},
        rasters=rasters(shown.software, shown.hardware, validation.diagnosis),
        cells=count_cells(shown.software, shown.hardware),
        stages=STAGES,
        network_svg=run.drawing.read_text(),
        chip_svg=run.chip.read_text() if run.chip.exists() else None,
        agreement_svg=run.agreement.read_text() if run.agreement.exists() else None,
        samples=shown.software.samples,
        diagnosis=validation.diagnosis,
    )
