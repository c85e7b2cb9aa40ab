"""What is cross-validated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sppfeat.analysis.probe.ablation import Part, narrowed
from sppfeat.analysis.probe.folds import Fold
from sppfeat.analysis.probe.rows import LabelledRows
from sppfeat.analysis.probe.settings import ProbeSettings

if TYPE_CHECKING:
    from sppfeat.store.selection import Selection

__all__ = ["ProbeTask"]


@dataclass(frozen=True)
class ProbeTask:
    """Classifiers to train and test.

    Attributes:
        selection, labelled: rows, columns and classes.
        folds: positions among the labelled rows; of all repeats, in each of which all rows are tested once.
        parts: of the descriptors, of which the first is all of them.
        settings: of the classifiers, and the memory that may be used.
    """

    selection: "Selection"
    labelled: LabelledRows
    folds: Sequence[Fold]
    parts: Sequence[Part]
    settings: ProbeSettings

    @property
    def n_rows(self) -> int:
        """Number of rows that take part."""
        return len(self.labelled.y)

    @property
    def n_classes(self) -> int:
        """Number of classes that they are of."""
        return len(self.labelled.names)

    @property
    def folds_per_repeat(self) -> int:
        """How many folds test all rows once."""
        return int(np.searchsorted(np.cumsum([len(fold.test) for fold in self.folds]), self.n_rows)) + 1

    def narrowed_to(self, part: Part) -> "Selection":
        """The rows with only the columns of a part."""
        return narrowed(self.selection, part.layers, part.levels)
