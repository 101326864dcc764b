"""What a machine lacks is said before a run starts, or when it ends; what lies beside a scan is not imported."""

from __future__ import annotations

import io
import itertools
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import hardware_sim
from export.graph import Conv, Edge, Graph, Input, Meta, Neuron, Population
from hardware_sim import Record, SimulationError
from hardware_sim.comparison.compare import compare
from hardware_sim.lava_backend import launch, limits
from hardware_sim.lava_backend.layout import Tape
from tests.export.test_graph import chain

ROOT = Path(__file__).resolve().parents[3]
SPIKES = np.ones((2, 4, 1, 4, 4), np.uint8)


def own_mounts() -> bool:
    """Whether this user may have a private /dev/shm."""
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True).returncode == 0


OWN_MOUNTS = own_mounts()


def long_chain(layers: int, *, side: int = 2) -> Graph:
    edge = lambda source: (Edge(source, Conv(np.full((1, 1, 1, 1), 8))),)  # noqa: E731
    names = ["input", *(f"p{k}" for k in range(layers))]
    hidden = [Population(b, (1, side, side), edge(a), Neuron(2)) for a, b in itertools.pairwise(names)]
    end = Population("end", (1, side, side), edge(names[-1]), Neuron(None))
    return Graph((Input("input", (1, side, side)), *hidden, end), integer=True, meta=Meta(timesteps=4))


def test_modules_beside_a_scan_are_not_imported(tmp_path, monkeypatch):
    for name in ("random.py", "queue.py", "numpy.py", "typing.py", "hardware_sim/__init__.py", "lava/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write('x')\nraise RuntimeError")
    monkeypatch.chdir(tmp_path)
    lavas = hardware_sim.run(chain(), SPIKES, backend="lava")
    assert compare(hardware_sim.run(chain(), SPIKES), lavas).equal
    assert not (tmp_path / "executed").exists()


def test_what_fails_while_lava_is_imported_is_said(tmp_path, monkeypatch):
    (tmp_path / "lava").mkdir()
    (tmp_path / "lava" / "__init__.py").write_text("raise ImportError('this Lava is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SimulationError, match=r"Lava failed: .*this Lava is broken"):
        hardware_sim.run(chain(), SPIKES, backend="lava")


def test_a_long_tmpdir_is_no_trouble(tmp_path, monkeypatch):
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    monkeypatch.setenv("TMPDIR", str(deep))
    hardware_sim.run(chain(), SPIKES, backend="lava")
    assert not list(deep.iterdir())


def test_a_full_disk_is_said_before_the_run(monkeypatch):
    monkeypatch.setattr(limits.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(SimulationError, match=r"records \d+ KiB in .*, which has 0 KiB left: record less"):
        hardware_sim.run(chain(), SPIKES, backend="lava", record=Record(potentials="all"))


def test_what_is_counted_is_what_is_recorded(monkeypatch):
    """The bytes that are announced are those of the files."""
    sizes = []
    collect = launch._collect

    def measured(files, job, graph, start):
        made = [*files.folder.glob("*.bin")]
        sizes.append((sum(file.stat().st_size for file in made), limits.recorded_bytes(graph, job)))
        return collect(files, job, graph, start)

    monkeypatch.setattr(launch, "_collect", measured)
    hardware_sim.run(chain(), SPIKES, backend="lava", record=Record(counts="all", potentials="all"))
    ((found, expected),) = sizes
    assert found == expected - 2 * 4 * 2  # the input, two bytes a step, is no .bin


def test_open_files_are_raised_or_asked_for(monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        hardware_sim.run(chain(), SPIKES, backend="lava")  # the soft limit is raised to the hard one
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    monkeypatch.setattr(limits, "raise_open_files", lambda: 256)
    spikes = np.ones((1, 4, 1, 2, 2), np.uint8)
    with pytest.raises(SimulationError, match=r"101 layers \(fused\) takes about \d+ open files; the limit is 256"):
        hardware_sim.run(long_chain(100), spikes, backend="lava")


@pytest.mark.skipif(not OWN_MOUNTS, reason="needs root and mount namespaces of its own")
def test_a_small_shared_memory_is_said():
    """As in a container: /dev/shm of 64 KiB, too little for the stock parts of a few layers."""
    code = (
        "import numpy as np, hardware_sim\n"
        "from tests.hardware_sim.lava_backend.test_room import long_chain\n"
        "spikes = np.ones((1, 4, 1, 64, 64), np.uint8)\n"
        "try:\n"
        "    hardware_sim.run(long_chain(3, side=64), spikes, backend='lava', fidelity='stock')\n"
        "except hardware_sim.SimulationError as error:\n"
        "    print(error)\n"
    )
    inside = f"mount -t tmpfs -o size=64k tmpfs /dev/shm && exec {sys.executable} -c {shlex.quote(code)}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", inside], cwd=ROOT, capture_output=True, text=True, timeout=120)
    said = r"Lava failed: .*shared memory is full: this run takes \d+ KiB of /dev/shm, which has 64 KiB.*--shm-size"
    assert re.search(said, done.stdout), done.stdout + done.stderr


def test_a_short_write_is_finished():
    class Short(io.BytesIO):
        def write(self, data):
            return super().write(bytes(data[:5]))

    tape = Tape(os.devnull)
    tape.file.close()
    tape.file = Short()
    rows = np.arange(21, dtype=np.int32).reshape(3, 7)
    for place in (2, 0, 1):
        tape.write(place, rows[place])
    assert tape.file.getvalue() == rows.tobytes()


@pytest.mark.parametrize(
    "module",
    [
        "hardware_sim.lava_backend.kernels",
        "hardware_sim.lava_backend.neuron_kernels",
        "hardware_sim.lava_backend.value_kernels",
        "hardware_sim.fast.kernels",
        "neuroseg.spiking.kernels",
    ],
)
def test_kernels_need_no_place_to_write(module, tmp_path):
    """As in a container with a read-only installation and a user without a home (root writes anywhere: so a file)."""
    (tmp_path / "file").write_text("")
    code = (
        "import sys, pathlib, hardware_sim.numba_cache as n\n"
        "real = n._writable\n"
        "n._writable = lambda folder: False\n"  # neither beside the module nor in the home
        f"import {module}, os\n"
        "print(os.environ['NUMBA_CACHE_DIR'])\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path / "file"), "TMPDIR": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout and not list(tmp_path.glob("neuroseg-numba-*"))


def test_threads_may_make_the_first_run_together():
    code = (
        "import threading, numpy as np, hardware_sim\n"
        "from tests.export.test_graph import chain\n"
        "found = []\n"
        "def go():\n"
        "    spikes = np.ones((2, 4, 1, 4, 4), np.uint8)\n"
        "    found.append(hardware_sim.run(chain(), spikes, backend='lava').total('hidden'))\n"
        "threads = [threading.Thread(target=go) for _ in range(2)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "assert len(found) == 2 and found[0] == found[1] > 0, found\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
