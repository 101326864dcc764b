"""A placement and its costs as plain values, for JSON and for tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from export.mapping.chips import RESOURCES, Chip
from export.mapping.cost import Cost
from export.mapping.place import Layer, Placement


def summary(placement: Placement, costs: Sequence[Cost] = ()) -> dict[str, Any]:
    """The content of `neuroseg map --json`: limits, totals, layers, every core, and every cost."""
    chip, board = placement.chip, placement.board
    return {
        "chip": chip.title,
        "limits": {what: chip.limit(what) for what in RESOURCES} | {"cores": chip.cores},
        "cores": len(placement.cores),
        "chips": placement.chips,
        "board": None if board is None else asdict(board),
        "layers": [_layer(layer, chip) for layer in placement.layers],
        "costs": [_cost(cost) for cost in costs],
    }


def _layer(layer: Layer, chip: Chip) -> dict[str, Any]:
    return {
        "name": layer.name,
        "shape": list(layer.shape),
        "tile": list(layer.tile),
        "deciding": layer.deciding,
        "share": layer.share,
        "cores": [
            {
                "number": core.number,
                "spans": [list(span) for span in core.tile.spans],
                **{what: getattr(core, what) for what in RESOURCES},
            }
            for core in layer.cores
        ],
    }


def _cost(cost: Cost) -> dict[str, Any]:
    return {
        "estimate": True,
        "table": cost.table.name,
        "source": cost.table.source,
        "borrowed from Loihi 1": cost.borrowed,
        "a slice": {
            **{what: cost.total(what) for what in ("spikes", "operations", "updates", "messages")},
            "messages between chips": cost.between_chips,
            "seconds": cost.seconds,
            "joules, dynamic": cost.dynamic,
            "joules, dynamic by part": cost.energy,
            "joules, static": cost.static,
            "joules, total": None if cost.static is None else cost.dynamic + cost.static,
        },
        "step seconds": cost.step,
        "layers": [
            {
                "name": layer.name,
                "spikes": layer.spikes,
                "operations": layer.operations,
                "updates": layer.updates,
                "messages": layer.messages,
                "joules": dict(layer.energy),
            }
            for layer in cost.layers
        ],
    }
