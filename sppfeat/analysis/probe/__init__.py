"""What a linear classifier makes of the descriptors of a file: accuracy by cross-validation, and what gives it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.probe.ablation import parts_to_try
from sppfeat.analysis.probe.crossvalidation import cross_predict
from sppfeat.analysis.probe.folds import make_folds
from sppfeat.analysis.probe.methods import choose_method
from sppfeat.analysis.probe.probe_task import ProbeTask
from sppfeat.analysis.probe.rows import ClassSize, labelled_rows
from sppfeat.analysis.probe.scores import ClassRecall, ConfusedPair, class_recalls, confused_pairs
from sppfeat.analysis.probe.settings import ProbeSettings
from sppfeat.store.schema import Status

if TYPE_CHECKING:
    from sppfeat.store.selection import Selection

__all__ = ["Ablated", "ProbeResult", "ProbeSettings", "Score", "probe"]


@dataclass(frozen=True)
class Score:
    """A score over folds.

    Attributes:
        mean, std: over the folds of all repeats.
        folds: of each.
    """

    mean: float
    std: float
    folds: tuple[float, ...]


@dataclass(frozen=True)
class Ablated:
    """What a part of the descriptors gives by itself, on the same folds.

    Attributes:
        kind: ``all``, ``level``, ``levels up to`` or ``layer``.
        layers, levels: of the part.
        dimension: number of its values.
        accuracy, class_accuracy: as of :class:`ProbeResult`.
        difference: of its accuracy to that of all, fold by fold.
    """

    kind: str
    layers: tuple[str, ...]
    levels: tuple[int, ...]
    dimension: int
    accuracy: Score
    class_accuracy: Score
    difference: Score


@dataclass(frozen=True)
class ProbeResult:
    """What was found.

    Attributes:
        n_rows, n_classes, n_images: that took part.
        dimension: of a descriptor.
        grouped: whether all rows of an image were on the same side of each split.
        chance: share of the largest class.
        accuracy: share of test rows whose class was predicted.
        class_accuracy: mean over the classes in the test rows of the share of each that was found.
        classes: recall of each class, over all tests.
        confusions: pairs of classes that were confused, the most frequent first.
        ablation: all of the descriptors first, then parts of them; empty where that was not asked for.
        left_out: classes that had too few members.
        n_unlabelled: selected rows without class.
        n_pending, n_failed: images of the file that have no descriptors.
        method: ``products``, ``sums`` or ``rows``; see :func:`sppfeat.analysis.probe.crossvalidation.cross_predict`.
    """

    n_rows: int
    n_classes: int
    n_images: int
    dimension: int
    grouped: bool
    chance: float
    accuracy: Score
    class_accuracy: Score
    classes: tuple[ClassRecall, ...]
    confusions: tuple[ConfusedPair, ...]
    ablation: tuple[Ablated, ...]
    left_out: tuple[ClassSize, ...]
    n_unlabelled: int
    n_pending: int
    n_failed: int
    method: str


def probe(
    selection: "Selection",
    settings: ProbeSettings | None = None,
    *,
    on_progress: Callable[[int, int], None] = lambda n, total: None,
) -> ProbeResult:
    """How well a linear classifier tells the classes of rows apart, by cross-validation.

    Args:
        selection: rows, columns and labels of an open file.
        settings: how; as :class:`ProbeSettings` has it where None.
        on_progress: is told how many of how many steps are done.

    Raises:
        LabelError: no labels, or too few rows of too few classes.
        ConfigError: neither the rows nor sums over them fit the memory, or scikit-learn is not installed.
        StoreError: a row holds NaN or infinities.
    """
    settings = settings or ProbeSettings()
    labelled = labelled_rows(selection, min_per_class=settings.least_per_class)
    folds = make_folds(
        labelled.y,
        labelled.groups,
        n_folds=settings.folds,
        repeats=settings.repeats,
        seed=settings.seed,
    )
    parts = parts_to_try(selection)[: None if settings.ablation else 1]
    task = ProbeTask(selection, labelled, folds, parts, settings)
    method = choose_method(task)
    return _result(task, cross_predict(task, method, on_progress=on_progress), method)


def _result(task: ProbeTask, predicted: list[list[npt.NDArray[np.int64]]], method: str) -> ProbeResult:
    selection, labelled = task.selection, task.labelled
    true = [labelled.y[fold.test] for fold in task.folds]
    of_all, by_all = np.concatenate(true), np.concatenate(predicted[0])
    accuracies = [_score(true, of_part, _accuracy) for of_part in predicted]
    class_accuracies = [_score(true, of_part, _class_accuracy) for of_part in predicted]
    status = selection.file.status
    return ProbeResult(
        n_rows=task.n_rows,
        n_classes=task.n_classes,
        n_images=len(np.unique(selection.groups[labelled.positions])),
        dimension=selection.dimension,
        grouped=labelled.groups is not None,
        chance=float(np.bincount(labelled.y).max() / len(labelled.y)),
        accuracy=accuracies[0],
        class_accuracy=class_accuracies[0],
        classes=class_recalls(of_all, by_all, labelled.names, repeats=task.settings.repeats),
        confusions=confused_pairs(of_all, by_all, labelled.names),
        ablation=tuple(
            Ablated(
                *part,
                task.narrowed_to(part).dimension,
                accuracy,
                class_accuracy,
                _difference(accuracy, accuracies[0]),
            )
            for part, accuracy, class_accuracy in zip(task.parts, accuracies, class_accuracies, strict=True)
        )
        if len(task.parts) > 1
        else (),
        left_out=labelled.left_out,
        n_unlabelled=labelled.n_unlabelled,
        n_pending=int((status == Status.PENDING).sum()),
        n_failed=int((status == Status.FAILED).sum()),
        method=method,
    )


def _score(
    true: Sequence[npt.NDArray[np.int64]],
    predicted: Sequence[npt.NDArray[np.int64]],
    score: Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], float],
) -> Score:
    return _over_folds([score(t, p) for t, p in zip(true, predicted, strict=True)])


def _difference(score: Score, reference: Score) -> Score:
    return _over_folds([a - b for a, b in zip(score.folds, reference.folds, strict=True)])


def _over_folds(folds: Sequence[float]) -> Score:
    return Score(float(np.mean(folds)), float(np.std(folds)), tuple(folds))


def _accuracy(true: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> float:
    return float((true == predicted).mean())


def _class_accuracy(true: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> float:
    counts = np.bincount(true)
    found = np.bincount(true[true == predicted], minlength=len(counts))
    there = counts > 0
    return float((found[there] / counts[there]).mean())
