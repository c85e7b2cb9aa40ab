"""Exports of feature files to other programs: NumPy, PyTorch, safetensors, Zarr, Parquet, LIBSVM, MATLAB, CSV, TSV.

A selection of an open feature file goes in, with a path or an open stream. A file of another format comes out, whole or
not at all, with the rows in the order of the selection. The room must not know torch, images, networks or charts.
"""

import contextlib
import gzip
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from sppfeat.analysis.choices import EXPORT_DTYPES, EXPORT_FORMATS, EXPORT_SUFFIXES, STREAM_FORMATS
from sppfeat.analysis.export.arrays import write_mat, write_npy, write_npz, write_zarr
from sppfeat.analysis.export.contents import Contents
from sppfeat.analysis.export.parquet import write_parquet
from sppfeat.analysis.export.tensors import write_pt, write_safetensors
from sppfeat.analysis.export.text import write_csv, write_svmlight, write_tsv
from sppfeat.config.values import StrPath, check_choice
from sppfeat.errors import ConfigError
from sppfeat.files.output_folders import check_new_folder, whole_folder
from sppfeat.files.outputs import check_new_file, whole_file, whole_files, write_errors
from sppfeat.store.labels import LabelSource
from sppfeat.store.reader import FeatureFile, Selection
from sppfeat.store.rows import RowsLike

__all__ = ["ExportResult", "export"]


class _Format(NamedTuple):
    """Properties of a format."""

    write: Callable[[Contents, Any], None]  # takes the open files, or the path of a folder
    has_float16: bool = True
    of_float16: str = "float16"  # default type for float16 descriptors
    has_table: bool = False  # a CSV file next to the output holds texts and labels
    is_folder: bool = False


# Few readers of Parquet support half precision; MATLAB has none.
_FORMATS = {
    "npz": _Format(write_npz),
    "npy": _Format(write_npy, has_table=True),
    "pt": _Format(write_pt),
    "safetensors": _Format(write_safetensors),
    "zarr": _Format(write_zarr, is_folder=True),
    "parquet": _Format(write_parquet, of_float16="float32"),
    "svmlight": _Format(write_svmlight, has_table=True),
    "mat": _Format(write_mat, has_float16=False, of_float16="float32"),
    "csv": _Format(write_csv),
    "tsv": _Format(write_tsv),
}
_ZARR_MARKS = (".zgroup", "zarr.json")  # files of which a Zarr group has one


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """Summary of an export.

    Attributes:
        paths: paths of the output and, if the format has one, of the CSV table next to it; empty for a stream.
        format: name of the format.
        rows: number of vectors.
        dimension: length of a vector.
        dtype: data type of the vectors.
        rows_without_descriptor: number of rows that hold NaN for lack of a descriptor.
        rows_labelled: number of rows with a known class.
        bytes: total size of the files; 0 for a stream.
        stored_dtype: type of the descriptors in the feature file.
        unknown_names: number of names in ``labels`` that are missing from the feature file.
        left_out: names of arrays that did not fit into the format.
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
    left_out: tuple[str, ...]


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

    Rows keep their order and pass through in blocks, so memory holds 100 to 200 bytes per row. Only ``mat`` needs all
    vectors in memory. docs/export.md lists the content of each format.

    Args:
        source: path of the feature file; or a selection of an open one, from ``file.select(...)``.
        output: path of the output, which appears when it is complete; or a binary stream, which gets no table next to
            it, for all formats but ``parquet``, ``mat`` and ``zarr``.
        export_format: ``npz``, ``npy``, ``pt``, ``safetensors``, ``zarr``, ``parquet``, ``svmlight``, ``mat``, ``csv``
            or ``tsv``; by default, the suffix of the path decides.
        dtype: ``float32``, ``float16`` or ``float64``. By default the type in the file; but float16 becomes float32 if
            the format has no float16 (``mat``) or few of its readers support it (``parquet``).
        rows, layers, levels, labels, classes, like: selection from a file; by default all rows with a descriptor. See
            :meth:`sppfeat.store.reader.FeatureFile.select`. ``like`` gives a test file the class numbers of the
            training file.
        overwrite: replace an existing output.
        on_progress: called with the number of rows written so far, and of all rows.

    Raises:
        ConfigError: the format or a row does not exist; a value exceeds the range of ``dtype``; the content is too
            large for the format; a package is missing; or the output is an input.
        LabelError: labels are malformed, or the format cannot express them.
        StoreError: the feature file cannot be read; the output exists or cannot be written.
        BrokenPipeError: the reader of the stream has closed it.

    Example:
        >>> result = sppfeat.export("features.h5", "features.pt", levels=[1])  # doctest: +SKIP
        >>> torch.load("features.pt", weights_only=True)["X"].shape  # doctest: +SKIP
        torch.Size([20, 512])
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
            bytes=sum(map(_nbytes, outputs)),
            stored_dtype=file.dtype.name,
            unknown_names=selection.labels.n_unknown,
            left_out=tuple(contents.left_out),
        )


def _write(
    contents: Contents, name: str, output: StrPath | BinaryIO, *, inputs: Sequence[object], overwrite: bool
) -> list[Path]:
    """Writes the files or the folder of an export, or a stream; returns the paths."""
    form = _FORMATS[name]
    if not isinstance(output, str | os.PathLike):
        with whole_file(output) as stream:
            form.write(contents, [stream])
        return []
    outputs = [Path(path) for path in _paths_of(os.fsdecode(output), name)]
    if form.is_folder:
        check_new_folder(outputs[0], marks=_ZARR_MARKS, inputs=inputs, overwrite=overwrite)
        with (
            whole_folder(outputs[0], marks=_ZARR_MARKS, overwrite=overwrite) as folder,
            write_errors(str(output)),
        ):
            form.write(contents, folder)
        return outputs
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
        form.write(contents, files)
    return outputs


def _nbytes(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _format_of(output: StrPath | BinaryIO, name: str | None) -> str:
    """Name of the format of an output: the requested one, or the one with its suffix."""
    if not isinstance(output, str | os.PathLike):
        if name not in STREAM_FORMATS:
            problem = "a stream needs a format" if name is None else f"{name} cannot be written to a stream"
            raise ConfigError(f"{problem}; use --format {'|'.join(STREAM_FORMATS)}")
        return name
    if name is not None:
        return check_choice("format", name, EXPORT_FORMATS)
    path = os.fsdecode(output)
    by_suffix, _ = _split_suffix(path)
    if by_suffix is None:
        suffixes = " ".join(suffix for known in EXPORT_SUFFIXES.values() for suffix in known)
        raise ConfigError(
            f"the suffix of {path!r} is not that of an export format; use {suffixes}, or --format "
            f"{'|'.join(EXPORT_FORMATS)}"
        )
    return by_suffix


def _paths_of(path: str, name: str) -> tuple[str, ...]:
    """Paths of an export: the output and, if the format has one, the table next to it.

    Example:
        >>> _paths_of("out/train.npy", "npy"), _paths_of("train.data", "svmlight"), _paths_of("x.npz", "npz")
        (('out/train.npy', 'out/train.csv'), ('train.data', 'train.data.csv'), ('x.npz',))
    """
    if not _FORMATS[name].has_table:
        return (path,)
    by_suffix, stem = _split_suffix(path)
    return path, f"{stem if by_suffix == name else path}.csv"


def _dtype_of(name: str, requested: str | None, stored: str) -> str:
    """Number type of an export: the requested one, or by default the stored one if the format can hold it."""
    form = _FORMATS[name]
    if requested is None:
        return form.of_float16 if stored == "float16" else stored
    allowed = [dtype for dtype in EXPORT_DTYPES if dtype != "float16" or form.has_float16]
    if requested not in allowed:
        raise ConfigError(f"the dtype is {requested!r}; allowed for {name}: {'|'.join(allowed)}")
    return requested


def _split_suffix(path: str) -> tuple[str | None, str]:
    """Format with the suffix of a path, and the path without the suffix; None and the path for other suffixes."""
    file_name = os.path.basename(path.rstrip("/")).lower()
    for name, suffixes in EXPORT_SUFFIXES.items():
        for suffix in suffixes:
            if file_name.endswith(suffix) and file_name != suffix:
                return name, path.rstrip("/")[: -len(suffix)]
    return None, path
