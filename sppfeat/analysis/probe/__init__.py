"""Probes of descriptors: cross-validates a linear classifier on a feature file, fits and saves it, and predicts rows.

A selection of labeled rows and the settings of the probe go in. Accuracies, confused classes and the scores of parts of
the descriptors come out, or else a fitted classifier, its file, and its predictions. Rows may exceed the memory and are
read through the selection in blocks. The room must not know images, networks or charts.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import ProbeSettings
from sppfeat.analysis.probe.ablation import ProbeTask, list_parts
from sppfeat.analysis.probe.costs import choose_method
from sppfeat.analysis.probe.crossvalidation import cross_predict
from sppfeat.analysis.probe.folds import make_folds
from sppfeat.analysis.probe.rows import labeled_rows
from sppfeat.analysis.probe.scores import (
    Ablated,
    ProbeResult,
    class_recalls,
    compare_folds,
    confused_pairs,
    measure_accuracy,
    measure_class_accuracy,
    score_folds,
)
from sppfeat.store.schema import Status

if TYPE_CHECKING:
    from sppfeat.store.selection import Selection

__all__ = ["probe"]


def probe(
    selection: "Selection",
    settings: ProbeSettings | None = None,
    *,
    on_progress: Callable[[int, int], None] = lambda n, total: None,
) -> ProbeResult:
    """Cross-validates a linear classifier on the labeled rows of a selection.

    Args:
        selection: rows, columns and labels of an open file.
        settings: settings of the probe; the defaults of :class:`ProbeSettings` if None.
        on_progress: called with the number of steps done and the total number of steps.

    Raises:
        LabelError: there are no labels, or fewer than two classes have enough rows.
        ConfigError: neither the rows nor sums over them fit the memory, or scikit-learn is not installed.
        StoreError: a row holds NaN or infinities.
    """
    settings = settings or ProbeSettings()
    labeled = labeled_rows(selection, min_per_class=settings.least_per_class)
    folds = make_folds(
        labeled.y,
        labeled.groups,
        n_folds=settings.folds,
        repeats=settings.repeats,
        seed=settings.seed,
    )
    parts = list_parts(selection)[: None if settings.ablation else 1]
    task = ProbeTask(selection, labeled, folds, parts, settings)
    method = choose_method(task)
    return _result(task, cross_predict(task, method, on_progress=on_progress), method)


def _result(task: ProbeTask, predicted: list[list[npt.NDArray[np.int64]]], method: str) -> ProbeResult:
    selection, labeled = task.selection, task.labeled
    true = [labeled.y[fold.test] for fold in task.folds]
    of_all, by_all = np.concatenate(true), np.concatenate(predicted[0])
    accuracies = [score_folds(true, of_part, measure_accuracy) for of_part in predicted]
    class_accuracies = [score_folds(true, of_part, measure_class_accuracy) for of_part in predicted]
    status = selection.file.status
    return ProbeResult(
        n_rows=task.n_rows,
        n_classes=task.n_classes,
        n_images=len(np.unique(selection.groups[labeled.positions])),
        dimension=selection.dimension,
        grouped=labeled.groups is not None,
        chance=float(np.bincount(labeled.y).max() / len(labeled.y)),
        accuracy=accuracies[0],
        class_accuracy=class_accuracies[0],
        classes=class_recalls(of_all, by_all, labeled.names, repeats=task.settings.repeats),
        confusions=confused_pairs(of_all, by_all, labeled.names),
        ablation=tuple(
            Ablated(
                *part,
                task.narrow_to(part).dimension,
                accuracy,
                class_accuracy,
                compare_folds(accuracy, accuracies[0]),
            )
            for part, accuracy, class_accuracy in zip(task.parts, accuracies, class_accuracies, strict=True)
        )
        if len(task.parts) > 1
        else (),
        left_out=labeled.left_out,
        n_unlabelled=labeled.n_unlabeled,
        n_pending=int((status == Status.PENDING).sum()),
        n_failed=int((status == Status.FAILED).sum()),
        method=method,
    )
