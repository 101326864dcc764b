"""Neurons a step at a time, plainly: Loihi's CUBA and sigma-delta neurons in integers, CUBA in floats.

A population's state is advanced by `step`, from what arrives to what it emits and its potential after that; `scan`
runs all steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from export.graph import SPIKE_SHIFT, AnyNeuron, Decay, Neuron, SigmaDelta
from export.limits import DECAY_MAX, POTENTIAL_MAX, POTENTIAL_SHIFT
from hardware_sim.record import SimulationError


class State(Protocol):
    """Neurons of one population in some samples."""

    def step(self, arriving: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted input (...) of one step, in weight units, to what is emitted and the potential after it."""


def scan(currents: torch.Tensor, neuron: AnyNeuron, *, integer: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """All steps of a population that starts from rest.

    currents: weighted input (T, ...), in weight units. Returns what is emitted, of the same dtype, and the potentials
    after reset; of sigma-delta neurons the activations.
    """
    state = state_of(neuron, currents[0], integer=integer)
    emitted = torch.zeros_like(currents)
    after = torch.empty_like(currents, dtype=torch.int32 if integer else currents.dtype)
    for t in range(len(currents)):
        emitted[t], after[t] = state.step(currents[t])
    return emitted, after


def state_of(neuron: AnyNeuron, like: torch.Tensor, *, integer: bool) -> State:
    """Neurons at rest, one for each number of `like`."""
    if isinstance(neuron, SigmaDelta):
        return SigmaDeltaState(neuron, like)
    return CubaState(neuron, like) if integer else _FloatState(neuron, like)


class CubaState:
    """The CUBA neuron in Loihi's integers: potentials << 6, 24 bits, clipped; decays round towards zero."""

    def __init__(self, neuron: Neuron, like: torch.Tensor) -> None:
        self.neuron = neuron
        self.dtype = torch.int64 if neuron.leaks else torch.int32  # a decay multiplies 24 bits by 12
        self.current = torch.zeros_like(like, dtype=self.dtype)
        self.potential = torch.full_like(like, int(neuron.u0), dtype=self.dtype)
        self.bias = None if neuron.bias is None else torch.from_numpy(neuron.bias).to(self.dtype)
        self.threshold = None if neuron.threshold is None else int(neuron.threshold) << POTENTIAL_SHIFT
        drop = np.asarray((self.threshold or 0) if neuron.drop is None else neuron.drop, np.int64)
        self.drop = torch.from_numpy(drop).to(self.dtype)

    def step(self, arriving: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        neuron, potential = self.neuron, self.potential
        arriving = arriving.to(self.dtype) << POTENTIAL_SHIFT
        if neuron.leaks:
            self.current = _wrap(_decay(self.current, neuron.current_decay) + arriving)
            potential = _decay(potential, neuron.voltage_decay) + self.current
        else:
            potential.add_(arriving)
        if self.bias is not None:
            potential.add_(self.bias)
        potential.clamp_(-POTENTIAL_MAX, POTENTIAL_MAX)
        fired = torch.zeros_like(potential, dtype=torch.bool)
        if self.threshold is not None:
            fired = _fired(potential, self.threshold, ternary=neuron.ternary)
            if neuron.reset == "subtract":
                potential.sub_(fired.to(self.dtype) * self.drop)
            else:
                potential.masked_fill_(fired != 0, 0)
        self.potential = potential
        return fired, potential


class SigmaDeltaState:
    """Loihi 2's sigma-delta neuron, as lava-nc's PySigmaDeltaModelFixed; its potential is its activation."""

    def __init__(self, neuron: SigmaDelta, like: torch.Tensor) -> None:
        self.neuron = neuron
        self.sigma, self.act, self.residue = (torch.zeros_like(like, dtype=torch.int64) for _ in range(3))
        self.bias = 0 if neuron.bias is None else torch.from_numpy(neuron.bias).to(torch.int64)

    def step(self, arriving: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.sigma = self.sigma + arriving.to(torch.int64)
        if self.neuron.threshold is None:
            return torch.zeros_like(self.sigma), self.sigma
        return self.send((self.sigma + self.bias).clamp(min=0)), self.act

    def send(self, act: torch.Tensor) -> torch.Tensor:
        """The message by which a new activation is told."""
        delta = act - self.act + self.residue
        sent = torch.where(delta.abs() >= (self.neuron.threshold or 0), delta, torch.zeros_like(delta))
        self.act, self.residue = act, delta - sent
        return sent >> self.neuron.shift


class _FloatState:
    """The CUBA neuron in floats, without rounding or clip: for float graphs."""

    def __init__(self, neuron: Neuron, like: torch.Tensor) -> None:
        self.neuron = neuron
        decays = neuron.current_decay, neuron.voltage_decay
        self.kept, self.left = (torch.from_numpy(np.asarray(1 - decay / DECAY_MAX)) for decay in decays)
        self.current, self.potential = torch.zeros_like(like), torch.full_like(like, neuron.u0)
        self.bias = 0.0 if neuron.bias is None else torch.from_numpy(neuron.bias.astype(np.float64))

    def step(self, arriving: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        neuron = self.neuron
        self.current = self.kept * self.current + arriving
        potential = self.left * self.potential + self.current + self.bias
        fired = torch.zeros_like(potential, dtype=torch.bool)
        if neuron.threshold is not None:
            fired = _fired(potential, neuron.threshold, ternary=neuron.ternary)
            drop = torch.as_tensor(neuron.threshold if neuron.drop is None else neuron.drop)
            reset = potential - fired * drop if neuron.reset == "subtract" else torch.zeros_like(potential)
            potential = torch.where(fired != 0, reset, potential)
        self.potential = potential
        return fired, potential


def _fired(potential: torch.Tensor, threshold: float, *, ternary: bool) -> torch.Tensor:
    """Spikes: of 0 and 1 bool; ternary ones int8."""
    above = potential > threshold
    return above.to(torch.int8) - (potential < -threshold).to(torch.int8) if ternary else above


def _wrap(current: torch.Tensor) -> torch.Tensor:
    """Loihi's current is 24 bits wide and wraps around (AbstractPyLifModelFixed.subthr_dynamics)."""
    top = POTENTIAL_MAX + 1
    current = torch.where(current > top, current - 2 * top, current)
    return torch.where(current <= -top, current + 2 * top, current)


def _decay(state: torch.Tensor, decay: Decay) -> torch.Tensor:
    left = DECAY_MAX - decay if isinstance(decay, int) else torch.from_numpy(DECAY_MAX - decay.astype(np.int64))
    return state.sign() * ((state.abs() * left) >> 12)


def neuron_spikes(neuron: Neuron, currents: np.ndarray, *, timesteps: int) -> np.ndarray:
    """Spikes uint8 (samples, T, ...) of neurons under constant currents int32 (samples, ...), in weight units."""
    driven = replace(neuron, bias=currents.astype(np.int32) << POTENTIAL_SHIFT)
    spikes, _ = scan(torch.zeros(timesteps, *currents.shape), driven)
    return spikes.transpose(0, 1).numpy().astype(np.uint8)


def delta_messages(neuron: SigmaDelta, values: np.ndarray) -> np.ndarray:
    """Messages int32 (samples, T, ...) by which an input's neurons tell integers (samples, T, ...): Lava's Delta.

    Raises SimulationError for what 24 bits do not hold.
    """
    shift = SPIKE_SHIFT + neuron.shift
    most = POTENTIAL_MAX >> shift
    if np.abs(values).max(initial=0) > most:
        raise SimulationError(
            f"inputs from {values.min():g} to {values.max():g}; +-{most} is what 24 bits hold << {shift}"
        )
    told = torch.from_numpy(values.astype(np.int64)).transpose(0, 1) << shift  # T, samples, ...
    state = SigmaDeltaState(neuron, told[0])
    sent = torch.stack([state.send(act) for act in told])
    return sent.transpose(0, 1).numpy().astype(np.int32)
