"""Predictions of rows by classifiers that have not seen them, in one of two ways that agree."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.ablation import Part, narrowed
from sppfeat.analysis.classifier import make_pipeline, regularisation
from sppfeat.analysis.finite import finite_rows
from sppfeat.analysis.folds import Fold
from sppfeat.analysis.kernel import PartProducts, predict_with_kernel, products_nbytes
from sppfeat.analysis.labelled import LabelledRows
from sppfeat.errors import ConfigError

if TYPE_CHECKING:
    from sppfeat.selection import Selection

__all__ = ["check_rows_fit", "choose_method", "cross_predict"]

# scikit-learn makes three more copies of the rows that it is given.
_COPIES = 4


class _Model(Protocol):
    """Predicts the test rows of a fold from its training rows, by some parts of the descriptors."""

    def predict(self, fold: Fold) -> npt.NDArray[np.int64]: ...


def cross_predict(
    selection: "Selection",
    labelled: LabelledRows,
    folds: Sequence[Fold],
    parts: Sequence[Part],
    *,
    C: float,  # noqa: N803
    class_weight: str,
    method: str,
    on_progress: Callable[[int, int], None] = lambda n, total: None,
) -> list[list[npt.NDArray[np.int64]]]:
    """What is predicted of the test rows of each fold, for each part of the descriptors.

    Args:
        selection, labelled: rows, columns and classes.
        folds: positions among the labelled rows.
        parts: of the descriptors.
        C, class_weight: of the classifier.
        method: ``products`` (inner products of all rows, computed once) or ``rows`` (scikit-learn's pipeline on
            rows in memory, anew for each fold and part). The same predictions, but for rounding.
        on_progress: is told how many of how many steps are done.

    Returns:
        By part, then fold: ``(len(fold.test),)`` int64 classes.
    """
    steps = len(parts) * len(folds)
    n_before = 0
    products: PartProducts | None = None
    if method == "products":

        def told(n: int, total: int) -> None:
            nonlocal n_before
            n_before = total
            on_progress(n, total + steps)

        products = PartProducts(selection, labelled.positions, on_progress=told)
    found: list[list[npt.NDArray[np.int64]]] = []
    for i, part in enumerate(parts):
        model: _Model
        if products is not None:
            kernel = products.kernel(part.layers, part.levels)
            model = _ProductsModel(kernel, labelled, C=C, class_weight=class_weight)
        else:
            model = _RowsModel(
                narrowed(selection, part.layers, part.levels), labelled, C=C, class_weight=class_weight
            )
        found.append([])
        for j, fold in enumerate(folds):
            found[-1].append(model.predict(fold))
            on_progress(n_before + i * len(folds) + j + 1, n_before + steps)
    return found


def choose_method(method: str, selection: "Selection", n_rows: int, max_nbytes: int) -> str:
    """Return which way takes less time and fits the memory, where it is to be chosen.

    Args:
        method: one of :data:`sppfeat.analysis.settings.METHODS`.
        selection: rows and columns.
        n_rows: how many of its rows take part.
        max_nbytes: of memory that may be used.

    Raises:
        ConfigError: neither fits, or the one that was asked for does not.
    """
    nbytes = {
        "products": products_nbytes(n_rows, len(selection.columns.parts)),
        "rows": _rows_nbytes(n_rows, selection.dimension),
    }
    allowed = [name for name in nbytes if method in ("auto", name) and nbytes[name] <= max_nbytes]
    if not allowed:
        needed = min(n for name, n in nbytes.items() if method in ("auto", name))
        raise _too_large(n_rows, selection.dimension, needed, max_nbytes)
    if len(allowed) == 1:
        return allowed[0]
    return "products" if n_rows <= selection.dimension else "rows"


def check_rows_fit(n_rows: int, dimension: int, max_nbytes: int) -> None:
    """Refuse rows that scikit-learn cannot be given in the memory that may be used.

    Raises:
        ConfigError: they do not fit.
    """
    needed = _rows_nbytes(n_rows, dimension)
    if needed > max_nbytes:
        raise _too_large(n_rows, dimension, needed, max_nbytes)


def _rows_nbytes(n_rows: int, dimension: int) -> int:
    return _COPIES * 4 * n_rows * dimension


def _too_large(n_rows: int, dimension: int, needed: int, max_nbytes: int) -> ConfigError:
    return ConfigError(
        f"{n_rows} rows of {dimension} values need {needed / 1e9:.1f} GB of memory, allowed are "
        f"{max_nbytes / 1e9:.1f} GB (--max-memory): take some of the rows (--rows), levels (--levels) or layers "
        "(--layer), or make the descriptors shorter (sppfeat reduce)"
    )


class _ProductsModel:
    def __init__(
        self,
        kernel: npt.NDArray[np.float64],
        labelled: LabelledRows,
        *,
        C: float,  # noqa: N803
        class_weight: str,
    ) -> None:
        self._kernel = kernel
        self._y = labelled.y
        self._alpha = regularisation(C)
        self._balanced = class_weight == "balanced"

    def predict(self, fold: Fold) -> npt.NDArray[np.int64]:
        return predict_with_kernel(
            self._kernel, self._y, fold.train, fold.test, alpha=self._alpha, balanced=self._balanced
        )


class _RowsModel:
    def __init__(
        self,
        selection: "Selection",
        labelled: LabelledRows,
        *,
        C: float,  # noqa: N803
        class_weight: str,
    ) -> None:
        self._X = finite_rows(selection, labelled.positions).astype(np.float32, copy=False)
        self._y = labelled.y
        self._pipeline = make_pipeline(selection.columns, C=C, class_weight=class_weight)

    def predict(self, fold: Fold) -> npt.NDArray[np.int64]:
        self._pipeline.fit(self._X[fold.train], self._y[fold.train])
        predicted: npt.NDArray[np.int64] = self._pipeline.predict(self._X[fold.test])
        return predicted
