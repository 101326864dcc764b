"""The commands. This folder is the composition root: the only one that knows all three packages."""

from neuroseg.cli import demo, deployment, segmentation, training, validation
from neuroseg.cli.app import app, main
from neuroseg.cli.data import data_app
from neuroseg.cli.nir import nir_app

__all__ = ["app", "demo", "deployment", "main", "segmentation", "training", "validation"]

app.add_typer(data_app, name="data")
app.add_typer(nir_app, name="nir")
