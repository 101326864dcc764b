"""The networks of a cross-validation in several processes, here or on other machines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from neuroseg import runs
from neuroseg.cluster import Cluster, each
from neuroseg.experiments.crossval import ANN, Fold, Recipe, Variant, holding, run_ann, run_networks, run_variant
from neuroseg.spiking.device import choose
from neuroseg.training.loop import OnStep

ALONE = threading.Lock()  # PyTorch draws from one stream of random numbers, which folds on threads would mix up


Part = tuple[Fold, Variant | None]  # a network of a fold; None: its ANN


def folder_of(out: Path, fold: Fold, recipe: Recipe) -> Path:
    """Where a fold's networks are, in the folder of all folds."""
    return out / f"fold{fold.number}-{recipe.config.loss}"


@dataclass(frozen=True)
class _Network:
    """Makes one network of a fold, as a process of a cluster does it."""

    out: Path
    recipe: Recipe

    def __call__(self, part: Part) -> str | None:
        """What went wrong, if something did."""
        fold, variant = part
        folder = folder_of(self.out, fold, self.recipe)
        try:
            with ALONE, _held(folder, variant):
                choose(self.recipe.device.type)  # sets this process up for it
                if variant is None:
                    run_ann(fold, folder, self.recipe, bar=_quiet)
                else:
                    run_variant(fold, folder, self.recipe, variant, bar=_quiet)
        except (ValueError, OSError, RuntimeError) as error:
            return _failed(part, str(error))
        return None


def _held(folder: Path, variant: Variant | None) -> AbstractContextManager[None]:
    """The network's folder: a worker may outlive the command that it works for, and that may be started again.

    The step that makes sigma-delta neurons holds it by itself.
    """
    if variant and variant.sigma_delta:
        return nullcontext()
    return holding(folder / (variant.name if variant else ANN))


def run_folds(
    folds: Sequence[Fold],
    out: Path,
    recipe: Recipe,
    *,
    cluster: Cluster,
    on_done: Callable[[int, int], None] | None = None,
) -> None:
    """Run folds in several processes: first the ANNs, then all networks that are made of them.

    out: folder of all folds. on_done: called with networks done and networks in all. One that fails does not end the
    others, and a fold without failures is stored. Raises RunError naming what failed. Where the processes have as many
    threads as one would, its results are theirs, bit by bit: PyTorch sums in another order with another number.
    """
    with ExitStack() as held:
        for fold in folds:
            held.enter_context(holding(folder_of(out, fold, recipe)))
        _run_held(folds, out, recipe, cluster, on_done)


def _run_held(
    folds: Sequence[Fold], out: Path, recipe: Recipe, cluster: Cluster, on_done: Callable[[int, int], None] | None
) -> None:
    total, failures = len(folds) * (1 + len(recipe.variants)), dict[int, list[str]]()

    def run(parts: list[Part], before: int) -> None:
        def show(done: int, of: int) -> None:
            if on_done:
                on_done(before + done, total)

        found = each(cluster, _Network(out, recipe), parts, failed=_failed, on_done=show)
        for (fold, _), text in zip(parts, found, strict=True):
            if text:
                failures.setdefault(fold.number, []).append(text)

    run([(fold, None) for fold in folds], 0)
    trained = [fold for fold in folds if fold.number not in failures]
    run([(fold, variant) for fold in trained for variant in recipe.variants], len(folds))
    for fold in trained:
        if fold.number not in failures:
            run_networks(fold, folder_of(out, fold, recipe), recipe, bar=_quiet)
    if failures:
        raise runs.RunError("; ".join(text for texts in failures.values() for text in texts))


def _failed(part: Part, why: str) -> str:
    fold, variant = part
    return f"fold {fold.number}, {variant.name if variant else ANN}: {why}"


@contextmanager
def _quiet(what: str) -> Iterator[OnStep]:
    yield lambda step: None
