"""Writers of the export formats: NumPy, Parquet, MATLAB, CSV and TSV, and the sparse lines of LIBSVM and SVM-light.

Each writes the same contents: vectors, which come in blocks of rows because they may exceed the memory, and a table of
their labels and names. Numbers in text have the fewest digits that still read back as the same number, in their own
type or in float64 and then cast.
"""

import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import import_extra, row_ranges
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError, LabelError
from sppfeat.files.tables import join_fields
from sppfeat.store.reader import Selection
from sppfeat.store.row_table import EXTRA, RowColumn, TextColumn, tabulate_rows

__all__ = [
    "Contents",
    "number_texts",
    "write_csv",
    "write_mat",
    "write_npy",
    "write_npz",
    "write_parquet",
    "write_svmlight",
    "write_tsv",
]

# Sizes of the vectors to write at once.
_BLOCK_NBYTES = 16 << 20
_GROUP_NBYTES = 32 << 20  # a row group of Parquet
_TEXT_NBYTES = 2 << 20  # as Python objects they take 20 times as much
_ROWS_AT_ONCE = 1 << 14  # of the table
_MAT_LIMIT = 1 << 31  # bytes of a variable
_VECTORS = "X"


@dataclass(frozen=True)
class Contents:
    """A selection in the form that the writers of all formats take."""

    selection: Selection
    dtype: np.dtype[np.floating[Any]]  # of the vectors to write
    on_progress: Callable[[int, int], None]  # takes the number of rows written so far, and of all rows

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and length of a vector."""
        return len(self.selection), self.selection.dimension

    @cached_property
    def table(self) -> Mapping[str, RowColumn]:
        """Columns of the rows besides the vectors; see :func:`sppfeat.store.row_table.tabulate_rows`."""
        return tabulate_rows(self.selection.file, self.selection.rows, self.selection.labels)

    @cached_property
    def has_descriptor(self) -> npt.NDArray[np.bool_]:
        """``(n,)`` bool, True for rows with a descriptor; read once, when first needed."""
        return self.selection.file.has_descriptor()[self.selection.rows]

    @cached_property
    def unlabeled(self) -> npt.NDArray[np.int64]:
        """``(k,)`` int64, positions of the rows without a known class."""
        if self.selection.y is None:
            return np.arange(len(self.selection))
        numbers = np.asarray(self.table["label_number"])
        return np.flatnonzero(numbers < 0) if self.selection.target_names else np.empty(0, dtype=np.int64)

    def about_json(self) -> str:
        """Origin of the vectors, as JSON: settings, root of the paths, classes, and the meaning of each column."""
        file, columns = self.selection.file, self.selection.columns
        about = {
            "sppfeat_version": file.attribute("sppfeat_version"),
            "fingerprint": file.attribute("fingerprint"),
            "root": file.root,
            "config": file.config.to_dict(),
            "classes": self.selection.target_names,
            "columns": [block._asdict() for block in columns.blocks]
            if all(part.bins is None for part in columns.parts)
            else list(columns.names()),
        }
        return json.dumps(about)

    def arrays(self) -> Mapping[str, RowColumn]:
        """All arrays but the vectors: ``y``, ``rows``, ``paths``, ``boxes``, ``classes``, ``columns``, ``about``.

        If the inputs gave ids, there is also ``image_id``. If rows are boxes, there are also ``flag``, ``scale``,
        ``mirrored``, ``score``, ``id``, ``source``, and, if box files had extra columns, ``extra`` and ``extra_names``.
        """
        table = dict(self.table)
        del table["label"]
        arrays: dict[str, RowColumn] = {
            "y": table.pop("label_number"),
            "rows": table.pop("row"),
            "paths": table.pop("path"),
            "boxes": np.stack([np.asarray(table.pop(name)) for name in ("x0", "y0", "x1", "y1")], axis=1),
            "classes": _texts(self.selection.target_names),
            "columns": _texts(self.selection.columns.names()),
            "about": _texts([self.about_json()]),
        }
        extra = {name.removeprefix(EXTRA): table.pop(name) for name in list(table) if name.startswith(EXTRA)}
        arrays.update(table)
        if extra:
            arrays["extra"] = np.stack([_texts(column[:]) for column in extra.values()], axis=1)
            arrays["extra_names"] = _texts(extra)
        return arrays

    def blocks(self, nbytes: int = _BLOCK_NBYTES) -> Iterator[tuple[slice, npt.NDArray[np.floating[Any]]]]:
        """Yields ranges of positions in the selection and their vectors ``(k, d)`` in C order, about ``nbytes`` each.

        Rows without a descriptor hold NaN, whatever the file holds there.

        Raises:
            ConfigError: a number exceeds the range of the type.
        """
        # Read before any row: an extraction still in progress writes a row before its status.
        known = self.has_descriptor
        n_rows, dimension = self.shape
        for part in row_ranges(n_rows, row_nbytes=dimension * self.dtype.itemsize, nbytes=nbytes):
            with np.errstate(all="ignore"):  # rows without a descriptor may hold any bits
                taken = self.selection.take(np.arange(part.start, part.stop))
                vectors = np.ascontiguousarray(taken, dtype=self.dtype)
            if not known[part].all():
                vectors = np.where(known[part][:, None], vectors, self.dtype.type(np.nan))
            beyond = np.argwhere(np.isinf(vectors) & np.isfinite(taken))
            if len(beyond):
                raise self._overflow(
                    part.start + int(beyond[0, 0]), int(beyond[0, 1]), taken[tuple(beyond[0])]
                )
            yield part, vectors
            self.selection.file.drop_pages()
            self.on_progress(part.stop, n_rows)

    def _overflow(self, at: int, column: int, value: np.floating[Any]) -> ConfigError:
        (path,) = self.table["path"][at : at + 1]
        return ConfigError(
            f"row {self.selection.rows[at]} ({path!r}) holds {value:g} at {[*self.selection.columns.names()][column]}, "
            f"which is beyond {self.dtype} (largest: {np.finfo(self.dtype).max:g}); allowed: --dtype {value.dtype}"
        )


def _texts(texts: Any) -> npt.NDArray[np.str_]:
    return np.array(list(texts), dtype=np.str_)


def _write_table(contents: Contents, file: BinaryIO) -> None:
    """Writes the table as comma-separated values, without the vectors."""
    file.write(_encoded([join_fields(contents.table, ",")]))
    for rows in row_ranges(contents.shape[0], row_nbytes=1, nbytes=_ROWS_AT_ONCE):
        file.write(_encoded(_table_lines(contents, rows, ",")))


def _write_values(contents: Contents, files: list[BinaryIO], *, separator: str) -> None:
    file = files[0]
    file.write(_encoded([join_fields([*contents.table, *contents.selection.columns.names()], separator)]))
    for rows, vectors in contents.blocks(_TEXT_NBYTES):
        lines = zip(_table_lines(contents, rows, separator), vectors, strict=True)
        file.write(_encoded(separator.join([line, *number_texts(vector)]) for line, vector in lines))


write_csv = partial(_write_values, separator=",")
write_tsv = partial(_write_values, separator="\t")


def write_svmlight(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes a line for each row, and the table into the second file, because LIBSVM cannot read comments.

    If no classes are known, all labels are 0, because LIBSVM requires a number. If only some rows have a class, that is
    an error, because numbers cannot express it.
    """
    labels = _labels(contents)
    for rows, vectors in contents.blocks(_TEXT_NBYTES):
        for label, vector in zip(labels[rows].tolist(), vectors, strict=True):
            there = np.flatnonzero(vector)
            values = zip((there + 1).tolist(), number_texts(vector[there]), strict=True)
            files[0].write(_encoded([repr(label) + "".join(f" {i}:{value}" for i, value in values)]))
    for table in files[1:]:
        _write_table(contents, table)


def _labels(contents: Contents) -> npt.NDArray[Any]:
    numbers = np.asarray(contents.table["label_number"])
    if contents.selection.y is None:
        return np.zeros_like(numbers)
    if len(contents.unlabeled):
        at = int(contents.unlabeled[0])
        (path,) = contents.table["path"][at : at + 1]
        raise LabelError(
            f"{counted(len(contents.unlabeled), 'row has', 'rows have')} no label, the first is row "
            f"{contents.selection.rows[at]} ({path!r}); allowed in this format: rows with labels, such as --rows "
            "'label=*', or a file without any"
        )
    return numbers


def number_texts(vector: npt.NDArray[np.floating[Any]]) -> list[str]:
    """Texts of numbers ``(d,)``, such as ``0.1``, ``0``, ``nan`` and ``1e-30``."""
    return [str(value).removesuffix(".0") for value in vector]


def _table_lines(contents: Contents, rows: slice, separator: str) -> Iterator[str]:
    """Yields lines of the table for some rows, without the vectors."""
    columns = [
        column[rows] if isinstance(column, TextColumn) else _numbers(column[rows])
        for column in contents.table.values()
    ]
    return (join_fields(fields, separator) for fields in zip(*columns, strict=True))


def _numbers(values: npt.NDArray[Any]) -> list[str]:
    """Numbers as texts; empty for NaN, which stands for a missing score."""
    if values.dtype.kind == "b":
        return [str(int(value)) for value in values]
    return ["" if value != value else repr(value) for value in values.tolist()]


def _encoded(lines: Iterable[str]) -> bytes:
    """Lines as bytes, each with a newline; names that are not UTF-8 keep their bytes."""
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def write_npy(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes the vectors ``(n, d)``, and the table into the second file."""
    _write_vectors(contents, files[0])
    _write_table(contents, files[1])


def write_npz(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes all arrays, none of them pickled; the vectors are not compressed."""
    with zipfile.ZipFile(files[0], "w", allowZip64=True) as archive:
        with _member(archive, _VECTORS, zipfile.ZIP_STORED) as member:
            _write_vectors(contents, member)
        for name, array in contents.arrays().items():
            # Texts are mostly padding, which compresses well.
            with _member(archive, name, zipfile.ZIP_DEFLATED) as member:
                if isinstance(array, TextColumn):
                    dtype = np.dtype(f"<U{max(1, array.longest)}")
                    _write_blocks(
                        member, (len(array),), dtype, (np.array(part, dtype) for part in array.parts())
                    )
                else:
                    np.lib.format.write_array(member, array, allow_pickle=False)


def _member(archive: zipfile.ZipFile, name: str, compression: int) -> BinaryIO:
    entry = zipfile.ZipInfo(f"{name}.npy")  # no time stamp, so that the same export gives the same bytes
    entry.compress_type = compression
    return cast(BinaryIO, archive.open(entry, "w", force_zip64=True))


def _write_vectors(contents: Contents, file: BinaryIO) -> None:
    _write_blocks(file, contents.shape, contents.dtype, (vectors for _, vectors in contents.blocks()))


def _write_blocks(
    file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[npt.NDArray[Any]]
) -> None:
    """Writes an array whose rows come in blocks, and of which no more than one block is in memory."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for block in blocks:
        file.write(block.tobytes())


def write_mat(contents: Contents, files: list[BinaryIO]) -> None:
    r"""Writes all arrays with scipy, which needs the vectors in memory.

    Texts become cell arrays; bytes in them that are not UTF-8 are escaped as in ``\xff``.
    """
    n_rows, dimension = contents.shape
    nbytes = n_rows * dimension * contents.dtype.itemsize
    if nbytes >= _MAT_LIMIT - 4096:
        raise _too_large(f"{n_rows} x {dimension} {contents.dtype}: {nbytes} bytes")
    matlab = import_extra("scipy.io.matlab", extra="mat", purpose="writing MATLAB files")
    variables = {name: _mat_variable(array) for name, array in contents.arrays().items()}
    variables[_VECTORS] = np.empty(contents.shape, dtype=contents.dtype)
    for rows, vectors in contents.blocks():
        variables[_VECTORS][rows] = vectors
    try:
        matlab.savemat(files[0], variables, oned_as="column")
    except matlab.MatWriteError as error:
        raise _too_large(str(error)) from error


def _mat_variable(array: RowColumn) -> npt.NDArray[Any]:
    """An array for scipy: numbers unchanged, texts as a cell array of one column, columns of texts as nested cells."""
    if isinstance(array, TextColumn):
        return _cells(text for part in array.parts() for text in part)
    if array.dtype.kind != "U":
        return array
    return _cells(array.tolist()) if array.ndim == 1 else _cells(map(_cells, array.T.tolist()))


def _cells(contents: Iterable[Any]) -> npt.NDArray[np.object_]:
    listed = [
        os.fsencode(c).decode("utf-8", "backslashreplace") if isinstance(c, str) else c for c in contents
    ]
    cells = np.empty((len(listed), 1), dtype=object)
    cells[:, 0] = listed
    return cells


def _too_large(what: str) -> ConfigError:
    return ConfigError(
        f"a variable of a MATLAB 5 file has less than 2 GiB; found: {what}; allowed: fewer --rows or --levels; or the "
        "feature file itself, which MATLAB opens with h5read(FILE, '/features')"
    )


def write_parquet(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes a row group for each block of rows.

    Texts become strings; if any text of a column is not UTF-8, the whole column becomes binary. The schema's metadata
    holds the origin of the vectors as JSON under ``sppfeat``.
    """
    pa = import_extra("pyarrow", extra="parquet", purpose="writing Parquet")
    pq = import_extra("pyarrow.parquet", extra="parquet", purpose="writing Parquet")
    table = contents.table
    fields = [pa.field(name, _parquet_type(pa, column)) for name, column in table.items()]
    # Values are not nullable: a missing vector is all NaN.
    number = pa.field("element", pa.from_numpy_dtype(contents.dtype), nullable=False)
    vector = pa.list_(number, contents.shape[1])
    schema = pa.schema(
        [*fields, pa.field("features", vector, nullable=False)], metadata={"sppfeat": contents.about_json()}
    )
    repeated = [name for name, column in table.items() if isinstance(column, TextColumn)]
    with pq.ParquetWriter(files[0], schema, use_dictionary=repeated) as writer:
        for rows, vectors in contents.blocks(_GROUP_NBYTES):
            columns = [
                _parquet_column(pa, column, field.type, rows)
                for column, field in zip(table.values(), fields, strict=True)
            ]
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=vector))
            writer.write_table(pa.table(columns, schema=schema), row_group_size=len(vectors))


def _parquet_type(pa: Any, column: RowColumn) -> Any:
    if isinstance(column, TextColumn):
        return pa.string() if column.is_utf8 else pa.binary()
    return pa.from_numpy_dtype(column.dtype)


def _parquet_column(pa: Any, column: RowColumn, kind: Any, rows: slice) -> Any:
    values: Any = column[rows]
    if kind == pa.binary():
        values = [None if text is None else text.encode("utf-8", "surrogateescape") for text in values]
    return pa.array(values, type=kind)
