"""From files to files: one scan or several, each by itself, and a table of what was found."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy.special import expit, softmax

import hardware_sim
from export import files
from export.graph import Graph
from neuroseg.cluster import Cluster, each
from neuroseg.data.labels import Labels, hippocampus
from neuroseg.data.locate import SIDES, Side, find, is_crop
from neuroseg.data.scan import ScanError, load_nifti, stem
from neuroseg.engine import Engine, class_names, image_spikes
from neuroseg.segment.masks import Predict, Segmentation, segment
from neuroseg.segment.outputs import SUFFIXES, check_different, check_name, save, try_places
from neuroseg.segment.regions import BOX, cut
from neuroseg.spiking.device import device_of
from neuroseg.spiking.network import SpikingNetwork

log = logging.getLogger(__name__)

TABLE = "volumes.csv"
NOTHING = hardware_sim.Record(spikes=())  # only the output is wanted


@dataclass(frozen=True)
class Job:
    """A scan and where its mask, and its map of probabilities, shall lie."""

    scan: Path
    mask: Path
    probability: Path | None = None

    def absolute(self) -> Job:
        """The same for a process that works in another folder."""
        probability = self.probability and self.probability.absolute()
        return Job(self.scan.absolute(), self.mask.absolute(), probability)

    @property
    def made(self) -> tuple[Path, ...]:
        return (self.mask,) if self.probability is None else (self.mask, self.probability)


@dataclass(frozen=True)
class Search:
    """How hippocampi are found: side, the only one wanted; centres in world mm; a mask over them, and its labels."""

    side: Side | None = None
    centres: tuple[tuple[float, ...], ...] = ()
    mask: Path | None = None
    labels: Labels | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a job: figures by side, doubts, or the error that ended it. The arrays are in the files.

    labels, class_volumes_mm3: as in `Segmentation`.
    """

    job: Job
    volumes_mm3: dict[Side, float]
    certainty: dict[Side, float]
    doubts: tuple[str, ...] = ()
    error: str | None = None
    labels: dict[str, int] = field(default_factory=dict)
    class_volumes_mm3: dict[str, float] = field(default_factory=dict)


def predictor(graph: Graph, engine: Engine, on_step: Callable[[int, int], None] | None = None) -> Predict:
    """A network on an engine as a function from slices to probabilities."""

    def predict(slices: torch.Tensor) -> np.ndarray:
        trace = engine.run(graph, image_spikes(graph, slices), record=NOTHING, on_step=on_step)
        found = trace.output * graph.meta.logit_scale  # N, C, Y, Z
        return softmax(found, axis=1) if found.shape[1] > 1 else expit(found)

    return predict


def pytorch_predictor(network: SpikingNetwork) -> Predict:
    """`predictor` of the same integers in PyTorch, where the network's parameters are."""

    def predict(slices: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            found = network.predict(slices.to(device_of(network)), quantized=True).cpu().numpy().astype(np.float64)
        return softmax(found, axis=1) if found.shape[1] > 1 else expit(found)

    return predict


def jobs_into(folder: Path, scans: Sequence[Path]) -> tuple[Job, ...]:
    """A job for each scan with a mask of its name in a folder. Raises ScanError where two scans have one name."""
    made = tuple(Job(scan, folder / f"{stem(scan.name)}{SUFFIXES[0]}") for scan in scans)
    names: dict[str, Path] = {}
    for job in made:
        other = names.setdefault(job.mask.name.lower(), job.scan)
        if other is not job.scan:
            raise ScanError(
                f"{other} and {job.scan} would have one mask, {job.mask}; scans of different names are allowed"
            )
    return made


def check_jobs(jobs: Sequence[Job], search: Search, *, more: Sequence[Path] = ()) -> None:
    """Raise ScanError or OSError where a file cannot be written, or would replace one that is read, before any work."""
    if search.mask and search.centres:
        raise ScanError("a mask and a box were given to say where the hippocampus is; one of them is allowed")
    made = [path for job in jobs for path in job.made]
    for path in made:
        check_name(path)
    read = [*(job.scan for job in jobs), *([search.mask] if search.mask else ())]
    check_different([*made, *more], read)
    try_places([*made, *more])


def segment_file(
    job: Job,
    predict: Predict,
    graph: Graph,
    search: Search,
    *,
    strict: bool = False,
) -> Segmentation:
    """Segment the scan of one job and write its files.

    graph: the network that predicts, which says what slices it takes and its classes. strict: a doubt is an error.
    Raises ScanError naming the scan.
    """
    _, *sides = graph.input.shape  # Y, Z
    image = load_nifti(job.scan)
    region = _region(search)
    try:
        places = find(image, side=search.side, boxes=search.centres, mask=region)
        regions = cut(image, places, box=(None if is_crop(image) else BOX[0], sides[0], sides[1]))
        found = segment(image, regions, predict, classes=class_names(graph)[1:], context=graph.meta.context)
    except ScanError as error:
        raise ScanError(f"{job.scan}: {error}") from error
    if strict and found.doubts:
        raise ScanError(
            f"{job.scan}: no mask was written, as it is doubtful: {'; '.join(d.text for d in found.doubts)}"
        )
    save(found, job.mask, job.probability)
    return found


@dataclass(frozen=True)
class Task:
    """Everything that a process needs to segment the scan of a job.

    strict: as in `segment_file`. spiking: the same network in PyTorch, which does it in place of the engine.
    """

    graph: Graph
    engine: Engine
    search: Search
    strict: bool = False
    spiking: SpikingNetwork | None = None

    def absolute(self) -> Task:
        """The same for a process that works in another folder."""
        return replace(self, search=replace(self.search, mask=self.search.mask and self.search.mask.absolute()))

    def __call__(self, job: Job) -> Outcome:
        """Segment it; what goes wrong with one scan is in its outcome."""
        try:
            predict = pytorch_predictor(self.spiking) if self.spiking else predictor(self.graph, self.engine)
            return outcome(job, segment_file(job, predict, self.graph, self.search, strict=self.strict))
        except (ValueError, OSError, RuntimeError, ArithmeticError, LookupError) as error:
            log.debug("%s", job.scan, exc_info=True)
            return failure(job, str(error))


def segment_files(
    jobs: Sequence[Job], task: Task, *, cluster: Cluster = Cluster(), on_done: Callable[[int, int], None] | None = None
) -> list[Outcome]:
    """Segment the scans of several jobs; one that fails does not end the others.

    The masks are the same however many processes do it. on_done: called with scans done and scans in all.
    """
    if not cluster.alone:
        found = each(cluster, task.absolute(), [job.absolute() for job in jobs], failed=failure, on_done=on_done)
        return [replace(one, job=job) for one, job in zip(found, jobs, strict=True)]
    with task.engine.warm() as warm:
        return each(cluster, replace(task, engine=warm), jobs, failed=failure, on_done=on_done)


def failure(job: Job, text: str) -> Outcome:
    """Of a job that made no mask."""
    return Outcome(job, {}, {}, error=text)


def outcome(job: Job, found: Segmentation) -> Outcome:
    """What a table says of a segmentation."""
    texts = tuple(doubt.text for doubt in found.doubts)
    return Outcome(
        job,
        found.volumes_mm3,
        found.certainty,
        texts,
        labels=found.labels,
        class_volumes_mm3=found.class_volumes_mm3,
    )


def write_table(outcomes: Sequence[Outcome], path: Path) -> None:
    """A CSV with a row a scan: files, volumes in mm3 of sides and of their classes, certainty, doubts, error."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    figures = [f"{side}_{name}" for name in ("mm3", "certainty") for side in SIDES]
    parts = list(dict.fromkeys(name for found in outcomes for name in found.class_volumes_mm3))
    parts.sort(key=lambda name: name.startswith(SIDES[1]))  # the right one's before the left one's
    rows.writerow(["scan", "mask", *figures, *(f"{name.replace(' ', '_')}_mm3" for name in parts), "doubts", "error"])
    for found in outcomes:
        volumes = [f"{found.volumes_mm3[side]:.1f}" if side in found.volumes_mm3 else "" for side in SIDES]
        certainty = [f"{found.certainty[side]:.3f}" if side in found.certainty else "" for side in SIDES]
        mask = "" if found.error else found.job.mask
        classes = [f"{found.class_volumes_mm3[name]:.1f}" if name in found.class_volumes_mm3 else "" for name in parts]
        figures = [*volumes, *certainty, *classes]
        rows.writerow([found.job.scan, mask, *figures, "; ".join(found.doubts), found.error or ""])
    files.write_text(text.getvalue(), path)


def _region(search: Search) -> nib.Nifti1Image | None:
    """The mask that says where hippocampi are, 0 and 1."""
    if search.mask is None:
        return None
    mask = load_nifti(search.mask)
    try:
        found = hippocampus(mask, search.labels)
    except ScanError as error:
        raise ScanError(f"{search.mask}: {error}") from error
    if found.note:
        log.warning("%s: %s", search.mask, found.note)
    return nib.Nifti1Image((found.voxels > 0).astype(np.uint8), mask.affine)
