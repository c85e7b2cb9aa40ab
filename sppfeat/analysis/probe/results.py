"""Results of a probe: accuracies over folds, recall of each class, and pairs of classes that are confused."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sppfeat.analysis.probe.rows import ClassSize

__all__ = ["Ablated", "ClassRecall", "ConfusedPair", "ProbeResult", "Score"]


@dataclass(frozen=True)
class Score:
    """A score of each fold, with mean and standard deviation over the folds of all repeats."""

    mean: float
    std: float
    folds: tuple[float, ...]

    @classmethod
    def of(cls, folds: Iterable[float]) -> "Score":
        """Makes the score from those of the folds."""
        each = tuple(map(float, folds))
        return cls(float(np.mean(each)), float(np.std(each)), each)


@dataclass(frozen=True)
class ClassRecall:
    """Recall of a class: the share of its ``rows`` rows that were predicted correctly, 0 to 1."""

    name: str
    rows: int
    recall: float


@dataclass(frozen=True)
class ConfusedPair:
    """Wrong predictions of one class for rows of another.

    ``count`` is their number over all repeats, ``share`` that among all predictions for the true class, 0 to 1.
    """

    true: str
    predicted: str
    count: int
    share: float


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
