"""A population in Lava, fused: synapses and neurons together, event-driven, with the timing of the stock parts.

At each step a layer first fires on what its synapses gathered from the steps before (as a Lava synapse sends what it
buffered), then takes in its sources' spikes of this step. Knows no Lava.
"""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from export.graph import Edge, Population, Shape
from export.limits import POTENTIAL_SHIFT, THRESHOLD_MAX
from hardware_sim.lava_backend import kernels, neuron_kernels, value_kernels
from hardware_sim.lava_backend.layout import LayerFiles, Window, open_tape
from hardware_sim.lava_backend.tables import make_pooled, make_tables

Scatter = Callable[[np.ndarray, np.ndarray], None]
"""Adds to the inputs of a population, flat (W, H, C), what spikes of a source make, likewise."""


@dataclass(frozen=True, eq=False)
class Member:
    """A population of a group. sources: shapes of what its edges read. files: what it records.

    levels: of what its edges read, the largest value of a spike, where that is known. late: steps of a sample by which
    what an edge brings back is late, 0 of other edges; it does not reach the next sample. copies: of the network, those
    that a layer is made for.
    """

    population: Population
    sources: tuple[Shape, ...]
    levels: tuple[int, ...]
    late: tuple[int, ...]
    window: Window
    files: LayerFiles
    copies: range


class Neurons(Protocol):
    """The neurons of a layer: their state beside the potential. Arrays are flat, in (W, H, C) order."""

    def rest(self, potential: np.ndarray) -> None:
        """Start a sample."""

    def fire(self, total: np.ndarray, potential: np.ndarray, fired: np.ndarray) -> None:
        """One step, from the inputs, which it leaves zero, to what is sent."""


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
        if self.leaky:
            neuron_kernels.cuba(
                total,
                self.current,
                potential,
                self.bias,
                fired,
                self.current_decay,
                self.voltage_decay,
                self.drop,
                self.threshold,
                self.subtract,
                self.fires,
            )
        else:
            neuron_kernels.integrate_fire(total, potential, fired, self.threshold, self.subtract, self.fires)


class FusedLayer:
    """One population: its state, and what it records. Arrays are flat, in (W, H, C) order. fired: its spikes."""

    spike: type[np.integer] = np.uint8
    sums: type[np.integer] = np.int16

    @classmethod
    def copies(cls, member: Member) -> tuple[tuple[FusedLayer, ...], np.ndarray]:
        """The layers of a population in copies of the network, and what they fire, (copies, W * H * C).

        They share synapses and files.
        """
        first = cls(member)
        layers = (first, *(copy.copy(first) for _ in member.copies[1:]))
        sent = np.zeros((len(layers), int(np.prod(member.population.shape))), cls.spike)
        for row, layer in enumerate(layers):
            layer.begin(row, member.copies[row], sent[row])
        return layers, sent

    def __init__(self, member: Member) -> None:
        self.population, self.window, files = member.population, member.window, member.files
        self.late = member.late
        edges = self.population.edges
        self.scatters = [self._scatter(*each) for each in zip(edges, member.sources, member.levels, strict=True)]
        self.spikes, self.counts = open_tape(files.spikes), open_tape(files.counts)
        self.potentials, self.output = open_tape(files.potentials), open_tape(files.output)
        self.progress, self.slot = np.load(files.progress, mmap_mode="r+")[member.copies.start], files.slot

    def begin(self, row: int, copy: int, fired: np.ndarray) -> None:
        """Own state, of a copy of the network; fired: its row of what all copies fire."""
        self.row, self.copy, self.fired, edges = row, copy, fired, self.population.edges
        self.waiting = [deque[np.ndarray](maxlen=edge.delay + 1) for edge in edges]  # spikes on their way
        n = len(fired)
        self.total, self.v = np.zeros(n, self.sums), np.zeros(n, np.int32)
        self.later = [None if e.target_delay is None else _Later(e.target_delay, self.sums) for e in edges]
        self.neurons = self._neurons()
        self.rows = np.zeros((self.window.timesteps, -(-n // 8)), np.uint8)  # bits of the sample under way
        self.tally = np.zeros(self.population.shape, np.int32)
        self.neurons.rest(self.v)

    @property
    def name(self) -> str:
        return self.population.name

    def _scatter(self, edge: Edge, source: Shape, most: int) -> Scatter:
        """What adds the inputs that an edge makes of spikes up to `most`."""
        pool = make_pooled(edge.op, source, self.population.shape) if most == 1 else None
        if pool is not None:
            return functools.partial(kernels.scatter_sums, pool)
        tables = make_tables(edge.op, source, self.population.shape)
        return functools.partial(kernels.scatter if most == 1 else value_kernels.scatter_levels, tables)

    def _neurons(self) -> Neurons:
        return CubaNeurons(self.population)

    def fire(self, time_step: int) -> None:
        """What the neurons send at a step (from 1), and its record."""
        place = self.window.place(time_step, self.copy)
        if place is None or place[1] == 0:
            self.neurons.rest(self.v)
        if place is None:  # neurons that need no input wait for their sample, too
            self.total[:] = 0
            self.fired[:] = 0
            return
        self.neurons.fire(self.total, self.v, self.fired)
        self._record(*place)

    def gather(self, sent: Mapping[str, np.ndarray], time_step: int) -> None:
        """Take in the spikes (copies, ...) that sources sent at a step. What is late of a sample ends with it."""
        following = self.window.place(time_step + 1, self.copy)
        step = 0 if following is None else following[1]
        for k, edge in enumerate(self.population.edges):
            arrived, later = self._arriving(k, sent[edge.source][self.row]), self.later[k]
            if step < self.late[k]:
                continue
            if later is not None:
                if step == 0:
                    later.forget()
                self.total += later.step(None if arrived is None else self._scattered(k, arrived))
            elif arrived is not None:
                self.scatters[k](arrived, self.total)
        self.progress[self.slot] = time_step

    def _scattered(self, k: int, arrived: np.ndarray) -> np.ndarray:
        gathered = np.zeros_like(self.total)
        self.scatters[k](arrived, gathered)
        return gathered

    def _arriving(self, k: int, sent: np.ndarray) -> np.ndarray | None:
        """The spikes over edge k that arrive at the next step, or None before the first can."""
        waiting = self.waiting[k]
        if waiting.maxlen == 1:
            return sent
        waiting.append(sent.copy())  # who sent them will write there
        return waiting[0] if len(waiting) == waiting.maxlen else None

    def _record(self, sample: int, t: int) -> None:
        last = t == self.window.timesteps - 1
        self._record_spikes(sample, t)
        if self.counts is not None:
            self.tally += self._channels_first(self.fired) != 0
            if last:
                self.counts.write(sample, self.tally)
                self.tally[:] = 0
        if self.potentials is not None:
            self.potentials.write(sample * self.window.timesteps + t, self._channels_first(self.v))
        if self.output is not None and last:
            self.output.write(sample, self._channels_first(self.v))

    def _record_spikes(self, sample: int, t: int) -> None:
        if self.spikes is not None:
            channels, height, width = self.population.shape
            kernels.pack_spikes(self.fired, channels, height, width, self.rows[t])
            if t == self.window.timesteps - 1:
                self.spikes.write(sample, self.rows)
                self.rows[:] = 0

    def _channels_first(self, flat: np.ndarray) -> np.ndarray:
        """(C, H, W)."""
        return flat.reshape(self.population.shape[::-1]).T


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
