"""Broken weights, traces, settings and NIR files, made from sound ones; each follows from its seed.

Even seeds change bytes. Odd ones change what the file says, and pack it as its writer would, checksum and all: what an
attacker can do.
"""

from __future__ import annotations

import copy
import functools
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from benchmarks.mutations import GENERAL_CHANGES, HUGE, change_bytes, mutate
from benchmarks.originals import Original
from neuroseg import storage

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**400, 0.5, -1e308, 1e308, "", "subtract", "Conv", "x" * 5000, "\0", "\ud800",
    "../../etc/passwd", [], [[]], [1], [-1, 2**40], ["a", 1], {}, {"kind": "Graph"}, {"array": [2**40, 2**40]},
    {"array": [2**26, 64]}, {"__tensor__": "nowhere"}, {"__items__": [[1, 2]]},
)  # fmt: skip
DEPTH = 3000
TENSORS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    lambda t: t.double(), lambda t: t.half(), lambda t: t.to(torch.int8), lambda t: t.bool(), lambda t: t.flatten(),
    lambda t: t[None], lambda t: t.flatten()[:0], lambda t: torch.full_like(t, torch.nan), lambda t: t * torch.inf,
    lambda t: t.to(torch.complex64), lambda t: torch.zeros(3), lambda t: t * 1e30,
)  # fmt: skip
DTYPES = ("u1", "i1", "i4", "i8", "f4", "f8", "?", "U3", "S3", "c8", "i4,f4", ">i4")
ARRAY = "{'descr': '%s', 'fortran_order': False, 'shape': %s, }"
NAMES = ("x", "spikes/", "shape/x", "count/head", "potential/x", "spikes/x", "\x1b]0;x")
SIZES = (9, 2**30, 2**62, 10**17)
NODES = ("IF", "CubaLIF", "NIRGraph", "Conv2d", "Input", "Scale", "str2NIRNode", "")


def weights(seed: int, sound: Path, path: Path) -> None:
    """A file of `neuroseg.storage`: a network's structure and tensors."""
    rng = np.random.default_rng(seed)
    if seed % 2 == 0:
        path.write_bytes(change_bytes(sound.read_bytes(), rng))
        return
    content = copy.deepcopy(_content(sound))
    for _ in range(rng.integers(1, 3)):
        _change(content, rng)
    try:
        storage.save(content, path)
    except (ValueError, TypeError, RuntimeError):  # what no JSON or safetensors file can say
        path.write_bytes(sound.read_bytes())


@functools.cache
def _content(sound: Path) -> Any:
    return storage.load(sound)


def settings(seed: int, sound: Path, path: Path) -> None:
    """A run.json."""
    rng = np.random.default_rng(seed)
    if seed % 2 == 0:
        path.write_bytes(change_bytes(sound.read_bytes(), rng))
        return
    content = json.loads(sound.read_bytes())
    for _ in range(rng.integers(1, 3)):
        _change(content, rng)
    text = json.dumps(content)
    match rng.integers(12):
        case 0:
            text = text.replace("0", "NaN", 1)
        case 1:
            text = text.replace("}", "," + "[" * DEPTH * 30, 1)
        case 2:
            text = text[: rng.integers(len(text))]
    path.write_text(text, "utf-8", "surrogatepass")


def _change(content: Any, rng: np.random.Generator) -> None:
    """Change one place in a tree of dicts and lists."""
    places = [(content, key) for key in _keys(content)]
    for holder, key in places:
        places += [(holder[key], inner) for inner in _keys(holder[key])]
    holder, key = places[rng.integers(len(places))]
    value = holder[key]
    if isinstance(value, torch.Tensor) and rng.random() < 0.7:
        holder[key] = TENSORS[rng.integers(len(TENSORS))](value)
        return
    match rng.integers(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder["unknown"] = holder.pop(key)
        case 2:
            holder[key] = functools.reduce(lambda inner, _: [inner], range(int(rng.integers(1, DEPTH // 10))), value)
        case 3 if isinstance(value, int | float):
            holder[key] = value + float(rng.choice([-1, 1, 0.5, 1e300]))
        case _:
            holder[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])


def _keys(value: Any) -> list[Any]:
    return list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []


def trace(seed: int, sound: Path, path: Path) -> None:
    """A trace's npz."""
    rng = np.random.default_rng(seed)
    if seed % 2 == 0:
        path.write_bytes(change_bytes(sound.read_bytes(), rng))
        return
    with np.load(sound) as file:
        arrays = dict(file)
    for _ in range(rng.integers(1, 3)):
        _change_arrays(arrays, rng)
    memory = io.BytesIO()
    np.savez_compressed(memory, **arrays)  # type: ignore[arg-type]
    path.write_bytes(memory.getvalue() if rng.random() < 0.7 else _repacked(memory.getvalue(), rng))


def _change_arrays(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    name = list(arrays)[rng.integers(len(arrays))]
    value = arrays[name]
    match rng.integers(6):
        case 0:
            del arrays[name]
        case 1:
            arrays[str(rng.choice(NAMES))] = value
        case 2:
            arrays[name] = np.zeros(value.shape, DTYPES[rng.integers(len(DTYPES))])
        case 3:
            shapes = (
                value.ravel(),
                value[None],
                value[..., None],
                value.T,
                value.ravel()[:0],
                np.atleast_1d(value)[:-1],
            )
            arrays[name] = shapes[rng.integers(len(shapes))]
        case 4 if value.dtype.kind in "iu":
            extreme = HUGE[rng.integers(len(HUGE))]
            arrays[name] = np.full(value.shape, extreme)
        case _:
            arrays[name] = arrays[list(arrays)[rng.integers(len(arrays))]]


def _repacked(data: bytes, rng: np.random.Generator) -> bytes:
    """With one member changed as only a zip can: its header, its length, its method, its name."""
    memory = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as new:
        chosen = rng.integers(len(old.infolist()))
        for k, member in enumerate(old.infolist()):
            content, name, method = old.read(member), member.filename, zipfile.ZIP_DEFLATED
            if k == chosen:
                match rng.integers(7):
                    case 0:
                        text = _header(rng)
                        content = content[:8] + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n"
                    case 1:
                        content = content[: rng.integers(len(content))]
                    case 2:
                        content += bytes(int(rng.integers(1, 99)))
                    case 3:
                        content = bytes(2**26)
                    case 4:
                        method = int(rng.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
                    case 5:
                        name = str(rng.choice(["/etc/passwd", "../x.npy", name + ".npy", ".npy", "x" * 500]))
                    case _:
                        content = change_bytes(content, rng)
            new.writestr(name, content, method)
    return memory.getvalue()


def _header(rng: np.random.Generator) -> str:
    size = SIZES[rng.integers(len(SIZES))]
    texts = (
        ARRAY % ("|O", "(1,)"),
        ARRAY % ("<i4", f"({size},)"),
        ARRAY % (f"<U{size}", "()"),
        "(" * 9000,
        "print()",
        "",
    )
    return texts[rng.integers(len(texts))]


def nir(seed: int, sound: Path, path: Path) -> None:
    """A NIR file. Its fields are changed as those of network files are, and its kinds of nodes and its edges."""
    mutate(seed, [_original(sound)], path, (*GENERAL_CHANGES, _kind, _edges))


@functools.cache
def _original(sound: Path) -> Original:
    names: dict[type, list[str]] = {h5py.Dataset: [], h5py.Group: []}
    with h5py.File(sound) as file:
        file.visititems(lambda name, item: names[type(item)].append(name))
    return Original(sound.read_bytes(), tuple(names[h5py.Dataset]), tuple(names[h5py.Group]))


def _kind(file: Any, rng: np.random.Generator) -> None:
    named = [name for name in file.original.datasets if re.fullmatch(r"node(/nodes/[^/]+)*/type", name)]
    name, kinds = (
        named[rng.integers(len(named))],
        ("IF", "CubaLIF", "NIRGraph", "Conv2d", "Input", "Scale", "str2NIRNode", ""),
    )
    del file[name]
    file[name] = kinds[rng.integers(len(kinds))]


def _edges(file: Any, rng: np.random.Generator) -> None:
    found = file["node/edges"][()].astype(object)
    nodes = [name.encode() for name in (*file["node/nodes"], "nowhere", "")]
    for _ in range(rng.integers(1, 4)):
        found[rng.integers(len(found)), rng.integers(2)] = nodes[rng.integers(len(nodes))]
    found = np.concatenate([found] * int(rng.choice([1, 1, 2, 3000])))
    del file["node/edges"]
    file.create_dataset("node/edges", data=found[:: int(rng.choice([1, 2]))], dtype=h5py.string_dtype())
