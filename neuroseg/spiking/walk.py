"""One pass over the layers of a graph, in order; what a population does is said by whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from export.graph import Concat, Dropout, Graph, Input, Pool, Population

Respond = Callable[[Population, dict[str, torch.Tensor]], torch.Tensor]


def walk(
    graph: Graph,
    x: torch.Tensor,
    respond: Respond,
    *,
    dropping: bool,
    last_read: Mapping[str, tuple[str, ...]],
) -> dict[str, torch.Tensor]:
    """Evaluate every layer in order: (T, B, C, H, W) by name; T = 1 for the ANN and for output potentials.

    x: the input's value; `respond` turns a population and the values before it into its value. dropping: whether
    dropout drops, by one mask for all t. last_read: after which layer which values are forgotten.
    """
    values: dict[str, torch.Tensor] = {}
    for layer in graph.nodes:
        match layer:
            case Input():
                value = x
            case Population():
                value = respond(layer, values)
            case Pool():  # sums; the mean's divisor is folded into the weights that read it
                source = values[layer.source]
                pooled = F.avg_pool2d(source.flatten(0, 1), layer.kernel, divisor_override=1)
                value = pooled.unflatten(0, source.shape[:2])
            case Concat():
                parts = [values[name] for name in layer.sources]
                joined = torch.cat([part.flatten(0, 1) for part in parts], dim=1)  # 4-D keeps channels last
                value = joined.unflatten(0, parts[0].shape[:2])
            case Dropout():  # the survivors' gain 1/(1-p) is in the weights that read them
                value = values[layer.source]
                if dropping and layer.p:
                    value = value * torch.empty_like(value[:1]).bernoulli_(1 - layer.p)
        values[layer.name] = value
        for name in last_read.get(layer.name, ()):
            del values[name]
    return values
