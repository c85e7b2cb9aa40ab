"""The classifier of :mod:`sppfeat.analysis.probe.classifier`, fitted on all rows, in memory or beyond it."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from sppfeat.analysis.probe.ablation import parts_to_try
from sppfeat.analysis.probe.classifier import make_pipeline
from sppfeat.analysis.probe.costs import SumsShape
from sppfeat.analysis.probe.methods import rows_nbytes, too_large
from sppfeat.analysis.probe.ridge import RidgeSolution
from sppfeat.analysis.probe.rows import LabelledRows
from sppfeat.analysis.probe.settings import ProbeSettings
from sppfeat.analysis.probe.sums import SumsModel
from sppfeat.analysis.row_checks import finite_rows

if TYPE_CHECKING:
    from sppfeat.store.selection import Selection

__all__ = ["fit_pipeline"]


def fit_pipeline(
    selection: "Selection",
    labelled: LabelledRows,
    settings: ProbeSettings,
    *,
    on_progress: Callable[[int, int], None] = lambda n, total: None,
) -> Any:
    """A scikit-learn pipeline, fitted: by scikit-learn where the rows fit the memory, else by sums over them.

    Args:
        selection, labelled: rows, columns and classes.
        settings: of the classifier, and the memory that may be used.
        on_progress: is told how many of how many steps are done.

    Raises:
        ConfigError: neither the rows nor sums over them fit the memory, or scikit-learn is not installed.
        StoreError: a row holds NaN or infinities.
    """
    n_rows, max_nbytes = len(labelled.y), settings.memory_nbytes
    pipeline = make_pipeline(selection.columns, C=settings.C, class_weight=settings.class_weight)
    in_memory = rows_nbytes(n_rows, selection.dimension)
    if in_memory <= max_nbytes:
        rows = finite_rows(selection, labelled.positions)
        pipeline.fit(rows, labelled.y)
        on_progress(1, 1)
        return pipeline
    shape = SumsShape(n_rows, selection.dimension, len(labelled.names))
    if not shape.folds_at_once(1, max_nbytes):
        n_blocks = len(selection.columns.parts)
        raise too_large(shape, n_blocks, min(in_memory, shape.least_nbytes), max_nbytes)
    block_rows = shape.block_rows(1, max_nbytes)
    total, n_done = -(-n_rows // block_rows) + 1, 0

    def on_step() -> None:
        nonlocal n_done
        n_done += 1
        on_progress(n_done, total)

    parts = parts_to_try(selection)[:1]
    model = SumsModel(selection, labelled, parts, settings, block_rows=block_rows, on_step=on_step)
    return _with_solution(pipeline, model.fit(), n_layers=len(parts[0].layers))


def _with_solution(pipeline: Any, solution: RidgeSolution, *, n_layers: int) -> Any:
    """A pipeline as if fitted on the rows of a solution; it scales each layer to norm 1 / sqrt(layers) instead of 1."""
    # As many rows as it takes for all that fitting sets besides these numbers, in the right types and shapes.
    pipeline.fit(np.zeros((len(solution.classes), solution.coef.shape[1]), np.float32), solution.classes)
    classifier = pipeline.steps[-1][1]
    # Of two classes there is one number: that of the second.
    kept = slice(-len(classifier.intercept_), None)
    classifier.coef_[...] = solution.coef[kept] * math.sqrt(n_layers)
    classifier.intercept_[...] = solution.intercept[kept]
    return pipeline
