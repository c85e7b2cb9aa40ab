"""Rows of a feature file for torch's ``DataLoader``."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["FeatureDataset"]


class FeatureDataset(Dataset[tuple[Tensor, Tensor]]):
    """Descriptors and classes of a selection, row by row, read through the memory map.

    It stays usable after the file is closed, and works in the processes of a ``DataLoader``, forked or spawned.

    Args:
        take: returns the descriptors ``(k, d)`` at positions ``(k,)`` int64 of the selection; it can be pickled.
        classes: ``(n,)`` class of each row, -1 for none.
        target_names: names of the classes by number.

    Attributes:
        target_names: names of the classes by number.
    """

    def __init__(
        self,
        take: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.floating[Any]]],
        classes: npt.NDArray[Any],
        target_names: list[str],
    ) -> None:
        take(np.arange(min(1, len(classes))))  # reads from the open file all that later calls need
        self._take = take
        self._targets = torch.as_tensor(classes)
        self.target_names = target_names

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the descriptor ``(d,)`` float32 and the class as an int64 number, -1 for none."""
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Return several rows at once, as ``DataLoader`` requests them."""
        positions = np.asarray(indices, dtype=np.int64)
        # Always a copy: nobody may write through the map.
        descriptors = torch.from_numpy(self._take(positions).astype(np.float32))
        return list(zip(descriptors, self._targets[torch.from_numpy(positions)], strict=True))
