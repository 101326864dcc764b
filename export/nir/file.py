"""A NIR file as the nodes of the package nir, checked as `hdf5` says before any of it is read.

nir.read itself would follow links into other files and read whatever a dataset claims. So the tree of groups is made
here, as nir 1.0.8 makes it (nir/serialization.py, hdf2dict), and nir makes its nodes of that.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from export import hdf5
from export.graph import GraphError
from export.nir.nodes import load_nir

ROOT = "node"
Links = list[tuple[str, str]]


def parsed(file: h5py.File, most: int) -> Any:
    """The graph of an open file, of which `most` bytes may be read.

    Raises GraphError naming the group, the field, what was found and what is allowed.
    """
    group = hdf5.item(file, ROOT, "the file")
    if not isinstance(group, h5py.Group):
        raise GraphError(f"no group {ROOT!r}; a NIR file has one")
    reading = hdf5.Reading(most, texts=True)
    found: dict[str, Any] = {}
    for path, dataset in hdf5.walk(group, ROOT, reading).items():
        *groups, name = path.split("/")[1:]
        inner = found
        for key in groups:
            inner = inner.setdefault(key, {})
        inner[name] = _value(hdf5.read(dataset, path.rpartition("/")[0], name, reading))
    return _made(found)


def _made(graph: dict[str, Any]) -> Any:
    """nir's graph. Its own errors name no node, so each is tried by itself before."""
    _check("the graph", graph)
    # It knows no grouped convolutions and only square kernels.
    return _node("the graph", {**graph, "type_check": False})


def _check(name: str, graph: dict[str, Any]) -> None:
    if graph.get("type") != "NIRGraph":
        raise GraphError(f"{name}: type is {str(graph.get('type'))[:40]!r}; 'NIRGraph' is allowed")
    nodes, edges = graph.get("nodes"), graph.get("edges")
    if not isinstance(nodes, dict) or not isinstance(edges, np.ndarray) or edges.ndim != 2 or edges.shape[1] != 2:
        raise GraphError(f"{name}: nodes and edges are not groups and pairs of names; those are allowed")
    for key, node in nodes.items():
        if not isinstance(node, dict):
            raise GraphError(f"{key}: is no group; a node is one")
        if node.get("type") == "NIRGraph":
            _check(key, node)
        else:
            _node(key, dict(node))  # nir takes out what it has read


def _node(name: str, node: dict[str, Any]) -> Any:
    if "type" not in node:
        raise GraphError(f"{name}: has no type; a node has one, and no '/' in its name, which HDF5 splits")
    kind = str(node["type"])[:40]
    nir = load_nir()
    if not isinstance(known := getattr(nir, kind, None), type) or not issubclass(known, nir.NIRNode):
        raise GraphError(f"{name}: type is {kind!r}; NIR has no such node")
    try:
        return nir.dict2NIRNode(node)
    except (
        AssertionError,
        RuntimeError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
    ) as error:
        raise GraphError(f"{name}: is no {kind} of NIR ({str(error)[:200]})") from None


def _value(array: np.ndarray) -> Any:
    """As h5py gives it: scalars as such, and one string as text."""
    value = array if array.ndim else array[()]
    return value.decode() if isinstance(value, bytes) else value


def flat(network: Any, prefix: str) -> tuple[dict[str, Any], Links]:
    """Nodes and edges with nested graphs laid open: `outer.inner`."""
    nodes: dict[str, Any] = {}
    links: Links = []
    ends: dict[tuple[str, str], str] = {}  # a node's name as a source and as a target
    for name, node in network.nodes.items():
        nested = type(node).__name__ == "NIRGraph"
        inner, inner_links = flat(node, f"{prefix}{name}.") if nested else ({prefix + name: node}, [])
        if twice := nodes.keys() & inner.keys():
            raise GraphError(f"{min(twice)}: a node's name, and that of another in a nested graph; one is allowed")
        nodes |= inner
        links += inner_links
        if not nested:
            ends[name, "Output"] = ends[name, "Input"] = prefix + name
            continue
        for kind in ("Input", "Output"):
            found = [key for key, part in node.nodes.items() if type(part).__name__ == kind]
            if len(found) != 1:
                raise GraphError(f"{prefix}{name}: a nested graph with {len(found)} {kind} nodes; 1 is allowed")
            ends[name, kind] = f"{prefix}{name}.{found[0]}"
    for source, target in network.edges:
        unknown = {source, target} - set(network.nodes)
        if unknown:
            raise GraphError(f"an edge from {source} to {target}: there is no node {unknown.pop()}")
        links.append((ends[source, "Output"], ends[target, "Input"]))
    return nodes, links
