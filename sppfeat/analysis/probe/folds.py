"""Folds of a cross-validation, stratified by class and grouped by image, and the weights of their rows."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import import_extra
from sppfeat.config.wording import counted
from sppfeat.errors import LabelError

__all__ = ["Fold", "FoldWeights", "fold_weights", "make_folds"]


class Fold(NamedTuple):
    """Rows to train on and rows to test on, each ``(k,)`` int64 positions, ascending."""

    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]


def make_folds(
    y: npt.NDArray[np.int64], groups: npt.NDArray[np.int64] | None, *, n_folds: int, repeats: int, seed: int
) -> list[Fold]:
    """Makes the folds of all repeats, one repeat after the other.

    Args:
        y: ``(n,)`` class of each row.
        groups: ``(n,)`` group of each row, kept in one fold; if None, each row is a group of its own.
        n_folds: number of folds of each repeat, which together test every row once.
        repeats: number of shuffles, seeded with ``seed``, ``seed + 1``, ...
        seed: seed of the first shuffle.

    Raises:
        LabelError: some fold would have no rows to test, or fewer than two classes to train on.
    """
    splits = import_extra("sklearn.model_selection", extra="sklearn", purpose="cross-validation")
    kind = splits.StratifiedKFold if groups is None else splits.StratifiedGroupKFold
    folds = []
    for repeat in range(repeats):
        splitter = kind(n_folds, shuffle=True, random_state=seed + repeat)
        try:
            with warnings.catch_warnings():
                # scikit-learn warns of classes with fewer rows than folds, but --min-per-class allows them.
                warnings.simplefilter("ignore", UserWarning)
                found = [Fold(train, test) for train, test in splitter.split(np.zeros(len(y)), y, groups)]
        except ValueError as error:
            raise LabelError(
                f"{counted(len(y), 'row')} cannot be split into {n_folds} folds: {error}"
            ) from error
        for number, fold in enumerate(found):
            if not len(fold.test) or len(np.unique(y[fold.train])) < 2:
                raise LabelError(
                    f"fold {number} of {n_folds} would have {counted(len(fold.test), 'row')} to test and "
                    f"{counted(len(np.unique(y[fold.train])), 'class')} to train on; needed: 1 and 2. Try fewer --folds"
                )
        folds += found
    return folds


class FoldWeights(NamedTuple):
    """Training weights of ``n`` rows of ``K`` classes in each of ``m`` folds with disjoint test rows.

    Attributes:
        test_fold: ``(n,)`` int64, the fold that tests each row, or -1. All other folds train on the row.
        sizes: ``(K,)`` int64, number of rows of each class.
        counts: ``(m, K)`` int64, number of training rows of each class in each fold.
        weights: ``(m, K)`` float64, weight of a row of each class before ``scale``; 0 if the fold has no such row.
        scale: ``(m,)`` float64, factor of a fold by which to multiply its weights.
        shared: ``(K,)`` float64, the most frequent weight of each class over the folds; 0 if no two folds agree.
    """

    test_fold: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    shared: npt.NDArray[np.float64]

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return len(self.counts)

    @property
    def n_multiplied(self) -> int:
        """Number of rows to multiply for the second moments of all folds; a row counts each time it is multiplied."""
        once = int(self.sizes[self.shared > 0].sum())
        return once + int(self.counts[self.weights != self.shared].sum())


def fold_weights(
    y: npt.NDArray[np.int64], folds: Sequence[Fold], *, n_classes: int, balanced: bool
) -> FoldWeights:
    """Computes the training weights of rows in folds with disjoint test rows.

    Args:
        y: ``(n,)`` class of each row.
        folds: folds that train on every row that they do not test.
        n_classes: number of classes of all rows.
        balanced: give all classes the same total weight; if False, give all rows the same weight.
    """
    test_fold = np.full(len(y), -1)
    for number, fold in enumerate(folds):
        test_fold[fold.test] = number
    sizes = np.bincount(y, minlength=n_classes)
    counts = np.stack([sizes - np.bincount(y[fold.test], minlength=n_classes) for fold in folds])
    weights, scale = (counts > 0).astype(np.float64), np.ones(len(folds))
    if balanced:
        weights /= np.maximum(counts, 1)
        scale = counts.sum(axis=1) / (counts > 0).sum(axis=1)
    return FoldWeights(test_fold, sizes, counts, weights, scale, _shared(weights))


def _shared(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Most frequent value of each column; 0 if none occurs twice."""
    times = (weights[:, None] == weights).sum(axis=1)
    shared: npt.NDArray[np.float64] = weights[times.argmax(axis=0), np.arange(weights.shape[1])]
    return np.where(times.max(axis=0) > 1, shared, 0.0)
