"""A model out of a .pt2 file of `torch.export.save`, as an nn.Module that `convert` takes.

`archive` says why torch's own loader is not used. Here the list of operations becomes a list of calls, of operations
that are known to compute and nothing else: others read files (`from_file`), or memory that is not their own
(`_unsafe_index`).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch

from export.checked import Fields
from neuroseg.conversion.archive import (
    CONSTANTS,
    CONSTANTS_LIST,
    MODEL,
    WEIGHTS,
    WEIGHTS_LIST,
    Archive,
    open_archive,
    read_dtype,
)
from neuroseg.conversion.calls import DEVICE, SIDE_MAX, Call, Program, ProgramError, Ref, flat
from neuroseg.conversion.refusals import refusal

SCHEMA = 8  # the major version of torch/_export/serde/schema.py
MAX_CALLS, MAX_ARGUMENTS = 2**14, 2**10
NAME = re.compile(r"\w+(\.\w+){,31}")
TARGET = re.compile(r"torch\.ops\.aten\.([a-z]\w*|_\w+)\.(\w+)")
MODES = ("same", "valid", "none", "tanh", "floor", "trunc", "constant", "reflect", "replicate", "circular")
OPERATIONS = """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution linear addmm mm bmm matmul
    baddbmm batch_norm native_batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit instance_norm
    group_norm native_group_norm layer_norm native_layer_norm rms_norm relu relu6 leaky_relu prelu _prelu_kernel
    rrelu elu selu celu gelu silu mish hardtanh hardswish hardsigmoid sigmoid tanh softplus threshold softmax
    _softmax log_softmax _log_softmax clamp clamp_min clamp_max avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d max_pool1d max_pool2d max_pool3d
    max_pool2d_with_indices adaptive_max_pool2d mean sum amax amin max min maximum minimum upsample_nearest1d
    upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle _weight_norm pad constant_pad_nd
    reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d repeat dropout feature_dropout
    native_dropout alpha_dropout add sub rsub mul div neg abs square sqrt rsqrt pow exp cat concat stack split
    split_with_sizes chunk narrow slice select flip roll view reshape _unsafe_view flatten unflatten squeeze
    unsqueeze zeros zeros_like new_zeros permute transpose t expand clone contiguous detach alias lift_fresh_copy to
    _to_copy sym_size _assert_scalar _assert_tensor_metadata
    """  # with their forms in place; those without a spiking counterpart are refused by `convert`
KNOWN = frozenset(re.findall(r"\w+", OPERATIONS))
ARITHMETIC: Mapping[str, Callable[..., Any]] = {  # on sizes, of programs with a dynamic axis
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
}
MAKING = ("torch.ops.aten.zeros.default",)  # on no device of its own: `Program.check` counts on torch's meta device
FORMATS: Mapping[str, Mapping[Any, Any]] = {
    "as_memory_format": {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format},
    "as_layout": {7: torch.strided},
}
TRAINING = {"train", "training", "use_input_stats"}
RUNNING = "running_mean"  # of a norm; without it, statistics of each image are its use, not a mode


def read_program(path: Path) -> Program:
    """The model in a .pt2 file. Nothing in the file can run code. Raises FileNotFoundError, ProgramError."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        archive = open_archive(path)
        with archive.file:
            return _program(archive)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, BadZipFile) as error:
        raise ProgramError(f"{path}: {str(error)[:500]}") from error


def _program(archive: Archive) -> Program:
    whole = archive.json(MODEL)
    version = whole.sub("schema_version").integer("major", 0, 2**31)
    if version != SCHEMA:
        raise ValueError(
            f"its schema is version {version}; {SCHEMA} is allowed, as torch {torch.__version__} writes it"
        )
    module = whole.sub("graph_module")
    graph, signature = module.sub("graph"), module.sub("signature")
    tensors = archive.tensors(WEIGHTS_LIST, WEIGHTS) | archive.tensors(CONSTANTS_LIST, CONSTANTS)
    names, image = _inputs(signature, tensors)
    calls = tuple(_call(node) for node in graph.subs("nodes", MAX_CALLS))
    outputs = tuple(_outputs(signature))
    known = {*names, image}
    for call in calls:
        _check_refs((call.arguments, *call.options.values()), known | {DEVICE}, call.target)
        known.update(flat(call.results))
    _check_refs(tuple(Ref(name) for name in outputs), known, "the result")
    batch, *shape = _sides(graph.sub("tensor_values").sub(image))
    if len(shape) != 3 or batch not in (None, 1):
        raise ValueError(
            f"its input is ({batch or 'any'}, {', '.join(str(side or 'any') for side in shape)}); images (B, C, H, W) "
            "with a batch of 1 or of any size are allowed: torch.export.export(model.eval(), (images[:1],))"
        )
    used = {names[name] for name in names}
    return Program(
        tensors={path: tensor for path, tensor in tensors.items() if path in used},
        names=names,
        image=image,
        shape=tuple(shape),
        single=batch == 1,
        calls=calls,
        outputs=outputs,
    )


def _inputs(signature: Fields, tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, str], str]:
    """Which tensor each input of the graph is, and the name of the one that is the image."""
    names: dict[str, str] = {}
    images: list[str] = []
    for spec in signature.subs("input_specs", MAX_CALLS):
        kind, inner = _only(spec)
        match kind:
            case "user_input":
                images.append(inner.sub("arg").sub("as_tensor").text("name"))
            case "parameter" | "buffer" | "tensor_constant":
                path = inner.text(f"{kind}_name")
                if path not in tensors or not NAME.fullmatch(path):
                    raise ValueError(f"{inner.where} is {path[:80]!r}, which is no tensor of the file")
                names[inner.sub("arg").text("name")] = path
            case _:
                raise ValueError(f"{spec.where} is a {kind[:80]}; tensors are allowed")
    if len(images) != 1:
        raise ValueError(f"the model takes {len(images)} inputs; one, the images, is allowed")
    return names, images[0]


def _outputs(signature: Fields) -> Iterator[str]:
    for spec in signature.subs("output_specs", MAX_ARGUMENTS):
        kind, inner = _only(spec)
        if kind != "user_output":
            raise ValueError(f"the model changes its own state ({kind[:80]}); call model.eval() before it is exported")
        yield inner.sub("arg").sub("as_tensor").text("name")


def _call(node: Fields) -> Call:
    target = node.text("target")
    operation = _operation(target)
    arguments, options, tracked = [], {}, "norm" not in target
    for given in node.subs("inputs", MAX_ARGUMENTS):
        name, value = given.text("name"), _argument(given.sub("arg"))
        tracked = tracked or (name == RUNNING and value is not None)
        if tracked and name in TRAINING and value is not False:
            raise ValueError(f"{target[:80]} runs in training mode; call model.eval() before the model is exported")
        if given.value.get("kind") == 2:  # by keyword
            options[name] = value
        else:
            arguments.append(value)
    if target in MAKING:
        options["device"] = Ref(DEVICE)
    results = tuple(_result(result) for result in node.subs("outputs", MAX_ARGUMENTS))
    if target == "torch.ops.aten.permute.default" and arguments[1:] == [[1, 0]] and not options:
        operation, arguments = torch.ops.aten.t.default, arguments[:1]  # a Linear's weight: `convert` knows it as such
    return Call(target, operation, tuple(arguments), options, results, _module(node))


def _module(node: Fields) -> str:
    """The path of the module that a call is part of, as the exporter noted it; only a path, since it is shown."""
    noted = node.value.get("metadata")
    stack = noted.get("nn_module_stack") if isinstance(noted, dict) else None
    path = stack.rpartition(";")[2].split(",")[1:2] if isinstance(stack, str) else []
    return path[0] if path and NAME.fullmatch(path[0]) else ""


def _operation(target: str) -> Callable[..., Any]:
    if target in ARITHMETIC:
        return partial(_on_sizes, ARITHMETIC[target])
    found = TARGET.fullmatch(target)
    name = found[1] if found else ""
    if found is None or not {name, name.removesuffix("_")} & KNOWN or "out" in found[2]:
        why = refusal(name) if name and name not in KNOWN else "layers of PyTorch's own (torch.ops.aten) are allowed"
        raise ValueError(f"{MODEL} calls {target[:80]!r}; {why}")
    return getattr(getattr(torch.ops.aten, name), found[2])


def _on_sizes(function: Callable[..., Any], *sizes: int) -> int:
    if not all(isinstance(size, int) for size in sizes):  # a list times a number would be a long list
        raise TypeError(f"{function.__name__} of something else than sizes")
    return function(*sizes)


def _argument(given: Fields) -> Any:
    kind, value = next(iter(given.value.items()), ("nothing", None))
    match kind:
        case "as_none":
            return None
        case "as_tensor" | "as_sym_int" | "as_sym_bool":
            return _reference(given.sub(kind))
        case "as_tensors" | "as_sym_ints":
            return [_reference(item) for item in given.subs(kind, MAX_ARGUMENTS)]
        case "as_bool":
            return given.flag(kind)
        case "as_int":
            return given.integer(kind, -SIDE_MAX, 2**63 - 1)  # the end of a slice is the largest
        case "as_ints":
            return list(given.integers(kind, (0, MAX_ARGUMENTS), -SIDE_MAX, SIDE_MAX))
        case "as_float":
            return float(given.number(kind, -1e300, 1e300))
        case "as_floats":
            return [float(Fields({kind: x}, given.where).number(kind, -1e300, 1e300)) for x in given.items(kind, 64)]
        case "as_string":
            return given.text(kind, MODES)
        case "as_scalar_type":
            return read_dtype(given, kind)
        case "as_memory_format" | "as_layout" if value in FORMATS[kind]:
            return FORMATS[kind][value]
        case "as_device":
            return Ref(DEVICE)
    raise ValueError(f"{given.where} is given as {kind[:80]}; tensors and numbers are allowed")


def _reference(given: Fields) -> Any:
    """A name, or a number that stands in place of one."""
    if "as_int" in given:
        return given.integer("as_int", -SIDE_MAX, SIDE_MAX)
    if "as_bool" in given:
        return given.flag("as_bool")
    return Ref(given.text("as_name" if "as_name" in given else "name"))


def _result(given: Fields) -> str | tuple[str, ...]:
    kind, _ = next(iter(given.value.items()), ("nothing", None))
    if kind == "as_tensors":
        return tuple(item.text("name") for item in given.subs(kind, MAX_ARGUMENTS))
    if kind == "as_none":
        return ""
    found = _reference(given.sub(kind))
    return found.name if isinstance(found, Ref) else ""


def _sides(meta: Fields) -> list[int | None]:
    """Sizes; None for an axis that may have any. What a file says of those is a text for sympy, and not looked at."""
    sides = meta.subs("sizes", 8)
    return [side.integer("as_int", 0, SIDE_MAX) if "as_int" in side else None for side in sides]


def _only(given: Fields) -> tuple[str, Fields]:
    kind = next(iter(given.value), "nothing")
    return kind, given.sub(kind)


def _check_refs(arguments: Any, known: set[str], where: str) -> None:
    for argument in flat(arguments):
        if isinstance(argument, Ref) and argument.name not in known:
            raise ValueError(f"{where[:80]} reads {argument.name[:80]!r}, which nothing before it yields")
