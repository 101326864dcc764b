"""Run folders: one command at a time, and the report is of the file that ran."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from export import netx
from neuroseg import steps
from neuroseg.data import template
from neuroseg.engine import Engine
from neuroseg.pretrained import copy_pretrained
from neuroseg.runs import Run, RunError


def test_a_second_command_is_told_who_holds_the_run(tmp_path):
    run = Run(tmp_path)
    copy_pretrained(run)
    with run.held("finetune"), pytest.raises(RunError, match=rf"in use by `neuroseg finetune`, process {os.getpid()}"):
        steps.export_run(run)
    assert not run.network.exists()
    steps.export_run(run)
    assert len(netx.read(run.network).populations) == 13


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    for step in (steps.export_run, lambda run: steps.validate_run(run, [], Engine(), command="")):
        with pytest.raises(RunError, match="typo: no such folder; `neuroseg train` makes it"):
            step(Run(tmp_path / "typo"))
    assert not list(tmp_path.iterdir())


def test_a_killed_command_holds_nothing(tmp_path):
    code = (
        "import os, pathlib, sys\n"
        "from neuroseg.runs import Run\n"
        "with Run(pathlib.Path(sys.argv[1])).held('train'):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root).returncode == -9
    with Run(tmp_path).held("train"):
        pass


def test_a_network_that_changes_while_it_is_read_is_not_certified(tmp_path, monkeypatch):
    run = Run(tmp_path)
    copy_pretrained(run)
    graph = steps.export_run(run)
    read = netx.read

    def read_and_replace(path):
        found = read(path)
        netx.write(graph if found.meta.notes else found, path)
        path.write_bytes(path.read_bytes() + b"\0")
        return found

    monkeypatch.setattr(steps.netx, "read", read_and_replace)
    with pytest.raises(RunError, match="changed while it was read"):
        steps.validate_run(run, [template.subject()], Engine(), command="neuroseg validate")
    assert not run.report.exists()
