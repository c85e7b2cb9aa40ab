"""Numbering of class names."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["NO_CLASS", "ClassNumbers"]

NO_CLASS = -1
"""The label of an image or box without a class."""

_Name = TypeVar("_Name", bytes, str)


class ClassNumbers(Generic[_Name]):
    """Numbers class names in the order of their first appearance.

    Args:
        names: classes known in advance, in the order of their numbers.

    Example:
        >>> classes = ClassNumbers(["dog"])
        >>> numbers = np.array([*classes.numbers(["cat", "", "dog"])])
        >>> numbers.tolist(), classes.names
        ([1, -1, 0], ('dog', 'cat'))
        >>> labels, names = classes.in_order(numbers, key=str)
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
        """Return the number of a class; a new one is added."""
        return self._number.setdefault(name, len(self._number))

    def numbers(self, names: Iterable[_Name]) -> Iterator[int]:
        """Yield the number of each class; ``NO_CLASS`` for an empty name."""
        number = self._number
        return (number.setdefault(name, len(number)) if name else NO_CLASS for name in names)

    def in_order(
        self, numbers: npt.NDArray[np.integer], *, key: Callable[[_Name], Any]
    ) -> tuple[npt.NDArray[np.int64], tuple[_Name, ...]]:
        """Renumber the classes in use, in the order of their names.

        Args:
            numbers: ``(n,)`` integers from :meth:`numbers`.
            key: sort key of a name.

        Returns:
            ``(n,)`` int64 labels, with ``NO_CLASS`` unchanged, and the names of the classes in use.
        """
        names = self.names
        used = np.unique(numbers[numbers != NO_CLASS]).tolist()
        order = sorted(used, key=lambda number: key(names[number]))
        label_of = np.full(len(names) + 1, NO_CLASS, dtype=np.int64)  # the last is for NO_CLASS
        label_of[order] = np.arange(len(order))
        return label_of[numbers], tuple(names[number] for number in order)
