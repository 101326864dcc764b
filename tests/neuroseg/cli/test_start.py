"""What a command loads before it does anything: help and completion nothing of weight, commands on files no torch."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer.main
from typer.core import TyperGroup

from export import netx
from hardware_sim import run
from neuroseg import cli
from neuroseg.cli.app import COMMANDS, load_command
from tests.graphs import tiny

HEAVY = ("torch", "scipy", "numba", "matplotlib", "nibabel", "jinja2", "PIL")
SCRIPT = """
import sys
from neuroseg.cli import main
sys.argv = ["neuroseg", *sys.argv[1:]]
try:
    main()
finally:
    sys.stderr.write("loaded: " + " ".join(sys.modules))
"""


def loaded(*words: str, **environment: str) -> set[str]:
    """Top-level modules that a command loads; it has to succeed."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stderr.rpartition("loaded: ")[2].split()}


@pytest.mark.parametrize("words", [("--help",), ("-h",)])
def test_help_loads_nothing_of_weight(words):
    assert not loaded(*words) & {*HEAVY, "h5py"}


def test_completion_loads_nothing_of_weight():
    asked = {"_NEUROSEG_COMPLETE": "complete_bash", "COMP_WORDS": "neuroseg ins", "COMP_CWORD": "1"}
    assert not loaded(**asked) & {*HEAVY, "h5py"}


def test_commands_on_files_do_without_torch(tmp_path: Path):
    graph, spikes = tiny(), np.ones((2, 4, 1, 4, 4), np.uint8)
    netx.write(graph, tmp_path / "network.net")
    run(graph, spikes).save(tmp_path / "trace.npz")
    network, trace = str(tmp_path / "network.net"), str(tmp_path / "trace.npz")
    for words in (
        ("inspect", network),
        ("compare", trace, trace, "--network", network),
        ("map", network),
        ("map", network, "--trace", trace),
        ("metrics", network, "--trace", trace),
    ):
        assert not loaded(*words) & set(HEAVY), words


def test_every_command_has_its_line():
    modules = {entry.module for entry in COMMANDS.values()}
    found = set()
    for module in modules:
        commands = importlib.import_module(f"neuroseg.cli.{module}").commands
        command = typer.main.get_command(commands)
        grouped = commands.info.help  # data, nir, lava: commands of their own
        found |= {module} if isinstance(grouped, str) else set(getattr(command, "commands", {command.name: 0}))
    assert found == set(COMMANDS)
    for name in COMMANDS:
        command = load_command(name)
        assert command.help, name
        assert isinstance(command, TyperGroup) or command.name == name
    assert cli.app
