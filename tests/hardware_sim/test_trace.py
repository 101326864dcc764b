"""Files of traces that lie: each is refused in one sentence that names the array, before it is unpacked."""

from __future__ import annotations

import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks import attacks_mutators as mutators
from benchmarks.attacks_files import REFUSED, TRACES, attempt
from hardware_sim import npz
from hardware_sim.engines import run
from hardware_sim.record import Record
from hardware_sim.trace import Trace, TraceError
from tests.examples import some
from tests.export.test_graph import chain

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    spikes = (np.random.default_rng(1).random((3, 4, 1, 4, 4)) < 0.5).astype(np.uint8)
    path = tmp_path_factory.mktemp("trace") / "t.npz"
    return run(chain(), spikes, record=Record(potentials="all")).save(path)


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def test_1500_mutations_are_read_or_refused(sound, tmp_path):
    outcomes = [attempt(TRACES, seed, sound, tmp_path) for seed in range(some(1500))]
    assert not [outcome for outcome in outcomes if outcome.failed]
    assert sum(outcome.outcome == REFUSED for outcome in outcomes) > 0.6 * len(outcomes)


def test_what_is_read_of_changed_bytes_is_what_was_written(sound, tmp_path):
    whole = arrays_of(sound)
    for seed in range(0, some(600), 2):
        mutators.trace(seed, sound, tmp_path / "m.npz")
        try:
            found = npz.load(tmp_path / "m.npz")
        except ValueError:
            continue
        assert found.keys() == whole.keys()
        assert all(np.array_equal(found[name], whole[name]) for name in whole), seed


CHANGES = {
    "no output": ({"output": None}, "it lacks 'output'"),
    "no shape": ({"shape/hidden": None}, "it lacks 'shape/hidden'"),
    "no steps": ({"timesteps": None}, "it lacks 'timesteps'"),
    "no name": ({"output_name": None}, "it lacks 'output_name'"),
    "something else": ({"more": np.zeros(3)}, "it holds 'more', which no trace does"),
    "spikes as floats": (
        {"spikes/hidden": np.zeros((3, 4, 4))},
        r"'spikes/hidden' is float64 of .*; uint8 of \(3, 4, 4\)",
    ),
    "spikes of fewer samples": (
        {"spikes/hidden": np.zeros((2, 4, 4), np.uint8)},
        r"\(2, 4, 4\); uint8 of \(3, 4, 4\)",
    ),
    "spikes of other steps": (
        {"spikes/hidden": np.zeros((3, 9, 4), np.uint8)},
        r"\(3, 9, 4\); uint8 of \(3, 4, 4\)",
    ),
    "spikes of other neurons": (
        {"spikes/hidden": np.zeros((3, 4, 9), np.uint8)},
        r"\(3, 4, 9\); uint8 of \(3, 4, 4\)",
    ),
    "spikes beyond the neurons": ({"shape/hidden": np.array([1, 1, 27])}, r"beyond the 27 neurons of \(1, 1, 27\)"),
    "an empty shape": ({"shape/hidden": np.zeros(0, int)}, "'shape/hidden' is int64 of .*3 integers from 1 to"),
    "a shape of 0": ({"shape/hidden": np.array([0, 4, 4])}, r"'shape/hidden' is .*\[0, 4, 4\]; 3 integers from 1 to"),
    "a huge shape": ({"shape/hidden": np.array([2**40] * 3)}, "'shape/hidden' is .*; 3 integers from 1 to 67108864"),
    "output as 64 bits": ({"output": np.zeros((3, 1, 4, 4), np.int64)}, "'output' is int64 of"),
    "output without axes": ({"output": np.zeros((3, 4), np.int32)}, r"\(3, 4\); int32 of \(any, any, any, any\)"),
    "no steps at all": ({"timesteps": np.array(0)}, "'timesteps' is 0; 1 to 1048576 are allowed"),
    "steps for ever": ({"timesteps": np.array(2**62)}, "'timesteps' is 4611686018427387904; 1 to 1048576"),
    "two steps": ({"timesteps": np.array([4, 4])}, r"'timesteps' is int64 of \(2,\); one integer is allowed"),
    "steps as text": ({"timesteps": np.array("4")}, "'timesteps' is <U1 of .*; one integer is allowed"),
    "a number for a name": ({"output_name": np.array(4)}, "'output_name' is int64 of .*; one text is allowed"),
    "potentials of other steps": ({"potential/head": np.zeros((3, 2, 1, 4, 4), np.int32)}, "'potential/head' is int32"),
    "counts of other neurons": ({"count/hidden": np.zeros((3, 9, 9, 9), np.int32)}, "'count/hidden' is int32 of"),
    "a stimulus of other samples": ({"stimulus": np.zeros((1, 4, 2), np.uint8)}, "'stimulus' is uint8 of"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_arrays_that_do_not_agree_are_named(change, sound, tmp_path):
    changes, message = CHANGES[change]
    changed = {name: value for name, value in (arrays_of(sound) | changes).items() if value is not None}
    np.savez(tmp_path / "t.npz", **changed)
    with pytest.raises(TraceError, match=message) as caught:
        Trace.load(tmp_path / "t.npz")
    assert "t.npz: not a trace written by neuroseg" in str(caught.value)


def member(path: Path, name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, content)
    return path


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n"


CLAIM = "{'descr': '%s', 'fortran_order': False, 'shape': %s, }"
HEADERS = {
    "32 TiB": (CLAIM % ("<i4", "(8796093022208,)"), "claims int32 of .*, 35184372088832 bytes, and holds 0"),
    "objects": (CLAIM % ("|O", "(1,)"), "has the header"),
    "a list of types": ("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,), }", "has the header"),
    "code": ("__import__('os').system('true')", "has the header"),
    "depth": ("(" * 60_000, "has the header"),
    "a negative side": (CLAIM % ("<i4", "(-1,)"), "has the header"),
    "a type that is none": (CLAIM % ("<i3", "(0,)"), "TypeError"),
    "a huge text": (CLAIM % ("<U999999999", "()"), "TypeError"),
    "40 axes": (CLAIM % ("<i4", "(" + "0, " * 40 + ")"), "claims int32"),
}


@pytest.mark.parametrize("claim", HEADERS)
def test_headers_that_lie_are_refused(claim, tmp_path):
    text, message = HEADERS[claim]
    path = member(tmp_path / "t.npz", "output.npy", header(text))
    with pytest.raises(TraceError, match=message):
        Trace.load(path)


def test_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    """8 MiB that unpack to 4 GiB: the zip's directory says so."""
    path = tmp_path / "t.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("output.npy", "w", force_zip64=True) as stream,
    ):
        for _ in range(48):
            stream.write(bytes(2**25))
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(TraceError, match=r"'output.npy' unpacks to 1610612736 bytes, .*; 1073741824 are allowed"):
        Trace.load(path)


def test_a_directory_that_lies_takes_no_memory_either(tmp_path):
    """It says 1 KiB; 1 GiB is packed. In a process of its own, as the most that this one ever took is more."""
    packed = zlib.compressobj(1, zlib.DEFLATED, -15)
    body = b"".join(packed.compress(bytes(2**20)) for _ in range(1024)) + packed.flush()
    path = member(tmp_path / "t.npz", "output.npy", bytes(1000))
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[0]
    start = raw.index(b"output.npy") + len("output.npy")
    new = bytearray(raw[:start] + body + raw[start + info.compress_size :])
    new[18:22] = len(body).to_bytes(4, "little")
    directory = new.index(b"PK\x01\x02")
    new[directory + 20 : directory + 24] = len(body).to_bytes(4, "little")
    new[-6:-2] = directory.to_bytes(4, "little")
    path.write_bytes(new)
    code = (
        "import resource, sys\nfrom hardware_sim.trace import Trace, TraceError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    Trace.load(sys.argv[1])\nexcept TraceError as error:\n    print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
    said, grown = done.stdout.strip().splitlines()
    assert "not a trace" in said and int(grown) < 64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "not a trace"),
        (lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)), "it lacks 'timesteps'"),
        (lambda path: np.save(path.open("wb"), np.zeros(3)), "not a trace"),
        (lambda path: path.mkdir(), "not a trace"),
        (lambda path: member(path, "output.npy", b"x", zipfile.ZIP_LZMA), "is packed by method 14; npy is allowed"),
        (lambda path: member(path, "output.exe", b"x"), "npy is allowed"),
        (lambda path: member(path, "output.npy", b""), "starts with b''"),
    ],
)
def test_other_files_are_refused(make, message, tmp_path):
    make(tmp_path / "t.npz")
    with pytest.raises(TraceError, match=message):
        Trace.load(tmp_path / "t.npz")


def test_arrays_in_fortran_order_are_read_as_they_are(tmp_path):
    values = {"a": np.asfortranarray(np.arange(6).reshape(2, 3)), "b": np.array("text"), "c": np.zeros((0, 2), "u1")}
    np.savez_compressed(tmp_path / "a.npz", **values)
    found = npz.load(tmp_path / "a.npz")
    assert all(np.array_equal(found[name], values[name]) and found[name].dtype == values[name].dtype for name in values)
