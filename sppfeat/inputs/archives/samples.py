"""Classes and ids of images in WebDataset's layout, from members that share the key of an image."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sppfeat.files.paths import PathTable
from sppfeat.inputs.segments import OwnLabels, if_any, own_classes

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
        self._by_cls: dict[bytes, bytes] = {}
        self._by_json: dict[bytes, bytes] = {}
        self._ids: dict[bytes, bytes] = {}
        self._known: dict[bytes, bytes] = {}  # one object for all samples of a class

    def add(self, name: bytes, text: bytes) -> None:
        """Read a member."""
        key, extension = sample_key(name)
        if extension == b"cls":
            self._by_cls[key] = self._class(text.strip())
            return
        facts = _object(text)
        self._by_json[key] = self._class(_first_text(facts, _CLASS_KEYS))
        self._ids[key] = _first_text(facts, _ID_KEYS)

    def _class(self, name: bytes) -> bytes:
        """Return the name of a class; empty if it is no name."""
        name = name.partition(b"\0")[0]
        return self._known.setdefault(name, name) if len(name) <= _LONGEST_CLASS else b""

    def labels_of(self, names: Iterable[bytes]) -> OwnLabels | None:
        """Return the classes of images; None if none has a class."""
        keys = (sample_key(name)[0] for name in names)
        return own_classes(self._by_cls.get(key) or self._by_json.get(key, b"") for key in keys)

    def ids_of(self, names: Iterable[bytes]) -> PathTable | None:
        """Return the ids of images; None if none has an id."""
        return if_any(PathTable(self._ids.get(sample_key(name)[0], b"") for name in names))


def _object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object; empty if the text is not one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _first_text(facts: dict[str, Any], keys: Sequence[str]) -> bytes:
    """Encode the first value that is text or a whole number; empty if there is none."""
    for value in map(facts.get, keys):
        if isinstance(value, str) and value.partition("\0")[0]:
            return value.partition("\0")[0].encode("utf-8", "surrogatepass")
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
            return str(value).encode()
    return b""
