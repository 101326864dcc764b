"""How the program ends: exit codes, signals, and text that a terminal would obey."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import xml.dom.minidom
from pathlib import Path

import pytest
from typer.testing import CliRunner

from export import netx
from export.text import printable
from neuroseg.cli import app
from neuroseg.cli import inspection as commands
from tests.commands import call
from tests.graphs import tiny

ROOT = Path(__file__).resolve().parents[3]
EVIL = "a\x1b]0;owned\x07\x1b[2Jb\x9d\u202ec"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (TypeError("a bug"), 3, "neuroseg failed: TypeError: a bug"),
        (OSError(errno.ENOSPC, "No space left on device", "x.net"), 3, "lacks room: [Errno 28]"),
        (MemoryError(), 3, "lacks memory"),
        (OSError(errno.EACCES, "Permission denied", "x.net"), 2, "Permission denied"),
        (ValueError("bad"), 2, "error: bad"),
    ],
)
def test_exit_codes_tell_whose_fault_it_is(error, code, said, monkeypatch):
    def fail(path):
        raise error

    monkeypatch.setattr(commands.netx, "read", fail)
    assert said in call("inspect", "x.net", code=code)
    assert CliRunner().invoke(app, ["--debug", "inspect", "x.net"]).exception is error


def test_what_fails_at_import_is_no_difference(tmp_path):
    (tmp_path / "typer.py").write_text("raise RuntimeError('broken')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-m", "neuroseg"], env=environment, capture_output=True, text=True)
    assert done.returncode == 3 and done.stderr.startswith("error: neuroseg cannot start: RuntimeError: broken")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_end_a_run_in_order(number, tmp_path):
    netx.write(tiny(notes={EVIL: EVIL}), tmp_path / "n.net")
    code = (
        "import signal, sys, numpy as np, hardware_sim\n"
        "from neuroseg.cli import app, main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # in the background of a shell it is ignored
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # and this under nohup, which the program heeds
        "from export import netx\n"
        "@app.command()\n"
        "def forever():\n"
        "    print('running', flush=True)\n"
        f"    hardware_sim.run(netx.read({str(tmp_path / 'n.net')!r}), np.ones((200000, 4, 1, 4, 4), np.uint8), "
        "backend='lava')\n"
        "sys.argv = ['neuroseg', 'forever']\n"
        "main()\n"
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    program = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    try:
        assert program.stdout.readline() == b"running\n"
        time.sleep(2)
        program.send_signal(number)
        assert program.wait(timeout=20) == 128 + number
    finally:
        program.kill()  # if it did not end: else it would run for ever
        program.stdout.close()
    time.sleep(0.5)
    assert not list(temporary.iterdir())
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(f"neuroseg-{program.pid}-")]


def test_foreign_text_is_written_out():
    assert printable(EVIL) == r"a\x1b]0;owned\x07\x1b[2Jb\x9d\u202ec"
    assert printable("bad\udcff name\n\tline é µ 漢") == "bad\\udcff name\n\tline é µ 漢"


def test_a_terminal_obeys_no_name(tmp_path):
    path = tmp_path / f"{EVIL}.net"
    netx.write(tiny(EVIL), path)
    for arguments in (("inspect", path, "--draw", tmp_path / "n.svg"), ("inspect", tmp_path / f"{EVIL}x")):
        output = CliRunner().invoke(app, [str(a) for a in arguments]).output
        assert "\\x1b]0;owned" in output.replace("\n", "") and not any(c in output for c in "\x1b\x07\x9d\u202e")
    xml.dom.minidom.parse(str(tmp_path / "n.svg"))
