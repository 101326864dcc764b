"""report.json: what `neuroseg validate` found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from hardware_sim.comparison.compare import Comparison, LayerComparison


def build_report(
    comparisons: Sequence[Comparison],
    *,
    samples: Sequence[int],
    subjects: Sequence[str],
    dice: Mapping[str, Mapping[str, float]],
    backend: str,
    fidelity: str,
    timesteps: int,
    seconds: Mapping[str, float],
    repeat: Mapping[str, Any],
    chip: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """One comparison a subject, with its number of slices; returns the content of report.json.

    repeat: the command, and all that its outcome depends on. chip: `export.mapping.summary` of the network, or why no
    chip takes it (`refused`). metrics: `hardware_sim.reporting.metrics.as_json` of ANN and SNN, by name.
    """
    layers = [_merge([c.layers[k] for c in comparisons], samples) for k in range(len(comparisons[0].layers))]
    firsts = [f"{subject}: {c.cause}" for subject, c in zip(subjects, comparisons, strict=True) if c.cause]
    return {
        "spikes": {
            "equal": all(comparison.equal for comparison in comparisons),
            "total": sum(layer.software for layer in layers),
            "mismatched": sum(layer.mismatched for layer in layers),
            "outputs_mismatched": sum(comparison.output_mismatched for comparison in comparisons),
            "first_divergence": firsts[0] if firsts else None,
            "layers": [asdict(layer) for layer in layers],
        },
        "dice": {stage: dict(scores) for stage, scores in dice.items()},
        "backend": backend,
        "fidelity": fidelity,
        "timesteps": timesteps,
        "subjects": list(subjects),
        "chip": dict(chip),
        "metrics": {name: dict(found) for name, found in metrics.items()},
        "repeat": dict(repeat),
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
    }


def _merge(layers: Sequence[LayerComparison], samples: Sequence[int]) -> LayerComparison:
    """The same population over several subjects; the rate is the mean over all slices."""
    total = sum(samples)
    return replace(
        layers[0],
        software=sum(layer.software for layer in layers),
        hardware=sum(layer.hardware for layer in layers),
        mismatched=sum(layer.mismatched for layer in layers),
        rate=sum(layer.rate * n for layer, n in zip(layers, samples, strict=True)) / total,
    )
