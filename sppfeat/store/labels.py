"""Class labels of the rows of a feature file: its own, or those of a table, a mapping or an array."""

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sppfeat.config.values import EncodedPath, StrPath
from sppfeat.config.wording import counted, first_few, one_line
from sppfeat.errors import BoxError, ConfigError, LabelError
from sppfeat.files.columns import IMAGE_NAMES, LABEL_NAMES, NO_CLASS, ClassNumbers, find_unique_column
from sppfeat.files.image_names import match_images
from sppfeat.files.paths import PathIndex, PathTable
from sppfeat.files.tables import TableFile
from sppfeat.store.feature_table import FeatureTable

__all__ = ["LabelSource", "Labels", "read_labels"]

# Sources of labels; see read_labels.
LabelSource: TypeAlias = "StrPath | Mapping[str, str] | Sequence[Any] | npt.NDArray[Any] | None"
_ROW = "row"
_SHOWN = 10
_SHOWN_UNKNOWN = 3


@dataclass(frozen=True)
class Labels:
    """Class labels of all rows of a file."""

    # ``(R,)``, index into ``names`` or -1; without names, the caller's own numbers; None if no classes are known.
    values: npt.NDArray[Any] | None
    names: tuple[str, ...]
    source: str = ""  # name of the table or mapping, for messages; empty without one
    n_unknown: int = 0  # number of its names that match no image of the file
    notes: tuple[str, ...] = ()  # remarks on how its names match the images

    def name_of(self, row: int) -> str | None:
        """Return the class name of a row, or the number that the caller gave; None if there is no label."""
        if self.values is None:
            return None
        value = self.values[row]
        if not self.names:
            return str(value)
        return self.names[value] if 0 <= value < len(self.names) else None

    def names_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.str_] | None:
        """Return the class names of rows ``(n,)``, empty for none; None if no classes are known.

        Raises:
            LabelError: the labels are the caller's own numbers.
        """
        if self.values is None:
            return None
        return np.array([*self.names, ""])[self._numbers("names=True")[rows]]

    def notes_on(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Return notes about names without an image and about rows, among ``(n,)``, without a label."""
        notes = list(self.notes)
        if self.source:
            n = len(rows) if self.values is None else int((self.values[rows] == NO_CLASS).sum())
            if n:
                has = "has" if n == 1 else "have"
                notes.append(f"{self.source}: {n} of {counted(len(rows), 'row')} {has} no label")
        return notes

    def renumbered(self, classes: Iterable[str], of: str, rows: npt.NDArray[np.int64]) -> "Labels":
        """Return the labels numbered by the given classes; ``of`` names their origin in messages.

        Raises:
            LabelError: the classes are not a sequence of different names, some of the rows ``(n,)`` have another
                class, or the labels are the caller's own numbers.
        """
        known = _check_classes(classes, of)
        if self.values is None:
            return self
        number, own = {name: i for i, name in enumerate(known)}, self._numbers(of)
        values = np.array([*(number.get(name, NO_CLASS) for name in self.names), NO_CLASS])[own]
        foreign = own[rows][(values[rows] == NO_CLASS) & (own[rows] != NO_CLASS)]
        if len(foreign):
            counts = Counter(self.names[i] for i in foreign.tolist())
            found = first_few((f"{one_line(repr(name))} {n}" for name, n in counts.most_common()), _SHOWN)
            raise LabelError(
                f"{counted(len(foreign), 'row has a class', 'rows have classes')} that {of} lacks: {found}; allowed: "
                f"{first_few(map(repr, known), _SHOWN)}. Leave such rows out with --rows (rows=), or take "
                "names as y (names=True)"
            )
        return dataclasses.replace(self, values=values, names=known)

    def _numbers(self, wanted: str) -> npt.NDArray[np.int64]:
        """Return ``(R,)`` indices into the names; ``NO_CLASS`` also where a damaged file has other numbers."""
        if self.values is None or not self.names:
            raise LabelError(
                f"{wanted} needs class names, but the labels are numbers; allowed: labels as text"
            )
        is_known = (self.values >= 0) & (self.values < len(self.names))
        return np.where(is_known, self.values, NO_CLASS).astype(np.int64)


def _check_classes(classes: Iterable[str], of: str) -> tuple[str, ...]:
    if isinstance(classes, str | bytes | Mapping | Set) or not isinstance(classes, Iterable):
        found = one_line(repr(classes))
        raise LabelError(
            f"{of} is {found}; allowed: a sequence of class names, in the order of their numbers"
        )
    names = tuple(classes)
    if not names:
        raise LabelError(f"{of} is empty; allowed: a sequence of class names, in the order of their numbers")
    wrong = [repr(name) for name in names if not isinstance(name, str)]
    if not wrong:
        wrong = [f"{name!r} {n} times" for name, n in Counter(names).items() if n > 1]
    if wrong:
        raise LabelError(f"{of} holds {one_line(wrong[0])}; allowed: class names as text, each once")
    return tuple(map(str, names))


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
        pairs = [(os.fsencode(path), _class_name(label) or "") for path, label in source.items()]
        return _labels_of_images(file, pairs, "the labels")
    if isinstance(source, str | os.PathLike):
        encoding = source.encoding if isinstance(source, EncodedPath) else None
        return _read_table(file, Path(source), encoding)
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
    is_na = type(value).__name__ == "NAType"  # from pandas; comparing it gives NA again
    return None if value is None or is_na or value != value else str(value)


def _labels_of_images(file: FeatureTable, labeled: list[tuple[bytes, str]], where: str) -> Labels:
    """Match labels to images by name; an image named twice must have the same label both times."""
    try:
        names = [name for name, _ in labeled]
        image_of, matching = match_images(names, os.fsencode(file.root), file.path_table)
    except BoxError as error:
        raise LabelError(f"{where}: {error}") from error
    if labeled and file.n_images and (image_of < 0).all():
        raise LabelError(
            f"{where}: none of the names ({len(labeled)}) is an image of {str(file.path)!r}; the first is "
            f"{one_line(repr(os.fsdecode(labeled[0][0])))}, the first image {file.path_of(0)!r}"
            f"{''.join(f'; {note}' for note in matching)}. Use the paths or file names of the images"
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
    pairs = zip(labeled, image_of.tolist(), strict=True)
    unknown = list(dict.fromkeys(name for (name, _), image in pairs if image < 0))
    labels = _labels_of_names(of_row)
    notes = [f"{where}: {note}" for note in matching]
    if unknown:
        n = f"{len(unknown)} of {counted(len({name for name, _ in labeled}), 'name')}"
        shown = first_few((one_line(repr(os.fsdecode(name))) for name in unknown), _SHOWN_UNKNOWN)
        match = "matches" if len(unknown) == 1 else "match"
        notes.append(f"{where}: {n} {match} no image of {str(file.path)!r}: {shown}")
    return dataclasses.replace(labels, source=where, n_unknown=len(unknown), notes=tuple(notes))


def _labels_of_names(names: Iterable[str | None]) -> Labels:
    """Return labels for a class name per row, numbered in natural order; None and empty names have no class."""
    classes = ClassNumbers[str]()
    numbers = np.array([*classes.numbers(name or "" for name in names)], dtype=np.int64)
    if not len(classes):  # without names, values would be the caller's own numbers, and -1 a class
        return Labels(None, ())
    return Labels(*classes.in_order(numbers))


def _read_table(file: FeatureTable, path: Path, encoding: str | None) -> Labels:
    if not os.path.isfile(path):
        raise ConfigError(
            f"no such table of labels: {str(path)!r}; allowed: 'box', 'image', or a table (.csv, .tsv)"
        )
    table = TableFile(os.fsencode(path), LabelError, encoding)
    of_image: list[tuple[bytes, str]] = []
    of_row: list[str | None] = [None] * file.n_rows
    paths: list[tuple[int, int, bytes]] = []  # lines with a row and a path
    known = {*file.classes, *file.row_classes}  # class names that may begin or end with blanks
    with table.open_text() as text:
        lines = table.rows(text)
        line, header = next(lines, (1, []))
        label, image, row = _find_columns(table, line, header)
        for line, fields in lines:
            name = fields[label] if fields[label] in known else fields[label].strip()
            if row is not None:
                number = _row_number(table, line, fields[row], of_row)
                of_row[number] = name
                if image is not None:
                    paths.append((line, number, os.fsencode(fields[image])))
            elif image is not None:
                of_image.append((os.fsencode(fields[image]), name))
    where = repr(str(path))
    if row is None:
        return _labels_of_images(file, of_image, where)
    _check_paths_of_rows(file, table, paths)
    return dataclasses.replace(_labels_of_names(of_row), source=where)


def _check_paths_of_rows(
    file: FeatureTable, table: TableFile, paths: Sequence[tuple[int, int, bytes]]
) -> None:
    """Refuse a table made for another file: its paths are other images than its rows."""
    image_of = PathIndex(file.path_table).positions(PathTable(path for *_, path in paths))
    for (line, row, path), image, own in zip(
        paths, image_of.tolist(), file.image_index[[row for _, row, _ in paths]].tolist(), strict=True
    ):
        if image not in (-1, own):
            raise table.error(
                f"line {line}",
                f"row {row} belongs to {file.path_of(own)!r}, but the path is {one_line(repr(os.fsdecode(path)))}; "
                "use the rows of this file, or a table without the column 'row'",
            )


def _find_columns(table: TableFile, line: int, header: Sequence[str]) -> tuple[int, int | None, int | None]:
    """Return the indices of the columns for labels, images and rows; None for one that is missing."""
    error = functools.partial(table.error, f"line {line}")
    of_each = (LABEL_NAMES, IMAGE_NAMES, (_ROW,))
    label, image, row = (find_unique_column(header, choices, error=error) for choices in of_each)
    if label is None or (image is None and row is None):
        raise error(
            f"the header is {one_line(','.join(header))!r}; "
            f"allowed: {'|'.join(LABEL_NAMES)}, and {_ROW}|{'|'.join(IMAGE_NAMES)}"
        )
    return label, image, row


def _row_number(table: TableFile, line: int, text: str, of_row: Sequence[str | None]) -> int:
    number = int(text) if text.strip().isdecimal() and len(text) < 20 else -1
    if not 0 <= number < len(of_row):
        raise table.error(f"line {line}", f"row is {one_line(repr(text))}; allowed: 0 to {len(of_row) - 1}")
    if of_row[number] is not None:
        raise table.error(f"line {line}", f"row {number} has a label already; allowed: each row once")
    return number
