"""Reduction of descriptors: writes a feature file with fewer dimensions and the same images, rows and labels.

The projection is fitted on rows of the input, or taken from a file that is already reduced. scikit-learn computes
principal components: from all rows at once if they take at most 2 GiB, else incrementally. On 3,030 rows of 10,752
values, with 256 components, its randomized solver took 5 s and kept 75.51 % of the variance, a full decomposition 104 s
and 75.57 %, and the incremental fit 49 s and 75.46 % with 1,024 rows at a time, or 109 s and 75.35 % with 512.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import import_extra
from sppfeat.config.specs import ReductionSpec
from sppfeat.config.values import CHOICES, StrPath, check_choice
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.outputs import OutputLock, check_feature_path, check_new_file, check_output, layout_of
from sppfeat.store.comparability import extraction_differences
from sppfeat.store.descriptor_columns import select_columns
from sppfeat.store.layout import create_reduced_file
from sppfeat.store.reader import FeatureFile, Selection
from sppfeat.store.reduction import FitRecord, Reduction
from sppfeat.store.schema import Status

__all__ = ["ReduceReport", "fit_reduction", "reduce"]

_BLOCK_NBYTES = 64 << 20  # size of a block of rows, as float32
_IN_MEMORY_NBYTES = 2 << 30  # largest size of float32 rows to fit at once; 256 components then take 2.4 GB
_BATCH_NBYTES = 256 << 20  # size of a batch of the incremental fit, which makes about four copies
_ROWS_PER_COMPONENT = 4  # with smaller batches, the incremental fit forgets more of the previous ones
_LARGEST = 1e15  # largest absolute value, so that no sum of squares overflows float32
# Components with less than this share of the widest component's spread are rounding errors.
_NO_SPREAD = 100 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True, kw_only=True)
class ReduceReport:
    """Summary of a reduction.

    Attributes:
        rows: number of rows, the same in both files.
        with_descriptor: number of rows with a descriptor.
        method: ``pca`` or ``random``.
        whiten: True if every component was scaled to variance 1.
        normalize: scaling of the reduced descriptors.
        source_dimension: length of a descriptor before.
        selected: number of its values that were reduced.
        dimension: length of the reduced descriptors.
        fitted_rows: number of rows that the reduction was fitted on; 0 for a random projection.
        explained_variance: share of the variance that the components hold, 0 to 1; None for a random projection.
        source_bytes: size of the source.
        bytes: size of the output.
        fit_seconds: duration of the fit; 0 if the reduction was taken from another file.
        seconds: total duration.
    """

    rows: int
    with_descriptor: int
    method: str
    whiten: bool
    normalize: str
    source_dimension: int
    selected: int
    dimension: int
    fitted_rows: int
    explained_variance: float | None
    source_bytes: int
    bytes: int
    fit_seconds: float
    seconds: float


def reduce(
    features: StrPath,
    output: StrPath,
    *,
    like: StrPath | None = None,
    method: str = ReductionSpec.method,
    components: int = ReductionSpec.components,
    whiten: bool = ReductionSpec.whiten,
    normalize: str = ReductionSpec.normalize,
    seed: int = ReductionSpec.seed,
    layers: Sequence[str] | None = None,
    levels: Sequence[int] | None = None,
    fit_rows: Sequence[str] = (),
    batch_size: int | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> ReduceReport:
    """Writes a feature file with reduced descriptors and the same images, rows and labels.

    Memory holds a block of rows, and the rows that the fit needs. The output appears when it is complete.

    Args:
        features: path of the feature file to reduce; no images may be pending.
        output: path of the file to write.
        like: path of a reduced file, whose reduction to apply instead of fitting one; the settings of a fit, up to
            ``batch_size``, are then ignored.
        method, components, whiten, normalize, seed, layers, levels, fit_rows: see
            :class:`~sppfeat.config.specs.ReductionSpec`.
        batch_size: rows per batch of an incremental fit. None: all rows at once if they take at most 2 GiB; otherwise
            batches of four rows per component and at most 256 MiB.
        dtype: type of the reduced descriptors, ``float32`` or ``float16``.
        overwrite: replace an existing output.
        on_progress: called with ``"fit"`` or ``"write"``, and the numbers of rows done and in total.

    Raises:
        ConfigError: the output exists or is an input, the source is reduced already, its descriptors differ from those
            that the reduction was fitted on, a setting is not allowed, or the fit is impossible.
        StoreError: a file cannot be read or written, or images are pending.
    """
    started = time.monotonic()
    check_choice("dtype", dtype, CHOICES["dtype"])
    spec = ReductionSpec(
        method=method,
        components=components,
        whiten=whiten,
        normalize=normalize,
        seed=seed,
        layers=None if layers is None else tuple(layers),
        levels=None if levels is None else tuple(levels),
        fit_rows=tuple(fit_rows),
    )
    check_feature_path(output)
    target = Path(output)
    for name, other in (("the input", features), ("the file of --from", like)):
        if other is not None and os.path.realpath(other) == os.path.realpath(target):
            raise ConfigError(f"the output {str(target)!r} is {name}; give another file name")
    check_new_file(target, overwrite=overwrite)
    check_output(layout_of(target))  # fails now, not after the fit, if the name is too long
    with OutputLock(target), FeatureFile(Path(features)) as file:
        check_new_file(target, inputs=file.read_paths, overwrite=overwrite)
        _check_source(file)
        fit_seconds = 0.0
        if like is None:
            reduction = fit_reduction(
                file, spec, batch_size=batch_size, on_progress=lambda *rows: on_progress("fit", *rows)
            )
            fit_seconds = time.monotonic() - started
        else:
            reduction = _reduction_for(file, Path(like))
        _write(target, file, reduction, dtype, lambda done: on_progress("write", done, file.n_rows))
        applied, record = reduction.spec, reduction.record
        return ReduceReport(
            rows=file.n_rows,
            with_descriptor=int(file.has_descriptor().sum()),
            method=applied.method,
            whiten=applied.whiten,
            normalize=applied.normalize,
            source_dimension=reduction.source_dimension,
            selected=record.selection.width,
            dimension=applied.components,
            fitted_rows=record.fitted_rows,
            explained_variance=record.explained_variance,
            source_bytes=sum(os.stat(read).st_size for read in file.read_paths),
            bytes=os.stat(target).st_size,
            fit_seconds=fit_seconds,
            seconds=time.monotonic() - started,
        )


def _check_source(file: FeatureFile) -> None:
    if file.is_reduced:
        raise ConfigError(f"{str(file.path)!r} is already reduced; reduce the original feature file instead")
    n_pending = int((file.status == Status.PENDING).sum())
    if n_pending:
        are = "is" if n_pending == 1 else "are"
        raise StoreError(
            f"{str(file.path)!r}: {n_pending} of {counted(file.n_images, 'image')} {are} pending; repeat the extract "
            "command to finish the file first"
        )


def _reduction_for(file: FeatureFile, origin: Path) -> Reduction:
    """Reads the reduction of another file, and checks that it was fitted on descriptors like those of this file."""
    with FeatureFile(origin) as fitted:
        reduction = fitted.reduction
        if reduction is None:
            raise ConfigError(
                f"--from {str(origin)!r} is not reduced; give a file that 'sppfeat reduce' wrote"
            )
        differences = extraction_differences(fitted, file)
    if not differences and reduction.record.source_columns != file.columns:
        differences = ["columns: the layers, levels or channels differ"]
    if differences:
        raise ConfigError(
            f"--from {str(origin)!r} reduces descriptors of another kind: {'; '.join(differences)}"
        )
    return reduction


def _write(
    output: Path, file: FeatureFile, reduction: Reduction, dtype: str, on_rows: Callable[[int], None]
) -> None:
    has_descriptor, limit = file.has_descriptor(), np.finfo(dtype).max
    with create_reduced_file(output, file, reduction, dtype=dtype) as writer:
        selection = file.select(rows="status=any")
        for part, block in selection.blocks(nbytes=_BLOCK_NBYTES):
            rows, reduced = selection.rows[part], reduction.apply(block)
            reduced[~has_descriptor[part]] = np.nan
            overflowing = np.flatnonzero((np.isfinite(reduced) & (np.abs(reduced) > limit)).any(axis=1))
            if len(overflowing):
                raise StoreError(
                    f"row {rows[overflowing[0]]} exceeds the range of {dtype} (up to {limit:g}); use --dtype float32"
                )
            writer.write_rows(rows, reduced)
            on_rows(part.stop)


def fit_reduction(
    file: FeatureFile,
    spec: ReductionSpec,
    *,
    batch_size: int | None,
    on_progress: Callable[[int, int], None] = lambda done, rows: None,
) -> Reduction:
    """Fits a projection on rows of a file whose descriptors are not reduced yet; see :func:`reduce`.

    The projection is the same for the same rows and seed. Signs are fixed, by scikit-learn: the value of largest
    magnitude in each principal component is positive.

    Raises:
        ConfigError: there are more components than rows or columns, rows or columns do not exist, values are not
            finite or too large, batches have fewer rows than components, or scikit-learn is not installed.
    """
    chosen = file.select(rows=spec.fit_rows or None, layers=spec.layers, levels=spec.levels)
    width, n_rows, share = chosen.dimension, len(chosen), None
    if spec.components > width:
        raise ConfigError(
            f"{spec.components} components of {counted(width, 'selected column')}; allowed: 1 to {width}"
        )
    if spec.method == "random":
        projections = import_extra("sklearn.random_projection", extra="sklearn", purpose="reducing")
        fitted = projections.GaussianRandomProjection(spec.components, random_state=spec.seed)
        fitted.fit(np.zeros((1, width), dtype=np.float32))  # only the shape matters
        mean, components, scale, n_rows = np.zeros(width), fitted.components_, np.ones(spec.components), 0
    else:
        if spec.components > n_rows:
            raise ConfigError(f"{spec.components} components need as many rows to fit on; found {n_rows}")
        fitted = _principal_components(chosen, spec, batch_size, on_progress)
        mean, components, scale = fitted.mean_, fitted.components_, np.ones(spec.components)
        if spec.whiten:
            scale = _whitening(np.sqrt(np.maximum(fitted.explained_variance_.astype(np.float64), 0)))
        share = fitted.explained_variance_ratio_.sum()  # NaN or infinite if the rows do not vary
        share = float(np.clip(np.nan_to_num(share, posinf=0), 0, 1))
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
            fitted.fit(_read_rows(chosen, np.arange(n_rows)))
        on_progress(n_rows, n_rows)
        return fitted
    if batch_size is None:
        batch_size = max(
            spec.components, min(_ROWS_PER_COMPONENT * spec.components, _BATCH_NBYTES // row_nbytes)
        )
    if batch_size < spec.components:
        raise ConfigError(
            f"a batch of {batch_size} rows cannot fit {spec.components} components; use --batch-size {spec.components} "
            "or more"
        )
    fitted = decomposition.IncrementalPCA(spec.components)
    # In random order, because a file sorted by class would be fitted class after class.
    order, done = np.random.default_rng(spec.seed).permutation(n_rows), 0
    for part in np.array_split(order, max(1, n_rows // batch_size)):  # no batch is smaller than batch_size
        with np.errstate(invalid="ignore"):
            fitted.partial_fit(_read_rows(chosen, np.sort(part)), check_input=False)
        done += len(part)
        on_progress(done, n_rows)
    return fitted


def _read_rows(chosen: Selection, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Rows ``(k, d)`` float32 in the columns that :meth:`sppfeat.store.reduction.Reduction.apply` selects."""
    normalize = chosen.file.config.descriptor.normalize
    values = np.empty((len(positions), chosen.dimension), dtype=np.float32)
    whole = dataclasses.replace(chosen, columns=select_columns(chosen.file.columns))
    for part, rows in whole.blocks(positions):
        values[part] = chosen.columns.take(rows, normalize)
        bad = np.flatnonzero(~(np.abs(values[part]) <= _LARGEST).all(axis=1))
        if len(bad):
            raise ConfigError(
                f"row {chosen.rows[positions[part.start + bad[0]]]} holds values that are not finite or exceed "
                f"{_LARGEST:g}; select other rows to fit on with --fit-rows"
            )
    return values


def _whitening(spread: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Factors that bring components of these standard deviations ``(k,)`` to variance 1."""
    # A direction in which the rows do not differ stays 0; scaled, it would be noise of variance 1.
    varies = (spread > 0) & (spread >= _NO_SPREAD * spread.max())
    return np.where(varies, 1 / np.where(varies, spread, 1), 0.0)
