"""The archive that `torch.export.save` writes, opened so that nothing in it can run code.

`torch.export.load` of torch 2.14 does that in six ways (torch/export/pt2_archive/_package.py, torch/_export/serde):

- a weight or constant that says `use_pickle`, a custom or opaque object, and an old `data/weights/*.pt` are unpickled;
- so are the sample inputs, which every archive has: with `weights_only` first, and where that fails without;
- sizes of dynamic axes are texts that `sympy.sympify` evaluates as Python;
- `guards_code` is executed as Python when the program is made a module;
- an operation's name is looked up anywhere in `torch`, and called;
- `data/aotinductor` holds compiled libraries, which are loaded.

So that loader is not called. What a program needs is plain: JSON that lists operations, and the raw bytes of tensors
with JSON that gives types, sizes and strides. These are read here; all else is refused or, as the sample inputs, never
opened.
"""

from __future__ import annotations

import math
import sys
import zipfile
import zlib
from pathlib import Path

import torch

from export import checked
from export.checked import Fields

MODEL, FORMAT = "models/model.json", "archive_format"
WEIGHTS, CONSTANTS = "data/weights/", "data/constants/"
WEIGHTS_LIST, CONSTANTS_LIST = f"{WEIGHTS}model_weights_config.json", f"{CONSTANTS}model_constants_config.json"
COMPILED = "data/aotinductor/"
MAX_FILES, MAX_BYTES = 2**14, 2**31  # in an archive; of all that is in it
SIDE_MAX, AXES_MAX = 2**40, 8
DTYPES = {  # torch/_export/serde/schema.py: ScalarType
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}


class Archive:
    """The files of an open archive, by name without the folder that all lie in. Raises ValueError for another file."""

    def __init__(self, file: zipfile.ZipFile, size: int) -> None:
        self.file = file
        members = file.infolist()
        if len(members) > MAX_FILES:
            raise ValueError(f"it holds {len(members)} files; {MAX_FILES} are allowed")
        total = sum(member.file_size for member in members)
        if any(member.compress_type != zipfile.ZIP_STORED for member in members) or total > min(size, MAX_BYTES):
            raise ValueError(
                f"it unpacks to {total} bytes of its {size}; torch.export.save packs nothing, {MAX_BYTES} are allowed"
            )
        self.members = {member.filename.partition("/")[2]: member for member in members}
        if len(self.members) < len(members):
            raise ValueError("it holds two files of one name; one is allowed")
        if FORMAT not in self.members or self.read(FORMAT) != b"pt2":
            raise ValueError(
                "it is no archive of torch.export.save of torch 2.8 or newer; save the model with "
                "torch.export.save(torch.export.export(model.eval(), (image,)), 'model.pt2')"
            )
        if self.read("byteorder") != sys.byteorder.encode():
            raise ValueError(f"its byte order is {self.read('byteorder')[:20]!r}; {sys.byteorder} is allowed")
        compiled = [name for name in self.members if name.startswith(COMPILED)]
        if compiled:
            raise ValueError(f"it holds compiled code ({compiled[0][:80]!r}), which is not run; none is allowed")

    def read(self, name: str) -> bytes:
        if name not in self.members:
            raise ValueError(f"it lacks {name[:80]!r}")
        return self.file.read(self.members[name])

    def json(self, name: str) -> Fields:
        if name in self.members and self.members[name].file_size > checked.MAX_BYTES:
            raise ValueError(f"{name} is larger than {checked.MAX_BYTES >> 20} MiB, which are allowed")
        return Fields(checked.parse(self.read(name)).value, name)

    def tensors(self, listed: str, folder: str) -> dict[str, torch.Tensor]:
        """The tensors of a list, by name: parameters as such, floats as float32."""
        found = self.json(listed).sub("config")
        return {name: self._tensor(found.sub(name), folder) for name in found.value}

    def _tensor(self, given: Fields, folder: str) -> torch.Tensor:
        path = given.text("path_name")
        if given.flag("use_pickle") or "tensor_meta" not in given or not path.startswith(("weight_", "tensor_")):
            raise ValueError(f"{given.where} ({path[:80]!r}) is a pickle, which may run code; raw tensors are allowed")
        meta = given.sub("tensor_meta")
        dtype = read_dtype(meta, "dtype")
        sizes, strides = _whole(meta, "sizes"), _whole(meta, "strides")
        offset = meta.sub("storage_offset").integer("as_int", 0, SIDE_MAX)
        raw = bytearray(self.read(folder + path))
        held, taken = len(raw) // dtype.itemsize, math.prod(sizes)
        last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=False))
        if len(sizes) != len(strides) or taken > held or (taken and last >= held):
            raise ValueError(f"{given.where} claims {dtype} of {sizes} and holds {held} of these; as many are allowed")
        flat = torch.frombuffer(raw, dtype=dtype, count=held) if held else torch.empty(0, dtype=dtype)
        tensor = flat.as_strided(sizes, strides, offset).contiguous()
        if not dtype.is_floating_point:
            return tensor
        tensor = tensor.to(torch.float32, copy=True)
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{given.where} is NaN or infinite in places; finite numbers are allowed")
        return torch.nn.Parameter(tensor) if given.flag("is_param") else tensor


def read_dtype(given: Fields, name: str) -> torch.dtype:
    number = given.integer(name, 0, 64)
    if number not in DTYPES:
        raise ValueError(f"{given.path(name)} is type {number}; {', '.join(map(str, DTYPES.values()))} are allowed")
    return DTYPES[number]


def _whole(given: Fields, name: str) -> tuple[int, ...]:
    return tuple(item.integer("as_int", 0, SIDE_MAX) for item in given.subs(name, AXES_MAX))


def open_archive(path: Path) -> Archive:
    """An archive, its sizes checked. Raises FileNotFoundError, or ValueError saying what is found and allowed."""
    try:
        return Archive(zipfile.ZipFile(path), path.stat().st_size)
    except zipfile.BadZipFile as error:
        raise ValueError(f"it is no zip file ({str(error)[:200]})") from None
    except (RuntimeError, NotImplementedError, EOFError, zlib.error) as error:
        raise ValueError(f"it cannot be unpacked ({str(error)[:200]})") from None
