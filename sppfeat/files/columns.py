"""Which column of a table, or key of a JSON object, is what."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sppfeat.errors import BoxError
from sppfeat.files.cells import shorten

__all__ = ["COLUMN_SETS", "IMAGE_NAMES", "LABEL_NAMES", "LIST_KEYS", "Columns", "find_columns"]

IMAGE_NAMES = ("path", "image", "image_path", "file_name", "filename", "file")
LABEL_NAMES = ("label", "class", "category")
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


@dataclass(frozen=True)
class Columns:
    """Where each part of a box stands among the columns.

    Attributes:
        names: of all columns.
        image: column of the image's name.
        coordinates: the four columns of the box, or the one of its list.
        coordinate_names: what these are called in ``COLUMN_SETS`` or ``LIST_KEYS``.
        coords: how these are meant.
        label, score, box_id: columns; None where there is none.
        extra: every other column.
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


def find_columns(
    names: Sequence[str], sets: Mapping[tuple[str, ...], str], *, error: Callable[[str], BoxError]
) -> Columns:
    """Return which column is what; names count without case and surrounding blanks.

    Args:
        names: of the columns, in their order.
        sets: the names that together are a box, and how it is meant.
        error: makes an error that says where, of a text that says what.

    Raises:
        BoxError: names that are repeated, no image, no box, or more than one.
    """
    # An unnamed column is mostly the index that pandas writes.
    names = tuple(name.strip() or f"column_{i}" for i, name in enumerate(names, start=1))
    index: dict[str, int] = {}
    for i, name in enumerate(names):
        key = name.lower()
        if index.setdefault(key, i) != i:
            raise error(f"found {shorten(name)} twice; allowed: names that differ by more than case")
    coordinate_names = _coordinate_names(index, sets, error)
    image = _first_present(IMAGE_NAMES, index)
    if image is None:
        raise error(f"found {_show(names)}, which names no image; allowed: one of {', '.join(IMAGE_NAMES)}")
    label, score, box_id = (_first_present(choices, index) for choices in (LABEL_NAMES, _SCORE, _BOX_ID))
    coordinates = tuple(index[name] for name in coordinate_names)
    known = {image, label, score, box_id, *coordinates}
    return Columns(
        names=names,
        image=image,
        coordinates=coordinates,
        coordinate_names=coordinate_names,
        coords=sets[coordinate_names],
        label=label,
        score=score,
        box_id=box_id,
        extra=tuple(i for i in range(len(names)) if i not in known),
    )


def _coordinate_names(
    index: Mapping[str, int], sets: Mapping[tuple[str, ...], str], error: Callable[[str], BoxError]
) -> tuple[str, ...]:
    complete = [names for names in sets if all(name in index for name in names)]
    if "x0" in index and _FROM_1 in complete:  # x0 y0 x1 y1 and something else that is called x2 y2
        complete.remove(_FROM_1)
    if len(complete) != 1:
        number = "more than one box" if complete else "no box"
        allowed = " | ".join(",".join(names) for names in sets)
        raise error(f"found {_show(index)}, which is {number}; allowed: exactly one of {allowed}")
    return complete[0]


def _first_present(choices: Iterable[str], index: Mapping[str, int]) -> int | None:
    return next((index[name] for name in choices if name in index), None)


def _show(names: Iterable[str]) -> str:
    text = ", ".join(names)
    return repr(text if len(text) <= 200 else text[:197] + "...")
