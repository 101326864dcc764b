"""A Layer as one model: synapses and neurons together, event-driven, with the timing of the stock parts.

At each step a layer first fires on what its synapses gathered from the steps before (as a Lava synapse sends what it
buffered), then takes in its sources' spikes of this step.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from export.graph import Population
from export.limits import POTENTIAL_SHIFT, THRESHOLD_MAX
from hardware_sim.lava_backend import kernels
from hardware_sim.lava_backend.layout import open_tape, whc
from hardware_sim.lava_backend.parts.processes import LAYERS, Layer


class FusedLayer(PyLoihiProcessModel):
    """One population. Flat arrays are in (W, H, C) order."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.uint8)
    v: np.ndarray = LavaPyType(np.ndarray, np.int32)

    def __init__(self, proc_params: dict[str, Any]) -> None:
        super().__init__(proc_params)
        self.population: Population = proc_params["population"]
        self.window, files = proc_params["window"], proc_params["files"]
        edges, neuron = self.population.edges, self.population.neuron
        self.taps = [
            kernels.make_tables(edge.op, source, self.population.shape)
            for edge, source in zip(edges, proc_params["sources"], strict=True)
        ]
        self.waiting = [deque[np.ndarray](maxlen=edge.delay + 1) for edge in edges]  # spikes on their way
        n = int(np.prod(self.population.shape))
        self.total = np.zeros(n, np.int16)
        self.later = [_Later(edge.target_delay) if edge.target_delay is not None else None for edge in edges]
        self.current = np.zeros(n, np.int32)
        self.fired = np.zeros(whc(self.population.shape), np.uint8)
        self.bias = self._each(0 if neuron.bias is None else neuron.bias, np.int32)
        self.decays = (self._each(neuron.current_decay, np.int16), self._each(neuron.voltage_decay, np.int16))
        self.threshold = int(THRESHOLD_MAX if neuron.threshold is None else neuron.threshold) << POTENTIAL_SHIFT
        self.drop = self._each(self.threshold if neuron.drop is None else neuron.drop, np.int32)
        self.leaky = neuron.leaks or neuron.bias is not None or neuron.drop is not None
        self.rows = np.zeros((self.window.timesteps, -(-n // 8)), np.uint8)  # bits of the sample under way
        self.tally = np.zeros(self.population.shape, np.int32)
        self.spikes, self.counts = open_tape(files.spikes), open_tape(files.counts)
        self.potentials, self.output = open_tape(files.potentials), open_tape(files.output)
        self.progress, self.slot = np.load(files.progress, mmap_mode="r+"), files.slot

    def _each(self, value: float | np.ndarray, dtype: type[np.integer]) -> np.ndarray:
        """One number for each neuron, flat."""
        return np.array(np.broadcast_to(value, self.population.shape).T, dtype, order="C").ravel()

    def run_spk(self) -> None:
        place = self.window.place(self.time_step)
        if place is None or place[1] == 0:
            self.v[:] = int(self.population.neuron.u0)
            self.current[:] = 0
        if place is None:  # neurons that need no input wait for their sample, too
            self.total[:] = 0
            self.fired[:] = 0
        else:
            self._fire()
        self.s_out.send(self.fired)
        if place is not None:
            self._record(place[1])
        self._gather()

    def _gather(self) -> None:
        """Take in the spikes of this step. What is late of a sample does not reach the next."""
        following = self.window.place(self.time_step + 1)
        for k, taps in enumerate(self.taps):
            arrived, later = self._receive(k), self.later[k]
            if later is not None:
                if following is not None and following[1] == 0:
                    later.forget()
                later.step(arrived, taps, self.total)
            elif arrived is not None:
                kernels.scatter(arrived, taps, self.total)
        self.progress[self.slot] = self.time_step

    def _fire(self) -> None:
        neuron, potential, fired = self.population.neuron, self.v.reshape(-1), self.fired.reshape(-1)
        subtract, fires = neuron.reset == "subtract", neuron.threshold is not None
        if self.leaky:
            kernels.cuba(
                self.total,
                self.current,
                potential,
                self.bias,
                fired,
                *self.decays,
                self.drop,
                self.threshold,
                subtract,
                fires,
            )
        else:
            kernels.integrate_fire(self.total, potential, fired, self.threshold, subtract, fires)

    def _receive(self, k: int) -> np.ndarray | None:
        """The spikes of source k that arrive at the next step, flat, or None before the first can."""
        waiting = self.waiting[k]
        waiting.append(getattr(self, f"s_in{k}").csp_ports[0].recv().reshape(-1))
        return waiting[0] if len(waiting) == waiting.maxlen else None

    def _record(self, t: int) -> None:
        last = t == self.window.timesteps - 1
        if self.spikes is not None:
            channels, height, width = self.population.shape
            kernels.pack_spikes(self.fired.reshape(-1), channels, height, width, self.rows[t])
            if last:
                self.spikes.append(self.rows)
                self.rows[:] = 0
        if self.counts is not None:
            self.tally += self.fired.T
            if last:
                self.counts.append(self.tally)
                self.tally[:] = 0
        if self.potentials is not None:
            self.potentials.append(self.v.T)
        if self.output is not None and last:
            self.output.append(self.v.T)


class _Later:
    """Inputs that reach each target neuron some steps later: a ring of totals, one for each step to come."""

    def __init__(self, target_delay: np.ndarray) -> None:
        self.steps = target_delay.T.reshape(-1).astype(np.intp)  # W, H, C
        self.neurons = np.arange(self.steps.size)
        self.ring = np.zeros((int(self.steps.max()) + 1, self.steps.size), np.int16)
        self.now = 0

    def forget(self) -> None:
        self.ring[:] = 0

    def step(self, arrived: np.ndarray | None, taps: kernels.Taps | kernels.Columns, total: np.ndarray) -> None:
        if arrived is not None:
            gathered = np.zeros(self.steps.size, np.int16)
            kernels.scatter(arrived, taps, gathered)
            self.ring[(self.now + self.steps) % len(self.ring), self.neurons] += gathered
        total += self.ring[self.now]
        self.ring[self.now] = 0
        self.now = (self.now + 1) % len(self.ring)


class IdleLayer(FusedLayer):
    """Passes the same messages and computes nothing: the floor that benchmarks hold the fused model against."""

    def run_spk(self) -> None:
        self.s_out.send(self.fired)
        for k in range(len(self.taps)):
            getattr(self, f"s_in{k}").csp_ports[0].recv()
        self.progress[self.slot] = self.time_step


def _models(base: type[FusedLayer], name: str) -> dict[type[Layer], type[FusedLayer]]:
    """The model of every Layer: a class with its ports."""
    models = {}
    for inputs, process in LAYERS.items():
        ports = {f"s_in{k}": LavaPyType(PyInPort.VEC_DENSE, np.uint8) for k in range(inputs)}
        model = type(f"{base.__name__}{inputs}", (base,), {**ports, "__module__": __name__})
        models[process] = implements(proc=process, protocol=LoihiProtocol)(requires(CPU)(tag(name)(model)))
    return models


FUSED_MODELS = _models(FusedLayer, "fused")
IDLE_MODELS = _models(IdleLayer, "idle")
for _model in (*FUSED_MODELS.values(), *IDLE_MODELS.values()):  # Lava looks for them among the names of the module
    globals()[_model.__name__] = _model
