"""Rows of a feature file for torch's ``DataLoader``."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from sppfeat.store.selection import Selection

__all__ = ["FeatureDataset"]


class FeatureDataset(Dataset[tuple[Tensor, Tensor]]):
    """Descriptors and classes of a selection, row by row, read through the memory map.

    It outlives the closing of the file, and works in the processes of a ``DataLoader``, started either way.

    Args:
        selection: which rows and columns.

    Attributes:
        target_names: what the classes' numbers stand for.
    """

    def __init__(self, selection: "Selection") -> None:
        selection.take(np.arange(min(1, len(selection))))  # what it reads of the file it reads now
        self._selection = selection
        y = selection.y
        self._targets = torch.as_tensor(np.full(len(selection), -1) if y is None else np.array(y))
        self.target_names = selection.target_names

    def __len__(self) -> int:
        return len(self._selection)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """``(d,)`` float32, and the class as an int64 number, -1 where there is none."""
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Several rows at once, as ``DataLoader`` asks for them."""
        positions = np.asarray(indices, dtype=np.int64)
        # A copy in any case: nobody may write through the map.
        descriptors = torch.from_numpy(self._selection.take(positions).astype(np.float32))
        return list(zip(descriptors, self._targets[torch.from_numpy(positions)], strict=True))
