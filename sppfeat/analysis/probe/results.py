"""Results of a probe: accuracies over folds, recall of each class, and pairs of classes that are confused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.probe.rows import ClassSize
from sppfeat.config.machine import import_extra

__all__ = [
    "Ablated",
    "ClassRecall",
    "ConfusedPair",
    "FoldScores",
    "ProbeResult",
    "Score",
    "class_recalls",
    "compare_folds",
    "confused_pairs",
    "score_folds",
]


@dataclass(frozen=True)
class ClassRecall:
    """Recall of a class.

    Attributes:
        name: name of the class.
        rows: number of rows of the class.
        recall: share of these rows that were predicted correctly, 0 to 1.
    """

    name: str
    rows: int
    recall: float


@dataclass(frozen=True)
class ConfusedPair:
    """Wrong predictions of one class for rows of another.

    Attributes:
        true: name of the rows' class.
        predicted: name of the predicted class.
        count: number of such predictions, over all repeats.
        share: share of these among all predictions for rows of the true class, 0 to 1.
    """

    true: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Score:
    """A score of each fold, with mean and standard deviation.

    Attributes:
        mean, std: mean and standard deviation over the folds of all repeats.
        folds: score of each fold.
    """

    mean: float
    std: float
    folds: tuple[float, ...]


@dataclass(frozen=True)
class Ablated:
    """Scores of one part of the descriptors, on the folds of the whole descriptors.

    Attributes:
        kind: ``all``, ``level``, ``levels up to`` or ``layer``.
        layers, levels: layers and levels of the part.
        dimension: number of values of the part.
        accuracy, class_accuracy: see :class:`ProbeResult`.
        difference: accuracy of the part minus accuracy of all columns, fold by fold.
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
    """Result of a probe.

    Attributes:
        n_rows, n_classes, n_images: numbers of rows that were probed, of their classes, and of their images.
        dimension: length of a descriptor.
        grouped: True if folds kept all rows of an image together.
        chance: share of the largest class.
        accuracy: share of test rows that were predicted correctly, 0 to 1.
        class_accuracy: mean recall of the classes among the test rows, 0 to 1.
        classes: recall of each class, over all folds.
        confusions: pairs of confused classes, most frequent first.
        ablation: scores of all columns, then of their parts; empty if no ablation was requested.
        left_out: classes with too few members.
        n_unlabelled: number of selected rows without a class.
        n_pending, n_failed: numbers of images of the file without descriptors, not yet extracted and unreadable.
        method: ``products`` or ``sums``; see :mod:`sppfeat.analysis.probe.ridge`.
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


class FoldScores(NamedTuple):
    """Accuracies of a part of the descriptors; see :class:`ProbeResult`."""

    accuracy: Score
    class_accuracy: Score


def score_folds(
    true: Sequence[npt.NDArray[np.int64]], predicted: Sequence[npt.NDArray[np.int64]]
) -> FoldScores:
    """Scores the predictions of each fold.

    Args:
        true, predicted: for each fold the ``(k,)`` int64 classes of its test rows.
    """
    metrics, folds = _metrics(), list(zip(true, predicted, strict=True))
    accuracies = [float(metrics.accuracy_score(t, p)) for t, p in folds]
    recalls = [float(metrics.recall_score(t, p, labels=np.unique(t), average="macro")) for t, p in folds]
    return FoldScores(_over_folds(accuracies), _over_folds(recalls))


def compare_folds(score: Score, reference: Score) -> Score:
    """Subtracts a reference from a score, fold by fold."""
    return _over_folds([a - b for a, b in zip(score.folds, reference.folds, strict=True)])


def class_recalls(
    true: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], names: tuple[str, ...], *, repeats: int
) -> tuple[ClassRecall, ...]:
    """Recall of each class.

    Args:
        true, predicted: ``(repeats * n,)`` classes of the test rows of all folds, as indices into ``names``.
        names: names of the classes.
        repeats: number of times that each row was tested.
    """
    recalls = _metrics().recall_score(true, predicted, labels=np.arange(len(names)), average=None)
    tested = np.bincount(true, minlength=len(names)) // repeats
    return tuple(map(ClassRecall, names, tested.tolist(), recalls.tolist()))


def confused_pairs(
    true: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], names: tuple[str, ...]
) -> tuple[ConfusedPair, ...]:
    """All pairs of confused classes, by descending count, then by descending share.

    Args:
        true, predicted: ``(m,)`` classes of the test rows of all folds, as indices into ``names``.
        names: names of the classes.
    """
    tested = np.bincount(true, minlength=len(names))
    wrong = true != predicted
    pairs, counts = np.unique(np.stack([true[wrong], predicted[wrong]]), axis=1, return_counts=True)
    shares = counts / tested[pairs[0]]
    order = np.lexsort((pairs[1], pairs[0], -shares, -counts))
    return tuple(
        ConfusedPair(names[pairs[0, i]], names[pairs[1, i]], int(counts[i]), float(shares[i])) for i in order
    )


def _metrics() -> Any:
    return import_extra("sklearn.metrics", extra="sklearn", purpose="cross-validation")


def _over_folds(folds: Sequence[float]) -> Score:
    return Score(float(np.mean(folds)), float(np.std(folds)), tuple(folds))
