"""Rows to train and test on: labeled, in classes that are large enough, and scaled layer by layer."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.rows import check_described, check_finite
from sppfeat.config.wording import counted, one_line
from sppfeat.errors import LabelError
from sppfeat.store.descriptor_columns import ColumnSelection
from sppfeat.store.selection import Selection

__all__ = ["ClassSize", "LabeledRows", "class_numbers", "labeled_rows", "scale_layers", "scaled_blocks"]

_SHOWN = 5


@dataclass(frozen=True)
class ClassSize:
    """Size of a class. Its members are images if rows are boxes, since folds keep images whole; else rows."""

    name: str
    n_rows: int
    n_members: int


@dataclass(frozen=True)
class LabeledRows:
    """Labeled rows of the classes that are large enough.

    Attributes:
        positions: ``(n,)`` int64 positions in the selection, ascending.
        y: ``(n,)`` int64 class of each row, an index into ``names``.
        groups: ``(n,)`` int64 image index of each row, if the rows of an image must stay together; else None.
        names: names of the classes that are large enough.
        left_out: classes with too few members.
        n_unlabeled: number of rows without a class.
    """

    positions: npt.NDArray[np.int64]
    y: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64] | None
    names: tuple[str, ...]
    left_out: tuple[ClassSize, ...]
    n_unlabeled: int


def labeled_rows(selection: Selection, *, min_per_class: int) -> LabeledRows:
    """Finds the rows of classes with at least ``min_per_class`` rows or, if rows are boxes, images with such rows.

    Raises:
        LabelError: the selection has no labels, no row has a label, or fewer than two classes are large enough.
        ConfigError: a row has no descriptor.
    """
    check_described(selection)
    classes, names = class_numbers(selection)
    grouped = selection.file.has_boxes
    has_class = np.flatnonzero(classes >= 0)
    if not len(has_class):
        raise LabelError(
            f"{str(selection.file.path)!r}: of {counted(len(classes), 'row')} none has a label; allowed: labels "
            "in the file, or from a table (--labels-from)"
        )
    members = np.unique(
        np.stack([classes[has_class], selection.groups[has_class] if grouped else has_class]), axis=1
    )
    n_rows = np.bincount(classes[has_class], minlength=len(names))
    n_members = np.bincount(members[0], minlength=len(names))
    kept = np.flatnonzero(n_members >= min_per_class)
    sizes = [ClassSize(names[i], int(n_rows[i]), int(n_members[i])) for i in np.flatnonzero(n_rows).tolist()]
    if len(kept) < 2:
        raise LabelError(_too_few(selection, sizes, min_per_class, "images" if grouped else "rows"))
    number = np.full(len(names), -1)
    number[kept] = np.arange(len(kept))
    positions = has_class[number[classes[has_class]] >= 0]
    return LabeledRows(
        positions=positions,
        y=number[classes[positions]],
        groups=selection.groups[positions] if grouped else None,
        names=tuple(names[i] for i in kept.tolist()),
        left_out=tuple(size for size in sizes if size.n_members < min_per_class),
        n_unlabeled=len(classes) - len(has_class),
    )


def class_numbers(selection: Selection) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Classes ``(n,)`` int64 of all rows, -1 for none, and the class names that they index.

    Classes that are numbers without names get their numbers as names.

    Raises:
        LabelError: the selection has no labels.
    """
    y = selection.y
    if y is None:
        raise LabelError(
            f"{str(selection.file.path)!r} has no labels; allowed: labels in the file, or from a table "
            "(--labels-from)"
        )
    if selection.target_names:
        return y.astype(np.int64), selection.target_names
    known = y == y  # not NaN
    if y.dtype.kind in "if":
        known &= y != -1
    values, numbers = np.unique(y[known], return_inverse=True)
    classes = np.full(len(y), -1)
    classes[known] = numbers
    return classes, [str(value) for value in values.tolist()]


def _too_few(selection: Selection, sizes: list[ClassSize], min_per_class: int, members: str) -> str:
    where = repr(str(selection.file.path))
    if len(sizes) == 1:
        name, n_rows = one_line(repr(sizes[0].name)), counted(sizes[0].n_rows, "row")
        return f"{where}: there is one class only, {name} of {n_rows}; needed are two"
    largest = sorted(sizes, key=lambda size: -size.n_members)[:_SHOWN]
    shown = ", ".join(f"{one_line(repr(size.name))} {size.n_members}" for size in largest)
    n_large = sum(size.n_members >= min_per_class for size in sizes)
    return (
        f"{where}: of {len(sizes)} classes {counted(n_large, 'has', 'have')} {min_per_class} {members} or more; "
        f"needed are two; the largest: {shown}. Fewer --folds need fewer {members}"
    )


def scaled_blocks(
    selection: Selection, positions: npt.NDArray[np.int64], *, nbytes: int
) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Yields ranges of positions in a selection and their rows ``(b, d)``, scaled by :func:`scale_layers`.

    A block takes ``nbytes`` bytes of float64, but holds at least one row.

    Raises:
        StoreError: a row holds NaN or infinities.
    """
    for part, rows in selection.blocks(positions, nbytes=nbytes // 2):  # which counts rows as float32
        check_finite(rows, selection, positions[part])
        yield part, scale_layers(rows, selection.columns)


def scale_layers(rows: npt.NDArray[np.floating[Any]], columns: ColumnSelection) -> npt.NDArray[np.float64]:
    """Rows ``(b, d)`` float64 whose ``n`` layers have l2 norm ``1 / sqrt(n)``, so that one C suits all files.

    A layer of zeros stays zero. The squares of float32 rows neither overflow nor underflow in float64.
    """
    scaled = rows.astype(np.float64)
    layers = columns.layer_ranges().values()
    for own in layers:
        part = scaled[:, own]
        norm = np.sqrt(len(layers) * np.einsum("ij,ij->i", part, part))[:, None]
        part /= np.where(norm == 0, math.inf, norm)
    return scaled
