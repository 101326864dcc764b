"""Compare two runs spike by spike: counts, agreement, and the first divergence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardware_sim.trace import Trace, TraceError


@dataclass(frozen=True)
class LayerComparison:
    """One population in both runs. rate: spikes per neuron and step in the first."""

    name: str
    neurons: int
    software: int
    hardware: int
    mismatched: int
    rate: float


@dataclass(frozen=True)
class Divergence:
    """The first spike that differs: earliest step, then network order. potentials: where recorded (<< 6)."""

    sample: int
    step: int  # from 0
    population: str
    neuron: tuple[int, ...]  # C, H, W
    software: int
    hardware: int
    software_potential: int | None
    hardware_potential: int | None

    def __str__(self) -> str:
        potentials = ""
        if self.software_potential is not None and self.hardware_potential is not None:
            potentials = f"; potentials after the step {self.software_potential} and {self.hardware_potential}"
        return (
            f"sample {self.sample}, step {self.step}, population {self.population}, neuron {self.neuron}: "
            f"{self.software} in the first, {self.hardware} in the second{potentials}"
        )


@dataclass(frozen=True)
class Comparison:
    """All populations that both runs recorded, and the outputs."""

    layers: tuple[LayerComparison, ...]
    first: Divergence | None
    output_mismatched: int  # output potentials that differ
    first_output: str | None = None
    potentials_mismatched: int = 0  # of the potentials that both runs recorded

    @property
    def total(self) -> int:
        return sum(layer.software for layer in self.layers)

    @property
    def mismatched(self) -> int:
        return sum(layer.mismatched for layer in self.layers)

    @property
    def equal(self) -> bool:
        return not (self.mismatched or self.output_mismatched or self.potentials_mismatched)

    @property
    def cause(self) -> str | None:
        """The first divergence, or where only outputs differ the first of those; None when all is equal."""
        if self.first:
            return str(self.first)
        if self.first_output:
            return self.first_output
        return f"{self.potentials_mismatched} potentials, but no spike" if self.potentials_mismatched else None


def compare(software: Trace, hardware: Trace) -> Comparison:
    """Compare every spike of every population and every output potential.

    Raises TraceError when the runs differ in populations, shapes, samples or steps, or recorded no spikes.
    """
    if not software.spikes and not hardware.spikes:
        raise TraceError("neither run recorded spikes; there is nothing to compare")
    if list(software.spikes) != list(hardware.spikes):
        raise TraceError(f"populations differ: {', '.join(software.spikes)} and {', '.join(hardware.spikes)}")
    if software.graded.keys() != hardware.graded.keys():
        raise TraceError("spikes carry values in one of the runs, and none in the other")
    if dict(software.shapes) != dict(hardware.shapes) or software.output.shape != hardware.output.shape:
        raise TraceError("populations have different shapes, or the runs have different numbers of samples")
    if software.timesteps != hardware.timesteps:
        raise TraceError(f"{software.timesteps} time steps and {hardware.timesteps}; they must be equal")
    ours, theirs = software.stimulus, hardware.stimulus
    if ours is not None and theirs is not None and not np.array_equal(ours, theirs):
        raise TraceError("the runs were given different input spikes; there is nothing to compare")
    layers = []
    firsts: list[tuple[int, int, str]] = []  # step, order, name: earliest step first, then network order
    for order, name in enumerate(software.spikes):
        differing, mismatched = _differing(software, hardware, name)
        if mismatched:
            firsts.append((int(np.nonzero(differing)[0][0]), order, name))
        neurons = int(np.prod(software.shapes[name]))
        spikes = software.total(name)
        layers.append(
            LayerComparison(
                name=name,
                neurons=neurons,
                software=spikes,
                hardware=hardware.total(name),
                mismatched=mismatched,
                rate=spikes / (neurons * software.samples * software.timesteps),
            )
        )
    both = [name for name in software.potentials if name in hardware.potentials]
    differing_outputs = np.argwhere(software.output != hardware.output)
    return Comparison(
        layers=tuple(layers),
        first=divergence(software, hardware, min(firsts)[2]) if firsts else None,
        output_mismatched=len(differing_outputs),
        first_output=_output(software, hardware, differing_outputs[0]) if len(differing_outputs) else None,
        potentials_mismatched=sum(int((software.potentials[n] != hardware.potentials[n]).sum()) for n in both),
    )


def _differing(software: Trace, hardware: Trace, name: str) -> tuple[np.ndarray, int]:
    """Whether any spike of a population differs, by step (T,); and how many do."""
    if name in software.graded:
        differing = software.graded[name] != hardware.graded[name]
        return differing.any(axis=(0, 2, 3, 4)), int(differing.sum())
    bits = np.bitwise_xor(software.packed[name], hardware.packed[name])
    return bits.any(axis=(0, 2)), int(np.unpackbits(bits).sum(dtype=np.int64))


def _output(software: Trace, hardware: Trace, place: np.ndarray) -> str:
    sample, *neuron = (int(k) for k in place)
    ours, theirs = (int(trace.output[tuple(place)]) for trace in (software, hardware))
    name = software.output_name
    return (
        f"sample {sample}, output {name}, neuron {tuple(neuron)}: potential {ours} in the first, {theirs} in the second"
    )


def divergence(software: Trace, hardware: Trace, name: str) -> Divergence:
    """The first spike of a population that differs: earliest step, then sample, then neuron."""
    differing, _ = _differing(software, hardware, name)
    step = int(np.nonzero(differing)[0][0])
    ours, theirs = software.spikes[name][:, step], hardware.spikes[name][:, step]
    sample, *neuron = (int(k) for k in np.argwhere(ours != theirs)[0])
    spot, place = (sample, *neuron), (sample, step, *neuron)

    def potential(trace: Trace) -> int | None:
        return int(trace.potentials[name][place]) if name in trace.potentials else None

    return Divergence(
        sample=sample,
        step=step,
        population=name,
        neuron=tuple(neuron),
        software=int(ours[spot]),
        hardware=int(theirs[spot]),
        software_potential=potential(software),
        hardware_potential=potential(hardware),
    )
