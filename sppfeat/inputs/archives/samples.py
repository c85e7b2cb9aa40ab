"""Classes and ids of images in WebDataset's layout, from members that share the key of an image."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sppfeat.files.classes import NO_CLASS, ClassNumbers
from sppfeat.files.paths import PathTable, natural_key
from sppfeat.inputs.segments import OwnLabels

__all__ = ["LONGEST_TEXT", "SampleTexts", "is_sample_text", "sample_key"]

LONGEST_TEXT = 1 << 20
"""Size of the longest text member that is read, in bytes."""

_LONGEST_CLASS = 1000
_CLASS_KEYS = ("class_name", "label", "class", "cls", "category")  # names come before numbers
_ID_KEYS = ("id", "key")


def sample_key(name: bytes) -> tuple[bytes, bytes]:
    """Split the name of a member at the first dot of its file name, into the key of its sample and the extension.

    Example:
        >>> sample_key(b"a.b/0001.seg.PNG")
        (b'a.b/0001', b'seg.png')
    """
    folder, slash, last = name.rpartition(b"/")
    stem, _, extension = last.partition(b".")
    return folder + slash + stem, extension.lower()


def is_sample_text(name: bytes) -> bool:
    """Return True if a member describes the images of its sample."""
    return sample_key(name)[1] in (b"cls", b"json")


class SampleTexts:
    """Collects classes and ids from the members ``KEY.cls`` and ``KEY.json``; the last one of each name counts."""

    def __init__(self) -> None:
        self._classes = ClassNumbers[bytes]()
        self._by_cls: dict[bytes, int] = {}
        self._by_json: dict[bytes, int] = {}
        self._ids: dict[bytes, bytes] = {}

    def add(self, name: bytes, text: bytes) -> None:
        """Read a member."""
        key, extension = sample_key(name)
        if extension == b"cls":
            _set(self._by_cls, key, self._class(text.strip()))
            return
        facts = _object(text)
        said = (_text(facts.get(name)) for name in _CLASS_KEYS)
        _set(self._by_json, key, self._class(next(filter(None, said), b"")))
        _set(self._ids, key, next(filter(None, (_text(facts.get(name)) for name in _ID_KEYS)), None))

    def _class(self, name: bytes) -> int | None:
        name = name.partition(b"\0")[0]
        return self._classes.number(name) if 0 < len(name) <= _LONGEST_CLASS else None

    def labels_of(self, names: Sequence[bytes]) -> OwnLabels | None:
        """Return the classes of images; None if none has a class."""
        if not len(self._classes):
            return None
        numbers = np.fromiter(map(self._label, names), dtype=np.int64, count=len(names))
        if (numbers == NO_CLASS).all():
            return None
        return OwnLabels(*self._classes.in_order(numbers, key=natural_key))

    def _label(self, name: bytes) -> int:
        key, _ = sample_key(name)
        return self._by_cls.get(key, self._by_json.get(key, NO_CLASS))

    def ids_of(self, names: Iterable[bytes]) -> PathTable | None:
        """Return the ids of images; None if none has an id."""
        if not self._ids:
            return None
        ids = PathTable(self._ids.get(sample_key(name)[0], b"") for name in names)
        return ids if any(ids) else None


def _set(known: dict[bytes, Any], key: bytes, value: Any) -> None:
    if value is None:
        known.pop(key, None)
    else:
        known[key] = value


def _object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object; empty if the text is not one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(value: object) -> bytes | None:
    """Encode text or a whole number; None for everything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value).encode() if abs(value) < 1 << 64 else None
    return value.encode("utf-8", "surrogatepass").partition(b"\0")[0] if isinstance(value, str) else None
