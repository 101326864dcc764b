"""The house: imports go hardware_sim -> export -> neuroseg, Lava in one folder, torch where it belongs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def sources(package: str) -> list[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    return files


def offenders(package: str, forbidden: str, exempt: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sources(package)
        if str(file.relative_to(ROOT)) not in exempt
        for name in imports(file)
        if name == forbidden or name.startswith(forbidden + ".")
    ]


def test_only_the_commands_know_all_packages():
    commands = tuple(str(file.relative_to(ROOT)) for file in sources("neuroseg/cli"))
    for other in ("export", "hardware_sim"):
        assert not offenders("neuroseg", other, exempt=commands)
    for file in sources("neuroseg"):
        if str(file.relative_to(ROOT)) not in commands:
            assert not any(name.startswith("neuroseg.cli") for name in imports(file)), f"{file.name} imports a command"


def test_export_knows_neuroseg_in_lower_only():
    assert not offenders("export", "hardware_sim")
    assert not offenders("export", "neuroseg", exempt=("export/lower.py",))


def test_hardware_sim_knows_the_graph_its_limits_and_its_file():
    assert not offenders("hardware_sim", "neuroseg")
    allowed = ("export", "export.graph", "export.limits", "export.netx")
    for file in sources("hardware_sim"):
        for name in imports(file):
            if name == "export" or name.startswith("export."):
                assert name.startswith(allowed[1:]) or name in allowed, f"{file.name} imports {name}"
                assert not name.startswith(("export.lower", "export.passes", "export.quantize"))


def test_lava_is_imported_in_one_folder():
    for package in ("neuroseg", "export", "hardware_sim"):
        found = [o for o in offenders(package, "lava") if not o.startswith("hardware_sim/lava_backend/")]
        assert not found


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("export.graph", "torch"),
        ("export.netx", "torch"),
        ("export.nir_read", "torch"),
        ("hardware_sim", "lava"),
        ("hardware_sim", "torch"),
    ],
)
def test_import_stays_light(module: str, absent: str):
    code = f"import sys, {module}; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
