"""Parts of a descriptor that a probe also scores separately, and the task of a probe: rows, folds and parts."""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sppfeat.analysis.choices import ProbeSettings
from sppfeat.analysis.probe.folds import Fold
from sppfeat.analysis.probe.rows import LabeledRows

if TYPE_CHECKING:
    from sppfeat.store.selection import Selection

__all__ = ["DescriptorPart", "ProbeTask", "list_parts", "narrow"]


class DescriptorPart(NamedTuple):
    """Some layers and levels of a descriptor.

    Attributes:
        kind: ``all``, ``level``, ``levels up to`` or ``layer``.
        layers: names of the layers.
        levels: bins per side of each pyramid level.
    """

    kind: str
    layers: tuple[str, ...]
    levels: tuple[int, ...]


def list_parts(selection: "Selection") -> list[DescriptorPart]:
    """Lists the parts: all selected columns, each level, the levels up to each, and each layer, in this order.

    A part equal to an earlier one is not listed again.

    Example:
        >>> from types import SimpleNamespace
        >>> from sppfeat.store.schema import column_blocks
        >>> from sppfeat.store.descriptor_columns import select_columns
        >>> selection = SimpleNamespace(columns=select_columns(column_blocks(["relu"], [8], [4, 2, 1])))
        >>> [(part.kind, part.levels) for part in list_parts(selection)]
        [('all', (4, 2, 1)), ('level', (1,)), ('level', (2,)), ('level', (4,)), ('levels up to', (1, 2))]
    """
    blocks = [part.block for part in selection.columns.parts]
    layers = tuple(dict.fromkeys(block.layer for block in blocks))
    levels = tuple(dict.fromkeys(block.level for block in blocks))
    ascending = sorted(levels)
    parts = [DescriptorPart("all", layers, levels)]
    if len(levels) > 1:
        parts += [DescriptorPart("level", layers, (level,)) for level in ascending]
        parts += [DescriptorPart("levels up to", layers, tuple(ascending[:n])) for n in range(2, len(levels))]
    if len(layers) > 1:
        parts += [DescriptorPart("layer", (layer,), levels) for layer in layers]
    return parts


def narrow(selection: "Selection", layers: Collection[str], levels: Collection[int]) -> "Selection":
    """Narrows a selection to some of its layers and levels; the rows stay the same."""
    columns = selection.columns
    parts = tuple(part for part in columns.parts if part.block.layer in layers and part.block.level in levels)
    cut = {part.block.layer for part in columns.parts if part.block.layer in layers and part not in parts}
    narrower = dataclasses.replace(columns, parts=parts, incomplete=(columns.incomplete & set(layers)) | cut)
    return dataclasses.replace(selection, columns=narrower)


@dataclass(frozen=True)
class ProbeTask:
    """Input of a cross-validation: one classifier is trained and tested for each part and fold.

    Attributes:
        selection: rows and columns of an open file.
        labeled: the rows of the selection to train and test on, with their classes.
        folds: folds of the labeled rows, repeat after repeat; each repeat tests every row once.
        parts: parts of the descriptors; the first is the whole descriptor.
        settings: settings of the classifiers and their maximum memory.
    """

    selection: "Selection"
    labeled: LabeledRows
    folds: Sequence[Fold]
    parts: Sequence[DescriptorPart]
    settings: ProbeSettings

    @property
    def n_rows(self) -> int:
        """Number of labeled rows."""
        return len(self.labeled.y)

    @property
    def n_classes(self) -> int:
        """Number of classes of the labeled rows."""
        return len(self.labeled.names)

    @property
    def folds_per_repeat(self) -> int:
        """Number of folds that together test every row once."""
        return int(np.searchsorted(np.cumsum([len(fold.test) for fold in self.folds]), self.n_rows)) + 1

    def narrow_to(self, part: DescriptorPart) -> "Selection":
        """Narrows the selection to the columns of a part."""
        return narrow(self.selection, part.layers, part.levels)
