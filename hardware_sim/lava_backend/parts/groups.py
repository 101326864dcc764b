"""Models of a Group: its layers one after another, each as `layers` has it, between messages of other processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from hardware_sim.lava_backend.graded_layers import GradedLayer
from hardware_sim.lava_backend.layers import FusedLayer
from hardware_sim.lava_backend.parts.processes import GRADED_GROUPS, GROUPS, Group


class FusedGroup(PyLoihiProcessModel):
    """The layers of a group. As in a process each, what a layer reads at a step was fired at that step."""

    layer: type[FusedLayer] = FusedLayer

    def __init__(self, proc_params: dict[str, Any]) -> None:
        super().__init__(proc_params)
        members = proc_params["members"]
        made = [self.layer.copies(member) for member in members]
        self.layers = [layer for layers, _ in made for layer in layers]
        self.sources, self.sends, self.frames = (proc_params[key] for key in ("sources", "sends", "frames"))
        self.copies = len(members[0].copies)
        self.sent = {layers[0].name: sent for layers, sent in made}
        if self.frames is not None:
            self.file = np.load(self.frames.path, mmap_mode="r")

    def run_spk(self) -> None:
        for layer in self.layers:
            layer.fire(self.time_step)
        sent = self._exchange()
        for layer in self.layers:
            layer.gather(sent, self.time_step)

    def _exchange(self) -> dict[str, np.ndarray]:
        """What all nodes sent that are here or read here, (copies, ...): tells the other processes, and hears them."""
        sent = dict(self.sent)
        if self.frames is not None:
            sent[self.frames.name] = self.frames.at(self.file, self.time_step, self.layer.spike)
        for k, name in enumerate(self.sends):
            port = getattr(self, f"s_out{k}")
            port.send(sent[name].reshape(port.shape))
        for k, name in enumerate(self.sources):
            sent[name] = getattr(self, f"s_in{k}").csp_ports[0].recv().reshape(self.copies, -1)
        return sent


class GradedGroup(FusedGroup):
    """The same where spikes carry values."""

    layer = GradedLayer


class IdleGroup(FusedGroup):
    """Passes the same messages and computes nothing: the floor that benchmarks hold the fused model against."""

    def run_spk(self) -> None:
        self._exchange()
        for layer in self.layers:
            layer.progress[layer.slot] = self.time_step


def _models(base: type[FusedGroup], name: str, processes: Mapping[int, type[Group]]) -> dict[Any, Any]:
    """The model of every Group: a class with its ports."""
    models = {}
    for number, process in processes.items():
        spike = base.layer.spike
        ports: dict[str, Any] = {f"s_in{k}": LavaPyType(PyInPort.VEC_DENSE, spike) for k in range(number)}
        ports |= {f"s_out{k}": LavaPyType(PyOutPort.VEC_DENSE, spike) for k in range(number)}
        model = type(f"{base.__name__}{number}", (base,), {**ports, "__module__": base.__module__})
        models[process] = implements(proc=process, protocol=LoihiProtocol)(requires(CPU)(tag(name)(model)))
    return models


FUSED_MODELS = {**_models(FusedGroup, "fused", GROUPS), **_models(GradedGroup, "graded", GRADED_GROUPS)}
IDLE_MODELS = _models(IdleGroup, "idle", GROUPS)
for _model in (*FUSED_MODELS.values(), *IDLE_MODELS.values()):  # Lava looks for them among the names of the module
    globals()[_model.__name__] = _model
