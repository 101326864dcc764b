"""Downloads the Decathlon's hippocampus data."""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pooch
import requests

from neuroseg.data import msd
from neuroseg.data.scan import ScanError

try:
    import fcntl
except ImportError:  # on Windows two downloads at once are not held apart
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

NAME = "Task04_Hippocampus"
URL = "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task04_Hippocampus.tar"
MD5 = "md5:9d24dba78a72977dbd1d2e110310f31b"
LOCK = f".{NAME}.lock"

Progress = Callable[[int, int], None]


def fetch(directory: Path, *, url: str = URL, known_hash: str = MD5, progress: Progress | None = None) -> Path:
    """Download and unpack the hippocampus data set; returns its folder.

    A broken download resumes where it stopped; of several calls at once one fetches and the others wait for it. The
    archive is checked against `known_hash` before it is unpacked, and unpacked beside its place before it is moved.
    """
    target = directory / NAME
    if msd.is_msd(target):
        return target
    directory.mkdir(parents=True, exist_ok=True)
    with _alone(directory / LOCK):
        if not msd.is_msd(target):  # else another call has fetched it meanwhile
            _fetch(directory, target, url, known_hash, progress)
    return target


def _fetch(directory: Path, target: Path, url: str, known_hash: str, progress: Progress | None) -> None:
    name = url.rsplit("/", 1)[-1]
    archive = pooch.retrieve(
        url,
        known_hash=known_hash,
        path=directory,
        fname=name,
        downloader=ResumingDownloader(directory / f"{name}.part", progress),
    )
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")
        except (tarfile.TarError, TypeError) as error:  # TypeError: a Python before 3.11.4 knows no filter
            raise ScanError(f"{archive}: cannot be unpacked safely ({error})") from error
        unpacked = Path(scratch) / NAME
        if not msd.is_msd(unpacked):
            raise ScanError(f"{archive}: holds no {NAME} folder in the Decathlon's layout")
        unpacked.rename(target)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no other process or thread holds a lock file, and hold it; it ends with the process in any case."""
    if fcntl is None:
        yield
        return
    while True:
        with open(lock, "a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("another download into %s is under way; waiting for it", lock.parent)
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is(lock, file.fileno()):
                continue  # whoever held it took it away
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


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
