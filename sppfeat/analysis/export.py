"""Export of feature files to the formats of other programs: NumPy, Parquet, LIBSVM, MATLAB, tables of text.

A selection of an open feature file goes in, with a path or an open stream. A file of another format comes out, whole or
not at all, with the rows in the order of the selection.
"""

import contextlib
import gzip
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from sppfeat.analysis.choices import EXPORT_DTYPES, EXPORT_FORMATS
from sppfeat.analysis.export_writers import (
    Contents,
    write_csv,
    write_mat,
    write_npy,
    write_npz,
    write_parquet,
    write_svmlight,
    write_tsv,
)
from sppfeat.config.values import StrPath, check_choice
from sppfeat.errors import ConfigError
from sppfeat.files.outputs import check_new_file, whole_file, whole_files, write_errors
from sppfeat.store.labels import LabelSource
from sppfeat.store.reader import FeatureFile, Selection
from sppfeat.store.rows import RowsLike

__all__ = ["ExportResult", "export"]


class _Format(NamedTuple):
    """Properties of a format."""

    write: Callable[[Contents, list[BinaryIO]], None]
    suffixes: tuple[str, ...]  # in lower case
    has_float16: bool = True
    of_float16: str = "float16"  # default type for float16 descriptors
    has_table: bool = False  # texts and labels go into a CSV file beside the output
    is_text: bool = False  # can be written to standard output


# Few readers of Parquet know half precision; MATLAB has none.
_FORMATS = {
    "npz": _Format(write_npz, (".npz",)),
    "npy": _Format(write_npy, (".npy",), has_table=True),
    "parquet": _Format(write_parquet, (".parquet", ".pq"), of_float16="float32"),
    "svmlight": _Format(write_svmlight, (".svm", ".svmlight", ".libsvm"), has_table=True, is_text=True),
    "mat": _Format(write_mat, (".mat",), has_float16=False, of_float16="float32"),
    "csv": _Format(write_csv, (".csv", ".csv.gz"), is_text=True),
    "tsv": _Format(write_tsv, (".tsv", ".tsv.gz"), is_text=True),
}


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """Summary of an export.

    Attributes:
        paths: paths of the output and, if the format has one, of the table beside it; empty for a stream.
        format: name of the format.
        rows: number of vectors.
        dimension: length of a vector.
        dtype: data type of the vectors.
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
    classes: Iterable[str] | None = None,
    like: FeatureFile | Selection | StrPath | None = None,
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
        rows, layers, levels, labels, classes, like: selection from a file, all rows with a descriptor if None; see
            :meth:`sppfeat.store.reader.FeatureFile.select`. ``like`` gives a test file the class numbers of the
            training file.
        overwrite: replace an existing file.
        on_progress: called with the number of rows written so far, and of all rows.

    Raises:
        ConfigError: there is no such format or row; a value exceeds the range of ``dtype``; the content is too large
            for the format; a package is missing; or the output is an input.
        LabelError: labels are malformed, or the format cannot express them.
        StoreError: the feature file cannot be read; the output exists or cannot be written.
        BrokenPipeError: the reader of the stream has closed it.
    """
    name = _format_of(output, export_format)
    with contextlib.ExitStack() as opened:
        if isinstance(source, Selection):
            selection = source
        else:
            features = opened.enter_context(FeatureFile(source))
            selection = features.select(
                rows=rows, layers=layers, levels=levels, labels=labels, classes=classes, like=like
            )
        file = selection.file
        kind = _dtype_of(name, dtype, file.dtype.name)
        contents = Contents(selection, np.dtype(kind).newbyteorder("<"), on_progress)
        inputs = [*file.read_paths, labels, like]
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
    write = _FORMATS[name].write
    if not isinstance(output, str | os.PathLike):
        with whole_file(output) as stream:
            write(contents, [stream])
        return []
    outputs = [Path(new) for new in _paths_of(os.fsdecode(output), name)]
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


def _format_of(output: StrPath | BinaryIO, name: str | None) -> str:
    """Name of the format of an output: the requested one, or the one that has its suffix; a stream takes text only."""
    if not isinstance(output, str | os.PathLike):
        texts = [text for text, form in _FORMATS.items() if form.is_text]
        if name not in texts:
            found = "is not given" if name is None else f"is {name}"
            raise ConfigError(f"for standard output the format {found}; allowed: --format {'|'.join(texts)}")
        return name
    if name is not None:
        return check_choice("format", name, EXPORT_FORMATS)
    path = os.fsdecode(output)
    by_suffix, _ = _split_suffix(path)
    if by_suffix is None:
        suffixes = " ".join(s for form in _FORMATS.values() for s in form.suffixes)
        raise ConfigError(
            f"the suffix of {path!r} says no format; allowed: {suffixes}, or --format {'|'.join(EXPORT_FORMATS)}"
        )
    return by_suffix


def _paths_of(path: str, name: str) -> tuple[str, ...]:
    """Paths of an export: the output and, if the format has one, the table beside it.

    Example:
        >>> _paths_of("out/train.npy", "npy"), _paths_of("train.data", "svmlight"), _paths_of("x.npz", "npz")
        (('out/train.npy', 'out/train.csv'), ('train.data', 'train.data.csv'), ('x.npz',))
    """
    if not _FORMATS[name].has_table:
        return (path,)
    by_suffix, stem = _split_suffix(path)
    return path, f"{stem if by_suffix == name else path}.csv"


def _dtype_of(name: str, wanted: str | None, stored: str) -> str:
    """Number type of an export: the wanted one, or by default the feature file's if the format can hold it."""
    form = _FORMATS[name]
    if wanted is None:
        return form.of_float16 if stored == "float16" else stored
    allowed = [dtype for dtype in EXPORT_DTYPES if dtype != "float16" or form.has_float16]
    if wanted not in allowed:
        raise ConfigError(f"the dtype is {wanted!r}; allowed for {name}: {'|'.join(allowed)}")
    return wanted


def _split_suffix(path: str) -> tuple[str | None, str]:
    """Format that has the suffix of a path, and the path without it; None and the path if there is no such format."""
    file_name = os.path.basename(path).lower()
    for name, form in _FORMATS.items():
        for suffix in form.suffixes:
            if file_name.endswith(suffix) and file_name != suffix:
                return name, path[: -len(suffix)]
    return None, path
