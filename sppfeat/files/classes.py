"""Classes and ids of images as the rows of a table tell them."""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from sppfeat.files.paths import PathTable, PathTableBuilder, natural_key
from sppfeat.inputs.segments import OwnLabels

__all__ = ["IdBuilder", "LabelBuilder"]

_NONE = -1


class LabelBuilder:
    """Collects the class of each image, by its name.

    Args:
        classes: all there are, in their order; None: those that come, in natural order.
    """

    def __init__(self, classes: tuple[bytes, ...] | None = None) -> None:
        self._classes = classes
        self._number: dict[bytes, int] = {b"": _NONE}
        for name in classes or ():
            self._number[name] = len(self._number) - 1
        self._codes = array("q")

    def extend(self, names: Iterable[bytes]) -> None:
        """Add the classes of the next images; an empty name is none."""
        number = self._number
        self._codes.extend(number.setdefault(name, len(number) - 1) for name in names)

    def build(self) -> OwnLabels | None:
        """Return the class of every image; None where there are no classes."""
        if len(self._number) == 1:
            return None
        codes = np.array(self._codes, dtype=np.int64)
        if self._classes is not None:
            return OwnLabels(codes, self._classes)
        names = list(self._number)[1:]  # in the order of their numbers
        order = sorted(range(len(names)), key=lambda code: natural_key(names[code]))
        label_of = np.full(len(names) + 1, _NONE, dtype=np.int64)  # the last is for none
        label_of[order] = np.arange(len(order))
        return OwnLabels(label_of[codes], tuple(names[code] for code in order))


class IdBuilder:
    """Collects what the table calls each image."""

    def __init__(self) -> None:
        self._ids = PathTableBuilder()
        self._has_any = False

    def extend(self, ids: Sequence[bytes]) -> None:
        """Add those of the next images; they may be empty."""
        self._ids.extend(ids)
        self._has_any = self._has_any or any(ids)

    def build(self) -> PathTable | None:
        """Return those of all images; None where none has any."""
        return self._ids.build() if self._has_any else None
