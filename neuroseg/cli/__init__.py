"""The commands: arguments in, tables out. What they do is in the library."""

from neuroseg.cli import demo, deployment, mapping, segmentation, training, validation
from neuroseg.cli.app import app, main
from neuroseg.cli.data import data_app
from neuroseg.cli.lava import lava_app
from neuroseg.cli.nir import nir_app

__all__ = ["app", "demo", "deployment", "main", "mapping", "segmentation", "training", "validation"]

app.add_typer(data_app, name="data")
app.add_typer(nir_app, name="nir")
app.add_typer(lava_app, name="lava")
