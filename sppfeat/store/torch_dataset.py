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
    """Descriptors and classes of a selection, row by row, read through a memory map.

    The dataset stays usable after the file is closed, and in the worker processes of a ``DataLoader``.

    Args:
        take: returns the descriptors ``(k, d)`` at positions ``(k,)`` int64 of the selection; must be picklable.
        classes: ``(n,)`` class of each row, an index into ``target_names``; -1 for none.
        target_names: class names, also an attribute.
    """

    def __init__(
        self,
        take: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.floating[Any]]],
        classes: npt.NDArray[Any],
        target_names: list[str],
    ) -> None:
        take(np.arange(min(1, len(classes))))  # reads what later calls need while the file is open
        self._take = take
        self._targets = torch.as_tensor(classes)
        self.target_names = target_names

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the descriptor ``(d,)`` float32, and the class as an int64 scalar, -1 for none."""
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Return several rows at once, as ``DataLoader`` requests them."""
        positions = np.asarray(indices, dtype=np.int64)
        # Always a copy: the memory map must stay read-only.
        descriptors = torch.from_numpy(self._take(positions).astype(np.float32))
        return list(zip(descriptors, self._targets[torch.from_numpy(positions)], strict=True))
