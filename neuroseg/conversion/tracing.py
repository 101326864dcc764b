"""A model as the operations that PyTorch runs for one image: whatever Python code calls them, in whatever style."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import torch.fx.traceback
import torch.nn.functional as F
from torch import fx, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from export.graph import Shape

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
MODULE = "module"  # what a node's note of its module is called


class ConversionError(ValueError):
    """A module or an operation that cannot become spiking; the message names it and says what to do."""


def trace(model: nn.Module, input_shape: Shape, *, norms: TorchFunctionMode | None = None) -> fx.GraphModule:
    """The aten operations of a model on an image (1, *input_shape): in evaluation mode, with dropout left in.

    In-place operations are replaced by pure ones, and each operation knows its module (`module_of`). norms: what
    stands in for norms that depend on the image. Raises ConversionError where the model fails on such an image.
    """

    def run(image: torch.Tensor) -> Any:
        with _CircularPadding(), norms or nullcontext():
            return model(image)

    try:
        with torch.no_grad(), evaluating(model, but=DROPOUTS), _noting_modules(model):
            # One mode for the shapes of all operations: make_fx would make one for each, a quarter of all conversion.
            shapes = TracingContext(FakeTensorMode(allow_fallback_kernels=True))
            with tracing(shapes):
                graph = make_fx(functionalize(run))(torch.zeros(1, *input_shape))
    except ConversionError:
        raise
    except Exception as error:  # tracing raises whatever the model's own code raises
        raise ConversionError(f"{type(model).__name__} cannot be traced on {input_shape}: {error}") from error
    graph.graph.eliminate_dead_code()
    return graph


class _CircularPadding(TorchFunctionMode):
    """PyTorch writes circular padding into an empty tensor; here it is a selection, which is a linear map."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {**dict(zip(("input", "pad", "mode"), args, strict=False)), **(kwargs or {})}
        if function not in (F.pad, torch._C._nn.pad) or given.get("mode") != "circular":
            return function(*args, **(kwargs or {}))
        x, sides = given["input"], list(given["pad"])
        for k in range(len(sides) // 2):
            axis, (before, after) = x.ndim - 1 - k, sides[2 * k : 2 * k + 2]
            places = torch.arange(-before, x.shape[axis] + after) % x.shape[axis]
            x = x.index_select(axis, places)
        return x


def module_of(node: fx.Node) -> str:
    """The path of the module that an operation is part of; empty for the model itself."""
    return str((node.meta.get("custom") or {}).get(MODULE, ""))


def module_now() -> str:
    """The path of the module whose operations are being traced."""
    return str((torch.fx.traceback.current_meta.get("custom") or {}).get(MODULE, "") or "the model")


def noting(path: str) -> AbstractContextManager[None]:
    """Operations in it are of the module at this path."""
    note: AbstractContextManager[None] = torch.fx.traceback.annotate({MODULE: path})
    return note


@contextmanager
def _noting_modules(model: nn.Module) -> Iterator[None]:
    """Every operation of a module notes its path."""
    entered: list[Any] = []

    def enter(path: str) -> Any:
        def hook(*_: Any) -> None:
            note = noting(path)
            note.__enter__()
            entered.append(note)

        return hook

    def leave(*_: Any) -> None:
        entered.pop().__exit__(None, None, None)

    with ExitStack() as stack:
        stack.enter_context(torch.fx.traceback.preserve_node_meta())
        for path, module in model.named_modules():
            for handle in (module.register_forward_pre_hook(enter(path)), module.register_forward_hook(leave)):
                stack.callback(handle.remove)
        try:
            yield
        finally:
            while entered:
                leave()


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
    """Shape (1, ...) that an operation yields for one image."""
    return tuple(node.meta["tensor_meta"].shape)


def results(result: Any) -> list[Any]:
    """A model's results in order, out of lists, tuples and dicts."""
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list | tuple):
        return [tensor for item in result for tensor in results(item)]
    return [result]
