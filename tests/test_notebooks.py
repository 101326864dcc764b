"""The notebooks call the API and define nothing, run from top to bottom, and are kept with their outputs."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
FOUND = {
    "01": ("rate         3D Dice", "epoch 2: loss"),
    "02": ("equal: True", "3D Dice of the Lava run: 0.87"),
    "03": ("none differs", "[3, 1, 0, 2] from enc_1_conv1"),
    "04": ("epoch 4: loss", "unet.net: ", "equal: True"),
}


def shown(notebook: nbformat.NotebookNode) -> str:
    """All text that a notebook's cells put out, on one line."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return " ".join(str(o.get("text") or o.get("data", {}).get("text/plain", "")) for o in outputs).replace("\n", " ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_as_it_is_kept(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        defined = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.AsyncFunctionDef)
        assert not any(isinstance(node, defined) for node in ast.walk(ast.parse(cell.source))), cell.source
        assert cell.execution_count, "kept without its outputs; run `make notebooks`"
    expected = FOUND[path.stem[:2]]
    assert all(text in shown(notebook) for text in expected), shown(notebook)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    assert all(text in shown(notebook) for text in expected), shown(notebook)
