"""Sums over the training rows of several folds: all that ridge regression needs of them.

The rows of a test part are in the training of all other folds. They are multiplied once, and their second moments are
taken off those of all rows, as far as the folds give a class the same weight. Where classes are to count alike, the
weight of a row depends on how many of its class a fold trains with, which differs by one between the folds of most
classes: those rows are multiplied again for each fold whose weight is not the one that most folds have. Of five
stratified folds that comes to twice the rows instead of four times; sums for each class, which could be weighted
afterwards, would be as many matrices as there are classes.
"""

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.probe.fold_weights import FoldWeights
from sppfeat.config.machine import row_ranges

__all__ = ["FoldSums"]

_CONVERTED_NBYTES = 4 << 20


class FoldSums:
    """Second moments of the training rows of each fold, and the sum of those of each class; takes rows in any order.

    Args:
        weights: what rows count in each fold.
        dimension: of a row.
    """

    def __init__(self, weights: FoldWeights, dimension: int) -> None:
        self._weights = weights
        n_folds, n_classes = weights.counts.shape
        # By the fold that tests them; the last: by none.
        self._class_sums = np.zeros((n_folds + 1, n_classes, dimension))
        self._product = np.empty((dimension, dimension), dtype=np.float32)
        self._all = np.zeros((dimension, dimension)) if weights.shared.any() else None
        self._beyond = np.zeros((n_folds, dimension, dimension))  # what a fold has beyond that of all

    def add(
        self, x: npt.NDArray[np.float32], y: npt.NDArray[np.int64], test_fold: npt.NDArray[np.int64]
    ) -> None:
        """Add some rows.

        Args:
            x: ``(b, d)``, of norms that float32 holds the squares of.
            y: ``(b,)``, their classes.
            test_fold: ``(b,)``, the folds that test them, or -1.
        """
        order = np.lexsort((y, test_fold))
        x, y, test_fold = x[order], y[order], test_fold[order]
        self._add_class_sums(x, y, test_fold)
        if self._all is not None:
            for fold in np.unique(test_fold).tolist():
                product = self._multiply(x, np.where(test_fold == fold, self._weights.shared[y], 0))
                if product is not None:
                    self._all += product
                    if fold >= 0:
                        self._beyond[fold] -= product
        for fold, own in enumerate(self._weights.weights):
            beyond = np.where(test_fold == fold, 0, own[y] - self._weights.shared[y])
            for sign in (1, -1):
                product = self._multiply(x, sign * beyond)
                if product is not None:
                    self._beyond[fold] += np.multiply(product, sign, out=product)

    def moments(self, fold: int) -> npt.NDArray[np.float64]:
        """Sum ``(d, d)`` over the rows that train a fold of ``weight * outer(row, row)``; to be asked for once."""
        moments: npt.NDArray[np.float64] = self._beyond[fold]
        if self._all is not None:
            moments += self._all
        return moments

    def class_sums(self, fold: int) -> npt.NDArray[np.float64]:
        """Sums ``(K, d)`` of the rows of each class that train a fold."""
        sums: npt.NDArray[np.float64] = self._class_sums.sum(axis=0) - self._class_sums[fold]
        return sums

    def _add_class_sums(
        self, x: npt.NDArray[np.float32], y: npt.NDArray[np.int64], test_fold: npt.NDArray[np.int64]
    ) -> None:
        """Add rows that are sorted by fold and class."""
        # A few at once: numpy makes a copy in float64.
        for part in row_ranges(len(x), row_nbytes=4 * x.shape[1], nbytes=_CONVERTED_NBYTES):
            changes = (np.diff(y[part]) != 0) | (np.diff(test_fold[part]) != 0)
            starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
            sums = np.add.reduceat(x[part], starts, axis=0, dtype=np.float64)
            self._class_sums[test_fold[part][starts], y[part][starts]] += sums

    def _multiply(
        self, x: npt.NDArray[np.float32], weights: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float32] | None:
        """Second moments of the rows with weights above 0, in memory that is used again; None without such rows."""
        chosen = np.flatnonzero(weights > 0)
        if not len(chosen):
            return None
        weighted = x[chosen]
        weighted *= np.sqrt(weights[chosen]).astype(np.float32)[:, None]
        return np.matmul(weighted.T, weighted, out=self._product)
