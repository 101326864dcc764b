"""Broken network files, made from sound ones; each follows from its seed. Even seeds change bytes, odd ones fields."""

from __future__ import annotations

import contextlib
import functools
import io
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.originals import Original

STORED = 2**20  # numbers; no original holds as many
HUGE = (2**63 - 1, -(2**63), 2**31, 2**16, -1, 0, 1, 255)
FLOATS = (np.nan, np.inf, -np.inf, 1e308, -1e308, 0.5, -0.0, 1e-320)
DTYPES = ("f2", "f4", "f8", "g", "i1", "u1", "i8", "u8", "?", "c8", "S3", "V8", "i4,f4", "(3,)i4")
FIELDS = (
    "type", "shape", "name", "inputs", "delay", "weight", "bias", "scale", "groups", "stride", "padding", "dilation",
    "kernelSize", "outputPadding", "neuron", "vThMant", "iDecay", "vDecay", "u0", "fires", "reset", "wgtExp",
    "weight_exp", "refDelay", "gradedSpike", "target", "source",
)  # fmt: skip
TYPES = (
    "input", "conv", "convT", "dense", "pool", "unpool", "concat", "flatten", "add", "average", "dense_rec", "", "\0",
    "sparse",
)  # fmt: skip
STRUCTURES = (b"TREE", b"HEAP", b"SNOD", b"OHDR", b"GCOL", b"FRHP", b"BTHD", b"\x89HDF", b"layer", b"weight")
OUTSIDE = ("/dev/zero", "/dev/null", "/proc/self/mem", "nowhere.h5", "mutated.net", "/")
BOMB_BYTES = 2**26  # what a stored chunk of 64 KiB or so inflates to


class _Opened(h5py.File):
    """An original under change. Its names are looked up once, as that takes longer than to read the file."""

    def __init__(self, path: Path, original: Original) -> None:
        super().__init__(path, "r+")
        self.original = original


def mutate(
    seed: int, sources: Sequence[Original], path: Path, changes: Sequence[Callable[..., None]] | None = None
) -> None:
    """Write the file of a seed. changes: of fields, those of network files unless given."""
    rng = np.random.default_rng(seed)
    original = sources[rng.integers(len(sources))]
    data = _without_checksum(original.data)
    if seed % 2 == 0:
        path.write_bytes(change_bytes(data, rng))
        return
    path.write_bytes(data)
    with contextlib.suppress(OSError, RuntimeError), _Opened(path, original) as file:  # what it holds may not close
        for _ in range(rng.integers(1, 4)):
            with contextlib.suppress(
                OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, OverflowError
            ):
                _pick(rng, changes or FIELD_CHANGES)(file, rng)  # some do not fit what they find: then the next


@functools.cache
def _without_checksum(data: bytes) -> bytes:
    """It would tell on most changes, and whoever makes a file on purpose can leave it out."""
    memory = io.BytesIO(data)
    with h5py.File(memory, "r+") as file:
        if "meta" in file and "sha256" in file["meta"].attrs:
            del file["meta"].attrs["sha256"]
    return memory.getvalue()


def change_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(2 ** rng.uniform(0, 4))):
        at = _place(changed, rng)
        match rng.integers(7):
            case 0:
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                changed[at] = int(rng.integers(256))
            case 2:
                width = 2 ** int(rng.integers(4))
                value = int(_pick(rng, HUGE)) % 2 ** (8 * width)
                changed[at : at + width] = value.to_bytes(width, "little")
            case 3:
                length = int(2 ** rng.uniform(0, 9))
                changed[at : at + length] = bytes(len(changed[at : at + length]))
            case 4:
                changed[at:at] = rng.bytes(int(2 ** rng.uniform(0, 9)))
            case 5:
                length, other = int(2 ** rng.uniform(0, 9)), int(rng.integers(len(changed)))
                changed[at : at + length] = changed[other : other + length]
            case _ if rng.random() < 0.2:
                del changed[max(at, 1) :]
            case _:
                del changed[at : at + int(2 ** rng.uniform(0, 6))]
        if len(changed) < 16:
            break
    return bytes(changed)


def _place(data: bytearray, rng: np.random.Generator) -> int:
    """Anywhere, or, more often, near where HDF5 keeps its structures."""
    found = data.find(_pick(rng, STRUCTURES), int(rng.integers(len(data))))
    if found < 0 or rng.random() < 0.3:
        return int(rng.integers(len(data)))
    return min(found + int(rng.integers(64)), len(data) - 1)


def _pick(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _dataset(file: _Opened, rng: np.random.Generator) -> str:
    return _pick(rng, file.original.datasets)


def _anything(file: _Opened, rng: np.random.Generator) -> str:
    return _pick(rng, (*file.original.datasets, *file.original.groups))


def _somewhere(file: _Opened, rng: np.random.Generator) -> str:
    """A name for a field, new or taken; what is there goes."""
    group = _pick(rng, [name for name in file.original.groups if "/" in name])
    taken = [name.rpartition("/")[2] for name in file.original.datasets]
    name = f"{group}/{_pick(rng, FIELDS if 'layer' in file else taken)}" if rng.random() < 0.4 else _dataset(file, rng)
    if name in file:
        del file[name]
    return name


def _delete(file: _Opened, rng: np.random.Generator) -> None:
    del file[_anything(file, rng)]


def _rename(file: _Opened, rng: np.random.Generator) -> None:
    name = _anything(file, rng)
    file.move(name, f"{name.rpartition('/')[0]}/{_pick(rng, (*FIELDS, '0', '1', '99', '-1', 'x'))}")


def _retype(file: _Opened, rng: np.random.Generator) -> None:
    name, dtype = _dataset(file, rng), np.dtype(_pick(rng, DTYPES))
    value = _value(file[name])
    del file[name]
    if dtype.kind == "V":
        file[name] = np.zeros(np.shape(value), dtype)
    else:
        file[name] = np.asarray(value).astype(dtype)


def _value(dataset: h5py.Dataset) -> object:
    """What a dataset holds; of one that an earlier mutation has made huge, nothing: it was never stored."""
    return dataset[()] if dataset.size is None or dataset.size < STORED else np.zeros(1)


def _reshape(file: _Opened, rng: np.random.Generator) -> None:
    name = _dataset(file, rng)
    value = np.atleast_1d(_value(file[name]))
    shapes = (value.ravel(), value[None], value[..., None], value.T, value.ravel()[:0], value.ravel()[:1], value[:-1])
    del file[name]
    file[name] = _pick(rng, shapes)


def _revalue(file: _Opened, rng: np.random.Generator) -> None:
    name, extreme = _dataset(file, rng), _pick(rng, HUGE + FLOATS)
    value = np.asarray(_value(file[name]))
    value = value.astype("f8" if isinstance(extreme, float) else "i8")
    value.ravel()[: None if rng.random() < 0.3 else 1] = extreme
    del file[name]
    file[name] = value


def _replace(file: _Opened, rng: np.random.Generator) -> None:
    values = (
        h5py.Empty("f4"), h5py.Empty("S3"), b"text", "text", "ö" * 1000, b"\xff\xfe", b"",
        np.zeros(0), np.zeros((2, 0)), np.array(["a", "b"], object), h5py.h5r.Reference(), np.full(30_000, 2),
    )  # fmt: skip
    value = _pick(rng, values)
    if isinstance(value, np.ndarray) and value.dtype == object:
        file.create_dataset(_somewhere(file, rng), data=value, dtype=h5py.string_dtype())
    else:
        file[_somewhere(file, rng)] = value


def _claim(file: _Opened, rng: np.random.Generator) -> None:
    """A size that is nowhere stored."""
    shapes = ((2**40,), (2**28,), (2**27,), (2**26,), (2**24,), (2**20, 2**20), (2**9, 2**9, 16, 16), (1, 2**27))
    shape = _pick(rng, shapes)
    chunks = _pick(rng, (None, tuple(min(n, 1024) for n in shape), (1,) * len(shape)))
    dtype = _pick(rng, ("i1", "i2", "f4", "f8", "S8", "S2000000000"))
    file.create_dataset(_somewhere(file, rng), shape, dtype, chunks=chunks)


def _large_chunk(file: _Opened, rng: np.random.Generator) -> None:
    """Few numbers in a chunk for many, stored as few bytes."""
    name, filters = _somewhere(file, rng), _pick(rng, ("gzip", None))
    dataset = file.create_dataset(
        name, (2,), "f8", maxshape=(None,), chunks=(_pick(rng, (2**10, 2**24, 2**28)),), compression=filters
    )
    if filters:
        dataset.id.write_direct_chunk((0,), zlib.compress(bytes(int(rng.integers(100)))))


def _bomb(file: _Opened, rng: np.random.Generator) -> None:
    """A stored chunk that inflates to far more than the chunk holds."""
    dataset = file.create_dataset(_somewhere(file, rng), (3, 2, 3, 3), "i2", chunks=(3, 2, 3, 3), compression="gzip")
    dataset.id.write_direct_chunk((0, 0, 0, 0), _bomb_bytes())


@functools.cache
def _bomb_bytes() -> bytes:
    packer, packed = zlib.compressobj(1), io.BytesIO()
    for _ in range(BOMB_BYTES // 2**20):
        packed.write(packer.compress(bytes(2**20)))
    packed.write(packer.flush())
    return packed.getvalue()


def _filter(file: _Opened, rng: np.random.Generator) -> None:
    name = _dataset(file, rng)
    value = np.atleast_1d(_value(file[name]))
    del file[name]
    options: tuple[dict[str, Any], ...] = (
        {"compression": "lzf"}, {"compression": "gzip"}, {"fletcher32": True}, {"scaleoffset": 0}, {"shuffle": True},
    )  # fmt: skip
    dataset = file.create_dataset(name, data=value, chunks=value.shape, **_pick(rng, options))
    if rng.random() < 0.5:
        dataset.id.write_direct_chunk((0,) * value.ndim, rng.bytes(int(rng.integers(200))))


def _link(file: _Opened, rng: np.random.Generator) -> None:
    target, name = "/" + _anything(file, rng), _somewhere(file, rng)
    outside = _pick(rng, OUTSIDE)
    links = (h5py.SoftLink(target), h5py.SoftLink("/" + name), h5py.SoftLink("/"), h5py.SoftLink("/no/where"))
    file[name] = _pick(rng, (*links, h5py.ExternalLink(outside, target), h5py.ExternalLink(outside, "/"), file[target]))


def _loop(file: _Opened, rng: np.random.Generator) -> None:
    """A group that holds itself, or the root."""
    group = _pick(rng, file.original.groups)
    name = f"{group}/{_pick(rng, FIELDS)}"
    if name in file:
        del file[name]
    file[name] = file[_pick(rng, (group, "/"))]


def _external(file: _Opened, rng: np.random.Generator) -> None:
    """Numbers that lie in another file."""
    shape = _pick(rng, ((1,), (3, 2, 3, 3), (2**26,)))
    file.create_dataset(_somewhere(file, rng), shape, "f4", external=[(_pick(rng, OUTSIDE), 0, h5py.h5f.UNLIMITED)])


def _virtual(file: _Opened, rng: np.random.Generator) -> None:
    """Numbers that are views of another dataset, or of themselves."""
    name = _somewhere(file, rng)
    layout = h5py.VirtualLayout(shape=_pick(rng, ((3,), (3, 2, 3, 3), (2**26,))), dtype="i8")
    where = _pick(rng, (".", *OUTSIDE))
    layout[:] = h5py.VirtualSource(where, _pick(rng, ("/" + name, "/layer/1/weight")), shape=layout.shape)
    file.create_virtual_dataset(name, layout)


def _swap_kind(file: _Opened, rng: np.random.Generator) -> None:
    """A group where a dataset is expected, or the other way round."""
    if rng.random() < 0.5:
        file.create_group(_somewhere(file, rng))["real"] = 1
    else:
        group = _pick(rng, file.original.groups)
        del file[group]
        file[group] = np.arange(3)


def _nest(file: _Opened, rng: np.random.Generator) -> None:
    group: h5py.Group = file[_pick(rng, file.original.groups)]
    for _ in range(int(rng.integers(10, 300))):
        group = group.create_group("neuron" if "neuron" not in group else "x")
    group["layer"] = file[next(iter(file))]


def _attribute(file: _Opened, rng: np.random.Generator) -> None:
    keys = ("format", "version", "timesteps", "encoder", "logit_scale", "class_names", "notes", "other", "sha256")
    values = (
        0, -1, 2**63 - 1, 1e308, np.nan, np.inf, b"\xff", "neuroseg", "", "NaN", "{}", "[1, null]", '{"a": {"b": []}}',
        "[" * 50_000, "1" * 50_000, h5py.Empty("f4"), np.zeros(3), np.zeros((1, 1)),
        np.array(["a"] * 5, h5py.string_dtype()), h5py.h5r.Reference(), 1 + 2j,
    )  # fmt: skip
    group = file["meta"] if "meta" in file and rng.random() < 0.8 else file[_anything(file, rng)]
    key = _pick(rng, keys)
    if key in group.attrs and rng.random() < 0.2:
        del group.attrs[key]
    else:
        group.attrs[key] = _pick(rng, values)


def _inputs(file: _Opened, rng: np.random.Generator) -> None:
    layers = [name for name in file.original.groups if name.count("/") == 1]
    chosen = [name for name in layers if f"{name}/inputs" in file]
    layer = _pick(rng, chosen or layers)
    lists = (
        [0], [0, 0], [-1], [99], [1, 2, 3], [], [int(layer.rpartition("/")[2])], [0] * 5000, [0.5], [[0, 1], [1, 0]],
    )  # fmt: skip
    for field in ("inputs", "delay"):
        if rng.random() < 0.7:
            if f"{layer}/{field}" in file:
                del file[f"{layer}/{field}"]
            file[f"{layer}/{field}"] = _pick(rng, lists)


def _many_layers(file: _Opened, rng: np.random.Generator) -> None:
    """One layer under thousands of numbers."""
    layer = file[_pick(rng, [name for name in file.original.groups if name.count("/") == 1])]
    if "name" in layer and rng.random() < 0.8:
        del layer["name"]
    start, more = len(file["layer"]), _pick(rng, (1, 2, 10, 10, 50, 50, 100, 1001)) if rng.random() < 0.98 else 900
    for k in range(start, start + more):
        file[f"layer/{k}"] = layer


def _swap_layers(file: _Opened, rng: np.random.Generator) -> None:
    count = len(file["layer"])
    a, b = f"layer/{rng.integers(count)}", f"layer/{rng.integers(count)}"
    file.move(a, "layer/x")
    file.move(b, a)
    file.move("layer/x", b)


def _type(file: _Opened, rng: np.random.Generator) -> None:
    layer = _pick(rng, [name for name in file.original.groups if name.count("/") == 1])
    del file[f"{layer}/type"]
    file[f"{layer}/type"] = np.array([_pick(rng, TYPES).encode()])


def _small(file: _Opened, rng: np.random.Generator) -> None:
    """A sensible value in a wrong place."""
    file[_somewhere(file, rng)] = rng.integers(-2, 9, int(rng.integers(1, 5)))


GENERAL_CHANGES: tuple[Callable[[_Opened, np.random.Generator], None], ...] = (  # of any HDF5 file
    _delete, _rename, _retype, _reshape, _revalue, _replace, _claim, _large_chunk, _bomb, _filter, _link, _loop,
    _external, _virtual, _swap_kind, _nest, _attribute, _small,
)  # fmt: skip
FIELD_CHANGES: tuple[Callable[[_Opened, np.random.Generator], None], ...] = (
    _delete, _rename, _retype, _reshape, _revalue, _replace, _claim, _large_chunk, _bomb, _filter, _link, _loop,
    _external, _virtual, _swap_kind, _nest, _attribute, _inputs, _many_layers, _swap_layers, _type, _small,
)  # fmt: skip
