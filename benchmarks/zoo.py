"""Public networks in their own defaults (`zoo_models.py`): which convert, to what, and whether all spikes are equal.

    make zoo, or python -m benchmarks.zoo [--only NAME] [--again] [--page docs/zoo.md]

A model a process, with bounds on time and memory; rows are kept in results/zoo.json as they come, so a run that was
stopped goes on. Weights are random, running statistics too. A norm that depends on the image is frozen on smooth random
images. Equality: integers of PyTorch, reference and Lava (fused) on one image, every spike and every output potential.
Agreement (of one channel Dice): how far it decides as the model at T = 64, balanced on the same images. Networks
with more than MAX_* are converted and held against the model, but not run: their row says so.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import hardware_sim
from benchmarks import zoo_models
from benchmarks.zoo_models import MODELS, Model
from export.graph import Graph, GraphError
from hardware_sim.comparison.compare import compare
from neuroseg.conversion.balance import agreement_over_time, balance
from neuroseg.conversion.convert import Conversion, ConversionError, explain
from neuroseg.conversion.lower import export, integer_scales
from neuroseg.spiking.encode import encode
from neuroseg.spiking.network import SpikingNetwork
from neuroseg.validation import software_trace

RESULT = Path(__file__).with_name("results") / "zoo.json"
SECONDS, MEMORY_BYTES = 400, 14 * 2**30  # a model
TIMESTEPS, LONG = 4, 64
CALIBRATION = 4  # images
PERCENTILES = (99.0, 99.9)  # of activations, to be thresholds
MAX_SYNAPSES, MAX_LAVA_POPULATIONS, MAX_LONG_NEURONS = 8 * 10**9, 150, 400_000
TABLE = "| library |"  # how the table begins
FROZEN, AS_IT_IS = "with frozen norms", "as it is"


@dataclass(frozen=True)
class Row:
    """A model. converts: how, or empty; why: the refusal, or what else happened. equal: by engine; None: not run."""

    library: str
    name: str
    converts: str = ""
    why: str = ""
    populations: int = 0
    neurons: int = 0
    synapses: int = 0
    spikes: int = 0
    reference: bool | None = None
    lava: bool | None = None
    frozen: float | None = None
    agreement: float | None = None
    seconds: float = 0.0


def images(shape: tuple[int, int, int], count: int) -> torch.Tensor:
    """Smooth random images in [0, 1]."""
    coarse = torch.rand(count, shape[0], 6, 6, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=shape[1:], mode="bicubic").clamp(0, 1)


def prepared(model: Model) -> nn.Module:
    """The model in evaluation mode, with running statistics that are not their defaults."""
    torch.manual_seed(0)
    made = model.make().eval()
    for module in made.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1)
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 2)
    return made


def measure(model: Model) -> Row:
    start, row = time.perf_counter(), Row(model.library, model.name)
    made, given = prepared(model), images(model.input_shape, CALIBRATION)
    try:
        how, done = _converted(made, model, given)
    except ConversionError as error:
        return Row(model.library, model.name, why=str(error), seconds=round(time.perf_counter() - start, 1))
    network, synapses = done.network, sum(row.synapses for row in done.rows)
    neurons = sum(math.prod(population.shape) for population in network.populations)
    row = Row(model.library, model.name, how, "", len(network.populations), neurons, synapses, frozen=done.frozen)
    try:
        found = _run(network, given, synapses)
    except GraphError as error:  # beyond the limits of the chip
        found = {"why": f"not exported: {error}"}
    return Row(**{**asdict(row), **found, "seconds": round(time.perf_counter() - start, 1)})


def _converted(made: nn.Module, model: Model, given: torch.Tensor) -> tuple[str, Conversion]:
    try:
        return AS_IT_IS, explain(made, model.input_shape, timesteps=TIMESTEPS)
    except ConversionError as error:
        if "freeze_norms" not in str(error):
            raise
    return FROZEN, explain(made, model.input_shape, timesteps=TIMESTEPS, freeze_norms=given)


def _run(network: SpikingNetwork, given: torch.Tensor, synapses: int) -> dict[str, object]:
    if synapses > MAX_SYNAPSES:
        return {"why": f"not run: more than {MAX_SYNAPSES:,} synapses"}
    balanced, graph = _balanced(network, given)
    neurons = sum(math.prod(population.shape) for population in network.populations)
    found: dict[str, object] = {}
    if neurons <= MAX_LONG_NEURONS:
        found["agreement"] = round(agreement_over_time(balanced, given, timesteps=LONG, ann=network), 3)
    spikes = encode(given[:1], timesteps=TIMESTEPS)
    software = software_trace(balanced, spikes)
    found["spikes"] = sum(int(np.unpackbits(packed).sum()) for packed in software.packed.values())
    found["reference"] = _equal(software, graph, spikes, "reference")
    if len(network.populations) > MAX_LAVA_POPULATIONS:
        return {**found, "why": f"not run in Lava: more than {MAX_LAVA_POPULATIONS} populations"}
    return {**found, "lava": _equal(software, graph, spikes, "lava")}


def _balanced(network: SpikingNetwork, given: torch.Tensor) -> tuple[SpikingNetwork, Graph]:
    """With integer scales, and its graph. Thresholds of the higher percentile where those of the lower do not fit."""
    for percentile in PERCENTILES:
        balanced = balance(network, given, method="activation", percentiles=(percentile,))
        try:
            balanced = balanced.with_scales(integer_scales(balanced))
            return balanced, export(balanced)
        except GraphError:
            if percentile == PERCENTILES[-1]:
                raise
    raise AssertionError


def _equal(software: hardware_sim.Trace, graph: Graph, spikes: torch.Tensor, backend: str) -> bool:
    bits = spikes.transpose(0, 1).numpy().astype(np.uint8)
    return compare(software, hardware_sim.run(graph, bits, backend=backend)).equal


def in_a_process(k: int) -> Row:
    """The row of a model, whatever becomes of its process."""
    model = MODELS[k]
    try:
        command = [sys.executable, "-m", "benchmarks.zoo", "--index", str(k)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
        return Row(**json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return Row(model.library, model.name, why=f"not done after {SECONDS} s")
    except (ValueError, IndexError, TypeError):
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return Row(model.library, model.name, why=f"failed: {last[:300]}")


def table(rows: list[Row]) -> str:
    """In Markdown."""

    def mark(value: bool | None) -> str:
        return {True: "equal", False: "DIFFERS", None: ""}[value]

    lines = [
        "| library | model | converts | neurons | synapses, millions | reference | Lava | T = 64 | why not |",
        "|---|---|---|--:|--:|---|---|--:|---|",
    ]
    for row in rows:
        counts = (f"{row.neurons:,}", f"{row.synapses / 1e6:,.1f}") if row.neurons else ("", "")
        share = "" if row.agreement is None else f"{row.agreement:.0%}"
        why = row.why.replace("|", "\\|")
        cells = (row.library, row.name, row.converts, *counts, mark(row.reference), mark(row.lava), share, why)
        lines.append(f"| {' | '.join(cells)} |")
    converted = sum(bool(row.converts) for row in rows)
    return "\n".join([*lines, "", f"{converted} of {len(rows)} models convert unedited."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="models whose library or name has this in it")
    parser.add_argument("--again", action="store_true", help="measure again what has a row")
    parser.add_argument("--index", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--page", type=Path, help="a page whose table is replaced")
    given = parser.parse_args()
    sys.path.append(str(zoo_models.FOLDER))
    if given.index is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        sys.stdout.write(json.dumps(asdict(measure(MODELS[given.index]))) + "\n")
        return
    kept = [Row(**row) for row in json.loads(given.out.read_text())] if given.out.exists() else []
    rows = {(row.library, row.name): row for row in kept}
    for k, model in enumerate(MODELS):
        key = (model.library, model.name)
        if given.only.lower() in f"{model.library} {model.name}".lower() and (given.again or key not in rows):
            rows[key] = in_a_process(k)
            sys.stderr.write(f"{rows[key]}\n")
            ordered = [rows[m.library, m.name] for m in MODELS if (m.library, m.name) in rows]
            given.out.write_text(json.dumps([asdict(row) for row in ordered], indent=1) + "\n")
    found = table([rows[m.library, m.name] for m in MODELS if (m.library, m.name) in rows])
    sys.stdout.write(found + "\n")
    if given.page:
        text = given.page.read_text().partition(TABLE)[0]
        given.page.write_text(f"{text}{found}\n")


if __name__ == "__main__":
    main()
