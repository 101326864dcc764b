"""report.html in a real browser: no error, no network, the slider moves the slice, faults are shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import hardware_sim
from export.inspect import draw
from export.mapping.chips import LOIHI2
from export.mapping.summary import summary
from hardware_sim.comparison.compare import compare
from hardware_sim.comparison.diagnose import diagnose
from hardware_sim.reporting import bland_altman
from hardware_sim.reporting.bland_altman import Measured
from hardware_sim.reporting.chip import draw_chip
from hardware_sim.reporting.deployment import deploy
from hardware_sim.reporting.metrics import as_json, trace_metrics
from hardware_sim.reporting.page import count_cells, make_viewer, rasters, render
from hardware_sim.reporting.report import build_report
from hardware_sim.trace import Trace
from tests.conftest import browser as find_browser
from tests.networks import PLAIN, build

STAGES = {"quantized": "quantised", "hardware": "hardware"}
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip


def traces(*, fault: bool) -> tuple[Trace, Trace, str, object]:
    _, graph, spikes = build(replace(PLAIN, size=(12, 8), timesteps=8, samples=5))
    software = hardware_sim.run(graph, spikes)
    first = graph.populations[1]
    higher = replace(first, neuron=replace(first.neuron, threshold=first.neuron.threshold + 30))
    faulty = replace(graph, nodes=tuple(higher if node.name == higher.name else node for node in graph.nodes))
    hardware = hardware_sim.run(faulty if fault else graph, spikes)
    return software, hardware, first.name, graph


def make_page(folder: Path, *, fault: bool) -> Path:
    software, hardware, _, graph = traces(fault=fault)
    rng = np.random.default_rng(0)
    image, truth = rng.random((5, 12, 8)).astype(np.float32), np.ones((5, 12, 8), np.uint8)
    masks = {"quantised": (rng.random(truth.shape) < 0.5).astype(np.uint8)}
    masks["hardware"] = masks["quantised"] ^ (rng.random(truth.shape) < 0.1)
    deployment = deploy(graph, LOIHI2, hardware)
    dice = {stage: {"3d": 0.5, "2d": 0.4} for stage in STAGES}
    report = build_report(
        [compare(software, hardware)],
        samples=[5],
        subjects=["<one>"],
        dice=dice,
        backend="reference",
        fidelity="reference",
        timesteps=8,
        seconds={"run": 1.0},
        repeat={"command": "neuroseg validate runs/first", "seed": 0, "versions": {"python": "3.10"}},
        chip=summary(deployment.placement, deployment.costs),
        metrics={"SNN": as_json(trace_metrics(graph, hardware))},
    )
    measured = [Measured("Dice", "", (0.9, 0.8), (0.8, 0.8)), Measured("volume", "mm³", (3.0, 1.0), (2.0, 1.5))]
    report["agreement"] = bland_altman.as_json(measured, ["<one>", "two"], ("ANN", "hardware"))
    bland_altman.draw(measured, ("ANN", "hardware"), folder / "agreement.svg")
    draw(graph, folder / "net.svg")
    draw_chip(deployment.placement, folder / "chip.svg")
    diagnosis = diagnose(graph, software, hardware)
    viewers = [make_viewer(name, image, truth, masks, compared=("quantised", "hardware")) for name in ("<one>", "two")]
    rates = {layer["name"]: layer["rate"] for layer in report["spikes"]["layers"]}
    page = folder / "report.html"
    page.write_text(
        render(
            report,
            viewers=viewers,
            rates={"converted": rates, "fine-tuned": rates},
            rasters=rasters(software, hardware, diagnosis),
            cells=count_cells(software, hardware),
            stages=STAGES,
            network_svg=(folder / "net.svg").read_text(),
            chip_svg=(folder / "chip.svg").read_text(),
            agreement_svg=(folder / "agreement.svg").read_text(),
            samples=5,
            diagnosis=diagnosis,
        )
    )
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=find_browser(), args=list(QUIET))
        yield started
        started.close()


def opened(browser: Browser, file: Path, *, width: int) -> tuple[Page, list[str]]:
    """The page, and everything it complained of or asked the network for."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    page.goto(file.as_uri())
    return page, complaints


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1200], ids=["phone", "desk"])
def test_the_slider_moves_the_slice(browser, tmp_path, width):
    page, complaints = opened(browser, make_page(tmp_path, fault=False), width=width)
    assert "Equal." in page.inner_text("#verdict") and page.locator("#cause").count() == 0
    assert page.locator("#where").inner_text() == "x = 2 (3 of 5)"
    assert page.locator("#subject option").first.inner_text() == "<one>"  # a name is no markup
    panels = page.locator("[data-panel]")
    assert panels.count() == 5  # input, ground truth, quantised, hardware, difference
    before = [panels.nth(k).get_attribute("src") for k in range(5)]
    page.locator("#slice").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#where").inner_text() == "x = 3 (4 of 5)"
    after = [panels.nth(k).get_attribute("src") for k in range(5)]
    assert all(a != b for a, b in zip(before, after))
    page.locator("#subject").select_option(label="two")
    assert page.locator("#where").inner_text() == "x = 2 (3 of 5)"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shot = page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert len(shot) > 20_000 and not complaints
    page.close()


@pytest.mark.browser
def test_a_difference_leads_to_its_cause(browser, tmp_path):
    page, complaints = opened(browser, make_page(tmp_path, fault=True), width=800)
    _, _, name, _ = traces(fault=True)
    assert "Different." in page.inner_text("#verdict") and name in page.inner_text("#verdict")
    text = page.inner_text("body")
    assert f"{name}: the hardware does not do what the file says; as if the threshold is" in text
    assert page.locator("#neuron option").first.inner_text().startswith(f"{name}, neuron")
    marks = page.locator("#raster path[stroke-width]").count()
    page.locator("#neuron").select_option(index=3)
    assert page.locator("#raster path[stroke-width]").count() != marks
    assert page.locator("circle[fill='#E69F00']").count() > 0 and not complaints
    page.close()


def test_rasters_and_counts_are_those_of_the_traces():
    software, hardware, name, _ = traces(fault=True)
    for raster in rasters(software, hardware):
        population, _, neuron = raster.label.partition(", neuron ")
        place = tuple(int(k) for k in neuron.strip("()").split(","))
        for steps, trace in ((raster.software, software), (raster.hardware, hardware)):
            line = trace.spikes[population][(slice(None), slice(None), *place)].reshape(-1)
            assert [(int(t), int(line[t])) for t in np.flatnonzero(line)] == list(steps)
    cells = count_cells(software, hardware)[name]
    assert sum(cell.neurons for cell in cells) == software.counts[name].size
    assert sum(cell.software * cell.neurons for cell in cells) == software.total(name)
    assert sum(cell.hardware * cell.neurons for cell in cells) == hardware.total(name)
    assert any(cell.software != cell.hardware for cell in cells)
