"""Which classes are taken for which, and how many of each are found."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ClassRecall", "ConfusedPair", "class_recalls", "confused_pairs"]


@dataclass(frozen=True)
class ClassRecall:
    """How many of a class are found.

    Attributes:
        name: of the class.
        rows: rows of it.
        recall: share of them that is predicted to be of it.
    """

    name: str
    rows: int
    recall: float


@dataclass(frozen=True)
class ConfusedPair:
    """Rows of one class that are taken for another.

    Attributes:
        true, predicted: names of the classes.
        count: how often, over all repeats.
        share: of the predictions for rows of the true class.
    """

    true: str
    predicted: str
    count: int
    share: float


def class_recalls(
    true: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], names: tuple[str, ...], *, repeats: int
) -> tuple[ClassRecall, ...]:
    """Recall of each class.

    Args:
        true, predicted: ``(repeats * n,)`` classes, of all tests.
        names: of the classes.
        repeats: how often each row was tested.
    """
    tested = np.bincount(true, minlength=len(names))
    found = np.bincount(true[true == predicted], minlength=len(names))
    return tuple(
        ClassRecall(name, int(n) // repeats, float(k / n))
        for name, n, k in zip(names, tested, found, strict=True)
    )


def confused_pairs(
    true: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], names: tuple[str, ...]
) -> tuple[ConfusedPair, ...]:
    """All pairs of classes that were confused, the most frequent first; of equally frequent ones the larger share.

    Args:
        true, predicted: ``(m,)`` classes, of all tests.
        names: of the classes.
    """
    tested = np.bincount(true, minlength=len(names))
    wrong = true != predicted
    pairs, counts = np.unique(np.stack([true[wrong], predicted[wrong]]), axis=1, return_counts=True)
    shares = counts / tested[pairs[0]]
    order = np.lexsort((pairs[1], pairs[0], -shares, -counts))
    return tuple(
        ConfusedPair(names[pairs[0, i]], names[pairs[1, i]], int(counts[i]), float(shares[i])) for i in order
    )
