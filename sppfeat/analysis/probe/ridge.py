"""Ridge regression on classes, solved from sums over the rows."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import import_extra, row_ranges

__all__ = ["RidgeSolution", "regularization", "solve_ridge"]

_BLOCK_NBYTES = 64 << 20  # size of the rows of a matrix to change at once
# Relative rounding error of float32 products, per dimension; smaller eigenvalues count as 0.
_EPSILON = float(np.finfo(np.float32).eps)


class RidgeSolution(NamedTuple):
    """A linear classifier of ``k`` classes for rows of ``d`` values.

    Attributes:
        classes: ``(k,)`` int64, ascending.
        coef: ``(k, d)`` float32.
        intercept: ``(k,)`` float64.
    """

    classes: npt.NDArray[np.int64]
    coef: npt.NDArray[np.float32]
    intercept: npt.NDArray[np.float64]

    def predict(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Predicts the class with the highest decision value for each row: ``(m, d)`` to ``(m,)`` int64."""
        predicted: npt.NDArray[np.int64] = self.classes[np.argmax(x @ self.coef.T + self.intercept, axis=1)]
        return predicted


def regularization(C: float) -> float:  # noqa: N803 - scikit-learn's name for it
    """Converts C, as in scikit-learn's other linear classifiers, to the alpha of ridge regression."""
    return 1 / (2 * C)


def solve_ridge(
    moments: npt.NDArray[np.float64],
    class_sums: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    *,
    alpha: float,
) -> RidgeSolution:
    """Solves for the classifier that ``RidgeClassifier`` would fit on rows with these sums.

    For each class, its own rows have the target 1 and all others -1. The intercept is not regularized.

    Args:
        moments: ``(d, d)`` in C order, sum over rows of ``weight * outer(row, row)``; is overwritten.
        class_sums: ``(K, d)``, unweighted sum of the rows of each class.
        counts: ``(K,)``, number of rows of each class; classes without rows are never predicted.
        weights: ``(K,)``, weight of a row of each class.
        alpha: regularization strength.
    """
    classes = np.flatnonzero(counts)
    class_sums, counts, weights = class_sums[classes], counts[classes], weights[classes]
    share = weights * counts / (weights @ counts)
    mean = weights @ class_sums / (weights @ counts)
    # Sum over rows of weight * (target - mean target) * (row - mean row): only rows of the class itself remain.
    towards = 2 * weights[:, None] * (class_sums - counts[:, None] * mean)
    for rows in row_ranges(len(moments), row_nbytes=8 * len(moments), nbytes=_BLOCK_NBYTES):
        moments[rows] -= np.outer((weights @ counts) * mean[rows], mean)
    moments.flat[:: len(moments) + 1] += alpha
    coef = _solve(moments, towards)
    return RidgeSolution(classes, coef.astype(np.float32), (2 * share - 1) - coef @ mean)


def _solve(matrix: npt.NDArray[np.float64], towards: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Computes ``towards @ inverse(matrix)`` of a symmetric matrix, which is overwritten.

    If the regularization is too weak to make the matrix positive definite, directions in which the rows do not differ
    are left out: this is the least-squares solution of minimum norm.
    """
    linalg = import_extra("scipy.linalg", extra="sklearn", purpose="a classifier")
    diagonal = matrix.diagonal().copy()
    try:
        # LAPACK overwrites one triangle of the transposed view without a copy; the other is left for eigh.
        factor = linalg.cho_factor(matrix.T, lower=True, overwrite_a=True, check_finite=False)
    except linalg.LinAlgError:
        matrix.flat[:: len(matrix) + 1] = diagonal
        values, vectors = linalg.eigh(matrix, lower=True, overwrite_a=True, check_finite=False)
        significant = values > values[-1] * len(values) * _EPSILON
        inverse = np.where(significant, 1 / np.where(significant, values, 1), 0)
        return np.asarray((towards @ vectors * inverse) @ vectors.T)
    return np.asarray(linalg.cho_solve(factor, towards.T, check_finite=False).T)
