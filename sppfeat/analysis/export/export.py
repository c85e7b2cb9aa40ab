"""Exports a selection of a feature file to a file or a stream."""

import contextlib
import gzip
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from sppfeat.analysis.export.contents import Contents
from sppfeat.analysis.export.formats import EXPORT_FORMATS, dtype_of, format_of, paths_of
from sppfeat.config.values import StrPath
from sppfeat.errors import ConfigError
from sppfeat.files.atomic import whole_files, write_errors
from sppfeat.files.outputs import check_new_file
from sppfeat.store.reader import FeatureFile
from sppfeat.store.selection import LabelSource, RowsLike, Selection

__all__ = ["ExportResult", "export", "export_features"]


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """Summary of an export.

    Attributes:
        paths: paths of the output and, if the format has one, of the table beside it; empty for a stream.
        format: name of the format.
        rows: number of vectors.
        dimension: length of a vector.
        dtype: type of the vectors.
        rows_without_descriptor: number of rows that hold NaN for lack of a descriptor.
        rows_labelled: number of rows with a known class.
        bytes: total size of the files; 0 for a stream.
        stored_dtype: type of the descriptors in the feature file.
        unknown_names: number of names that ``labels`` has and the feature file has not.
    """

    paths: tuple[str, ...]
    format: str
    rows: int
    dimension: int
    dtype: str
    rows_without_descriptor: int
    rows_labelled: int
    bytes: int
    stored_dtype: str
    unknown_names: int


def export(
    file: StrPath,
    output: StrPath | BinaryIO,
    *,
    export_format: str | None = None,
    dtype: str | None = None,
    rows: RowsLike = None,
    layers: Iterable[str] | str | None = None,
    levels: Iterable[int] | int | None = None,
    labels: LabelSource = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda n_done, n_rows: None,
) -> ExportResult:
    """Writes rows of a feature file in a format of other programs: ``sppfeat export``.

    Rows keep their order and pass through in blocks, so memory holds 100 to 200 bytes per row; ``mat`` needs all
    vectors in memory. The README lists the content of each format.

    Args:
        file: path of the feature file.
        output: path of the output, which appears when it is complete; or a binary stream, for formats of text, which
            then leave out the table beside them.
        export_format: ``npz``, ``npy``, ``parquet``, ``svmlight``, ``mat``, ``csv`` or ``tsv``; if None, given by the
            suffix of the path.
        dtype: ``float32``, ``float16`` or ``float64``. If None, the type in the file, except that float16 becomes
            ``float32`` if the format has no float16 (``mat``) or few of its readers support it (``parquet``).
        rows, layers, levels, labels: selection; see :meth:`sppfeat.store.reader.FeatureFile.select`. All rows with a
            descriptor if None.
        overwrite: replace an existing file.
        on_progress: called with the number of rows written so far, and of all rows.

    Raises:
        ConfigError: there is no such format or row; a value exceeds the range of ``dtype``; the content is too large
            for the format; a package is missing; or the output is an input.
        LabelError: labels are malformed, or the format cannot express them.
        StoreError: the feature file cannot be read; the output exists or cannot be written.
        BrokenPipeError: the reader of the stream has closed it.
    """
    _format(output, export_format)
    with FeatureFile(file) as features:
        selection = features.select(rows=rows, layers=layers, levels=levels, labels=labels)
        return export_features(
            selection,
            output,
            export_format=export_format,
            dtype=dtype,
            overwrite=overwrite,
            inputs=[labels] if isinstance(labels, str | os.PathLike) else [],
            on_progress=on_progress,
        )


def export_features(
    selection: Selection,
    output: StrPath | BinaryIO,
    *,
    export_format: str | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
    inputs: Sequence[StrPath] = (),
    on_progress: Callable[[int, int], None] = lambda n_done, n_rows: None,
) -> ExportResult:
    """Writes a selection of an open file; the other arguments and errors are those of :func:`export`.

    Args:
        selection: rows and columns, from ``file.select(...)``; determines the order.
        inputs: other files that were read, such as a table of labels, which must not be replaced.
    """
    name = _format(output, export_format)
    file = selection.file
    kind = dtype_of(name, dtype, file.dtype.name)
    contents = Contents(selection, np.dtype(kind).newbyteorder("<"), on_progress)
    module, _, function = EXPORT_FORMATS[name].writer.partition(":")
    write = getattr(import_module(f"sppfeat.analysis.export.{module}"), function)
    outputs: list[Path] = []
    if isinstance(output, str | os.PathLike):
        outputs = [Path(new) for new in paths_of(os.fsdecode(output), name)]
        for new in outputs:
            check_new_file(new, inputs=[*file.read_paths, *inputs], overwrite=overwrite)
        with (
            whole_files(outputs, overwrite=overwrite) as files,
            write_errors(str(output)),
            _packed(files, outputs[0]) as packed,
        ):
            write(contents, packed)
    else:
        with write_errors(str(getattr(output, "name", "the stream"))):
            write(contents, [output])
            output.flush()
    return ExportResult(
        paths=tuple(map(str, outputs)),
        format=name,
        rows=len(selection),
        dimension=selection.dimension,
        dtype=kind,
        rows_without_descriptor=int((~contents.has_descriptor).sum()),
        rows_labelled=len(selection) - len(contents.unlabeled),
        bytes=sum(new.stat().st_size for new in outputs),
        stored_dtype=file.dtype.name,
        unknown_names=selection.labels.n_unknown,
    )


def _format(output: Any, name: str | None) -> str:
    """Name of the format of an output, given or by its suffix; a stream takes text only."""
    if isinstance(output, str | os.PathLike):
        return format_of(os.fsdecode(output), name)
    texts = [text for text, form in EXPORT_FORMATS.items() if form.is_text]
    if name not in texts:
        found = "is not given" if name is None else f"is {name}"
        raise ConfigError(f"for standard output the format {found}; allowed: --format {'|'.join(texts)}")
    return name


@contextlib.contextmanager
def _packed(files: list[BinaryIO], output: Path) -> Iterator[list[BinaryIO]]:
    """Compresses the first file if its name says so."""
    if output.suffix.lower() != ".gz":
        yield files
        return
    # No name and time in the gzip header, so that the same export gives the same bytes.
    with gzip.GzipFile(filename="", fileobj=files[0], mode="wb", compresslevel=6, mtime=0) as packed:
        yield [cast(BinaryIO, packed), *files[1:]]
