"""The conditions that select rows of a feature file."""

import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sppfeat.config.regions import RowFlag
from sppfeat.config.wording import first_few, one_line
from sppfeat.errors import ConfigError
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.labels import Labels
from sppfeat.store.schema import Status

__all__ = ["RowsLike", "select_rows"]

RowsLike: TypeAlias = "str | Sequence[str] | slice | Sequence[int] | npt.NDArray[Any] | None"
_CONDITIONS = (
    "A:B, N,N,..., label=NAME, image=PATH, status=done|failed|pending|any, "
    "flag=ok|clipped|sub-cell|degenerate"
)

# Numbers of at most 18 digits, so that they fit into int64.
_SLICE = re.compile(r"(-?[0-9]{1,18})?:(-?[0-9]{1,18})?(?::([0-9]{1,18}))?")
_NUMBERS = re.compile(r"[0-9]{1,18}(?:,[0-9]{1,18})*")
_WILD = re.compile(r"[*?\[]")
_STATUS = {status.name.lower(): status for status in Status}
_FLAG = {"clipped": RowFlag.CLIPPED, "sub-cell": RowFlag.SUB_CELL, "degenerate": RowFlag.DEGENERATE}
_CHOICES = {"label": None, "image": None, "status": (*_STATUS, "any"), "flag": ("ok", *_FLAG)}
_SHOWN = 10


def select_rows(file: FeatureTable, rows: RowsLike, labels: Labels) -> npt.NDArray[np.int64]:
    """Return the indices of the selected rows, ``(n,)`` int64; see :meth:`sppfeat.store.reader.FeatureFile.select`."""
    if rows is None:
        rows = slice(None)
    if isinstance(rows, str):
        rows = [rows]
    if isinstance(rows, slice):
        return np.flatnonzero(_in_range(file.n_rows, rows) & file.has_descriptor())
    if len(rows) and all(isinstance(row, str) for row in rows):
        return _select_by_conditions(file, _parse_conditions(map(str, rows)), labels)
    numbers = np.asarray(rows)
    if numbers.dtype == bool:
        if numbers.shape != (file.n_rows,):
            raise ConfigError(f"rows are a mask of shape {numbers.shape}; allowed: ({file.n_rows},)")
        return np.flatnonzero(numbers & file.has_descriptor())
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise ConfigError(f"rows are {numbers.dtype} of shape {numbers.shape}; allowed: whole numbers, (n,)")
    return _existing(file, numbers.astype(np.int64), needs_descriptor=True)


def _parse_conditions(texts: Iterable[str]) -> dict[str, list[str]]:
    """Group textual conditions by kind: ``label``, ``image``, ``status``, ``flag`` or ``number``."""
    conditions: dict[str, list[str]] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if _SLICE.fullmatch(text) or _NUMBERS.fullmatch(text):
            key, value = "number", text
        elif key not in _CHOICES or not value:
            raise ConfigError(f"rows are {one_line(repr(text))}; allowed: {_CONDITIONS}")
        elif (choices := _CHOICES[key]) and value not in choices:
            raise ConfigError(f"rows are {text!r}; allowed: {key}={'|'.join(choices)}")
        conditions.setdefault(key, []).append(value)
    if len(conditions.get("number", ())) > 1:
        raise ConfigError(f"rows are {' and '.join(conditions['number'])}; allowed: numbers or a range once")
    return conditions


def _select_by_conditions(
    file: FeatureTable, conditions: dict[str, list[str]], labels: Labels
) -> npt.NDArray[np.int64]:
    wanted = np.ones(file.n_rows, dtype=bool)
    statuses = conditions.get("status")
    if statuses is None:
        wanted &= file.has_descriptor()
    elif "any" not in statuses:
        wanted &= np.isin(file.status[file.image_index], [_STATUS[name] for name in statuses])
    if "label" in conditions:
        wanted &= _has_label(labels, conditions["label"])
    if "image" in conditions:
        images = {
            i for name in conditions["image"] for i in _fitting(name, file.paths, "image", end=f"/{name}")
        }
        wanted &= np.isin(file.image_index, sorted(images))
    if "flag" in conditions:
        wanted &= _has_flag(file, conditions["flag"])
    if "number" not in conditions:
        return np.flatnonzero(wanted)
    (text,) = conditions["number"]
    if match := _SLICE.fullmatch(text):
        start, stop, step = (int(part) if part else None for part in match.groups())
        if step == 0:
            raise ConfigError(f"rows are {text!r}; allowed: a step of 1 or more")
        return np.flatnonzero(wanted & _in_range(file.n_rows, slice(start, stop, step)))
    numbers = np.array(text.split(","), dtype=np.int64)
    numbers = _existing(
        file, numbers, needs_descriptor=statuses is None, otherwise="; status=any takes such rows, too"
    )
    return numbers[wanted[numbers]]


def _in_range(n_rows: int, rows: slice) -> npt.NDArray[np.bool_]:
    inside = np.zeros(n_rows, dtype=bool)
    inside[rows] = True
    return inside


def _existing(
    file: FeatureTable, numbers: npt.NDArray[np.int64], *, needs_descriptor: bool, otherwise: str = ""
) -> npt.NDArray[np.int64]:
    """Return the indices if such rows exist; ``otherwise`` ends the message about rows without a descriptor."""
    outside = numbers[(numbers < 0) | (numbers >= file.n_rows)]
    if len(outside):
        known = (
            f" of {file.n_rows}; allowed: 0 to {file.n_rows - 1}" if file.n_rows else "; the file has no rows"
        )
        raise ConfigError(f"row {outside[0]}{known}")
    without = numbers[~file.has_descriptor()[numbers]] if needs_descriptor else numbers[:0]
    if len(without):
        image = int(file.image_index[without[0]])
        raise ConfigError(
            f"row {without[0]} ({file.path_of(image)!r}) has no descriptor: its image failed or is pending, or its "
            f"box has no area{otherwise}"
        )
    return numbers


def _has_label(labels: Labels, patterns: Sequence[str]) -> npt.NDArray[np.bool_]:
    if labels.values is None or not labels.names:
        raise ConfigError(f"rows are label={patterns[0]}, but no classes are known")
    chosen = {i for pattern in patterns for i in _fitting(pattern, labels.names, "label")}
    return np.isin(labels.values, sorted(chosen))


def _fitting(pattern: str, names: Sequence[str], what: str, *, end: str | None = None) -> list[int]:
    """Return the indices of the names that equal a pattern, match its wildcards, or end with ``end``."""
    fits = re.compile(fnmatch.translate(pattern)).match if _WILD.search(pattern) else pattern.__eq__
    found = [
        i for i, name in enumerate(names) if fits(name) or name == pattern or (end and name.endswith(end))
    ]
    if not found:
        shown = first_few(map(repr, names), _SHOWN)
        raise ConfigError(f"rows are {what}={one_line(pattern)}, which fits none of {shown or 'no images'}")
    return found


def _has_flag(file: FeatureTable, names: Sequence[str]) -> npt.NDArray[np.bool_]:
    if not file.has_boxes:
        raise ConfigError(f"rows are flag={names[0]}, but the rows of this file are whole images, not boxes")
    flag = file.row_flag
    chosen = np.zeros(len(flag), dtype=bool)
    for name in names:
        chosen |= flag == RowFlag.OK if name == "ok" else (flag & _FLAG[name]) != 0
    return chosen
