"""Metadata of rows as columns: index, image, label and box of each row, also as a pandas table."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import import_extra
from sppfeat.errors import LabelError
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.labels import Labels
from sppfeat.store.schema import Status

__all__ = ["EXTRA", "RowColumn", "TextColumn", "tabulate_rows", "to_pandas"]

EXTRA = "extra:"  # prefix of a box file's other columns, whose names may be any text
_TEXTS_AT_ONCE = 1 << 16
_STATUSES = np.array([status.name.lower() for status in Status], dtype=object)


@dataclass(frozen=True)
class TextColumn:
    """A text for each of ``n`` rows, with shared texts stored once."""

    texts: Sequence[bytes | str]
    index: npt.NDArray[np.int64]  # ``(n,)``, of each row's text in ``texts``; -1 for none

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice) -> list[str | None]:
        """Return the texts of a range of rows, None for no text; bytes are decoded by ``os.fsdecode``."""
        return [None if i < 0 else os.fsdecode(self.texts[i]) for i in self.index[rows].tolist()]

    def parts(self) -> Iterator[list[str]]:
        """Yield the texts of all rows in parts; no text becomes an empty one."""
        for start in range(0, len(self), _TEXTS_AT_ONCE):
            yield [text or "" for text in self[start : start + _TEXTS_AT_ONCE]]

    @property
    def longest(self) -> int:
        """Number of characters of the longest text."""
        return max((len(os.fsdecode(text)) for text in self._used()), default=0)

    @property
    def is_utf8(self) -> bool:
        """True if the text of every row is valid UTF-8."""
        used = map(os.fsencode, self._used())
        return all(text.decode("utf-8", "ignore").encode() == text for text in used)

    def _used(self) -> Iterator[bytes | str]:
        return (self.texts[i] for i in np.unique(self.index[self.index >= 0]).tolist())


RowColumn: TypeAlias = npt.NDArray[Any] | TextColumn


def tabulate_rows(file: FeatureTable, rows: npt.NDArray[np.int64], labels: Labels) -> Mapping[str, RowColumn]:
    """Return the metadata of the selected rows ``(n,)`` as named columns with ``n`` entries each.

    ``labels`` are those of all rows of the file, and ``label`` is a class name. The box is that of the image as
    displayed, in pixels. Other columns of the box file are prefixed with ``extra:``.

    Raises:
        LabelError: labels are not numbers, or there are several per row.
    """
    boxes, images = file.boxes[rows], file.image_index[rows]
    numbers = _label_numbers(labels, rows)
    names = labels.names
    is_name = (numbers >= 0) & (numbers < len(names)) if names else np.zeros(len(rows), dtype=bool)
    table: dict[str, RowColumn] = {
        "row": rows,
        "path": TextColumn(file.path_table, images),
        "label": TextColumn(names, np.where(is_name, numbers, -1).astype(np.int64)),
        "label_number": numbers,
    }
    table.update({name: boxes[:, i] for i, name in enumerate(("x0", "y0", "x1", "y1"))})
    if file.image_id_table is not None:
        table["image_id"] = TextColumn(file.image_id_table, images)
    if file.has_boxes:
        table.update(
            flag=file.row_flag[rows],
            scale=file.row_scale[rows],
            mirrored=file.row_mirrored[rows],
            score=file.row_score[rows],
            id=TextColumn(file.row_id, rows),
            source=file.row_source[rows],
        )
        table.update({EXTRA + name: TextColumn(texts, rows) for name, texts in file.row_extra.items()})
    return table


def to_pandas(file: FeatureTable, rows: npt.NDArray[np.int64], labels: Labels) -> Any:
    """Return the columns of :func:`tabulate_rows` for :meth:`sppfeat.store.reader.Selection.to_pandas`."""
    pandas = import_extra("pandas", extra="pandas", purpose="to_pandas")
    columns: dict[str, Any] = dict(tabulate_rows(file, rows, labels))
    index = pandas.Index(columns.pop("row"), name="row")
    images, errors = file.image_index[rows], file.errors
    columns["height"], columns["width"] = file.image_hw[images].T
    columns["status"] = _STATUSES[file.status[images]]
    columns["error"] = np.array([errors.get(image, "") for image in images.tolist()], dtype=object)
    numbers = columns.pop("label_number")
    if labels.names:
        # Categories keep the file's order, so that its numbers are the codes. A missing label has no category, nor has
        # a number outside the classes, as in a damaged file.
        names = pandas.Index(labels.names, dtype=object)
        columns["label"] = pandas.Categorical.from_codes(columns["label"].index, categories=names)
    elif labels.values is not None:
        columns["label"] = numbers
    for name, column in columns.items():
        if isinstance(column, TextColumn) or column.dtype == object:
            # As objects: pandas' string type refuses names that are not UTF-8.
            columns[name] = pandas.Series([text or "" for text in column[:]], index=index, dtype=object)
    return pandas.DataFrame(columns, index=index)


def _label_numbers(labels: Labels, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return ``(n,)`` labels of rows as numbers; -1 if no classes are known."""
    if labels.values is None:
        return np.full(len(rows), -1, dtype=np.int64)
    y = labels.values[rows]
    if y.ndim != 1 or y.dtype.kind not in "iufb":
        raise LabelError(f"labels are {y.dtype} of shape {y.shape}; allowed in an export: one number per row")
    return y.astype(np.float64 if y.dtype.kind == "f" else np.int64)
