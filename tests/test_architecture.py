"""The house: every import falls, neuroseg -> hardware_sim -> export and floor to floor; no circle; one place each.

What is forbidden is looked for in the syntax of the code, not in its text.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("neuroseg", "hardware_sim", "export")
FLOORS = (  # of neuroseg, from the ground up; a module imports from its own floor and those below
    ("storage", "metrics"),
    ("data",),
    ("spiking",),
    ("conversion",),
    ("training",),
    ("settings",),
    ("runs",),
    ("pretrained",),
    ("engine", "cluster", "segment"),
    ("calibration",),
    ("validation",),
    ("agreement",),
    ("report",),
    ("steps",),
    ("imported",),
    ("experiments",),
    ("cli",),
    ("__main__",),
)


def sources(*packages: str) -> list[Path]:
    files = [file for package in packages for file in sorted((ROOT / package).rglob("*.py"))]
    files = [file for file in files if not {".peers", ".zoo"} & set(file.parts)]  # packages of others, for benchmarks
    assert files
    return files


@cache
def syntax(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> set[str]:
    """All that a file imports, wherever in it: modules, and names of modules (which may be modules)."""
    names: set[str] = set()
    for node in ast.walk(syntax(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def edges() -> Iterator[tuple[str, str]]:
    """Which of our modules imports which."""
    modules = {name_of(file) for file in sources(*PACKAGES)}
    for file in sources(*PACKAGES):
        for name in imports(file) & modules:
            yield name_of(file), name


def floor(module: str) -> int:
    place = module.split(".")[1] if "." in module else ""
    return next((k for k, names in enumerate(FLOORS) if place in names), -1)  # neuroseg itself: its version


def test_packages_fall():
    for module, imported in edges():
        ours, theirs = (PACKAGES.index(name.split(".")[0]) for name in (module, imported))
        assert ours <= theirs, f"{module} imports {imported}"


def test_the_floors_of_neuroseg_fall():
    for module, imported in edges():
        if module.startswith("neuroseg.") and imported.startswith("neuroseg"):
            assert floor(module) >= 0, f"{module} is on no floor"
            assert floor(imported) <= floor(module), f"{module} imports {imported}"


def test_there_is_no_circle():
    packages = {name_of(file) for file in sources(*PACKAGES) if file.name == "__init__.py"}
    graph: dict[str, set[str]] = {}
    for module, imported in edges():
        if module != imported and not (
            module in packages and imported.startswith(module + ".")
        ):  # a package lists what it holds
            graph.setdefault(module, set()).add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_lava_is_imported_in_one_folder_and_mended_in_one_file():
    backend = ROOT / "hardware_sim" / "lava_backend"
    for file in sources(*PACKAGES, "benchmarks"):
        lava = {name for name in imports(file) if name == "lava" or name.startswith("lava.")}
        if file == ROOT / "benchmarks" / "peers.py":  # lava-dl, which ours is timed against
            lava = {name for name in lava if not name.startswith("lava.lib.dl")}
        assert not lava or backend in file.parents, f"{file.name} imports {lava}"
        if file.name != "compat.py":
            assert not list(patches(file)), f"{file} patches {list(patches(file))}"


def patches(file: Path) -> Iterator[str]:
    """Names of imported Lava modules and classes whose attributes are set."""
    tree = syntax(file)
    lavas = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).split(".")[0] == "lava"
    }
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            root = target
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if root is not target and isinstance(root, ast.Name) and root.id in lavas:
                yield root.id
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setattr":
            target = node.args[0]
            if isinstance(target, ast.Name) and target.id in lavas:
                yield target.id


FORBIDDEN = {  # what can run code out of a file
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "joblib",
    "torch.load",
    "torch.save",
    "torch.jit.load",
    "torch.package",
    "numpy.lib.format",
    "yaml",
}


def test_no_file_can_run_code():
    """No pickle in any guise: not by import, not by torch.load, not by numpy's object arrays."""
    for file in sources(*PACKAGES):
        assert not FORBIDDEN & imports(file), file
        for node in ast.walk(syntax(file)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert f"{node.value.id}.{node.attr}" not in FORBIDDEN, f"{file}: {node.value.id}.{node.attr}"
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, file
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), file


def test_files_are_renamed_into_place_in_one_file():
    """export/files.py: whoever writes beside a place and renames does it there."""
    for file in sources(*PACKAGES):
        if name_of(file) != "export.files":
            for node in ast.walk(syntax(file)):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    renames = (node.value.id, node.attr) in (("os", "replace"), ("os", "rename"))
                    assert not renames, f"{file} renames by itself"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("export.graph", "torch"),
        ("export.netx", "torch"),
        ("export.nir", "torch"),
        ("hardware_sim", "lava"),
        ("hardware_sim", "torch"),
    ],
)
def test_import_stays_light(module: str, absent: str):
    code = f"import sys, {module}; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
