"""What is known of each row beside its vector: its number, image, label and box, and what was said of the box."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sppfeat.errors import LabelError

if TYPE_CHECKING:
    from sppfeat.store.selection.selection import Selection

__all__ = ["EXTRA", "RowColumn", "TextColumn", "row_table"]

EXTRA = "extra:"  # before the names of further columns of a box file, which may be anything
_TEXTS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class TextColumn:
    """A text for each of ``n`` rows, of which several may have the same.

    Attributes:
        texts: all texts, as bytes or as ``os.fsdecode`` has them.
        index: ``(n,)`` int64: which of them each row has; -1 for none.
    """

    texts: Sequence[bytes | str]
    index: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice) -> list[str | None]:
        """Texts of some rows, None for none; what is not UTF-8 as ``surrogateescape`` has it."""
        return [None if i < 0 else os.fsdecode(self.texts[i]) for i in self.index[rows].tolist()]

    def parts(self) -> Iterator[list[str]]:
        """Yield the texts of all rows, empty where there is none, some at a time."""
        for start in range(0, len(self), _TEXTS_AT_ONCE):
            yield [text or "" for text in self[start : start + _TEXTS_AT_ONCE]]

    @property
    def longest(self) -> int:
        """Characters of the longest text of any row."""
        used = np.unique(self.index[self.index >= 0]).tolist()
        return max((len(os.fsdecode(self.texts[i])) for i in used), default=0)

    @property
    def is_utf8(self) -> bool:
        """Whether every text of a row is valid UTF-8."""
        used = np.unique(self.index[self.index >= 0]).tolist()
        return all(_is_utf8(os.fsencode(self.texts[i])) for i in used)


RowColumn: TypeAlias = npt.NDArray[Any] | TextColumn


def row_table(selection: "Selection") -> Mapping[str, RowColumn]:
    """Columns that stand beside the vectors, by name, each with an entry for every selected row.

    ``row``, ``path``, ``label`` (its name), ``label_number``, ``x0``, ``y0``, ``x1``, ``y1`` (pixels of the upright
    image); where the inputs named their images ``image_id``; where rows are boxes also ``flag``, ``scale``,
    ``mirrored``, ``score``, ``id``, ``source`` and, after ``extra:``, what else the box file said.

    Raises:
        LabelError: labels that are no numbers, or several for each row.
    """
    file, rows = selection.file, selection.rows
    boxes = file.boxes[rows]
    numbers = _label_numbers(selection)
    names = selection.target_names
    is_name = (numbers >= 0) & (numbers < len(names)) if names else np.zeros(len(rows), dtype=bool)
    table: dict[str, RowColumn] = {
        "row": rows,
        "path": TextColumn(file.path_table, selection.groups),
        "label": TextColumn(names, np.where(is_name, numbers, -1).astype(np.int64)),
        "label_number": numbers,
    }
    table.update({name: boxes[:, i] for i, name in enumerate(("x0", "y0", "x1", "y1"))})
    if file.image_id_table is not None:
        table["image_id"] = TextColumn(file.image_id_table, selection.groups)
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


def _label_numbers(selection: "Selection") -> npt.NDArray[Any]:
    """Return the class of each row, or whatever number was given for it; -1 where nothing is known."""
    y = selection.y
    if y is None:
        return np.full(len(selection), -1, dtype=np.int64)
    if y.ndim != 1 or y.dtype.kind not in "iufb":
        raise LabelError(
            f"labels are {y.dtype} of shape {y.shape}; allowed in an export: one number for a row"
        )
    if y.dtype.kind == "f":
        return y.astype(np.float64)
    return y.astype(np.int64)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
