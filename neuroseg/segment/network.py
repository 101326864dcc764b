"""The network of a segmentation: the one that ships, a run's, or a file's."""

from __future__ import annotations

from pathlib import Path

from export import netx
from export.graph import Graph, GraphError
from neuroseg import runs
from neuroseg.conversion.lower import export
from neuroseg.data.labels import CLASSES
from neuroseg.pretrained import FOLDER
from neuroseg.spiking.network import SpikingNetwork

SHIPPED = "pretrained"


def load(network: str) -> Graph:
    """A run folder's network, FILE.net, or `pretrained`. Raises RunError and GraphError for what gives no mask."""
    if network == SHIPPED and not Path(network).exists():
        graph = export(runs.load_snn(runs.Run(FOLDER).snn)[0])
    else:
        path = Path(network)
        graph = netx.read(runs.Run(path).exported() if path.is_dir() else path)
    _check_output(network, graph)
    return graph


def load_spiking(network: str) -> SpikingNetwork:
    """The PyTorch network of a run folder, or of `pretrained`, which a device other than the CPU can run.

    Raises RunError for a file, which the engines run.
    """
    shipped = network == SHIPPED and not Path(network).exists()
    run = runs.Run(FOLDER if shipped else Path(network))
    if not shipped and not run.folder.is_dir():
        raise runs.RunError(
            f"{network}: a file, which engines run on the CPU; --device takes a run folder or {SHIPPED}"
        )
    return runs.load_final(run)[0]


def _check_output(network: str, graph: Graph) -> None:
    """Raise GraphError unless the network gives potentials a pixel, and takes slices, or what it says of them."""
    output, (channels, *sides) = graph.output, graph.input.shape
    if output.neuron.threshold is not None:
        raise GraphError(f"{network}: {output.name} fires; an output that only integrates is needed for a mask")
    if channels != 2 * graph.meta.context + 1 or list(output.shape[1:]) != sides:
        sizes = f"takes {graph.input.shape} and gives {output.shape}"
        raise GraphError(
            f"{network}: {sizes}; one channel in and the same sides out are needed, or a slice and the neighbours that "
            "the network says it was trained with"
        )
    if output.shape[0] > CLASSES + 1:
        raise GraphError(
            f"{network}: {output.name} has {output.shape[0]} channels; a background and {CLASSES} classes are allowed"
        )
