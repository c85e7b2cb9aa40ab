"""Class labels of rows, from the feature file itself, a table, a mapping or an array."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sppfeat.config.values import StrPath
from sppfeat.config.wording import counted, one_line
from sppfeat.errors import BoxError, ConfigError, LabelError
from sppfeat.files.columns import IMAGE_NAMES, LABEL_NAMES, ClassNumbers, find_column, repeated_column
from sppfeat.files.image_names import match_images
from sppfeat.files.tables import TableFile
from sppfeat.store.feature_table import FeatureTable

__all__ = ["LabelSource", "Labels", "read_labels"]

# Where labels can come from; see read_labels.
LabelSource: TypeAlias = "StrPath | Mapping[str, str] | Sequence[Any] | npt.NDArray[Any] | None"

_ROW = "row"


@dataclass(frozen=True)
class Labels:
    """Class labels of all rows of a file.

    Attributes:
        values: ``(R,)`` int64, index into ``names`` or -1; without names, the numbers that the caller gave; None if no
            classes are known.
        names: class names.
        n_unknown: number of entries in a table or mapping that match no image of the file.
    """

    values: npt.NDArray[Any] | None
    names: tuple[str, ...]
    n_unknown: int = 0

    def name_of(self, row: int) -> str | None:
        """Return the class name of a row, or the number that the caller gave; None if there is no label."""
        if self.values is None:
            return None
        value = self.values[row]
        if not self.names:
            return str(value)
        return self.names[value] if 0 <= value < len(self.names) else None


def read_labels(file: FeatureTable, source: LabelSource = None) -> Labels:
    """Read the class label of each row of a file; see ``labels`` of :meth:`sppfeat.store.reader.FeatureFile.select`."""
    if source is None:
        source = "box" if file.row_classes else "image"
    if isinstance(source, str) and source in ("box", "image"):
        names = tuple(file.row_classes if source == "box" else file.classes)
        if not names:
            return Labels(None, ())
        return Labels(file.row_label if source == "box" else file.labels[file.image_index], names)
    if isinstance(source, Mapping):
        pairs = [(os.fsencode(path), str(label)) for path, label in source.items()]
        return _labels_of_images(file, pairs, "the labels")
    if isinstance(source, str | os.PathLike):
        return _read_table(file, Path(source))
    return _labels_of_array(file, np.asarray(source))


def _labels_of_array(file: FeatureTable, values: npt.NDArray[Any]) -> Labels:
    if values.ndim < 1 or len(values) not in (file.n_rows, file.n_images):
        raise LabelError(
            f"labels of shape {values.shape}; allowed: one for each of {counted(file.n_rows, 'row')}, "
            f"or for each of {counted(file.n_images, 'image')}"
        )
    if len(values) != file.n_rows:
        values = values[file.image_index]
    if values.dtype.kind not in "USO":
        return Labels(values, ())
    return _labels_of_names(map(_class_name, values.tolist()))


def _class_name(value: Any) -> str | None:
    """Return an array element as a class name; None for None and for the missing values NaN, NaT and NA."""
    if isinstance(value, str | bytes):
        return os.fsdecode(value)
    is_na = type(value).__name__ == "NAType"  # of pandas; it compares with nothing
    return None if value is None or is_na or value != value else str(value)


def _labels_of_images(file: FeatureTable, labeled: list[tuple[bytes, str]], where: str) -> Labels:
    """Match labels to images by name; an image named twice must have the same label both times."""
    try:
        image_of = match_images([name for name, _ in labeled], os.fsencode(file.root), file.path_table)
    except BoxError as error:
        raise LabelError(f"{where}: {error}") from error
    if labeled and (image_of < 0).all():
        raise LabelError(
            f"{where}: none of the names ({len(labeled)}) is an image of {str(file.path)!r}; the first is "
            f"{one_line(repr(os.fsdecode(labeled[0][0])))}"
        )
    of_image: list[str | None] = [None] * file.n_images
    for (_, label), image in zip(labeled, image_of.tolist(), strict=True):
        if image < 0:
            continue
        if of_image[image] not in (None, label):
            raise LabelError(
                f"{where}: image {file.path_of(image)!r} is both {of_image[image]!r} and {label!r}; allowed: one label"
            )
        of_image[image] = label
    of_row = [of_image[image] for image in file.image_index.tolist()]
    return _labels_of_names(of_row, n_unknown=int((image_of < 0).sum()))


def _labels_of_names(names: Iterable[str | None], *, n_unknown: int = 0) -> Labels:
    """Return labels for a class name per row; None and empty names have no class."""
    classes = ClassNumbers[str]()
    numbers = np.array([*classes.numbers(name or "" for name in names)], dtype=np.int64)
    if not len(classes):  # without names, values would be the caller's own numbers, and -1 a class
        return Labels(None, (), n_unknown)
    return Labels(*classes.in_order(numbers, key=str), n_unknown)


def _read_table(file: FeatureTable, path: Path) -> Labels:
    if not os.path.isfile(path):
        raise ConfigError(
            f"labels are {str(path)!r}, where there is no file; allowed: 'box', 'image', or a table (.csv, .tsv)"
        )
    table = TableFile(os.fsencode(path), LabelError)
    of_image: list[tuple[bytes, str]] = []
    of_row: list[str | None] = [None] * file.n_rows
    with table.open_text() as text:
        lines = table.rows(text)
        line, header = next(lines, (1, []))
        label, image, row = _find_columns(table, line, header)
        for line, fields in lines:
            if row is not None:
                of_row[_row_number(table, line, fields[row], of_row)] = fields[label]
            elif image is not None:
                of_image.append((os.fsencode(fields[image]), fields[label]))
    return _labels_of_names(of_row) if row is not None else _labels_of_images(file, of_image, repr(str(path)))


def _find_columns(table: TableFile, line: int, header: Sequence[str]) -> tuple[int, int | None, int | None]:
    """Return the indices of the columns for labels, images and rows; None for one that is missing."""
    repeated = repeated_column(header, (*LABEL_NAMES, *IMAGE_NAMES, _ROW))
    if repeated:
        raise table.error(f"line {line}", f"the header has {repeated!r} twice; allowed: each column once")
    label, image, row = (find_column(header, choices) for choices in (LABEL_NAMES, IMAGE_NAMES, (_ROW,)))
    if label is None or (image is None and row is None):
        raise table.error(
            f"line {line}",
            f"the header is {one_line(','.join(header))!r}; "
            f"allowed: {'|'.join(LABEL_NAMES)}, and {_ROW}|{'|'.join(IMAGE_NAMES)}",
        )
    return label, image, row


def _row_number(table: TableFile, line: int, text: str, of_row: Sequence[str | None]) -> int:
    number = int(text) if text.strip().isdecimal() and len(text) < 20 else -1
    if not 0 <= number < len(of_row):
        raise table.error(f"line {line}", f"row is {one_line(repr(text))}; allowed: 0 to {len(of_row) - 1}")
    if of_row[number] is not None:
        raise table.error(f"line {line}", f"row {number} has a label already; allowed: each row once")
    return number
