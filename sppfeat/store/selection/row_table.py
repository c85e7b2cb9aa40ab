"""What is known of each row beside its vector: its number, image, label and box, and what was said of the box."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import import_extra
from sppfeat.errors import LabelError
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.schema import Status
from sppfeat.store.selection.labels import Labels

__all__ = ["EXTRA", "RowColumn", "TextColumn", "row_table", "to_pandas"]

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


def row_table(file: FeatureTable, rows: npt.NDArray[np.int64], labels: Labels) -> Mapping[str, RowColumn]:
    """Columns that stand beside the vectors, by name, each with an entry for every selected row.

    ``row``, ``path``, ``label`` (its name), ``label_number``, ``x0``, ``y0``, ``x1``, ``y1`` (pixels of the upright
    image); where the inputs named their images ``image_id``; where rows are boxes also ``flag``, ``scale``,
    ``mirrored``, ``score``, ``id``, ``source`` and, after ``extra:``, what else the box file said.

    Raises:
        LabelError: labels that are no numbers, or several for each row.
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
    """A ``pandas.DataFrame`` of :func:`sppfeat.store.selection.row_table.row_table`, indexed by the row's number.

    And of the row's image ``width``, ``height``, ``status`` and ``error``. ``label`` is categorical, with the numbers
    of ``y`` as codes, where classes have names; else these numbers; empty where nothing is known.

    Raises:
        ConfigError: pandas is not installed.
        LabelError: labels that are no numbers, or several for each row.
    """
    pandas = import_extra("pandas", extra="pandas", purpose="to_pandas")
    columns = {**row_table(file, rows, labels), **_of_images(file, file.image_index[rows])}
    index = pandas.Index(columns.pop("row"), name="row")
    numbers = columns.pop("label_number")
    if labels.values is not None and not labels.names:
        columns["label"] = numbers
    table = pandas.DataFrame({name: _series(pandas, values, index) for name, values in columns.items()})
    label = columns["label"]
    if labels.names and isinstance(label, TextColumn):
        # Class by class as in the file, so that its numbers are the codes; none is no category, and no class of a
        # damaged file either.
        names = pandas.Index(_unique(labels.names), dtype=object)
        table["label"] = pandas.Categorical.from_codes(label.index, categories=names)
    return table


def _label_numbers(labels: Labels, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return the class of each row, or whatever number was given for it; -1 where nothing is known."""
    y = labels.of_rows(rows)
    if y is None:
        return np.full(len(rows), -1, dtype=np.int64)
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


def _of_images(file: FeatureTable, images: npt.NDArray[np.int64]) -> dict[str, RowColumn]:
    image_hw, errors = file.image_hw[images], file.errors
    statuses = [status.name.lower() for status in Status]
    failed = {image: i for i, image in enumerate(errors)}
    return {
        "width": image_hw[:, 1],
        "height": image_hw[:, 0],
        "status": TextColumn(statuses, file.status[images].astype(np.int64)),
        "error": TextColumn(
            list(errors.values()),
            np.array([failed.get(image, -1) for image in images.tolist()], dtype=np.int64),
        ),
    }


def _series(pandas: Any, values: RowColumn, index: Any) -> Any:
    if isinstance(values, TextColumn):
        # As objects: what pandas would keep texts in takes no names that are not UTF-8.
        texts = [text or "" for text in values[:]]
        return pandas.Series(texts, index=index, dtype=object)
    return pandas.Series(values, index=index)


def _unique(names: Sequence[str]) -> list[str]:
    """Return names of which none is there twice: what a damaged file may have."""
    seen: dict[str, int] = {}
    return [name if seen.setdefault(name, i) == i else f"{name} ({i})" for i, name in enumerate(names)]
