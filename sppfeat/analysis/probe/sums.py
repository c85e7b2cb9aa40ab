"""The classifier of :mod:`sppfeat.analysis.probe.classifier` by sums over rows, which are read in blocks.

Of n rows, which are short, all that a linear classifier needs are d x d second moments: memory does not depend on n.
Rows are scaled by their norm over the chosen levels, which is another one for each choice of levels: their moments are
no part of the moments of all columns, and the rows are read for each. Those of a choice of layers are.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.probe.ablation import Part, narrowed
from sppfeat.analysis.probe.classifier import regularisation
from sppfeat.analysis.probe.fold_sums import FoldSums
from sppfeat.analysis.probe.fold_weights import FoldWeights, fold_weights
from sppfeat.analysis.probe.folds import Fold
from sppfeat.analysis.probe.ridge import RidgeSolution, solve_ridge
from sppfeat.analysis.probe.rows import LabelledRows
from sppfeat.analysis.probe.scaled_rows import scaled_rows
from sppfeat.analysis.probe.settings import ProbeSettings

if TYPE_CHECKING:
    from sppfeat.store.descriptor_columns import ColumnSelection
    from sppfeat.store.selection import Selection

__all__ = ["SumsModel"]

_SAMPLED = 1024  # rows, whose mean is near enough to that of all
_SAMPLED_AT_ONCE = 64

_Columns = slice | npt.NDArray[np.int64]


class SumsModel:
    """Predicts the test rows of folds from their training rows, by some parts of the descriptors.

    Args:
        selection, labelled: rows, columns and classes.
        parts: of the descriptors; the first has all layers of the others, and they have all its levels.
        settings: of the classifier.
        block_rows: how many are read at once.
        on_step: is called after each block that was read and each fold that was solved.
    """

    def __init__(
        self,
        selection: "Selection",
        labelled: LabelledRows,
        parts: Sequence[Part],
        settings: ProbeSettings,
        *,
        block_rows: int,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        whole = narrowed(selection, parts[0].layers, parts[0].levels)
        self._rows = _CentredRows(whole, labelled.positions, block_rows)
        self._labelled = labelled
        self._columns = [_columns_of(whole.columns, part.layers) for part in parts]
        # Each layer has norm 1 here, not all of them together.
        self._alphas = [regularisation(settings.C) * len(part.layers) for part in parts]
        self._balanced = settings.balanced
        self._on_step = on_step

    def predict(self, folds: Sequence[Fold]) -> list[list[npt.NDArray[np.int64]]]:
        """What is predicted of the test rows of folds, no two of which test the same row.

        All rows are read for the sums, and once more those that are tested.

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
        """The classifier of the first part, fitted on all rows; it takes rows of norm 1 for each layer."""
        every = np.arange(len(self._labelled.y))
        found = self._solve(self._weights([Fold(every, every[:0])]))[0][0]
        return found._replace(intercept=found.intercept - found.coef @ self._rows.centre)

    def _weights(self, folds: Sequence[Fold]) -> FoldWeights:
        n_classes = len(self._labelled.names)
        return fold_weights(self._labelled.y, folds, n_classes=n_classes, balanced=self._balanced)

    def _solve(self, weights: FoldWeights) -> list[list[RidgeSolution]]:
        """The classifiers of each fold and part; those of centred rows."""
        sums = FoldSums(weights, self._rows.selection.dimension)
        for positions, x in self._rows.blocks(np.arange(len(weights.test_fold))):
            sums.add(x, self._labelled.y[positions], weights.test_fold[positions])
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


class _CentredRows:
    """Scaled rows around a point near their mean: their moments need not be told from its square in float32.

    Args:
        selection: rows and columns.
        positions: ``(n,)``, the rows that take part.
        block_rows: how many are read at once.
    """

    def __init__(self, selection: "Selection", positions: npt.NDArray[np.int64], block_rows: int) -> None:
        self.selection = selection
        self._positions = positions
        self._block_rows = block_rows
        sample = np.unique(np.linspace(0, len(positions) - 1, min(_SAMPLED, block_rows)).astype(np.int64))
        # Some at a time: with every row the system maps what lies around it.
        pieces = np.array_split(positions[sample], -(-len(sample) // _SAMPLED_AT_ONCE))
        self.centre = np.concatenate([scaled_rows(selection, piece) for piece in pieces]).mean(axis=0)

    def blocks(
        self, chosen: npt.NDArray[np.int64]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Yield some of the rows ``(b, d)``, in blocks with their numbers among those that take part."""
        for start in range(0, len(chosen), self._block_rows):
            block = chosen[start : start + self._block_rows]
            x = scaled_rows(self.selection, self._positions[block])
            x -= self.centre
            yield block, x


def _columns_of(columns: "ColumnSelection", layers: Sequence[str]) -> _Columns:
    """Which columns belong to some layers; a slice where all do."""
    ranges = columns.layer_ranges()
    if set(ranges) == set(layers):
        return slice(None)
    return np.concatenate([np.arange(r.start, r.stop) for layer, r in ranges.items() if layer in layers])
