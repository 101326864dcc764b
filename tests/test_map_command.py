"""`neuroseg map` and `neuroseg metrics`: tables, JSON, picture, and what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import hardware_sim
from export import netx
from hardware_sim.record import Record
from tests.commands import call
from tests.export.test_graph import chain


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A network and a trace of it."""
    graph = chain()
    spikes = (np.random.default_rng(0).random((2, 4, 1, 4, 4)) < 0.5).astype(np.uint8)
    trace = hardware_sim.run(graph, spikes, record=Record(potentials="all"))
    return netx.write(graph, tmp_path / "chain.net"), trace.save(tmp_path / "trace.npz")


def test_a_map_alone(files, tmp_path):
    output = call("map", files[0], "--draw", tmp_path / "chip.svg", "--json", tmp_path / "map.json")
    assert "chain.net on Loihi 2" in output and "2 cores on 1 chip of 128; Oheo Gulch holds 1" in output
    assert "<svg" in (tmp_path / "chip.svg").read_text()
    written = json.loads((tmp_path / "map.json").read_text())
    assert written["cores"] == 2 and written["limits"]["neurons"] == 4095 and not written["costs"]
    assert [layer["name"] for layer in written["layers"]] == ["hidden", "head"]
    assert "chain.net on Loihi 1" in call("map", files[0], "--chip", "loihi1")


def test_a_cost_names_its_sources(files, tmp_path):
    output = call("map", files[0], "--trace", files[1], "--json", tmp_path / "map.json")
    for words in ("estimate by Davies 2018", "estimate by SANA-FE", "borrowed from Loihi 1", "static (0.232 W a chip"):
        assert words in output
    costs = json.loads((tmp_path / "map.json").read_text())["costs"]
    assert len(costs) == 2 and all(cost["estimate"] and cost["source"] for cost in costs)
    assert costs[0]["a slice"]["operations"] == costs[1]["a slice"]["operations"] > 0
    assert "static not known" in call("map", files[0], "--trace", files[1], "--chip", "loihi1")


def test_metrics(files, tmp_path):
    output = call("metrics", files[0], "--trace", files[1], "--json", tmp_path / "m.json")
    assert "effective ACs" in output and "activation sparsity, hidden" in output
    written = json.loads((tmp_path / "m.json").read_text())["SNN"]
    assert written["footprint"] == 18 + 4 + 2 and written["membrane_updates"] > 0


def test_what_they_refuse(files, tmp_path):
    for arguments, message in (
        (("map", files[0], "--draw", tmp_path / "a.jpg"), ".png or .svg is allowed"),
        (("map", tmp_path / "none.net"), "no such file"),
        (("map", files[0], "--trace", files[1], "--data", "mni152"), "one of them is allowed"),
        (("map", files[0], "--trace", tmp_path / "none.npz"), "no such file"),
        (("metrics", files[0]), "one of them is needed"),
        (("metrics", files[0], "--trace", files[1], "--ann", tmp_path), "--ann needs --data"),
        (("metrics", files[0], "--data", "mni152"), "the network takes (1, 4, 4)"),
    ):
        output = call(*arguments, code=2)
        assert message in output and output.count("error:") == 1, output
    assert sorted(file.name for file in tmp_path.iterdir()) == ["chain.net", "trace.npz"]


def test_a_whole_network_beside_its_ann(tmp_path):
    run = tmp_path / "run"
    call("pretrained", run)
    call("export", run)
    output = call("metrics", run / "network.net", "--data", "mni152", "--ann", run)
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text()
    for row in ("footprint, bytes", "effective MACs", "effective ACs"):
        figures = [figure for figure in re.findall(rf"{row} │ ([\d,]+) │ ([\d,]+)", output)[0] if figure != "0"]
        assert all(figure in readme for figure in figures), (row, figures)
    ann, snn = (
        round(100 * float(share)) for share in re.findall(r"activation sparsity │ ([\d.]+) │ ([\d.]+)", output)[0]
    )
    assert f"| {ann} % | {snn} % |" in readme
    output = call("map", run / "network.net", "--data", "mni152")
    assert "97 cores on 1 chip of 128" in output and "enc_2_conv1" in output
    (operations,) = re.findall(r"│ all │ [\d,]+ │ ([\d,]+) │", output)
    dynamic = [float(x.replace(",", "")) for x in re.findall(r": ([\d,.]+) uJ dynamic", output)]
    static = [float(x.replace(",", "")) for x in re.findall(r"([\d,.]+) uJ static", output)]
    time = re.findall(r"([\d.]+) ms a slice", output)
    assert operations in readme
    for values, scale, unit in ((dynamic, 1000, "mJ"), (static, 1000, "mJ"), ([float(t) for t in time], 1, "ms")):
        assert f"{values[0] / scale:.1f} and {values[1] / scale:.1f} {unit}" in readme
