"""Masks of whole heads, as they are and altered as scanners alter them: Dice and volume a side, warnings, refusals.

    python -m benchmarks.heads HEAD.nii.gz[=TRUTH.nii.gz] ... [--only gamma,noise] [--json FILE]
    python -m benchmarks.heads --landmarks Task04_Hippocampus/imagesTr

TRUTH has 1 right and 2 left on the head's grid; `=atlas` takes the Harvard-Oxford hippocampi for a head that lies in
MNI space, and a head without one has volumes alone. `neuroseg bench heads` takes the two templates that packages ship.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import nibabel.processing
import numpy as np
from scipy import ndimage

from neuroseg.data import template
from neuroseg.data.folder import scans_in
from neuroseg.data.intensity import LANDMARKS
from neuroseg.data.locate import SIDES
from neuroseg.data.scan import ScanError, load_nifti, stem
from neuroseg.data.volume import normalise
from neuroseg.engine import Engine
from neuroseg.metrics import dice
from neuroseg.segment import LABELS, batch, network

ATLAS = "atlas"
SHIPPED = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"  # of nilearn, with its skull
WIDTH = 0.42  # of a Gaussian, in the full width of what it stands for
RAMP = (0.3, 0.4)  # log-amplitude of a bias field along x and y
ENOUGH = 0.7  # Dice a side; less without a warning or a refusal is silent

Alteration = Callable[[nib.Nifti1Image], nib.Nifti1Image]


@dataclass(frozen=True)
class Row:
    """A head under an alteration. dice: right and left, None without truth. said: kinds of warnings, or the refusal."""

    head: str
    alteration: str
    dice: tuple[float, ...] | None
    volumes_mm3: tuple[float, ...] | None
    certainty: tuple[float, ...] | None
    said: str

    @property
    def silent(self) -> bool:
        """A wrong mask of which nothing was said."""
        return self.dice is not None and min(self.dice) < ENOUGH and not self.said


def _changed(change: Callable[[np.ndarray], np.ndarray]) -> Alteration:
    """An alteration of intensities, which begin at 0 and have their 99.8th percentile at 1."""

    def altered(head: nib.Nifti1Image) -> nib.Nifti1Image:
        data = np.asarray(head.dataobj, np.float32)
        low, high = data.min(), np.percentile(data, 99.8)
        return nib.Nifti1Image(change((data - low) / (high - low)).astype(np.float32), head.affine)

    return altered


def _gamma(power: float) -> Alteration:
    return _changed(lambda x: 1000 * x**power)


def _noisy(x: np.ndarray, deviation: float) -> np.ndarray:
    """Rician noise, as magnitude MRI has."""
    normal = np.random.default_rng(0).standard_normal((2, *x.shape))
    return 1000 * np.hypot(x + deviation * normal[0], deviation * normal[1])


def _background(x: np.ndarray) -> np.ndarray:
    return 1000 * (x + 1e-3 * (x == 0) * np.abs(np.random.default_rng(0).standard_normal(x.shape)))


def _biased(x: np.ndarray) -> np.ndarray:
    along = [amplitude * np.linspace(-1, 1, n) for amplitude, n in zip(RAMP, x.shape, strict=False)]
    return 1000 * x * np.exp(along[0][:, None, None] + along[1][None, :, None])


def _z_scored(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / x.std()


def _z_scored_brain(x: np.ndarray) -> np.ndarray:
    brain = x > 0.05
    return np.where(brain, (x - x[brain].mean()) / x[brain].std(), 0)


def _coarse(*sizes: float | None) -> Alteration:
    """Voxels of other sizes in mm along R, A, S; None keeps one."""

    def altered(head: nib.Nifti1Image) -> nib.Nifti1Image:
        now = nib.affines.voxel_sizes(head.affine)
        new = np.array([old if size is None else size for old, size in zip(now, sizes, strict=True)])
        data = np.asarray(head.dataobj, np.float32)
        blurred = ndimage.gaussian_filter(data, WIDTH * np.sqrt(np.maximum(new**2 - now**2, 0)) / now)
        image = nib.Nifti1Image(blurred, head.affine)
        return nib.processing.resample_to_output(image, tuple(new), order=1, cval=float(data.min()))

    return altered


ALTERATIONS: dict[str, Alteration] = {
    "as it is": lambda head: head,
    **{f"gamma {power:g}": _gamma(power) for power in (0.5, 0.7, 1.4, 2)},
    "background noise": _changed(_background),
    "offset -1024": _changed(lambda x: 1000 * x - 1024),
    "z-scored": _changed(_z_scored),
    "z-scored brain": _changed(_z_scored_brain),
    **{f"{mm} mm voxels": _coarse(mm, mm, mm) for mm in (2, 3)},
    **{f"axial {mm} mm": _coarse(None, None, mm) for mm in (3, 5)},
    **{f"coronal {mm} mm": _coarse(None, mm, None) for mm in (3, 5)},
    **{f"sagittal {mm} mm": _coarse(mm, None, None) for mm in (3, 5)},
    "noise 10 %": _changed(lambda x: _noisy(x, 0.1)),
    "bias field": _changed(_biased),
}


def atlas_truth(head: nib.Nifti1Image) -> np.ndarray:
    """The Harvard-Oxford hippocampi at 50 % on the grid of a head in MNI space: uint8, 1 right, 2 left."""
    folder = template.atlas_folder() / "atlases"
    with open(folder / "labels_harvard_oxford.csv", newline="") as file:
        index = {row["name"]: int(row["index"]) for row in csv.DictReader(file)}
    atlas: Any = nib.load(folder / "atlas_harvard_oxford.nii.gz")
    truth = np.zeros(head.shape, np.uint8)
    for side, label in LABELS.items():
        percent = np.asarray(atlas.dataobj[..., index[f"{side.title()}_Hippocampus"]], np.float32)
        here = nib.processing.resample_from_to(nib.Nifti1Image(percent, atlas.affine), head, order=1)
        truth[np.asarray(here.dataobj) >= template.PROBABILITY] = label
    return truth


def measure(
    heads: Sequence[str], *, only: Sequence[str] = (), on_row: Callable[[Row], None] | None = None
) -> list[Row]:
    """A row for each head, PATH or PATH=TRUTH, and each alteration whose name begins as one of `only` (all by default).

    Raises ScanError for a head or a truth that cannot be read.
    """
    graph = network.load(network.SHIPPED)
    predict, sides = batch.predictor(graph, Engine()), graph.input.shape[1:]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for given in heads:
            path, _, truth_path = given.partition("=")
            head = nib.as_closest_canonical(load_nifti(Path(path)))
            truth = _truth(head, truth_path)
            for name, alter in ALTERATIONS.items():
                if only and not name.startswith(tuple(only)):
                    continue
                job = batch.Job(Path(scratch) / "head.nii.gz", Path(scratch) / "mask.nii.gz")
                row = _row(stem(Path(path).name), name, alter(head), truth, job, predict, sides)
                rows.append(row)
                if on_row:
                    on_row(row)
    return rows


def _truth(head: nib.Nifti1Image, given: str) -> nib.Nifti1Image | None:
    if not given:
        return None
    if given == ATLAS:
        return nib.Nifti1Image(atlas_truth(head), head.affine)
    return nib.as_closest_canonical(load_nifti(Path(given)))


def _row(
    name: str,
    alteration: str,
    head: nib.Nifti1Image,
    truth: nib.Nifti1Image | None,
    job: batch.Job,
    predict: Any,
    sides: Any,
) -> Row:
    nib.save(head, job.scan)
    try:
        found = batch.segment_file(job, predict, sides, batch.Search())
    except ScanError as error:
        return Row(name, alteration, None, None, None, f"refused: {str(error).removeprefix(f'{job.scan}: ')}")
    scores = None
    if truth is not None:
        here = truth
        if truth.shape != head.shape or not np.allclose(truth.affine, head.affine):
            here = _fractions(truth, head)
        scores = tuple(
            round(dice(found.mask == label, np.asarray(here.dataobj) == label), 3) for label in LABELS.values()
        )
    return Row(
        name,
        alteration,
        scores,
        tuple(round(found.volumes_mm3[side]) for side in SIDES),
        tuple(round(found.certainty[side], 3) for side in SIDES),
        ", ".join(dict.fromkeys(doubt.kind for doubt in found.doubts)),
    )


def _fractions(truth: nib.Nifti1Image, head: nib.Nifti1Image) -> nib.Nifti1Image:
    """Truth on a coarser grid: where half of a voxel or more is hippocampus."""
    out = np.zeros(head.shape, np.uint8)
    now, new = nib.affines.voxel_sizes(truth.affine), nib.affines.voxel_sizes(head.affine)
    sigma = WIDTH * np.sqrt(np.maximum(new**2 - now**2, 0)) / now
    for label in LABELS.values():
        share = ndimage.gaussian_filter((np.asarray(truth.dataobj) == label).astype(np.float32), sigma)
        here = nib.processing.resample_from_to(nib.Nifti1Image(share, truth.affine), head, order=1)
        out[np.asarray(here.dataobj) >= 0.5] = label
    return nib.Nifti1Image(out, head.affine)


def landmarks(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the percentiles LANDMARKS over the crops in a folder, normalised: `intensity.TRAINED`."""
    crops = (normalise(np.asarray(load_nifti(path).dataobj, np.float32)) for path in scans_in(folder))
    found = np.array([np.percentile(crop, LANDMARKS) for crop in crops])
    return found.mean(axis=0), found.std(axis=0)


def shipped() -> list[str]:
    """The heads that packages ship, with the atlas as truth: FSL's brain, and nilearn's head where it is installed."""
    heads = [template.atlas_folder() / "templates" / "MNI152_T1_1mm_brain.nii.gz"]
    nilearn = importlib.util.find_spec("nilearn")
    if nilearn and nilearn.submodule_search_locations:
        heads.append(Path(nilearn.submodule_search_locations[0]) / SHIPPED)
    return [f"{head}={ATLAS}" for head in heads]


def run() -> dict[str, Any]:
    rows = measure(shipped())
    return {"silent": sum(row.silent for row in rows), "rows": [asdict(row) for row in rows]}


def line(row: Row) -> str:
    """A row of the table, in Markdown."""

    def pair(values: tuple[float, ...] | None, form: str) -> str:
        return " / ".join(format(value, form) for value in values) if values else ""

    cells = (row.head, row.alteration, pair(row.dice, ".2f"), pair(row.volumes_mm3, ",.0f"), row.said)
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heads", nargs="*", metavar="HEAD[=TRUTH]")
    parser.add_argument("--only", default="", help="alterations, by the beginnings of their names, with commas")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--landmarks", type=Path, metavar="DIR", help="print the landmarks of the crops in a folder")
    given = parser.parse_args()
    if given.landmarks:
        for values in landmarks(given.landmarks):
            sys.stdout.write(", ".join(f"{value:.3f}" for value in values) + "\n")
        return
    sys.stdout.write("| head | alteration | Dice, right / left | mm3, right / left | said |\n|---|---|---|---|---|\n")

    def show(row: Row) -> None:
        sys.stdout.write(line(row) + "\n")
        sys.stdout.flush()

    only = [name for name in given.only.split(",") if name]
    rows = measure(given.heads or shipped(), only=only, on_row=show)
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
