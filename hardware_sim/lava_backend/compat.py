"""Lava on current Pythons: the only place that mends Lava. `mend()` comes before the first `import lava`.

lava-nc 0.10.0 is the last release. It was made for Python 3.10 and numpy 1; what a newer Python or numpy does otherwise
is put right here, one function a mend; so is what a run would wait for in vain. Another release is refused: nothing is
known about it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

LAVA_VERSION = "0.10.0"
VAR_MODEL = "lava.magma.compiler.var_model"
SIGNAL = "scipy.signal"


class LavaError(ImportError):
    """Lava is missing, or is a release that the mends were not written for."""


def check() -> None:
    """Raise LavaError unless the Lava that the mends were written for is installed. Imports nothing of it."""
    if importlib.util.find_spec("lava") is None or importlib.util.find_spec("lava.magma") is None:
        raise LavaError("Lava is not installed; `neuroseg lava install` installs it")
    try:
        found = importlib.metadata.version("lava-nc")
    except importlib.metadata.PackageNotFoundError:
        found = "of unknown version"
    if found != LAVA_VERSION:
        raise LavaError(f"lava-nc is {found}; {LAVA_VERSION} is allowed (`neuroseg lava install` installs it)")


@functools.cache
def mend() -> None:
    """Import what has to be mended of Lava, and mend it. Raises LavaError as `check` does."""
    check()
    allow_dataclass_defaults()
    reshape_by_position(importlib.import_module("lava.magma.core.process.ports.ports"))
    convolve_with_wide_integers(import_without_signal("lava.proc.conv.utils"))


def import_without_signal(name: str) -> ModuleType:
    """lava/proc/conv/utils.py: `from scipy import signal`, a second's import that Lava's own convolutions alone need.

    That module gets a stand-in, which imports scipy.signal when something of it is asked for. Where Lava will ask, it
    should be imported before Lava forks, or every one of its processes would.
    """
    if SIGNAL in sys.modules or name in sys.modules:
        return importlib.import_module(name)
    sys.modules[SIGNAL] = _Later(SIGNAL)
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules[SIGNAL]


class _Later(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


def allow_dataclass_defaults() -> None:
    """lava/magma/compiler/var_model.py: `x: ByteEncoder = ByteEncoder()`.

    Since Python 3.11 a dataclass refuses a default without a hash, and a dataclass that compares has none. While that
    module is imported, its dataclasses keep the hash of `object`.
    """
    if VAR_MODEL in sys.modules:
        return
    plain = dataclasses.dataclass

    def hashable(cls: Any = None, /, **options: Any) -> Any:  # whatever options dataclass has
        def decorate(cls: type) -> type:
            if cls.__module__ == VAR_MODEL and "__hash__" not in vars(cls):
                cls.__hash__ = object.__hash__  # type: ignore[method-assign, assignment]
            return plain(**options)(cls)

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = hashable
    try:
        importlib.import_module(VAR_MODEL)
    finally:
        dataclasses.dataclass = plain


def reshape_by_position(ports: ModuleType) -> None:
    """lava/magma/core/process/ports/ports.py: `partial(np.reshape, newshape=...)`, a name that numpy 2.5 dropped."""

    def to(shape: str) -> Callable[[Any], functools.partial]:
        return lambda port: functools.partial(_reshape, shape=getattr(port, shape))

    ports.ReshapePort.get_transform_func_fwd = to("shape")
    ports.ReshapePort.get_transform_func_bwd = to("old_shape")


def _reshape(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.reshape(array, shape)


def convolve_with_wide_integers(utils: ModuleType) -> None:
    """lava/proc/conv/utils.py: kernel, stride, padding and dilation come as int8 arrays (lava/proc/conv/models.py).

    In numpy 1 an int8 beside a Python integer became an int64; in numpy 2 (NEP 50) it stays int8, so that sides above
    127 raise OverflowError, and 2 * padding wraps. Here they become Python integers first.
    """
    conv = utils.conv

    @functools.wraps(conv)
    def with_integers(
        input_: Any, weight: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, groups: Any
    ) -> Any:
        geometry = (tuple(int(n) for n in pair) for pair in (kernel_size, stride, padding, dilation))
        return conv(input_, weight, *geometry, int(groups))

    vars(utils)["conv"] = with_integers


def remember_models() -> None:
    """lava/magma/compiler/compiler_graphs.py: `_find_proc_models` runs every module beside a process's own again.

    It does so for each process, though what it finds is the same for all of a class: a third of the time in which a
    small network is built. Not a part of `mend`: that module sets multiprocessing's start method for the whole program.
    """
    graphs = importlib.import_module("lava.magma.compiler.compiler_graphs")
    find: Callable[[Any], list[type]] = graphs.ProcGroupDiGraphs._find_proc_models
    found: dict[type, list[type]] = {}

    @functools.wraps(find)
    def remembered(proc: Any) -> list[type]:
        if type(proc) not in found:
            found[type(proc)] = find(proc)
        return list(found[type(proc)])

    graphs.ProcGroupDiGraphs._find_proc_models = staticmethod(remembered)
