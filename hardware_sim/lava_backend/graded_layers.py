"""A population of a network whose spikes carry values, fused: messages of 24 bits, sigma-delta and ternary neurons."""

from __future__ import annotations

import functools

import numpy as np

from export.graph import Edge, Population, Shape, SigmaDelta
from hardware_sim.lava_backend import neuron_kernels, value_kernels
from hardware_sim.lava_backend.layers import CubaNeurons, FusedLayer, Neurons, Scatter, each
from hardware_sim.lava_backend.tables import make_tables


class SigmaDeltaNeurons:
    """Loihi 2's sigma-delta neurons; the potential is their activation."""

    def __init__(self, population: Population, neuron: SigmaDelta) -> None:
        n = int(np.prod(population.shape))
        self.sends, self.threshold, self.shift = neuron.threshold is not None, neuron.threshold or 0, neuron.shift
        self.bias = each(population, 0 if neuron.bias is None else neuron.bias, np.int32)
        self.sigma, self.residue = np.zeros(n, np.int32), np.zeros(n, np.int32)

    def rest(self, potential: np.ndarray) -> None:
        for state in (potential, self.sigma, self.residue):
            state[:] = 0

    def fire(self, total: np.ndarray, potential: np.ndarray, fired: np.ndarray) -> None:
        if self.sends:
            neuron_kernels.sigma_delta(
                total, self.sigma, potential, self.residue, self.bias, fired, self.threshold, self.shift
            )
        else:
            potential += total
            total[:] = 0


class _NarrowNeurons(CubaNeurons):
    """CUBA neurons that read values: their input is 16 bits wide, as the engine has seen before it ran."""

    def fire(self, total: np.ndarray, potential: np.ndarray, fired: np.ndarray) -> None:
        spikes = np.zeros(fired.shape, np.uint8)
        super().fire(total.astype(np.int16), potential, spikes)
        fired[:] = spikes
        total[:] = 0


class _TernaryNeurons(CubaNeurons):
    """CUBA neurons that fire at both thresholds."""

    def fire(self, total: np.ndarray, potential: np.ndarray, fired: np.ndarray) -> None:
        neuron_kernels.ternary(
            total.astype(np.int16),
            self.current,
            potential,
            self.bias,
            fired,
            self.current_decay,
            self.voltage_decay,
            self.drop,
            self.threshold,
            self.subtract,
        )
        total[:] = 0


class GradedLayer(FusedLayer):
    """One population, its spikes int32."""

    spike = np.int32
    sums = np.int32

    def _scatter(self, edge: Edge, source: Shape, most: int) -> Scatter:
        return functools.partial(value_kernels.scatter_values, make_tables(edge.op, source, self.population.shape))

    def _neurons(self) -> Neurons:
        neuron = self.population.neuron
        if isinstance(neuron, SigmaDelta):
            self.carries = neuron.threshold is not None
            return SigmaDeltaNeurons(self.population, neuron)
        self.carries = neuron.ternary
        return (_TernaryNeurons if neuron.ternary else _NarrowNeurons)(self.population)

    def _record_spikes(self, sample: int, t: int) -> None:
        if self.spikes is not None:
            fired = self._channels_first(self.fired)
            place = sample * self.window.timesteps + t
            self.spikes.write(place, fired if self.carries else np.packbits(fired.astype(bool)))
