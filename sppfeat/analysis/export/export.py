"""Exports a selection of a feature file to a file or a stream."""

import contextlib
import gzip
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from sppfeat.analysis.export.contents import Contents
from sppfeat.analysis.export.formats import EXPORT_FORMATS, dtype_of, format_of, paths_of
from sppfeat.config.values import StrPath
from sppfeat.errors import ConfigError
from sppfeat.files.outputs import check_new_file, whole_files, write_errors
from sppfeat.store.reader import FeatureFile
from sppfeat.store.selection import LabelSource, RowsLike, Selection

__all__ = ["ExportResult", "export"]


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
    source: StrPath | Selection,
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
        source: path of the feature file; or a selection of an open one, from ``file.select(...)``.
        output: path of the output, which appears when it is complete; or a binary stream, for formats of text, which
            then leave out the table beside them.
        export_format: ``npz``, ``npy``, ``parquet``, ``svmlight``, ``mat``, ``csv`` or ``tsv``; if None, given by the
            suffix of the path.
        dtype: ``float32``, ``float16`` or ``float64``. If None, the type in the file, except that float16 becomes
            ``float32`` if the format has no float16 (``mat``) or few of its readers support it (``parquet``).
        rows, layers, levels, labels: selection from a file, all rows with a descriptor if None; see
            :meth:`sppfeat.store.reader.FeatureFile.select`.
        overwrite: replace an existing file.
        on_progress: called with the number of rows written so far, and of all rows.

    Raises:
        ConfigError: there is no such format or row; a value exceeds the range of ``dtype``; the content is too large
            for the format; a package is missing; or the output is an input.
        LabelError: labels are malformed, or the format cannot express them.
        StoreError: the feature file cannot be read; the output exists or cannot be written.
        BrokenPipeError: the reader of the stream has closed it.
    """
    name = _format(output, export_format)
    with contextlib.ExitStack() as opened:
        if isinstance(source, Selection):
            selection = source
        else:
            features = opened.enter_context(FeatureFile(source))
            selection = features.select(rows=rows, layers=layers, levels=levels, labels=labels)
        file = selection.file
        kind = dtype_of(name, dtype, file.dtype.name)
        contents = Contents(selection, np.dtype(kind).newbyteorder("<"), on_progress)
        inputs = [*file.read_paths, labels]
        outputs = _write(contents, name, output, inputs=inputs, overwrite=overwrite)
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


def _write(
    contents: Contents, name: str, output: StrPath | BinaryIO, *, inputs: Sequence[object], overwrite: bool
) -> list[Path]:
    """Writes all files of an export, or a stream; returns the paths of the files."""
    module, _, function = EXPORT_FORMATS[name].writer.partition(":")
    write = getattr(import_module(f"sppfeat.analysis.export.{module}"), function)
    if not isinstance(output, str | os.PathLike):
        with write_errors(str(getattr(output, "name", "the stream"))):
            write(contents, [output])
            output.flush()
        return []
    outputs = [Path(new) for new in paths_of(os.fsdecode(output), name)]
    for new in outputs:
        check_new_file(new, inputs=inputs, overwrite=overwrite)
    with (
        whole_files(outputs, overwrite=overwrite) as files,
        write_errors(str(output)),
        contextlib.ExitStack() as packed,
    ):
        if outputs[0].suffix.lower() == ".gz":
            # No name and time in the gzip header, so that the same export gives the same bytes.
            plain = gzip.GzipFile(filename="", fileobj=files[0], mode="wb", compresslevel=6, mtime=0)
            files[0] = cast(BinaryIO, packed.enter_context(plain))
        write(contents, files)
    return outputs


def _format(output: Any, name: str | None) -> str:
    """Name of the format of an output, given or by its suffix; a stream takes text only."""
    if isinstance(output, str | os.PathLike):
        return format_of(os.fsdecode(output), name)
    texts = [text for text, form in EXPORT_FORMATS.items() if form.is_text]
    if name not in texts:
        found = "is not given" if name is None else f"is {name}"
        raise ConfigError(f"for standard output the format {found}; allowed: --format {'|'.join(texts)}")
    return name
