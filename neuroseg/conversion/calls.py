"""A model that is a list of calls of PyTorch's operations, as an nn.Module: what `program` makes of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from export.graph import Shape
from neuroseg.conversion.tracing import noting

MAX_NUMBERS = 2**28  # that all operations together yield for one image
SIDE_MAX = 2**40
DEVICE = "<device>"  # stands for that of the images, whatever device the model was exported on


class ProgramError(ValueError):
    """A .pt2 file that is not read; the message names it, what was found and what is allowed."""


@dataclass(frozen=True)
class Ref:
    """An argument that is the result of an earlier call, or an input."""

    name: str


@dataclass(frozen=True)
class Call:
    """An operation, its arguments, and the names of what it yields: a tuple of those where it yields a list.

    module: the path of the module that it is part of, where that is known.
    """

    target: str
    operation: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    results: tuple[str | tuple[str, ...], ...]
    module: str = ""


class Program(nn.Module):
    """Images (B, C, H, W) to what the exported model yields for them; always in evaluation mode.

    shape: (C, H, W) of an image, None for an axis of any size. single: whether it was made for one image at a time.
    """

    def __init__(
        self,
        *,
        tensors: Mapping[str, torch.Tensor],
        names: Mapping[str, str],
        image: str,
        shape: tuple[int | None, ...],
        single: bool,
        calls: tuple[Call, ...],
        outputs: tuple[str, ...],
    ) -> None:
        """tensors: parameters and buffers by their path in the model. names: of a call's argument, to that path."""
        super().__init__()
        self.names, self.image, self.shape, self.single = dict(names), image, shape, single
        self.calls, self.outputs = calls, outputs
        for path, tensor in tensors.items():
            _put(self, path, tensor)
        self.eval()

    def forward(self, images: torch.Tensor) -> Any:
        if self.single and len(images) != 1:
            each = [self._run(image[None], self._tensors()) for image in images]
            results = [torch.cat(parts) for parts in zip(*each, strict=True)]
        else:
            results = self._run(images, self._tensors())
        return results[0] if len(results) == 1 else tuple(results)

    def check(self, shape: Shape) -> None:
        """Raise ProgramError unless images (C, H, W) fit, and what is made of one has a bounded size. Runs nothing."""
        allowed = "x".join("any" if side is None else str(side) for side in self.shape)
        found = "x".join(map(str, shape))
        if len(shape) != 3 or any(b not in (None, a) for a, b in zip(shape, self.shape, strict=True)):
            raise ProgramError(f"images are {found} (CxHxW); the model was exported for {allowed}")
        tensors = {path: tensor.to("meta") for path, tensor in self._tensors().items()}
        try:
            self._run(torch.empty(1, *shape, device="meta"), tensors)
        except (RuntimeError, TypeError, ValueError, NotImplementedError, IndexError) as error:
            raise ProgramError(f"the model cannot run on images of {found}: {str(error)[:300]}") from error

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers by their path."""
        return {
            **dict(self.named_parameters(remove_duplicate=False)),
            **dict(self.named_buffers(remove_duplicate=False)),
        }

    def _run(self, images: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        values: dict[str, Any] = {name: tensors[path] for name, path in self.names.items()}
        values[self.image], values[DEVICE] = images, images.device
        made = 0
        for call in self.calls:
            with noting(call.module):
                found = call.operation(
                    *(_filled(argument, values) for argument in call.arguments),
                    **{name: _filled(argument, values) for name, argument in call.options.items()},
                )
            made += _size(found)
            if made > MAX_NUMBERS * len(images):
                raise ValueError(f"{call.target} makes {made:,} numbers of an image; {MAX_NUMBERS:,} are allowed")
            if not call.results:  # an assertion
                continue
            several = len(call.results) > 1 and isinstance(found, list | tuple)
            for result, value in zip(call.results, found if several else (found,), strict=True):
                values.update(zip(result, value, strict=True) if isinstance(result, tuple) else ((result, value),))
        return [values[name] for name in self.outputs]


def flat(value: Any) -> Iterator[Any]:
    """What lists in lists hold."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from flat(item)
    else:
        yield value


def _filled(argument: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(argument, list):
        return [_filled(item, values) for item in argument]
    return values[argument.name] if isinstance(argument, Ref) else argument


def _size(found: Any) -> int:
    """How many numbers an operation yields."""
    for value in flat(found):
        if isinstance(value, int) and abs(value) > SIDE_MAX:
            raise ValueError(f"a size of {value.bit_length()} bits; {SIDE_MAX} is allowed")
    return sum(value.numel() for value in flat(found) if isinstance(value, torch.Tensor))


def _put(module: nn.Module, path: str, tensor: torch.Tensor) -> None:
    """Register a parameter or a buffer at a path, with the modules on the way, whatever names these have."""
    *parents, last = path.split(".")
    for name in parents:
        module = module._modules.setdefault(name, nn.Module())  # type: ignore[assignment]
    kept: dict = module._parameters if isinstance(tensor, nn.Parameter) else module._buffers
    kept[last] = tensor
