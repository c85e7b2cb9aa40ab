"""The content of an export in any format: vectors in blocks of rows, and a table of their labels and names."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import row_ranges
from sppfeat.errors import ConfigError
from sppfeat.store.selection import Selection
from sppfeat.store.selection.row_table import EXTRA, RowColumn, tabulate_rows

__all__ = ["VECTORS", "Contents", "FormatWriter", "arrays_beside"]

_BLOCK_NBYTES = 16 << 20
VECTORS = "X"


@dataclass(frozen=True)
class Contents:
    """A selection in the form that the writers of all formats take.

    Attributes:
        selection: rows and columns of an open file.
        dtype: type of the vectors to write.
        on_progress: called with the number of rows written so far.
    """

    selection: Selection
    dtype: np.dtype[np.floating[Any]]
    on_progress: Callable[[int], None] = lambda n: None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.selection)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.selection.dimension

    @property
    def nbytes(self) -> int:
        """Size of all vectors, in bytes."""
        return self.n_rows * self.dimension * self.dtype.itemsize

    @cached_property
    def table(self) -> Mapping[str, RowColumn]:
        """Columns of the rows besides the vectors; see :func:`sppfeat.store.selection.row_table.tabulate_rows`."""
        return tabulate_rows(self.selection.file, self.selection.rows, self.selection.labels)

    @cached_property
    def has_descriptor(self) -> npt.NDArray[np.bool_]:
        """``(n,)`` bool, True for rows with a descriptor; read once, when first needed."""
        return self.selection.file.has_descriptor()[self.selection.rows]

    @cached_property
    def n_labeled(self) -> int:
        """Number of rows with a known class."""
        if self.selection.y is None:
            return 0
        numbers = np.asarray(self.table["label_number"])
        return int((numbers >= 0).sum()) if self.selection.target_names else len(numbers)

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

    def blocks(self, nbytes: int = _BLOCK_NBYTES) -> Iterator[tuple[slice, npt.NDArray[np.floating[Any]]]]:
        """Yields the vectors in blocks of rows, in the order of the selection.

        Rows without a descriptor hold NaN, whatever the file holds there.

        Args:
            nbytes: approximate size of a block.

        Yields:
            A range of positions in the selection, and the vectors ``(k, d)`` in C order.

        Raises:
            ConfigError: a number exceeds the range of the type.
        """
        # Read before any row: an extraction still in progress writes a row before its status.
        known = self.has_descriptor
        row_nbytes = self.dimension * self.dtype.itemsize
        for part in row_ranges(self.n_rows, row_nbytes=row_nbytes, nbytes=nbytes):
            yield part, self._vectors(part, known[part])
            self.selection.file.drop_pages()
            self.on_progress(part.stop)

    def _vectors(self, part: slice, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.floating[Any]]:
        with np.errstate(all="ignore"):  # rows without a descriptor may hold any bits
            taken = self.selection.take(np.arange(part.start, part.stop))
            vectors = np.ascontiguousarray(taken, dtype=self.dtype)
        if not known.all():
            vectors = np.where(known[:, None], vectors, self.dtype.type(np.nan))
        if self.dtype.itemsize < taken.dtype.itemsize:
            self._refuse_overflow(part, vectors, taken)
        return vectors

    def _refuse_overflow(
        self, part: slice, vectors: npt.NDArray[np.floating[Any]], taken: npt.NDArray[np.floating[Any]]
    ) -> None:
        beyond = np.argwhere(np.isinf(vectors) & np.isfinite(taken))
        if not len(beyond):
            return
        at, column = beyond[0].tolist()
        (path,) = self.table["path"][part.start + at : part.start + at + 1]
        name = next(name for i, name in enumerate(self.selection.columns.names()) if i == column)
        raise ConfigError(
            f"row {self.selection.rows[part.start + at]} ({path!r}) holds {taken[at, column]:g} at {name}, which is "
            f"beyond {self.dtype} (largest: {np.finfo(self.dtype).max:g}); allowed: --dtype {taken.dtype}"
        )


class FormatWriter(Protocol):
    """A function that writes an export into open files: the output, and the table beside it if its format has one."""

    def __call__(self, contents: Contents, files: list[BinaryIO]) -> None:
        """Writes the whole export; the files stay open."""


def arrays_beside(contents: Contents) -> Mapping[str, RowColumn]:
    """All arrays but the vectors: ``y``, ``rows``, ``paths``, ``boxes``, ``classes``, ``columns``, ``about``.

    If the inputs gave ids, there is also ``image_id``. If rows are boxes, there are also ``flag``, ``scale``,
    ``mirrored``, ``score``, ``id``, ``source``, and, if box files had extra columns, ``extra`` and ``extra_names``.
    """
    table = dict(contents.table)
    arrays: dict[str, RowColumn] = {
        "y": table.pop("label_number"),
        "rows": table.pop("row"),
        "paths": table.pop("path"),
        "boxes": np.stack([np.asarray(table.pop(name)) for name in ("x0", "y0", "x1", "y1")], axis=1),
        "classes": _texts(contents.selection.target_names),
        "columns": _texts(list(contents.selection.columns.names())),
        "about": _texts([contents.about_json()]),
    }
    del table["label"]
    extra = {name: table.pop(name) for name in list(table) if name.startswith(EXTRA)}
    arrays.update(table)
    if extra:
        arrays["extra"] = np.stack([_texts(column[:]) for column in extra.values()], axis=1)  # type: ignore[arg-type]
        arrays["extra_names"] = _texts([name.removeprefix(EXTRA) for name in extra])
    return arrays


def _texts(texts: list[str]) -> npt.NDArray[np.str_]:
    return np.array(texts, dtype=np.str_)
