"""Projections onto fewer dimensions, fitted on the rows of a feature file.

scikit-learn computes principal components: from all rows at once if they take at most 2 GiB, else incrementally. On
3,030 rows of 10,752 values, with 256 components, its randomized solver took 5 s and kept 75.51 % of the variance, a
full decomposition 104 s and 75.57 %, and the incremental fit 49 s and 75.46 % with 1,024 rows at a time, or 109 s and
75.35 % with 512.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import import_extra
from sppfeat.config.specs import ReductionSpec
from sppfeat.errors import ConfigError
from sppfeat.store.descriptor_columns import select_columns, take_rescaled
from sppfeat.store.reader import FeatureFile
from sppfeat.store.reduction import FitRecord, Reduction
from sppfeat.store.selection import Selection

__all__ = ["fit_reduction"]

_IN_MEMORY_NBYTES = 2 << 30  # largest size of float32 rows to fit at once; 256 components then take 2.4 GB
_BATCH_NBYTES = 256 << 20  # size of a batch of the incremental fit, which makes about four copies
_ROWS_PER_COMPONENT = 4  # with smaller batches, the incremental fit forgets more of the previous ones
_LARGEST = 1e15  # largest absolute value, so that no sum of squares overflows float32
# Components with less than this share of the widest component's spread are rounding errors.
_NO_SPREAD = 100 * float(np.finfo(np.float32).eps)


def fit_reduction(
    file: FeatureFile,
    spec: ReductionSpec,
    *,
    batch_size: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, rows: None,
) -> Reduction:
    """Fits a projection on rows of a file.

    Args:
        file: an open file whose descriptors are not reduced yet.
        spec: settings of the reduction, including the rows to fit on.
        batch_size: rows per batch of an incremental fit. If None, all rows are fitted at once if they take at most
            2 GiB; else a batch has four rows per component, but takes at most 256 MiB.
        on_progress: called with the number of rows fitted on so far and the total number of rows to fit on.

    Returns:
        The projection, the same for the same rows and seed. Signs are fixed, by scikit-learn: the value of largest
        magnitude in each principal component is positive.

    Raises:
        ConfigError: there are more components than rows or columns, rows or columns do not exist, values are not
            finite or too large, batches have fewer rows than components, or scikit-learn is not installed.
    """
    chosen = file.select(rows=spec.fit_rows or None, layers=spec.layers, levels=spec.levels)
    width, n_rows, share = chosen.dimension, len(chosen), None
    if spec.components > width:
        raise ConfigError(
            f"{spec.components} components of {width} columns; allowed: 1 to {width}, of what is selected"
        )
    if spec.method == "random":
        projections = import_extra("sklearn.random_projection", extra="sklearn", purpose="reducing")
        fitted = projections.GaussianRandomProjection(spec.components, random_state=spec.seed)
        fitted.fit(np.zeros((1, width), dtype=np.float32))  # only the shape matters
        mean, components, scale, n_rows = np.zeros(width), fitted.components_, np.ones(spec.components), 0
    else:
        if spec.components > n_rows:
            raise ConfigError(
                f"{spec.components} components of {n_rows} rows; allowed: at most as many components as rows to fit on"
            )
        fitted = _principal_components(chosen, spec, batch_size, on_progress)
        mean, components, scale = fitted.mean_, fitted.components_, np.ones(spec.components)
        if spec.whiten:
            scale = _whitening(np.sqrt(np.maximum(fitted.explained_variance_.astype(np.float64), 0)))
        share = float(np.sum(fitted.explained_variance_ratio_))
        share = min(max(share, 0.0), 1.0) if np.isfinite(share) else 0.0  # NaN if the rows do not vary
    record = FitRecord(
        spec=spec,
        source_columns=file.columns,
        source_normalize=file.config.descriptor.normalize,
        source_fingerprint=file.attribute("fingerprint"),
        fitted_rows=n_rows,
        explained_variance=share,
    )
    return Reduction(
        record=record,
        mean=mean.astype(np.float32),
        components=components.astype(np.float32),
        scale=scale.astype(np.float32),
    )


def _principal_components(
    chosen: Selection,
    spec: ReductionSpec,
    batch_size: int | None,
    on_progress: Callable[[int, int], None],
) -> Any:
    """Fits a scikit-learn ``PCA`` or ``IncrementalPCA`` on the chosen rows."""
    decomposition = import_extra("sklearn.decomposition", extra="sklearn", purpose="reducing")
    n_rows, row_nbytes = len(chosen), 4 * chosen.dimension
    if batch_size is None and n_rows * row_nbytes <= _IN_MEMORY_NBYTES:
        fitted = decomposition.PCA(spec.components, copy=False, random_state=spec.seed)
        with np.errstate(invalid="ignore"):  # equal rows have no variance to take shares of
            fitted.fit(_rows_of(chosen, np.arange(n_rows)))
        on_progress(n_rows, n_rows)
        return fitted
    if batch_size is None:
        batch_size = max(
            spec.components, min(_ROWS_PER_COMPONENT * spec.components, _BATCH_NBYTES // row_nbytes)
        )
    if batch_size < spec.components:
        raise ConfigError(
            f"batches of {batch_size} rows for {spec.components} components; allowed: as many or more"
        )
    fitted = decomposition.IncrementalPCA(spec.components)
    # In random order, because a file sorted by class would be fitted class after class.
    order, done = np.random.default_rng(spec.seed).permutation(n_rows), 0
    for part in np.array_split(order, max(1, n_rows // batch_size)):  # no batch is smaller than batch_size
        with np.errstate(invalid="ignore"):
            fitted.partial_fit(_rows_of(chosen, np.sort(part)), check_input=False)
        done += len(part)
        on_progress(done, n_rows)
    return fitted


def _rows_of(chosen: Selection, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Rows ``(k, d)`` float32 in the columns that :meth:`sppfeat.store.reduction.Reduction.apply` selects."""
    normalize = chosen.file.config.descriptor.normalize
    taken = np.empty((len(positions), chosen.dimension), dtype=np.float32)
    whole = dataclasses.replace(chosen, columns=select_columns(chosen.file.columns))
    for part, rows in whole.blocks(positions):
        taken[part] = take_rescaled(rows, chosen.columns, normalize)
        bad = np.flatnonzero(~(np.abs(taken[part]) <= _LARGEST).all(axis=1))
        if len(bad):
            raise ConfigError(
                f"row {chosen.rows[positions[part.start + bad[0]]]} holds values that are not finite, or beyond "
                f"{_LARGEST:g}; allowed: other rows to fit on, see --fit-rows"
            )
    return taken


def _whitening(spread: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Factors that bring components of these standard deviations ``(k,)`` to variance 1."""
    # A direction in which the rows do not differ stays 0 instead of becoming noise of variance 1.
    has_some = (spread > 0) & (spread >= _NO_SPREAD * spread.max())
    return np.where(has_some, 1 / np.where(has_some, spread, 1), 0.0)
