"""A Layer of a network whose spikes carry values, as one model: messages of 24 bits, sigma-delta neurons."""

from __future__ import annotations

import numpy as np
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType

from export.graph import Population, SigmaDelta
from hardware_sim.lava_backend import kernels, neuron_kernels
from hardware_sim.lava_backend.parts.fused_layers import CubaNeurons, FusedLayer, each, models_of
from hardware_sim.lava_backend.parts.processes import GRADED_LAYERS


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
        act, sent = potential.reshape(-1), fired.reshape(-1)
        if self.sends:
            neuron_kernels.sigma_delta(
                total, self.sigma, act, self.residue, self.bias, sent, self.threshold, self.shift
            )
        else:
            act += total
            total[:] = 0


class _NarrowNeurons(CubaNeurons):
    """CUBA neurons that read values: their input is 16 bits wide, as the engine has seen before it ran."""

    def fire(self, total: np.ndarray, potential: np.ndarray, fired: np.ndarray) -> None:
        spikes = np.zeros(fired.shape, np.uint8)
        super().fire(total.astype(np.int16), potential, spikes)
        fired[:] = spikes
        total[:] = 0


class GradedLayer(FusedLayer):
    """One population, its spikes int32."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    sums = np.int32
    scatter = staticmethod(kernels.scatter_values)

    def _neurons(self) -> SigmaDeltaNeurons | CubaNeurons:
        self.fired = self.fired.astype(np.int32)
        neuron = self.population.neuron
        self.carries = isinstance(neuron, SigmaDelta) and neuron.threshold is not None
        if isinstance(neuron, SigmaDelta):
            return SigmaDeltaNeurons(self.population, neuron)
        return _NarrowNeurons(self.population)

    def _record_spikes(self, t: int) -> None:
        if self.spikes is not None and self.carries:
            self.spikes.append(self.fired.T)
        elif self.spikes is not None:
            self.spikes.append(np.packbits(self.fired.T.astype(bool)))


GRADED_MODELS = models_of(GradedLayer, "graded", GRADED_LAYERS, np.int32)
for _model in GRADED_MODELS.values():  # Lava looks for them among the names of the module
    globals()[_model.__name__] = _model
