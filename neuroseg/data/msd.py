"""The Medical Segmentation Decathlon: imagesTr, labelsTr, dataset.json (Antonelli et al. 2022)."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pooch
import requests

from neuroseg.data.volume import HIPPOCAMPUS_SLICE, Box, Cohort, Reject, ScanError, read_pairs

NAME = "Task04_Hippocampus"
URL = "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task04_Hippocampus.tar"
MD5 = "md5:9d24dba78a72977dbd1d2e110310f31b"
BOX: Box = (
    None,
    *HIPPOCAMPUS_SLICE,
)  # scans are already cropped to the hippocampus; keep every sagittal slice

Progress = Callable[[int, int], None]


def is_msd(directory: Path) -> bool:
    """Whether a folder has the Decathlon's layout."""
    return (directory / "dataset.json").is_file() and (directory / "imagesTr").is_dir()


def read(directory: Path, *, box: Box = BOX) -> Cohort:
    """Read the training cases of a Decathlon folder. Any label above 0 is hippocampus.

    Raises ScanError when the folder is not a Decathlon folder; broken cases become rejects.
    """
    try:
        listing = json.loads((directory / "dataset.json").read_text())["training"]
        cases = [(Path(case["image"]), Path(case["label"])) for case in listing]
    except FileNotFoundError:
        raise ScanError(f"{directory}: no dataset.json; a Decathlon folder has one") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ScanError(f"{directory / 'dataset.json'}: not a Decathlon listing ({error!r})") from error
    triples = []
    for image, label in cases:
        mask = directory / label
        triples.append((_stem(image.name), directory / image, mask if mask.is_file() else None))
    cohort = read_pairs(triples, box=box)
    known = {image.name for image, _ in cases}
    strays = sorted(p.name for p in (directory / "imagesTr").glob("[!.]*.nii*") if p.name not in known)
    stray_rejects = tuple(Reject(_stem(name), "not listed in dataset.json") for name in strays)
    return Cohort(cohort.subjects, cohort.rejects + stray_rejects)


def fetch(directory: Path, *, url: str = URL, known_hash: str = MD5, progress: Progress | None = None) -> Path:
    """Download and unpack the hippocampus data set; returns its folder.

    A broken download resumes where it stopped. The archive is checked against `known_hash` before it is
    unpacked, and unpacked beside its place before it is moved there.
    """
    target = directory / NAME
    if is_msd(target):
        return target
    directory.mkdir(parents=True, exist_ok=True)
    archive = pooch.retrieve(
        url,
        known_hash=known_hash,
        path=directory,
        fname=url.rsplit("/", 1)[-1],
        downloader=ResumingDownloader(directory / (url.rsplit("/", 1)[-1] + ".part"), progress),
    )
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")
        except (tarfile.TarError, TypeError) as error:  # TypeError: a Python before 3.10.12 knows no filter
            raise ScanError(f"{archive}: cannot be unpacked safely ({error})") from error
        unpacked = Path(scratch) / NAME
        if not is_msd(unpacked):
            raise ScanError(f"{archive}: holds no {NAME} folder in the Decathlon's layout")
        unpacked.rename(target)
    return target


def _stem(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".nii")


class ResumingDownloader:
    """A pooch downloader that keeps what it has in a .part file and asks for the rest only.

    `progress` is called with bytes done and bytes in all (0 when the server does not say).
    """

    def __init__(self, part: Path, progress: Progress | None = None) -> None:
        self.part = part
        self.progress = progress

    def __call__(self, url: str, output_file: str | Path, _pooch: pooch.Pooch | None) -> None:
        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        with requests.get(url, headers=headers, stream=True, timeout=60) as response:
            if have and response.status_code == requests.codes.requested_range_not_satisfiable:
                shutil.move(self.part, output_file)  # complete already; the checksum decides
                return
            response.raise_for_status()
            if response.status_code != requests.codes.partial_content:
                have = 0
            length = int(response.headers.get("Content-Length", 0))
            total = have + length if length else 0
            with open(self.part, "ab" if have else "wb") as file:
                for chunk in response.iter_content(1 << 16):
                    file.write(chunk)
                    have += len(chunk)
                    if self.progress:
                        self.progress(have, total)
                file.flush()
                os.fsync(file.fileno())
        shutil.move(self.part, output_file)
