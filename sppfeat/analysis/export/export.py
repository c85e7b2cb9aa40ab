"""Exports a selection of a feature file to a file or a stream."""

import contextlib
import gzip
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from sppfeat.analysis.export.contents import Contents, FormatWriter
from sppfeat.analysis.export.formats import EXPORT_FORMATS, dtype_of, format_of, paths_of
from sppfeat.config.values import StrPath
from sppfeat.errors import ConfigError
from sppfeat.files.atomic import whole_files, write_errors
from sppfeat.files.outputs import check_new_file
from sppfeat.store.selection import Selection

__all__ = ["ExportResult", "export_features", "export_to_stream"]

_WRITERS = {
    "npz": "array_files:write_npz",
    "npy": "array_files:write_npy",
    "parquet": "parquet:write_parquet",
    "svmlight": "text_files:write_svmlight",
    "mat": "array_files:write_mat",
    "csv": "text_files:write_csv",
    "tsv": "text_files:write_tsv",
}


@dataclass(frozen=True)
class ExportResult:
    """Summary of an export.

    Attributes:
        paths: paths of the output and, if the format has one, of the table beside it.
        format: name of the format.
        rows: number of vectors.
        dimension: length of a vector.
        dtype: type of the vectors.
        rows_without_descriptor: number of rows that hold NaN for lack of a descriptor.
        rows_labelled: number of rows with a known class.
        bytes: total size of the files.
    """

    paths: tuple[str, ...]
    format: str
    rows: int
    dimension: int
    dtype: str
    rows_without_descriptor: int
    rows_labelled: int
    bytes: int


def export_features(
    selection: Selection,
    path: str | os.PathLike[str],
    *,
    export_format: str | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
    inputs: Sequence[StrPath] = (),
    on_progress: Callable[[int], None] = lambda n: None,
) -> ExportResult:
    """Writes a selection to a file, in blocks of rows.

    The README lists the content of each format.

    Args:
        selection: rows and columns of an open file, from ``file.select(...)``; determines the order.
        path: the output, which appears only when it is complete.
        export_format: ``npz``, ``npy``, ``parquet``, ``svmlight``, ``mat``, ``csv`` or ``tsv``; if None,
            given by the suffix of ``path``.
        dtype: ``float32``, ``float16`` or ``float64``. If None, the type in the file, except that float16 becomes
            ``float32`` if the format has no float16 (``mat``) or few of its readers support it (``parquet``).
        overwrite: replace an existing file.
        inputs: other files that were read, such as a table of labels, which must not be replaced.
        on_progress: called with the number of rows written so far.

    Raises:
        ConfigError: there is no such format; a value exceeds the range of ``dtype``; the content is too large for the
            format; a package is missing; or the output is an input.
        LabelError: the format cannot express the labels.
        StoreError: the output exists or cannot be written.
    """
    output = os.fsdecode(path)
    name = format_of(output, export_format)
    contents = _contents(selection, name, dtype, on_progress)
    outputs = [Path(new) for new in paths_of(output, name)]
    for new in outputs:
        check_new_file(new, inputs=[*selection.file.read_paths, *inputs], overwrite=overwrite)
    with (
        whole_files(outputs, overwrite=overwrite) as files,
        write_errors(output),
        _packed(files, output) as packed,
    ):
        _writer(name)(contents, packed)
    return _result(contents, name, outputs)


def export_to_stream(
    selection: Selection,
    stream: BinaryIO,
    *,
    export_format: str,
    dtype: str | None = None,
    on_progress: Callable[[int], None] = lambda n: None,
) -> ExportResult:
    """Writes a selection as text to an open stream; leaves out the table of ``svmlight``.

    The arguments are those of :func:`export_features`, with a binary stream instead of a path.

    Raises:
        ConfigError: the format is not text, or a reason listed at :func:`export_features`.
        BrokenPipeError: the reader of the stream has closed it.
        StoreError: the stream cannot be written.
    """
    name = format_of("", export_format)
    if not EXPORT_FORMATS[name].is_text:
        texts = "|".join(text for text, form in EXPORT_FORMATS.items() if form.is_text)
        raise ConfigError(f"the format {name!r} needs a file; allowed for a stream: {texts}")
    contents = _contents(selection, name, dtype, on_progress)
    with write_errors(str(getattr(stream, "name", "the stream"))):
        _writer(name)(contents, [stream])
        stream.flush()
    return _result(contents, name, [])


def _contents(
    selection: Selection, name: str, dtype: str | None, on_progress: Callable[[int], None]
) -> Contents:
    kind = dtype_of(name, dtype, selection.file.dtype.name)
    return Contents(selection, np.dtype(kind).newbyteorder("<"), on_progress)


def _writer(name: str) -> FormatWriter:
    module, _, function = _WRITERS[name].partition(":")
    return cast(FormatWriter, getattr(import_module(f"sppfeat.analysis.export.{module}"), function))


def _result(contents: Contents, name: str, outputs: list[Path]) -> ExportResult:
    return ExportResult(
        paths=tuple(map(str, outputs)),
        format=name,
        rows=contents.n_rows,
        dimension=contents.dimension,
        dtype=contents.dtype.name,
        rows_without_descriptor=int((~contents.has_descriptor).sum()),
        rows_labelled=contents.n_labeled,
        bytes=sum(new.stat().st_size for new in outputs),
    )


@contextlib.contextmanager
def _packed(files: list[BinaryIO], output: str) -> Iterator[list[BinaryIO]]:
    """Compresses the first file if its name says so."""
    if not output.lower().endswith(".gz"):
        yield files
        return
    # No name and time in the gzip header, so that the same export gives the same bytes.
    with gzip.GzipFile(filename="", fileobj=files[0], mode="wb", compresslevel=6, mtime=0) as packed:
        yield [cast(BinaryIO, packed), *files[1:]]
