"""Reduction of descriptors: writes a feature file with fewer dimensions.

A feature file goes in, together with the settings of a reduction or with a file that is already reduced. A feature file
with the same images, rows and labels comes out, its descriptors projected onto fewer dimensions. The projection is
fitted on rows of the input, or taken from the reduced file. Rows pass through in blocks. The room must not know images
or networks, nor how the output is laid out.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sppfeat.analysis.reduce.projection import fit_reduction
from sppfeat.config.specs import ReductionSpec
from sppfeat.config.values import CHOICES, StrPath, check_choice
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.locks import OutputLock
from sppfeat.files.outputs import check_new_file, check_output, layout_of
from sppfeat.store.comparability import extraction_differences
from sppfeat.store.layout import create_reduced_file
from sppfeat.store.reader import FeatureFile
from sppfeat.store.reduction import Reduction
from sppfeat.store.schema import Status

__all__ = ["ReduceReport", "reduce"]

_BLOCK_NBYTES = 64 << 20  # size of a block of rows, as float32


@dataclass(frozen=True, kw_only=True)
class ReduceReport:
    """Summary of a reduction.

    Attributes:
        rows: number of rows, the same in both files.
        with_descriptor: number of rows that have a descriptor.
        method, whiten, normalize: settings of the reduction, fitted or taken from another file.
        source_dimension: length of the descriptors before.
        selected: number of their columns that were reduced.
        dimension: length of the reduced descriptors.
        fitted_rows: number of rows that the reduction was fitted on.
        explained_variance: share of the variance that the components hold, 0 to 1; None for a random projection.
        source_bytes, bytes: sizes of the source and of the output.
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

    Memory holds a block of rows, and the rows that the fit needs. The output appears under its name once it is
    complete.

    Args:
        features: path of the feature file to reduce; no images may be pending.
        output: path of the file to write.
        like: path of a reduced file, whose reduction to apply instead of fitting one; the settings of a fit, up to
            ``batch_size``, are then ignored.
        method: ``pca``, principal components, or ``random``, a Gaussian random projection.
        components: length of the reduced descriptors.
        whiten: bring every component to variance 1; only with ``pca``.
        normalize: scaling of the reduced descriptors: ``none`` or ``l2``.
        seed: seed of the order of rows, the randomized solver and the random projection.
        layers, levels: columns to reduce; None for all.
        fit_rows: conditions that select the rows to fit on; empty for all rows that have a descriptor.
        batch_size: rows per batch of the fit; see :func:`sppfeat.analysis.reduce.projection.fit_reduction`.
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
        raise ConfigError(
            f"{str(file.path)!r} has reduced descriptors already; allowed: the file that they were made of"
        )
    n_pending = int((file.status == Status.PENDING).sum())
    if n_pending:
        are = "is" if n_pending == 1 else "are"
        raise StoreError(
            f"{str(file.path)!r}: {n_pending} of its {counted(file.n_images, 'image')} {are} pending: the extract "
            "command that made it finishes it first"
        )


def _reduction_for(file: FeatureFile, origin: Path) -> Reduction:
    """Reads the reduction of another file, and checks that it was fitted on descriptors like those of this file."""
    with FeatureFile(origin) as fitted:
        reduction = fitted.reduction
        if reduction is None:
            raise ConfigError(
                f"--from {str(origin)!r}: its descriptors are not reduced; allowed: a reduced file"
            )
        differences = extraction_differences(fitted, file)
    if not differences and reduction.record.source_columns != file.columns:
        differences = ["columns: they have other layers, levels or channels"]
    if differences:
        raise ConfigError(f"--from {str(origin)!r} is of other descriptors: {'; '.join(differences)}")
    return reduction


def _write(
    output: Path, file: FeatureFile, reduction: Reduction, dtype: str, on_rows: Callable[[int], None]
) -> None:
    has_one, limit = file.has_descriptor(), np.finfo(dtype).max
    with create_reduced_file(output, file, reduction, dtype=dtype) as writer:
        every = file.select(rows="status=any")
        for part, block in every.blocks(nbytes=_BLOCK_NBYTES):
            rows, reduced = every.rows[part], reduction.apply(block)
            reduced[~has_one[part]] = np.nan
            beyond = np.flatnonzero((np.isfinite(reduced) & (np.abs(reduced) > limit)).any(axis=1))
            if len(beyond):
                raise StoreError(
                    f"row {rows[beyond[0]]} holds values beyond {dtype} (at most {limit:g}): use float32"
                )
            writer.write_rows(rows, reduced)
            on_rows(part.stop)
