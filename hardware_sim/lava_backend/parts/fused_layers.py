"""A Layer as one model: synapses and neurons together, event-driven, with the timing of the stock parts.

At each step a layer first fires on what its synapses gathered from the steps before (as a Lava synapse sends what it
buffered), then takes in its sources' spikes of this step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from export.graph import Population
from export.limits import POTENTIAL_SHIFT, THRESHOLD_MAX
from hardware_sim.lava_backend import kernels, neuron_kernels
from hardware_sim.lava_backend.layout import open_tape, whc
from hardware_sim.lava_backend.parts.processes import LAYERS, Layer


class _Neurons(Protocol):
    """The neurons of a layer: their state beside the potential (W, H, C)."""

    def rest(self, potential: np.ndarray) -> None:
        """Start a sample."""

    def fire(self, total: np.ndarray, potential: np.ndarray, fired: np.ndarray) -> None:
        """One step, from the inputs (n,), which it leaves zero, to what is sent (W, H, C)."""


def each(population: Population, value: float | np.ndarray, dtype: type[np.integer]) -> np.ndarray:
    """One number for each neuron, flat (W, H, C)."""
    return np.array(np.broadcast_to(value, population.shape).T, dtype, order="C").ravel()


class CubaNeurons:
    """Loihi's CUBA neurons."""

    def __init__(self, population: Population) -> None:
        neuron = population.cuba
        self.u0, self.current = int(neuron.u0), np.zeros(int(np.prod(population.shape)), np.int32)
        self.bias = each(population, 0 if neuron.bias is None else neuron.bias, np.int32)
        self.current_decay = each(population, neuron.current_decay, np.int16)
        self.voltage_decay = each(population, neuron.voltage_decay, np.int16)
        self.threshold = int(THRESHOLD_MAX if neuron.threshold is None else neuron.threshold) << POTENTIAL_SHIFT
        self.drop = each(population, self.threshold if neuron.drop is None else neuron.drop, np.int32)
        self.leaky = neuron.leaks or neuron.bias is not None or neuron.drop is not None
        self.subtract, self.fires = neuron.reset == "subtract", neuron.threshold is not None

    def rest(self, potential: np.ndarray) -> None:
        potential[:] = self.u0
        self.current[:] = 0

    def fire(self, total: np.ndarray, potential: np.ndarray, fired: np.ndarray) -> None:
        v, sent = potential.reshape(-1), fired.reshape(-1)
        if self.leaky:
            neuron_kernels.cuba(
                total,
                self.current,
                v,
                self.bias,
                sent,
                self.current_decay,
                self.voltage_decay,
                self.drop,
                self.threshold,
                self.subtract,
                self.fires,
            )
        else:
            neuron_kernels.integrate_fire(total, v, sent, self.threshold, self.subtract, self.fires)


class FusedLayer(PyLoihiProcessModel):
    """One population. Flat arrays are in (W, H, C) order."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.uint8)
    v: np.ndarray = LavaPyType(np.ndarray, np.int32)
    sums: type[np.integer] = np.int16
    scatter = staticmethod(kernels.scatter)

    def __init__(self, proc_params: dict[str, Any]) -> None:
        super().__init__(proc_params)
        self.population: Population = proc_params["population"]
        self.window, files = proc_params["window"], proc_params["files"]
        edges = self.population.edges
        self.taps = [
            kernels.make_tables(edge.op, source, self.population.shape)
            for edge, source in zip(edges, proc_params["sources"], strict=True)
        ]
        self.waiting = [deque[np.ndarray](maxlen=edge.delay + 1) for edge in edges]  # spikes on their way
        self.own = [edge.source == self.population.name for edge in edges]
        n = int(np.prod(self.population.shape))
        self.total = np.zeros(n, self.sums)
        self.later = [None if e.target_delay is None else _Later(e.target_delay, self.sums) for e in edges]
        self.fired = np.zeros(whc(self.population.shape), np.uint8)
        self.neurons = self._neurons()
        self.rows = np.zeros((self.window.timesteps, -(-n // 8)), np.uint8)  # bits of the sample under way
        self.tally = np.zeros(self.population.shape, np.int32)
        self.spikes, self.counts = open_tape(files.spikes), open_tape(files.counts)
        self.potentials, self.output = open_tape(files.potentials), open_tape(files.output)
        self.progress, self.slot = np.load(files.progress, mmap_mode="r+"), files.slot

    def _neurons(self) -> _Neurons:
        return CubaNeurons(self.population)

    def run_spk(self) -> None:
        place = self.window.place(self.time_step)
        if place is None or place[1] == 0:
            self.neurons.rest(self.v)
        if place is None:  # neurons that need no input wait for their sample, too
            self.total[:] = 0
            self.fired[:] = 0
        else:
            self.neurons.fire(self.total, self.v, self.fired)
        self.s_out.send(self.fired)
        if place is not None:
            self._record(place[1])
        self._gather()

    def _gather(self) -> None:
        """Take in the spikes of this step. What is late of a sample does not reach the next."""
        following = self.window.place(self.time_step + 1)
        begins = following is not None and following[1] == 0
        for k, taps in enumerate(self.taps):
            arrived, later = self._receive(k), self.later[k]
            if self.own[k] and begins:
                self.waiting[k].clear()
            elif later is not None:
                if begins:
                    later.forget()
                self.total += later.step(None if arrived is None else self._scattered(arrived, taps))
            elif arrived is not None:
                self.scatter(arrived, taps, self.total)
        self.progress[self.slot] = self.time_step

    def _scattered(self, arrived: np.ndarray, taps: kernels.Taps | kernels.Columns) -> np.ndarray:
        gathered = np.zeros_like(self.total)
        self.scatter(arrived, taps, gathered)
        return gathered

    def _receive(self, k: int) -> np.ndarray | None:
        """The spikes of source k that arrive at the next step, flat, or None before the first can."""
        waiting = self.waiting[k]
        waiting.append(getattr(self, f"s_in{k}").csp_ports[0].recv().reshape(-1))
        return waiting[0] if len(waiting) == waiting.maxlen else None

    def _record(self, t: int) -> None:
        last = t == self.window.timesteps - 1
        self._record_spikes(t)
        if self.counts is not None:
            self.tally += (self.fired != 0).T
            if last:
                self.counts.append(self.tally)
                self.tally[:] = 0
        if self.potentials is not None:
            self.potentials.append(self.v.T)
        if self.output is not None and last:
            self.output.append(self.v.T)

    def _record_spikes(self, t: int) -> None:
        if self.spikes is not None:
            channels, height, width = self.population.shape
            kernels.pack_spikes(self.fired.reshape(-1), channels, height, width, self.rows[t])
            if t == self.window.timesteps - 1:
                self.spikes.append(self.rows)
                self.rows[:] = 0


class _Later:
    """Inputs that reach each target neuron some steps later: a ring of totals, one for each step to come."""

    def __init__(self, target_delay: np.ndarray, dtype: type[np.integer]) -> None:
        self.steps = target_delay.T.reshape(-1).astype(np.intp)  # W, H, C
        self.neurons = np.arange(self.steps.size)
        self.ring = np.zeros((int(self.steps.max()) + 1, self.steps.size), dtype)
        self.now = 0

    def forget(self) -> None:
        self.ring[:] = 0

    def step(self, gathered: np.ndarray | None) -> np.ndarray:
        """Put in what was gathered at a step; what is due at the next."""
        if gathered is not None:
            self.ring[(self.now + self.steps) % len(self.ring), self.neurons] += gathered
        due = self.ring[self.now].copy()
        self.ring[self.now] = 0
        self.now = (self.now + 1) % len(self.ring)
        return due


class IdleLayer(FusedLayer):
    """Passes the same messages and computes nothing: the floor that benchmarks hold the fused model against."""

    def run_spk(self) -> None:
        self.s_out.send(self.fired)
        for k in range(len(self.taps)):
            getattr(self, f"s_in{k}").csp_ports[0].recv()
        self.progress[self.slot] = self.time_step


def models_of(
    base: type[FusedLayer], name: str, processes: Mapping[int, type[Layer]], spike: type[np.integer]
) -> dict[type[Layer], type[FusedLayer]]:
    """The model of every Layer: a class with its ports. spike: the type of what comes in."""
    models = {}
    for inputs, process in processes.items():
        ports = {f"s_in{k}": LavaPyType(PyInPort.VEC_DENSE, spike) for k in range(inputs)}
        model = type(f"{base.__name__}{inputs}", (base,), {**ports, "__module__": base.__module__})
        models[process] = implements(proc=process, protocol=LoihiProtocol)(requires(CPU)(tag(name)(model)))
    return models


FUSED_MODELS = models_of(FusedLayer, "fused", LAYERS, np.uint8)
IDLE_MODELS = models_of(IdleLayer, "idle", LAYERS, np.uint8)
for _model in (*FUSED_MODELS.values(), *IDLE_MODELS.values()):  # Lava looks for them among the names of the module
    globals()[_model.__name__] = _model
