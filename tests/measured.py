"""The pages that say what was measured, and the measurements in benchmarks/results, for the tests that compare them."""

from __future__ import annotations

import json
from pathlib import Path

from neuroseg.pretrained import FOLDER as PRETRAINED

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text()
FOLDS = (ROOT / "docs" / "results.md").read_text()
BENCHMARKS = (ROOT / "docs" / "benchmarks.md").read_text()
CARD = (PRETRAINED / "CARD.md").read_text()


def result(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())
