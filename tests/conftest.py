"""Fixtures and settings that several tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # tests start many Pythons, each of which would compile our modules
if "PYTEST_XDIST_WORKER" in os.environ:  # several at once: threads of each would fight for the cores; before torch
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from hardware_sim import LavaWorker

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

settings.register_profile(
    "neuroseg",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("neuroseg")


def browser() -> str | None:
    """Path of a Chromium or Chrome."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def pytest_report_header() -> str:
    return f"browser: {browser() or 'none found, so that tests of report.html in one are left out; install chromium'}"


SLOW = (  # files that take most of the time, and so begin first: whole commands, runs of Lava, notebooks, alignment
    "test_end_to_end.py",
    "test_networks_by_file.py",
    "test_lava.py",
    "test_process.py",
    "test_notebooks.py",
    "test_lava_dl_files.py",
    "test_partition.py",
    "test_room.py",
    "test_ends.py",
    "test_segment_command.py",
    "test_map_command.py",
    "test_locate.py",
    "test_segment.py",
    "test_slayer.py",
    "test_nir_lava.py",
    "test_storage.py",
    "test_data.py",
    "test_intensity.py",
    "test_finetuning.py",
    "test_fuzz.py",
    "test_trace.py",
    "test_compat.py",
    "test_page.py",
    "test_runs.py",
    "test_nir_hostile.py",
    "test_figures.py",
    "test_pictures.py",
)
SHARED = ("run", "found", "small", "places", "browser", "archive")  # fixtures that take long


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the slow files; with `--dist loadgroup` tests that share a fixture stay in one process."""
    if item.path.name in SLOW:
        item.add_marker(pytest.mark.slow)
    shared = [name for name in getattr(item, "fixturenames", ()) if name in SHARED]
    if shared:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}-{shared[0]}-{parameters.get(shared[0], '')}"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the slow files, and leave out what needs a browser where there is none; CI installs one."""
    items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))
    if browser() is None:
        needing = [item for item in items if item.get_closest_marker("browser")]
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]


@pytest.fixture
def write_nifti(tmp_path: Path):
    """Write an array as NIfTI under tmp_path and return its path."""

    def write(name: str, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
        return path

    return write


@pytest.fixture(scope="session")
def worker() -> Iterator[LavaWorker]:
    """One import of Lava for all tests that make many small runs."""
    with LavaWorker() as opened:
        yield opened
