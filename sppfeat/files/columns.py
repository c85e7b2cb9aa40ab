"""Columns of image and box tables, found by their usual names, and the numbering of their classes."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import first_few, one_line
from sppfeat.errors import SppfeatError
from sppfeat.files.paths import natural_key
from sppfeat.files.tables import IMAGE_NAMES, PATH_NAMES, shorten, show_names

__all__ = [
    "CLASS_NAMES",
    "COLUMN_SETS",
    "ID_NAMES",
    "IMAGE_NAMES",
    "LABEL_NAMES",
    "LIST_KEYS",
    "NO_CLASS",
    "BoxColumns",
    "ClassNumbers",
    "ImageColumns",
    "describe_columns",
    "find_box_columns",
    "find_column",
    "find_image_columns",
    "find_path_column",
    "find_unique_column",
    "looks_like_boxes",
]

LABEL_NAMES = ("label", "class", "category")

# Class names take precedence over class numbers.
CLASS_NAMES = ("class_name", "label_name", "category_name", *LABEL_NAMES)
ID_NAMES = ("image_id", "id", "key", "uid")

_SHOWN_NAMES = 5
_SCORE = ("score", "confidence")
_BOX_ID = ("id", "box_id")

_FROM_0 = ("x0", "y0", "x1", "y1")
_FROM_1 = ("x1", "y1", "x2", "y2")

COLUMN_SETS: Mapping[tuple[str, ...], str] = {
    _FROM_0: "xyxy",
    ("xmin", "ymin", "xmax", "ymax"): "xyxy",
    _FROM_1: "xyxy",
    ("x", "y", "w", "h"): "xywh",
    ("x", "y", "width", "height"): "xywh",
    ("cx", "cy", "w", "h"): "cxcywh",
    ("cx", "cy", "width", "height"): "cxcywh",
}
LIST_KEYS: Mapping[tuple[str, ...], str] = {("box",): "xyxy", ("bbox",): "xywh"}


_MakeError = Callable[[str], SppfeatError]
"""Makes an error that names the file and the line, from a message."""


def find_column(names: Sequence[str], choices: Sequence[str]) -> int | None:
    """Find the column for the first choice that a table has; None if it has none of them.

    Names are compared without case and surrounding blanks.

    Example:
        >>> find_column([" Category", "LABEL"], LABEL_NAMES), find_column(["x"], LABEL_NAMES)
        (1, None)
    """
    plain = _plain(names)
    return next((plain.index(choice) for choice in choices if choice in plain), None)


def _plain(names: Iterable[str]) -> list[str]:
    return [name.strip().lower() for name in names]


class ImageColumns(NamedTuple):
    """The indices of the columns of a table of images, None for one that is missing, and their names in words."""

    path: int
    label: int | None
    image_id: int | None
    has_boxes: bool
    text: str


def find_image_columns(names: Sequence[str], *, error: _MakeError) -> ImageColumns:
    """Find the columns of a table of images; raise the error unless exactly one has the paths and no name repeats."""
    path = find_path_column(names, error=error)
    label = find_unique_column(names, CLASS_NAMES, error=error)
    image_id = find_unique_column(names, ID_NAMES, error=error)
    used = {"paths": path, "classes": label, "ids": image_id}
    text = describe_columns(names, {what: i for what, i in used.items() if i is not None})
    return ImageColumns(path, label, image_id, looks_like_boxes(names), text)


def describe_columns(names: Sequence[str], used: Mapping[str, int], *, others: str = "ignored") -> str:
    """Describe which columns of a table hold what, by their indices, and name the other ones.

    Example:
        >>> describe_columns(["path", "w", "label"], {"paths": 0, "classes": 2})
        "paths from 'path', classes from 'label'; ignored: w"
    """
    left = [name for i, name in enumerate(names) if i not in used.values()]
    text = ", ".join(f"{what} from {shorten(names[i])}" for what, i in used.items())
    return f"{text}; {others}: {one_line(first_few(left, _SHOWN_NAMES))}" if left else text


def find_path_column(names: Sequence[str], *, error: _MakeError) -> int:
    """Find the column of image paths; raise the error unless there is exactly one."""
    candidates = [name for name in PATH_NAMES if name in _plain(names)]
    column = find_unique_column(names, candidates, error=error) if len(candidates) == 1 else None
    if column is not None:
        return column
    number = "several columns could hold the paths" if candidates else "no column holds the paths"
    raise error(f"{number}: found {show_names(names)}; allowed: exactly one of {'|'.join(PATH_NAMES)}")


def looks_like_boxes(names: Sequence[str]) -> bool:
    """Return True if some of the columns together could hold a box."""
    known = set(_plain(names))
    return any(known.issuperset(box) for box in (*COLUMN_SETS, *LIST_KEYS))


def find_unique_column(names: Sequence[str], choices: Sequence[str], *, error: _MakeError) -> int | None:
    """Find a column as :func:`find_column` does; raise the error if two columns have its name."""
    column = find_column(names, choices)
    if column is None:
        return None
    plain = _plain(names)
    if plain.count(plain[column]) > 1:
        raise error(f"found the column {plain[column]!r} twice in {show_names(names)}; allowed: once")
    return column


class BoxColumns(NamedTuple):
    """The names of all columns of a table of boxes, and the indices of those for each purpose; None if missing.

    The box is in four columns, or in one that holds a list. ``coordinate_names`` are their names in ``COLUMN_SETS`` or
    ``LIST_KEYS``, and ``coords`` is the meaning of the numbers, such as ``xyxy``. ``extra`` are all other columns.
    """

    names: tuple[str, ...]
    image: int
    coordinates: tuple[int, ...]
    coordinate_names: tuple[str, ...]
    coords: str
    label: int | None
    score: int | None
    box_id: int | None
    extra: tuple[int, ...]

    @property
    def text(self) -> str:
        """The purpose of each column, in words."""
        used = {"image names": self.image, "classes": self.label, "scores": self.score, "ids": self.box_id}
        names = [name for i, name in enumerate(self.names) if i not in self.coordinates]
        found = {what: names.index(self.names[i]) for what, i in used.items() if i is not None}
        own = describe_columns(names, found, others="also kept")
        return f"box columns: {','.join(self.coordinate_names)}; {own}"


def find_box_columns(
    names: Sequence[str], sets: Mapping[tuple[str, ...], str], *, label: str | None = None, error: _MakeError
) -> BoxColumns:
    """Find the columns of a table of boxes; names are compared without case and surrounding blanks.

    ``sets`` are names of columns that together hold a box, with the meaning of its numbers; ``label`` is the name of
    the column of classes, None for the usual ones. The error is raised if a name repeats, no column has image names,
    or not exactly one set holds a box.
    """
    # An unnamed column is usually the index that pandas writes.
    names = tuple(name.strip() or f"column_{i}" for i, name in enumerate(names, start=1))
    index: dict[str, int] = {}
    for i, name in enumerate(names):
        key = name.lower()
        if index.setdefault(key, i) != i:
            raise error(f"found {shorten(name)} twice; allowed: names that differ by more than case")
    coordinate_names = _coordinate_names(index, sets, error)
    image = find_column(names, IMAGE_NAMES)
    if image is None:
        raise error(
            f"found {show_names(names)}, without a column of image names; allowed: one of {', '.join(IMAGE_NAMES)}"
        )
    labels = LABEL_NAMES if label is None else (label.strip().lower(),)
    of_class, score, box_id = (find_column(names, choices) for choices in (labels, _SCORE, _BOX_ID))
    if label is not None and of_class is None:
        raise error(f"found {show_names(names)}, but no column {label!r}; --box-label takes one of these")
    coordinates = tuple(index[name] for name in coordinate_names)
    known = {image, of_class, score, box_id, *coordinates}
    return BoxColumns(
        names=names,
        image=image,
        coordinates=coordinates,
        coordinate_names=coordinate_names,
        coords=sets[coordinate_names],
        label=of_class,
        score=score,
        box_id=box_id,
        extra=tuple(i for i in range(len(names)) if i not in known),
    )


def _coordinate_names(
    index: Mapping[str, int], sets: Mapping[tuple[str, ...], str], error: _MakeError
) -> tuple[str, ...]:
    complete = [names for names in sets if all(name in index for name in names)]
    if {"x3", "y3"} <= index.keys() and not {_FROM_0, _FROM_1}.isdisjoint(complete):
        rule = "the two opposite corners of an upright box, without x3 and y3"
        raise error(f"found {show_names([*index])}, the corners of rotated boxes; allowed: {rule}")
    if "x0" in index and _FROM_1 in complete:  # then the box is x0 y0 x1 y1, and x2 y2 mean something else
        complete.remove(_FROM_1)
    if len(complete) != 1:
        number = "more than one box" if complete else "no box"
        allowed = " | ".join(",".join(names) for names in sets)
        raise error(
            f"found {show_names([*index])}, which describes {number}; allowed: exactly one of {allowed}"
        )
    return complete[0]


NO_CLASS = -1
"""The label of an image or box without a class."""

_Name = TypeVar("_Name", bytes, str)


class ClassNumbers(Generic[_Name]):
    """Numbers class names in the order of their first appearance, after those known in advance.

    Example:
        >>> classes = ClassNumbers(["dog"])
        >>> numbers = np.array([*classes.numbers(["cat", "", "dog"])])
        >>> numbers.tolist(), classes.names
        ([1, -1, 0], ('dog', 'cat'))
        >>> labels, names = classes.in_order(numbers)
        >>> labels.tolist(), names
        ([0, -1, 1], ('cat', 'dog'))
    """

    def __init__(self, names: Iterable[_Name] = ()) -> None:
        self._number: dict[_Name, int] = {}
        for name in names:
            self.number(name)

    def __len__(self) -> int:
        return len(self._number)

    @property
    def names(self) -> tuple[_Name, ...]:
        """All classes, in the order of their numbers."""
        return tuple(self._number)

    def number(self, name: _Name) -> int:
        """Return the number of a class, adding it if it is new."""
        return self._number.setdefault(name, len(self._number))

    def numbers(self, names: Iterable[_Name]) -> Iterator[int]:
        """Yield the number of each class; ``NO_CLASS`` for an empty name."""
        number = self._number
        return (number.setdefault(name, len(number)) if name else NO_CLASS for name in names)

    def renumbering(self, names: Iterable[_Name]) -> npt.NDArray[np.int64]:
        """Return this numbering for classes numbered differently elsewhere, to be indexed by labels from there.

        The result is ``(len(names) + 1,)``: the last entry is ``NO_CLASS``, for labels without a class. New classes are
        added.
        """
        return np.array([*map(self.number, names), NO_CLASS], dtype=np.int64)

    def in_order(self, numbers: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.int64], tuple[_Name, ...]]:
        """Renumber the classes in use, in the natural order of their names, and return the labels and these names.

        ``numbers`` are ``(n,)`` integers from :meth:`numbers`, and the labels ``(n,)`` int64; ``NO_CLASS`` stays.
        """
        names = self.names
        used = np.unique(numbers[numbers != NO_CLASS]).tolist()
        order = sorted(used, key=lambda number: natural_key(os.fsencode(names[number])))
        label_of = np.full(len(names) + 1, NO_CLASS, dtype=np.int64)  # the last one is for NO_CLASS
        label_of[order] = np.arange(len(order))
        return label_of[numbers], tuple(names[number] for number in order)
