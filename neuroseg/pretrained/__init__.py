"""The network that ships with the package; CARD.md says what it is and what it must not be used for."""

from __future__ import annotations

import shutil
from pathlib import Path

from export import files
from neuroseg.runs import Run, RunError

FOLDER = Path(__file__).parent


def copy_pretrained(run: Run) -> None:
    """Make a run folder of the shipped network: settings and weights. Raises RunError where a run is already."""
    if run.settings_file.exists():
        raise RunError(f"{run.folder} holds a run; delete it or choose another folder")
    made = (run.ann, run.snn, run.settings_file)  # the settings last: they say that a run is there
    with run.held("pretrained", made_by=None), files.replacing(*made) as scratch:
        for place, file in zip(scratch, made, strict=True):
            shutil.copyfile(FOLDER / file.name, place)
