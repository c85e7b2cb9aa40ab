"""The classifier of :mod:`sppfeat.analysis.probe.classifier`, computed from sums over rows, which are read in blocks.

For short rows, a linear classifier needs only their ``d x d`` second moments, so memory does not depend on the number
of rows. Moments of some layers are blocks of the moments of all layers, but moments of some levels are not: a row is
scaled by its norm over the chosen levels. Each choice of levels therefore reads the rows again.

All folds but one train on a given row. Second moments are therefore computed once for all rows, and a fold subtracts
those of its test rows. This is exact only where folds weight a class equally. With balanced classes, a row's weight
depends on the number of training rows of its class, which for most classes differs by one between folds. The rows of
such a class are multiplied again for each fold whose weight is not the most frequent one. With five stratified folds,
each row is multiplied twice on average instead of four times. One sum per class, to be weighted later, would need as
many ``d x d`` matrices as there are classes.
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

_SAMPLED = 1024  # rows to estimate the mean from
_SAMPLED_AT_ONCE = 64

_Columns = slice | npt.NDArray[np.int64]
_CONVERTED_NBYTES = 4 << 20


class FoldSums:
    """Second moments of the training rows of each fold, and sums of the rows of each class; takes rows in any order.

    Args:
        weights: training weights of the rows in each fold.
        dimension: length of a row.
    """

    def __init__(self, weights: FoldWeights, dimension: int) -> None:
        self._weights = weights
        n_folds, n_classes = weights.counts.shape
        # First axis: the fold that tests the rows; last, rows that no fold tests.
        self._class_sums = np.zeros((n_folds + 1, n_classes, dimension))
        self._product = np.empty((dimension, dimension), dtype=np.float32)
        self._all = np.zeros((dimension, dimension)) if weights.shared.any() else None
        self._own = np.zeros((n_folds, dimension, dimension))  # moments of each fold minus those of all rows

    def add(
        self, x: npt.NDArray[np.float32], y: npt.NDArray[np.int64], test_fold: npt.NDArray[np.int64]
    ) -> None:
        """Adds some rows.

        Args:
            x: ``(b, d)``; squared norms must not overflow float32.
            y: ``(b,)`` class of each row.
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
                        self._own[fold] -= product
        for fold, own in enumerate(self._weights.weights):
            excess = np.where(test_fold == fold, 0, own[y] - self._weights.shared[y])
            for sign in (1, -1):
                product = self._multiply(x, sign * excess)
                if product is not None:
                    self._own[fold] += np.multiply(product, sign, out=product)

    def moments(self, fold: int) -> npt.NDArray[np.float64]:
        """Sum ``(d, d)`` of ``weight * outer(row, row)`` over a fold's training rows; call it only once per fold."""
        moments: npt.NDArray[np.float64] = self._own[fold]
        if self._all is not None:
            moments += self._all
        return moments

    def class_sums(self, fold: int) -> npt.NDArray[np.float64]:
        """Unweighted sums ``(K, d)`` of a fold's training rows of each class."""
        sums: npt.NDArray[np.float64] = self._class_sums.sum(axis=0) - self._class_sums[fold]
        return sums

    def _add_class_sums(
        self, x: npt.NDArray[np.float32], y: npt.NDArray[np.int64], test_fold: npt.NDArray[np.int64]
    ) -> None:
        """Adds rows that are sorted by fold and class."""
        # In small steps, because numpy copies the rows to float64.
        for part in row_ranges(len(x), row_nbytes=4 * x.shape[1], nbytes=_CONVERTED_NBYTES):
            changes = (np.diff(y[part]) != 0) | (np.diff(test_fold[part]) != 0)
            starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
            sums = np.add.reduceat(x[part], starts, axis=0, dtype=np.float64)
            self._class_sums[test_fold[part][starts], y[part][starts]] += sums

    def _multiply(
        self, x: npt.NDArray[np.float32], weights: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float32] | None:
        """Second moments of the rows with weights above 0, None if there are none; the next call overwrites them."""
        chosen = np.flatnonzero(weights > 0)
        if not len(chosen):
            return None
        weighted = x[chosen]
        weighted *= np.sqrt(weights[chosen]).astype(np.float32)[:, None]
        return np.matmul(weighted.T, weighted, out=self._product)


class SumsModel:
    """Classifiers of some parts of the descriptors, for each fold or for all rows.

    Args:
        selection: rows and columns of an open file.
        labeled: the rows of the selection to train and test on, with their classes.
        parts: parts of the descriptors, all with the same levels; the first has the layers of all others.
        settings: settings of the classifier.
        block_rows: number of rows to read at once.
        on_step: called after each block read and each fold solved.
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
        # Here each layer has norm 1; a pipeline scales whole rows to norm 1.
        self._alphas = [regularization(settings.C) * len(part.layers) for part in parts]
        self._balanced = settings.balanced
        self._on_step = on_step

    def predict(self, folds: Sequence[Fold]) -> list[list[npt.NDArray[np.int64]]]:
        """Predicts the test rows of folds; no row may be tested twice.

        Reads all rows for the sums, then the test rows again.

        Returns:
            For each part a list with ``(len(fold.test),)`` int64 predicted classes for each fold.
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
        """Fits the classifier of the first part on all rows; it takes rows whose layers have norm 1."""
        every = np.arange(len(self._labeled.y))
        found = self._solve(self._weights([Fold(every, every[:0])]))[0][0]
        return found._replace(intercept=found.intercept - found.coef @ self._rows.center)

    def _weights(self, folds: Sequence[Fold]) -> FoldWeights:
        n_classes = len(self._labeled.names)
        return fold_weights(self._labeled.y, folds, n_classes=n_classes, balanced=self._balanced)

    def _solve(self, weights: FoldWeights) -> list[list[RidgeSolution]]:
        """Solves for the classifiers, by fold, then part; they take centered rows."""
        sums = FoldSums(weights, self._rows.selection.dimension)
        for positions, x in self._rows.blocks(np.arange(len(weights.test_fold))):
            sums.add(x, self._labeled.y[positions], weights.test_fold[positions])
            self._on_step()
        return [self._solve_fold(sums, weights, fold) for fold in range(weights.n_folds)]

    def _solve_fold(self, sums: FoldSums, weights: FoldWeights, fold: int) -> list[RidgeSolution]:
        moments, class_sums = sums.moments(fold), sums.class_sums(fold)
        solutions = []
        # The first part comes last, because it overwrites the moments; the others take copies of their blocks.
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
    """Scaled rows minus a point near their mean, which keeps their moments precise in float32.

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
        # In small steps, because the system maps the surroundings of every row that is read.
        pieces = np.array_split(positions[sample], -(-len(sample) // _SAMPLED_AT_ONCE))
        self.center = np.concatenate([scaled_rows(selection, piece) for piece in pieces]).mean(axis=0)

    def blocks(
        self, chosen: npt.NDArray[np.int64]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Yields the chosen rows in blocks: ``(b,)`` positions among the labeled rows, and ``(b, d)`` values."""
        for start in range(0, len(chosen), self._block_rows):
            block = chosen[start : start + self._block_rows]
            x = scaled_rows(self.selection, self._positions[block])
            x -= self.center
            yield block, x


def _columns_of(columns: "ColumnSelection", layers: Sequence[str]) -> _Columns:
    """Columns of some layers as positions; a slice for all layers."""
    ranges = columns.layer_ranges()
    if set(ranges) == set(layers):
        return slice(None)
    return np.concatenate([np.arange(r.start, r.stop) for layer, r in ranges.items() if layer in layers])
