"""The contents of an export, which the writers of all formats share.

Vectors come in blocks of rows because they may exceed the memory. A table holds their labels and names.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import row_ranges
from sppfeat.errors import ConfigError
from sppfeat.store.reader import Selection
from sppfeat.store.row_table import EXTRA, RowColumn, tabulate_rows

__all__ = ["BLOCK_NBYTES", "VECTORS", "Contents"]

BLOCK_NBYTES = 16 << 20  # vectors to write at once
VECTORS = "X"  # name of the array of vectors


@dataclass(frozen=True)
class Contents:
    """Selected rows to export, their number type, and the callback for progress."""

    selection: Selection
    dtype: np.dtype[np.floating[Any]]  # of the vectors to write
    on_progress: Callable[[int, int], None]  # takes the number of rows written so far, and of all rows
    left_out: list[str] = field(default_factory=list)  # names of arrays that did not fit into the format

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
        """Origin of the vectors as JSON: settings, root of the paths, classes, and the meaning of each column."""
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
        """All arrays but the vectors: ``y``, ``rows``, ``paths``, ``boxes``, ``classes``, ``columns`` and ``about``.

        ``image_id`` is added if the inputs gave ids; ``flag``, ``scale``, ``mirrored``, ``score``, ``id`` and
        ``source`` if rows are boxes; and ``extra`` and ``extra_names`` if box files had extra columns.
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

    def blocks(self, nbytes: int = BLOCK_NBYTES) -> Iterator[tuple[slice, npt.NDArray[np.floating[Any]]]]:
        """Yields ranges of positions in the selection and their vectors ``(k, d)`` in C order, at most ``nbytes`` each.

        Rows without a descriptor become NaN, whatever the file holds there.

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
            f"which exceeds the range of {self.dtype} (up to {np.finfo(self.dtype).max:g}); use --dtype {value.dtype}"
        )


def _texts(texts: Any) -> npt.NDArray[np.str_]:
    return np.array(list(texts), dtype=np.str_)
