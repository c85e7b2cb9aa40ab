"""Cross-validated predictions, computed by one of three methods that agree."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.probe.ablation import ProbeTask
from sppfeat.analysis.probe.classifier import make_pipeline
from sppfeat.analysis.probe.costs import plan_sums
from sppfeat.analysis.probe.kernel import PartProducts, predict_with_kernel
from sppfeat.analysis.probe.ridge import regularization
from sppfeat.analysis.probe.sums import SumsModel
from sppfeat.analysis.row_checks import finite_rows

__all__ = ["cross_predict"]

_Predicted = list[list[npt.NDArray[np.int64]]]


def cross_predict(
    task: ProbeTask, method: str, *, on_progress: Callable[[int, int], None] = lambda n, total: None
) -> _Predicted:
    """Predicts the test rows of each fold from its training rows, for each part of the descriptors.

    Args:
        task: rows, folds and parts of the descriptors.
        method: ``products`` (inner products of all rows, computed once), ``sums`` (second moments of the training
            rows of each fold; the rows are read in blocks) or ``rows`` (a scikit-learn pipeline on rows in memory,
            fitted separately for each fold and part). The predictions are the same up to rounding.
        on_progress: called with the number of steps done and the total number of steps.

    Returns:
        For each part a list with ``(len(fold.test),)`` int64 predicted classes for each fold.
    """
    ways = {"products": _by_products, "sums": _by_sums, "rows": _by_rows}
    return ways[method](task, on_progress)


def _by_products(task: ProbeTask, on_progress: Callable[[int, int], None]) -> _Predicted:
    steps = len(task.parts) * len(task.folds)
    n_done = 0

    def on_block(n: int, total: int) -> None:
        nonlocal n_done
        n_done = n
        on_progress(n, total + steps)

    products = PartProducts(task.selection, task.labeled.positions, on_progress=on_block)
    total = n_done + steps
    found: _Predicted = [[] for _ in task.parts]
    for own, part in zip(found, task.parts, strict=True):
        kernel = products.kernel(part.layers, part.levels)
        for fold in task.folds:
            own.append(
                predict_with_kernel(
                    kernel,
                    task.labeled.y,
                    fold.train,
                    fold.test,
                    alpha=regularization(task.settings.C),
                    balanced=task.settings.balanced,
                )
            )
            n_done += 1
            on_progress(n_done, total)
    return found


def _by_sums(task: ProbeTask, on_progress: Callable[[int, int], None]) -> _Predicted:
    runs = plan_sums(task)
    total, n_done = sum(run.n_steps for run in runs), 0

    def on_step() -> None:
        nonlocal n_done
        n_done += 1
        on_progress(n_done, total)

    found: _Predicted = [[] for _ in task.parts]
    for run in runs:
        model = SumsModel(
            task.selection,
            task.labeled,
            [task.parts[number] for number in run.parts],
            task.settings,
            block_rows=run.block_rows,
            on_step=on_step,
        )
        for number, own in zip(run.parts, model.predict(task.folds[run.folds]), strict=True):
            found[number] += own
    return found


def _by_rows(task: ProbeTask, on_progress: Callable[[int, int], None]) -> _Predicted:
    found: _Predicted = [[] for _ in task.parts]
    n_done = 0
    for own, part in zip(found, task.parts, strict=True):
        narrow = task.narrow_to(part)
        rows = finite_rows(narrow, task.labeled.positions)
        pipeline = make_pipeline(narrow.columns, C=task.settings.C, class_weight=task.settings.class_weight)
        for fold in task.folds:
            pipeline.fit(rows[fold.train], task.labeled.y[fold.train])
            own.append(pipeline.predict(rows[fold.test]))
            n_done += 1
            on_progress(n_done, len(task.parts) * len(task.folds))
    return found
