"""The classifier of :mod:`sppfeat.analysis.probe.classifier`, computed from sums over rows, which are read in blocks.

Of short rows, a linear classifier needs only the ``d x d`` second moments, so that memory does not depend on their
number. Rows are scaled by their norm over the chosen levels, which differs from one choice of levels to the next: their
moments are not part of the moments of all columns, and the rows are read again. Those of a choice of layers are part.

The rows of a test part are in the training of all other folds. They are multiplied once, and their second moments are
subtracted from those of all rows, as far as the folds give a class the same weight. If classes are to count alike, the
weight of a row depends on how many rows of its class a fold trains with, which differs by one between the folds of most
classes: those rows are multiplied again for each fold whose weight is not the one that most folds have. With five
stratified folds that comes to twice the rows instead of four times; sums for each class, which could be weighted
afterwards, would be as many matrices as there are classes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import ProbeSettings
from sppfeat.analysis.probe.ablation import DescriptorPart, narrow
from sppfeat.analysis.probe.folds import Fold, FoldWeights, fold_weights
from sppfeat.analysis.probe.ridge import RidgeSolution, regularization, solve_ridge
from sppfeat.analysis.probe.rows import LabeledRows, scaled_rows
from sppfeat.config.machine import row_ranges

if TYPE_CHECKING:
    from sppfeat.store.descriptor_columns import ColumnSelection
    from sppfeat.store.selection import Selection

__all__ = ["FoldSums", "SumsModel"]

_SAMPLED = 1024  # rows, whose mean is near enough to that of all
_SAMPLED_AT_ONCE = 64

_Columns = slice | npt.NDArray[np.int64]
_CONVERTED_NBYTES = 4 << 20


class FoldSums:
    """Second moments of the training rows of each fold, and the sum of the rows of each class; takes rows in any order.

    Args:
        weights: weights of the rows in each fold.
        dimension: length of a row.
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
        """Adds some rows.

        Args:
            x: ``(b, d)``, with norms whose squares float32 holds.
            y: ``(b,)`` classes.
            test_fold: ``(b,)`` fold that tests each row, or -1.
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
        """Sum ``(d, d)`` of ``weight * outer(row, row)`` over the rows that train a fold; call it once per fold."""
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
        """Adds rows that are sorted by fold and class."""
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


class SumsModel:
    """Predictions of the test rows of folds from their training rows, for some parts of the descriptors.

    Args:
        selection, labeled: rows, columns and classes.
        parts: parts of the descriptors; the first has all layers of the others, and they have all its levels.
        settings: settings of the classifier.
        block_rows: number of rows to read at once.
        on_step: called after each block that was read and each fold that was solved.
    """

    def __init__(
        self,
        selection: "Selection",
        labeled: LabeledRows,
        parts: Sequence[DescriptorPart],
        settings: ProbeSettings,
        *,
        block_rows: int,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        whole = narrow(selection, parts[0].layers, parts[0].levels)
        self._rows = _CenteredRows(whole, labeled.positions, block_rows)
        self._labeled = labeled
        self._columns = [_columns_of(whole.columns, part.layers) for part in parts]
        # Each layer has norm 1 here, not all of them together.
        self._alphas = [regularization(settings.C) * len(part.layers) for part in parts]
        self._balanced = settings.balanced
        self._on_step = on_step

    def predict(self, folds: Sequence[Fold]) -> list[list[npt.NDArray[np.int64]]]:
        """Predicts the test rows of folds, no two of which test the same row.

        Reads all rows for the sums, and the tested rows once more.

        Returns:
            By part, then fold: ``(len(fold.test),)`` int64 classes.
        """
        weights = self._weights(folds)
        solutions = self._solve(weights)
        predicted = np.empty((len(self._columns), len(weights.test_fold)), dtype=np.int64)
        for positions, x in self._rows.blocks(np.flatnonzero(weights.test_fold >= 0)):
            tested_by = weights.test_fold[positions]
            for fold in np.unique(tested_by).tolist():
                own = np.flatnonzero(tested_by == fold)
                for part, columns in enumerate(self._columns):
                    predicted[part, positions[own]] = solutions[fold][part].predict(x[own][:, columns])
            self._on_step()
        return [[of_part[fold.test] for fold in folds] for of_part in predicted]

    def fit(self) -> RidgeSolution:
        """Fits the classifier of the first part on all rows; it takes rows of norm 1 for each layer."""
        every = np.arange(len(self._labeled.y))
        found = self._solve(self._weights([Fold(every, every[:0])]))[0][0]
        return found._replace(intercept=found.intercept - found.coef @ self._rows.center)

    def _weights(self, folds: Sequence[Fold]) -> FoldWeights:
        n_classes = len(self._labeled.names)
        return fold_weights(self._labeled.y, folds, n_classes=n_classes, balanced=self._balanced)

    def _solve(self, weights: FoldWeights) -> list[list[RidgeSolution]]:
        """Solves for the classifiers of each fold and part, which take centered rows."""
        sums = FoldSums(weights, self._rows.selection.dimension)
        for positions, x in self._rows.blocks(np.arange(len(weights.test_fold))):
            sums.add(x, self._labeled.y[positions], weights.test_fold[positions])
            self._on_step()
        return [self._solve_fold(sums, weights, fold) for fold in range(weights.n_folds)]

    def _solve_fold(self, sums: FoldSums, weights: FoldWeights, fold: int) -> list[RidgeSolution]:
        moments, class_sums = sums.moments(fold), sums.class_sums(fold)
        solutions = []
        # The first part last: it takes the moments themselves, the others copies of what they need of them.
        for columns, alpha in reversed(list(zip(self._columns, self._alphas, strict=True))):
            own = moments if isinstance(columns, slice) else moments[np.ix_(columns, columns)]
            solutions.append(
                solve_ridge(
                    own,
                    class_sums[:, columns],
                    weights.counts[fold],
                    weights.weights[fold],
                    alpha=alpha / float(weights.scale[fold]),
                )
            )
        self._on_step()
        return solutions[::-1]


class _CenteredRows:
    """Scaled rows around a point near their mean, which keeps their moments precise in float32.

    Args:
        selection: rows and columns of an open file.
        positions: ``(n,)`` positions of the labeled rows.
        block_rows: number of rows to read at once.
    """

    def __init__(self, selection: "Selection", positions: npt.NDArray[np.int64], block_rows: int) -> None:
        self.selection = selection
        self._positions = positions
        self._block_rows = block_rows
        sample = np.unique(np.linspace(0, len(positions) - 1, min(_SAMPLED, block_rows)).astype(np.int64))
        # Some at a time: with every row the system maps what lies around it.
        pieces = np.array_split(positions[sample], -(-len(sample) // _SAMPLED_AT_ONCE))
        self.center = np.concatenate([scaled_rows(selection, piece) for piece in pieces]).mean(axis=0)

    def blocks(
        self, chosen: npt.NDArray[np.int64]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Yields some of the rows ``(b, d)`` in blocks, with their numbers among the labeled rows."""
        for start in range(0, len(chosen), self._block_rows):
            block = chosen[start : start + self._block_rows]
            x = scaled_rows(self.selection, self._positions[block])
            x -= self.center
            yield block, x


def _columns_of(columns: "ColumnSelection", layers: Sequence[str]) -> _Columns:
    """Columns of some layers; a slice if these are all layers."""
    ranges = columns.layer_ranges()
    if set(ranges) == set(layers):
        return slice(None)
    return np.concatenate([np.arange(r.start, r.stop) for layer, r in ranges.items() if layer in layers])
