"""Files that frameworks wrote of their own networks, with the spikes that each gave: see benchmarks/nir_corpus.py."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from export import nir
from export.graph import GraphError
from export.limits import check
from export.quantize import quantize
from hardware_sim.reference import run_reference
from neuroseg.cli.nir import Framework

FILES = Path(__file__).with_name("files")


def differing(file: str, *, integer: bool = False, **options) -> tuple[int, int]:
    """How many of the originator's spikes differ, and how many there are."""
    with np.load(FILES / f"{file}.npz") as kept:
        spikes = {name.removeprefix("_"): kept[name] for name in kept}
    graph = nir.read(FILES / f"{file}.nir", timesteps=len(spikes["input"]), **options)
    graph = check(quantize(graph)) if integer else graph
    trace = run_reference(graph, spikes["input"][None, :, :, None, None])
    pairs = [(trace.spikes[p.name][0, :, :, 0, 0], spikes[p.name.removeprefix("_")]) for p in graph.populations]
    assert len(pairs) == 2 and all(theirs.sum() > 100 for _, theirs in pairs)
    return sum(int((ours != theirs).sum()) for ours, theirs in pairs), sum(int(theirs.sum()) for _, theirs in pairs)


@pytest.mark.parametrize("framework", ["norse", "sinabs", "spikingjelly"])
def test_a_file_spikes_as_in_the_framework_that_wrote_it(framework, caplog):
    """In floats every spike; what Loihi's 8 bits round is rounded."""
    assert differing(framework, framework=framework)[0] == 0
    rounded, fired = differing(framework, framework=framework, integer=True)
    assert rounded < 0.05 * fired
    assert not caplog.records


def test_the_command_offers_every_framework():
    assert [framework.value for framework in Framework] == list(nir.FRAMEWORKS)


def test_without_a_framework_it_is_said_what_is_assumed(caplog):
    caplog.set_level(logging.WARNING)
    assert differing("sinabs", dt=1.0)[0] > 20
    assert "sinabs.nir: does not say how its leaky neurons are stepped; read with forward Euler" in caplog.text
    assert "Name the framework that wrote it to be sure: snntorch, spikingjelly, norse" in caplog.text


@pytest.mark.parametrize(
    ("file", "framework", "message"),
    [
        ("norse", None, "1: tau is .*; at least dt = 0.0001 is allowed .which framework wrote the file"),
        ("sinabs", "rockpool", "1: a LIF of this framework: its neurons fire several times a step"),
        ("sinabs", "lava", "framework 'lava' is unknown; snntorch, spikingjelly, norse, sinabs, rockpool are allowed"),
    ],
)
def test_what_cannot_be_matched_is_refused(file, framework, message):
    with pytest.raises(GraphError, match=message):
        nir.read(FILES / f"{file}.nir", timesteps=4, framework=framework)
