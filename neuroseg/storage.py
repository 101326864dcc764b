"""Tensors and what belongs to them, in one safetensors file: nothing in it can run code.

The tensors are safetensors'; all else (settings, history, notes) is JSON in the header's metadata, under `neuroseg`. A
checksum over both, under `sha256`, tells a damaged file from a good one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as serialize

from export import files

CONTENT, CHECKSUM = "neuroseg", "sha256"
TENSOR, ITEMS = "__tensor__", "__items__"  # how JSON refers to a tensor, and to a dict whose keys are no strings
HEADER_MAX = 2**26  # bytes


class StorageError(ValueError):
    """A file that is no safetensors file of ours, or a damaged one."""


def save(content: Any, path: Path) -> None:
    """Write dicts, lists, numbers, strings and tensors in them; the file appears complete or not at all."""
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_take_out(content, "", tensors))
    metadata = {CONTENT: text, CHECKSUM: _digest(text, tensors)}
    files.write_bytes(serialize(tensors, metadata), path)


def load(path: Path) -> Any:
    """Read what `save` wrote. Raises FileNotFoundError, or StorageError for a damaged or foreign file."""
    if path.exists() and not path.is_file():
        raise StorageError("it is no file")
    raw = path.read_bytes()
    try:
        size = int.from_bytes(raw[:8], "little")
        if not 0 < size <= min(len(raw) - 8, HEADER_MAX):
            raise StorageError("it is no safetensors file")
        metadata = json.loads(raw[8 : 8 + size]).get("__metadata__", {})
        text, checksum = metadata[CONTENT], metadata[CHECKSUM]
        tensors = parse(raw)
        if _digest(text, tensors) != checksum:
            raise StorageError("its checksum is wrong: it was damaged or changed after it was written")
        return _put_back(json.loads(text), tensors)
    except KeyError as error:
        raise StorageError(f"it lacks {error}, so it was not written by neuroseg") from None
    except StorageError:
        raise
    except (SafetensorError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
        raise StorageError(f"it is no safetensors file ({str(error)[:200]})") from None


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _take_out(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON with references in place of tensors, which are put into `tensors` under their path."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {TENSOR: name}
    if isinstance(value, Mapping):
        made = [(key, _take_out(item, f"{name}.{key}" if name else str(key), tensors)) for key, item in value.items()]
        return dict(made) if all(isinstance(key, str) for key in value) else {ITEMS: made}
    if isinstance(value, list | tuple):
        return [_take_out(item, f"{name}.{k}", tensors) for k, item in enumerate(value)]
    return value


def _put_back(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_back(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if TENSOR in value:
        return tensors[value[TENSOR]]
    if ITEMS in value:
        return {key: _put_back(item, tensors) for key, item in value[ITEMS]}
    return {key: _put_back(item, tensors) for key, item in value.items()}
