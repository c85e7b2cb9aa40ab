"""Reduction of descriptors: writes a feature file with fewer dimensions.

A feature file goes in, together with the settings of a reduction or with a file that is already reduced. A feature file
with the same images, rows and labels comes out, its descriptors projected onto fewer dimensions. The projection is
fitted on rows of the input, or taken from the reduced file. Rows pass through in blocks. The room must not know images
or networks, nor how the output is laid out.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.reduce.projection import fit_reduction
from sppfeat.config.specs import DTYPES, ReductionSpec
from sppfeat.config.values import check_choice
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.locks import OutputLock
from sppfeat.files.outputs import check_new_file, check_output, layout_of
from sppfeat.store.comparability import extraction_differences
from sppfeat.store.reader import FeatureFile
from sppfeat.store.reduced_file import create_reduced_file
from sppfeat.store.reduction import Reduction
from sppfeat.store.schema import Status

__all__ = ["ReduceReport", "reduce_file"]

_BLOCK_NBYTES = 64 << 20  # size of a block of rows, as float32


@dataclass(frozen=True, kw_only=True)
class ReduceReport:
    """Summary of a reduction.

    Attributes:
        reduction: the reduction, fitted or taken from another file.
        rows: number of rows, the same in both files.
        with_descriptor: number of rows that have a descriptor.
        bytes: sizes of the source and of the output, in bytes.
        fit_seconds: duration of the fit; 0 if the reduction was taken from another file.
        seconds: total duration.
    """

    reduction: Reduction
    rows: int
    with_descriptor: int
    bytes: tuple[int, int]
    fit_seconds: float
    seconds: float


def reduce_file(
    path: Path,
    output: Path,
    how: ReductionSpec | Path,
    *,
    dtype: str = "float32",
    batch_size: int | None = None,
    overwrite: bool = False,
    on_fit: Callable[[int, int], None] = lambda done, rows: None,
    on_rows: Callable[[int, int], None] = lambda done, rows: None,
) -> ReduceReport:
    """Writes a feature file with reduced descriptors and the same images, rows and labels.

    Memory holds a block of rows, and the rows that the fit needs. The output appears under its name once it is
    complete.

    Args:
        path: the feature file to reduce; no images may be pending.
        output: the file to write.
        how: settings of a reduction to fit, or a reduced file whose reduction to apply.
        dtype: type of the reduced descriptors.
        batch_size: rows per batch of the fit; see :func:`sppfeat.analysis.reduce.projection.fit_reduction`.
        overwrite: replace an existing output.
        on_fit: called with the number of rows fitted on so far and the total number of rows to fit on.
        on_rows: called with the number of rows reduced so far and the total number of rows.

    Raises:
        ConfigError: the output exists or is an input, the source is reduced already, its descriptors differ from those
            that the reduction was fitted on, or the fit is impossible.
        StoreError: a file cannot be read or written, or images are pending.
    """
    started = time.monotonic()
    check_choice("dtype", dtype, DTYPES)
    _check_paths(path, output, how, overwrite)
    with OutputLock(output), FeatureFile(path) as file:
        check_new_file(output, inputs=file.read_paths, overwrite=overwrite)
        _check_source(file)
        reduction = (
            fit_reduction(file, how, batch_size=batch_size, on_progress=on_fit)
            if isinstance(how, ReductionSpec)
            else _reduction_for(file, how)
        )
        fit_seconds = time.monotonic() - started if isinstance(how, ReductionSpec) else 0.0
        with_descriptor = _write(output, file, reduction, dtype, on_rows)
        return ReduceReport(
            reduction=reduction,
            rows=file.n_rows,
            with_descriptor=with_descriptor,
            bytes=(sum(os.stat(read).st_size for read in file.read_paths), os.stat(output).st_size),
            fit_seconds=fit_seconds,
            seconds=time.monotonic() - started,
        )


def _check_paths(path: Path, output: Path, how: ReductionSpec | Path, overwrite: bool) -> None:
    for name, other in (("the input", path), ("the file of --from", how)):
        if isinstance(other, Path) and os.path.realpath(other) == os.path.realpath(output):
            raise ConfigError(f"the output {str(output)!r} is {name}; give another file name")
    check_new_file(output, overwrite=overwrite)
    check_output(layout_of(output))  # fails now, not after the fit, if the name is too long


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
    output: Path, file: FeatureFile, reduction: Reduction, dtype: str, on_rows: Callable[[int, int], None]
) -> int:
    """Writes the reduced file; returns the number of its rows that have a descriptor."""
    has_one = file.has_descriptor()
    with create_reduced_file(output, file, reduction, dtype=dtype) as writer:
        every = file.select(rows="status=any")
        for part, block in every.blocks(nbytes=_BLOCK_NBYTES):
            reduced = reduction.apply(block)
            reduced[~has_one[part]] = np.nan
            rows = every.rows[part]
            _check_range(reduced, rows, dtype)
            writer.write_rows(rows, reduced)
            on_rows(part.stop, file.n_rows)
    return int(has_one.sum())


def _check_range(reduced: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], dtype: str) -> None:
    limit: Any = np.finfo(dtype).max
    beyond = np.flatnonzero((np.isfinite(reduced) & (np.abs(reduced) > limit)).any(axis=1))
    if len(beyond):
        raise StoreError(
            f"row {rows[beyond[0]]} holds values beyond {dtype} (at most {limit:g}): use float32"
        )
