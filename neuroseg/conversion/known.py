"""What is known while a traced model is walked: what its operations yield, what is constant, what things are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from neuroseg.conversion import rectify
from neuroseg.conversion.draft import Draft
from neuroseg.conversion.linear import Value, expanded
from neuroseg.conversion.refusals import PRODUCT
from neuroseg.conversion.tracing import ConversionError, module_of, shape_of

aten = torch.ops.aten

SAME = {aten.alias, aten.detach, aten.clone, aten.contiguous, aten._to_copy, aten.lift_fresh_copy}
SHAPES = {aten.view, aten._unsafe_view, aten.reshape, aten.squeeze, aten.unsqueeze, aten.flatten}


class Mask:
    """What dropout multiplies with: kept with this probability."""

    def __init__(self, keep: float) -> None:
        self.keep = keep


class Known:
    """`values` maps each operation to what it yields, `constants` those that read no image.

    endings: what was left out at an output, a sigmoid or softmax; ends: after each output, in order. draft: the graph
    so far. ternary: as `Draft` has it.
    """

    def __init__(self, names: dict[int, str], *, ternary: bool = False) -> None:
        self.names = names
        self.values: dict[fx.Node, Any] = {}  # Value, a tuple of them, Mask or None
        self.constants: dict[fx.Node, Any] = {}
        self.endings: dict[fx.Node, Callable[[torch.Tensor], torch.Tensor]] = {}
        self.ends: list[list[Callable[[torch.Tensor], torch.Tensor]]] = []
        self.draft = Draft(ternary=ternary)

    def value(self, x: Any, node: fx.Node) -> Value:
        if isinstance(x, fx.Node) and x in self.constants:
            constant = self.constant(x, node).double()
            return Value(node.name, tuple(constant.shape), (), constant, bool((constant >= 0).all()))
        value = self.values.get(x) if isinstance(x, fx.Node) else None
        if not isinstance(value, Value):
            raise ConversionError(f"{self.place(node)}: reads something that is no activation ({x})")
        return value

    def both(self, node: fx.Node, a: Any, b: Any) -> tuple[Value, Value]:
        first, second = expanded(self.value(a, node), shape_of(node)), expanded(self.value(b, node), shape_of(node))
        return first, second

    def constant(self, x: Any, node: fx.Node) -> torch.Tensor:
        if x not in self.constants:
            raise ConversionError(f"{self.place(node)}: {PRODUCT}")
        return self.constants[x].detach()

    def number(self, x: Any) -> torch.Tensor:
        number = self.constants[x] if isinstance(x, fx.Node) else x
        return torch.as_tensor(number).detach().double()

    def masking(self, x: Any) -> Mask | None:
        value = self.values.get(x) if isinstance(x, fx.Node) else None
        return value if isinstance(value, Mask) else None

    def filled(self, arguments: Any) -> Any:
        """Arguments with constants in place of their nodes."""
        return map_arg(arguments, lambda n: self.constants[n])

    def fire(self, node: fx.Node) -> rectify.Fire:
        """Neurons that are called as the operation that needs them."""
        return partial(self.draft.fire, name=self.called(node))

    def called(self, node: fx.Node) -> str:
        return module_of(node).replace(".", "_") or str(node.name)

    def named(self, node: fx.Node, value: Value) -> Value:
        return replace(value, name=self.called(node))

    def name(self, parameter: Any, node: fx.Node) -> str:
        """A layer's name: the path of the module whose parameter it is, or was before it was turned."""
        name, read = self.names.get(id(self.constants.get(parameter))), [parameter]
        while name is None and len(read) == 1 and isinstance(read[0], fx.Node):
            name, read = self.names.get(id(self.constants.get(read[0]))), read[0].all_input_nodes
        return name or module_of(node).replace(".", "_") or str(node.name)

    def place(self, node: fx.Node) -> str:
        """Where an operation is, as its user wrote it: the module, or the last one with weights before it."""
        module = module_of(node)
        if module:
            return f"{module} ({node.name})"
        before = [self.names[id(c)] for c in self.constants.values() if id(c) in self.names]
        return f"{node.name} (after {before[-1]})" if before else str(node.name)

    def is_last(self, node: fx.Node) -> bool:
        """Whether nothing follows but views."""
        views = SAME | SHAPES
        return all(
            user.op == "output" or (getattr(user.target, "overloadpacket", None) in views and self.is_last(user))
            for user in node.users
        )

    def seen_through(self, node: fx.Node, x: Any) -> Any:
        """The value itself; what was left out before it is left out after it."""
        if x in self.endings:
            left_out, shape = self.endings[x], shape_of(x)
            self.endings[node] = lambda y: left_out(y.reshape(shape)).reshape(y.shape)
        return self.values[x]


def kind_of(node: fx.Node) -> Any:
    """An operation whatever its overload."""
    return getattr(node.target, "overloadpacket", node.target)


def pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))
