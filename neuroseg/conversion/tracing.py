"""A model as the operations that PyTorch runs for one image: whatever Python code calls them, in whatever style."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from export.graph import Shape

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


HINTS = {
    "max_pool2d": "use AvgPool2d",
    **dict.fromkeys(("leaky_relu", "elu", "gelu", "silu", "hardtanh", "prelu", "celu"), "use ReLU"),
    **dict.fromkeys(("sigmoid", "_softmax", "softmax", "_log_softmax"), "end with the logits"),
    **dict.fromkeys(("native_group_norm", "native_layer_norm"), "use BatchNorm2d, or no norm"),
    **dict.fromkeys(("upsample_bilinear2d", "upsample_bicubic2d"), "use mode='nearest', or ConvTranspose2d"),
    **dict.fromkeys(
        ("constant_pad_nd", "replication_pad2d", "reflection_pad2d"),
        "use the convolution's zero padding, and sides that every pooling divides",
    ),
}
SUPPORTED = (
    "Conv2d, ConvTranspose2d, Linear, BatchNorm2d, AvgPool2d, nearest Upsample, ReLU, Dropout, Flatten, torch.cat and "
    "addition are supported"
)


class ConversionError(ValueError):
    """A module or an operation that cannot become spiking; the message names it and says what to do."""


def trace(model: nn.Module, input_shape: Shape) -> fx.GraphModule:
    """The aten operations of a model on an image (1, *input_shape): in evaluation mode, with dropout left in.

    In-place operations are replaced by pure ones. Raises ConversionError where the model fails on such an image.
    """
    try:
        with torch.no_grad(), evaluating(model, but=DROPOUTS):
            return make_fx(functionalize(model))(torch.zeros(1, *input_shape))
    except Exception as error:  # tracing raises whatever the model's own code raises
        raise ConversionError(f"{type(model).__name__} cannot be traced on {input_shape}: {error}") from error


@contextmanager
def evaluating(model: nn.Module, but: tuple[type[nn.Module], ...] = ()) -> Iterator[None]:
    """Every module in evaluation mode, but those of some types; each gets back the mode that it had."""
    modes = {module: module.training for module in model.modules()}
    for module in modes:
        module.training = isinstance(module, but)
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def parameter_names(model: nn.Module) -> dict[int, str]:
    """The path of the module that holds a parameter, with underscores, by the parameter's identity."""
    return {
        id(parameter): (path.rpartition(".")[0] or path).replace(".", "_")
        for path, parameter in model.named_parameters()
    }


def shape_of(node: Any) -> Shape:
    """Shape (C, H, W) that an operation yields for one image; (C, 1, 1) where it is flat."""
    shape = tuple(node.meta["tensor_meta"].shape[1:])
    return shape if len(shape) == 3 else (*shape, *(1,) * (3 - len(shape)))


def results(result: Any) -> list[Any]:
    """A model's results in order, out of lists, tuples and dicts."""
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list | tuple):
        return [tensor for item in result for tensor in results(item)]
    return [result]


def refusal(operation: str) -> str:
    """Why an operation is refused, and what to do."""
    hint = next((text for key, text in HINTS.items() if operation.startswith(key)), SUPPORTED)
    return f"{operation} has no spiking counterpart; {hint}"
