"""Folders with a dataset.json: the Medical Segmentation Decathlon's (Antonelli et al. 2022) and nnU-Net's."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from export import checked
from neuroseg.data.folder import find_file, name_form, scans_in
from neuroseg.data.labels import Labels
from neuroseg.data.scan import ScanError, is_scan, stem
from neuroseg.data.volume import HIPPOCAMPUS_SLICE, Box, Cohort, Pair, Reject, read_pairs

log = logging.getLogger(__name__)

LISTING = "dataset.json"
FIRST_CHANNEL = "_0000"
BOX: Box = (
    None,
    *HIPPOCAMPUS_SLICE,
)  # scans are already cropped to the hippocampus; keep every sagittal slice


def is_msd(directory: Path) -> bool:
    """Whether a folder has the Decathlon's layout, or nnU-Net's."""
    return (directory / LISTING).is_file() and (directory / "imagesTr").is_dir()


def read(directory: Path, *, box: Box = BOX, labels: Labels | None = None) -> Cohort:
    """Read the training cases of a Decathlon folder, or of nnU-Net's raw data (version 1 or 2).

    labels: of the masks, as in `labels.hippocampus`; by default those whose names in dataset.json speak of a
    hippocampus, where they do. Of several channels the first is read. Raises ScanError when the folder is neither;
    broken cases become rejects.
    """
    listing = listed(directory)
    cases = _nnunet(directory, listing) if "training" not in listing else _decathlon(directory, listing)
    pairs = [pair for pair in cases if not isinstance(pair, Reject)]
    refused = tuple(case for case in cases if isinstance(case, Reject))
    chosen = labels if labels is not None else _labels(listing)
    cohort = read_pairs(pairs, box=box, labels=chosen)
    known = {name_form(image.name) for _, image, _ in pairs}
    scans = [path for path in sorted((directory / "imagesTr").iterdir()) if is_scan(path)]
    strays = [path for path in scans if name_form(path.name) not in known and not _is_further_channel(path, listing)]
    return Cohort(
        cohort.subjects,
        cohort.rejects + refused + tuple(Reject(stem(path.name), f"not listed in {LISTING}") for path in strays),
    )


def listed(directory: Path) -> dict[str, Any]:
    """What dataset.json holds. Raises ScanError naming the file for whatever is in it."""
    file = directory / LISTING
    try:
        content = dict(checked.read(file).value)
    except FileNotFoundError:
        raise ScanError(f"{directory}: no {LISTING}; a Decathlon folder has one") from None
    except ValueError as error:
        raise ScanError(f"{file}: cannot be read as JSON ({error})") from None
    if not isinstance(content.get("training", []), list):
        raise ScanError(f"{file}: training is {type(content['training']).__name__}; a list of cases is needed")
    if not content.keys() & {"training", "channel_names", "modality"}:
        raise ScanError(
            f"{file}: not a Decathlon listing: has {', '.join(map(str, content)) or 'nothing'}; training (Decathlon) "
            "or channel_names (nnU-Net) is needed"
        )
    return content


def _decathlon(directory: Path, listing: dict[str, Any]) -> list[Pair | Reject]:
    cases: list[Pair | Reject] = []
    for k, case in enumerate(listing["training"]):
        try:
            image, label = (str(case[key]) for key in ("image", "label"))
        except (TypeError, KeyError):
            cases.append(Reject(f"case {k}", f"{LISTING} gives no image and label, but {str(case)[:60]!r}"))
            continue
        name = stem(Path(image).name)
        outside = [text for text in (image, label) if _leaves(text)]
        if outside:
            cases.append(Reject(name, f"{LISTING} leads out of its folder: {outside[0]!r}; paths inside are allowed"))
            continue
        path = find_file(directory / image) or find_file(directory / _channel(image)) or directory / image
        cases.append((name, path, find_file(directory / label)))
    return cases


def _nnunet(directory: Path, listing: dict[str, Any]) -> list[Pair | Reject]:
    """imagesTr/CASE_0000.nii.gz and labelsTr/CASE.nii.gz."""
    channels = listing.get("channel_names") or listing.get("modality") or {}
    if len(channels) > 1:
        log.warning("%s: %d channels; the first, %s, is read", directory, len(channels), _first(channels))
    images = [path for path in sorted((directory / "imagesTr").iterdir()) if is_scan(path)]
    firsts = [path for path in images if stem(path.name).endswith(FIRST_CHANNEL)]
    masks = {name_form(stem(path.name)): path for path in scans_in(directory / "labelsTr")}
    names = [stem(path.name).removesuffix(FIRST_CHANNEL) for path in firsts]
    return [(name, path, masks.get(name_form(name))) for name, path in zip(names, firsts, strict=True)]


def _labels(listing: dict[str, Any]) -> tuple[int, ...] | None:
    """Labels whose names speak of the hippocampus or its parts, where others are listed too; else None."""
    named = [(name, value) for name, value in _named(listing) if value != 0]
    found = [value for name, value in named if value and "hippocamp" in name.lower()]
    return tuple(found) if found and len(found) < len(named) else None


def named_labels(listing: dict[str, Any]) -> dict[str, int]:
    """Values of the labels that a listing names, but for the background, and for names of several labels."""
    named = _named(listing)
    names = [name for name, _ in named]
    return {name: value for name, value in named if value and names.count(name) == 1}


def _named(listing: dict[str, Any]) -> list[tuple[str, int | None]]:
    """Names and values of all labels; None for nnU-Net's regions, which are several."""
    named, found = listing.get("labels"), []
    for key, value in named.items() if isinstance(named, dict) else ():
        name, number = (value, key) if isinstance(value, str) else (key, value)  # version 1: number to name
        known = isinstance(number, int | str) and str(number).isdecimal() and len(str(number)) < 10
        found.append((str(name), int(number) if known else None))
    return found


def _first(channels: Any) -> str:
    return str(channels.get("0", "0000")) if isinstance(channels, dict) else "0000"


def _channel(image: str) -> str:
    path = Path(image)
    return str(path.with_name(stem(path.name) + FIRST_CHANNEL + path.name[len(stem(path.name)) :]))


def _is_further_channel(path: Path, listing: dict[str, Any]) -> bool:
    name = stem(path.name)
    return "channel_names" in listing and name[-5:-4] == "_" and name[-4:].isdigit() and name[-4:] != FIRST_CHANNEL[1:]


def _leaves(text: str) -> bool:
    """Whether a path of a listing leads out of the listing's folder, on any system."""
    parts = text.replace("\\", "/").split("/")
    return not text or "\0" in text or text.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]
