"""A trained ANN, traced by torch.fx, becomes a `SpikingNetwork`: each ReLU a population of neurons.

What has no spiking counterpart is refused by the name of its node. Balancing comes after: see `balance`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from neuroseg.spec import (
    ConcatSpec,
    DropoutSpec,
    InputSpec,
    LayerSpec,
    NetworkSpec,
    PoolSpec,
    PopulationSpec,
    Shape,
    SynapseSpec,
)
from neuroseg.spiking import SpikingNetwork

INPUT = "input"


class ConversionError(ValueError):
    """A module or an operation that cannot become spiking; the message names its node and what to do."""


@dataclass(frozen=True)
class Current:
    """The membrane current that linear operations produce, waiting for a ReLU (or for the output)."""

    name: str
    synapses: tuple[tuple[SynapseSpec, torch.Tensor], ...]


Value = Current | str  # a current, or the name of a layer that emits spikes


def convert(
    model: nn.Module,
    input_shape: Shape,
    *,
    timesteps: int = 8,
    reset: str = "subtract",
    u0: float = 0.0,
    encoder: str = "rate",
    alpha: float = 1.0,
) -> SpikingNetwork:
    """Convert a model that maps (B, *input_shape) to (B, C, H, W) logits; input_shape is (C, H, W).

    Weights are copied as they are, thresholds are 1; balance the result before use. Raises ConversionError,
    naming the node, for anything that has no spiking counterpart.
    """
    training = model.training
    try:
        graph = fx.symbolic_trace(model.eval())
        with torch.no_grad():
            ShapeProp(graph).propagate(torch.zeros(1, *input_shape))
    except Exception as error:  # tracing raises whatever the model's own code raises
        raise ConversionError(
            f"{type(model).__name__} cannot be traced by torch.fx on {input_shape}: {error}"
        ) from error
    finally:
        model.train(training)
    builder = _Builder(graph)
    for node in graph.graph.nodes:
        builder.visit(node)
    spec = NetworkSpec(
        layers=tuple(builder.layers), timesteps=timesteps, reset=reset, u0=u0, encoder=encoder, alpha=alpha
    )
    network = SpikingNetwork(spec)
    with torch.no_grad():
        for key, weight in builder.weights.items():
            network.weights[key].copy_(weight)
    return network.eval()


class _Builder:
    """Walks the traced graph once; `values` maps each node to what it yields."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self.modules = dict(graph.named_modules())
        self.values: dict[fx.Node, Value] = {}
        self.layers: list[LayerSpec] = []
        self.weights: dict[str, torch.Tensor] = {}

    def visit(self, node: fx.Node) -> None:
        match node.op:
            case "placeholder":
                if self.layers:
                    raise ConversionError(f"{node.name}: a second input; one input is supported")
                self.values[node] = self._add(InputSpec(INPUT, _shape(node)))
            case "output":
                self._output(node)
            case _:
                rule = self._rule(node)
                self.values[node] = rule(node)

    def _rule(self, node: fx.Node) -> Callable[[fx.Node], Value]:
        target = self.modules[str(node.target)] if node.op == "call_module" else node.target
        key = type(target) if node.op == "call_module" else target
        rules: dict[Any, Callable[[fx.Node], Value]] = {
            nn.Conv2d: self._conv,
            nn.ConvTranspose2d: self._conv,
            **dict.fromkeys((nn.ReLU, F.relu, torch.relu, "relu"), self._relu),
            **dict.fromkeys((nn.AvgPool2d, F.avg_pool2d), self._pool),
            **dict.fromkeys((nn.Dropout, nn.Dropout2d, F.dropout), self._dropout),
            **dict.fromkeys((torch.cat, torch.concat), self._concat),
            **dict.fromkeys((operator.add, operator.iadd, torch.add), self._sum),
            nn.Identity: lambda n: self.values[n.args[0]],  # type: ignore[index]
        }
        if key not in rules:
            raise ConversionError(
                f"{node.name}: {getattr(key, '__name__', key)} has no spiking counterpart here; Conv2d, "
                "ConvTranspose2d, AvgPool2d, ReLU, Dropout, torch.cat and addition of currents are supported"
            )
        return rules[key]

    def _conv(self, node: fx.Node) -> Value:
        module = self.modules[str(node.target)]
        source = self._spikes(node, node.args[0], "takes spikes; put a ReLU before it")
        if module.bias is not None:
            raise ConversionError(f"{node.name}: has a bias; build it with bias=False")
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise ConversionError(
                f"{node.name}: padding {module.padding!r}, mode {module.padding_mode!r}; zeros, as integers"
            )
        transposed = isinstance(module, nn.ConvTranspose2d)
        synapse = SynapseSpec(
            source=source,
            kind="convT" if transposed else "conv",
            in_channels=module.in_channels,
            out_channels=module.out_channels,
            kernel=tuple(module.kernel_size),
            stride=tuple(module.stride),
            padding=tuple(module.padding),
            output_padding=tuple(module.output_padding) if transposed else (0, 0),
            dilation=tuple(module.dilation),
            groups=module.groups,
        )
        name = str(node.target).replace(".", "_")
        return Current(name, ((synapse, module.weight.detach()),))

    def _relu(self, node: fx.Node) -> Value:
        value = self.values[node.args[0]]  # type: ignore[index]
        if isinstance(value, str):
            return value  # spikes are not negative
        return self._population(value, _shape(node), fires=True)

    def _pool(self, node: fx.Node) -> Value:
        source = self._spikes(node, node.args[0], "pools spikes; put it after the ReLU")
        if node.op == "call_module":
            m = self.modules[str(node.target)]
            kernel, stride, padding, ceil = m.kernel_size, m.stride, m.padding, m.ceil_mode
            plain = m.count_include_pad and m.divisor_override is None
        else:
            settings = (
                dict(zip(("kernel_size", "stride", "padding", "ceil_mode"), node.args[1:], strict=False)) | node.kwargs
            )
            kernel = settings["kernel_size"]
            stride, padding = settings.get("stride") or kernel, settings.get("padding", 0)
            ceil, plain = settings.get("ceil_mode", False), settings.get("divisor_override") is None
        kernel, stride, padding = _pair(kernel), _pair(stride), _pair(padding)
        if stride != kernel or padding != (0, 0) or ceil or not plain:
            raise ConversionError(
                f"{node.name}: average pooling of kernel {kernel}, stride {stride}, padding {padding}; "
                "stride = kernel without padding, ceil_mode or divisor_override is supported"
            )
        height, width = _shape(node.args[0])[1:]
        if height % kernel[0] or width % kernel[1]:
            raise ConversionError(f"{node.name}: pooling {kernel} does not divide its input {(height, width)}")
        return self._add(PoolSpec(self._unique(node.name), _shape(node), source, kernel))

    def _dropout(self, node: fx.Node) -> Value:
        source = self._spikes(node, node.args[0], "drops spikes; put it after the ReLU")
        p: Any = self.modules[str(node.target)].p if node.op == "call_module" else node.kwargs.get("p", 0.5)
        return self._add(DropoutSpec(self._unique(node.name), _shape(node), source, float(p)))

    def _concat(self, node: fx.Node) -> Value:
        tensors: Any = node.kwargs.get("tensors", node.args[0] if node.args else ())
        dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        if dim not in (1, -3):
            raise ConversionError(f"{node.name}: concatenates along axis {dim}; channels (1) are supported")
        sources = tuple(self._spikes(node, t, "joins spikes; put a ReLU before it") for t in tensors)
        return self._add(ConcatSpec(self._unique(node.name), _shape(node), sources))

    def _sum(self, node: fx.Node) -> Value:
        terms = [self.values.get(arg) for arg in node.args if isinstance(arg, fx.Node)]
        if node.kwargs or len(terms) != 2 or not all(isinstance(term, Current) for term in terms):
            raise ConversionError(
                f"{node.name}: adds something else than two convolutions; add before the ReLU, not after it"
            )
        if len({_shape(arg) for arg in node.args}) > 1:
            raise ConversionError(f"{node.name}: broadcasts; only equal shapes can be added")
        currents = [term for term in terms if isinstance(term, Current)]
        return Current(currents[-1].name, tuple(s for current in currents for s in current.synapses))

    def _output(self, node: fx.Node) -> None:
        result = node.args[0]
        if not isinstance(result, fx.Node):
            raise ConversionError(f"output: {type(result).__name__} of tensors; one tensor is supported")
        value = self.values[result]
        if isinstance(value, str):
            raise ConversionError(f"output: {value} emits spikes; end with a convolution without ReLU")
        self._population(value, _shape(result), fires=False)

    def _population(self, current: Current, shape: Shape, *, fires: bool) -> str:
        population = PopulationSpec(self._unique(current.name), shape, tuple(s for s, _ in current.synapses), fires)
        for k, (_, weight) in enumerate(current.synapses):
            self.weights[f"{population.name}:{k}"] = weight
        return self._add(population)

    def _spikes(self, node: fx.Node, arg: Any, hint: str) -> str:
        value = self.values.get(arg)
        if not isinstance(value, str):
            raise ConversionError(f"{node.name}: {hint}")
        return value

    def _add(self, layer: LayerSpec) -> str:
        self.layers.append(layer)
        return layer.name

    def _unique(self, name: str) -> str:
        taken = {layer.name for layer in self.layers}
        candidate, k = name, 1
        while candidate in taken:
            candidate, k = f"{name}_{k}", k + 1
        return candidate


def _shape(node: Any) -> Shape:
    return tuple(node.meta["tensor_meta"].shape[1:])


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
