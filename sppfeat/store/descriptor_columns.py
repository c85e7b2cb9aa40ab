"""Selects columns of a descriptor by layer, level and bin, and rescales layers that lose some of theirs."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.errors import ConfigError
from sppfeat.store.schema import ColumnBlock

__all__ = ["BlockPart", "ColumnSelection", "select_columns"]


class BlockPart(NamedTuple):
    """The selected part of one block of columns."""

    block: ColumnBlock  # the whole block
    bins: tuple[int, ...] | None  # indices of the selected bins in row-major order, ascending; None for all

    @property
    def width(self) -> int:
        """Number of selected columns."""
        n_bins = self.block.level**2 if self.bins is None else len(self.bins)
        return self.block.channels * n_bins


@dataclass(frozen=True)
class ColumnSelection:
    """Some columns of a descriptor, in the file's order."""

    parts: tuple[BlockPart, ...]
    dimension: int  # of the whole descriptor
    incomplete: frozenset[str]  # layers that lack some of their columns; only these need rescaling

    @cached_property
    def width(self) -> int:
        """Number of selected columns."""
        return sum(part.width for part in self.parts)

    @cached_property
    def one_range(self) -> slice | None:
        """The columns as one range of the descriptor; None if they are not contiguous."""
        blocks = [part.block for part in self.parts]
        joined = all(a.stop == b.start for a, b in itertools.pairwise(blocks))
        if not joined or any(part.bins is not None for part in self.parts):
            return None
        return slice(blocks[0].start, blocks[-1].stop)

    @cached_property
    def numbers(self) -> npt.NDArray[np.int64]:
        """``(width,)`` int64: index of each selected column in the whole descriptor."""
        pieces = []
        for block, bins in self.parts:
            every = np.arange(block.start, block.stop).reshape(block.channels, block.level**2)
            pieces.append((every if bins is None else every[:, bins]).reshape(-1))
        return np.concatenate(pieces)

    @property
    def blocks(self) -> tuple[ColumnBlock, ...]:
        """The selected columns as blocks of a shorter descriptor.

        Raises:
            ConfigError: some bins of a level are missing, so that it is no longer a grid.
        """
        result: list[ColumnBlock] = []
        for block, bins in self.parts:
            if bins is not None:
                raise ConfigError(
                    f"some bins of level {block.level} do not form a grid; allowed here: whole levels"
                )
            start = result[-1].stop if result else 0
            result.append(block._replace(start=start, stop=start + block.stop - block.start))
        return tuple(result)

    def layer_ranges(self) -> dict[str, slice]:
        """Return the range of each layer's columns within the selection."""
        stops = [0, *itertools.accumulate(part.width for part in self.parts)]
        ranges: dict[str, slice] = {}
        for part, start, stop in zip(self.parts, stops, stops[1:], strict=False):
            layer = part.block.layer
            ranges[layer] = slice(ranges[layer].start if layer in ranges else start, stop)
        return ranges

    def names(self) -> Iterator[str]:
        """Yield a name for each column, ``layer:level:channel``; above level 1 also ``:bin row:bin column``.

        Example:
            >>> from sppfeat.store.schema import column_blocks
            >>> list(select_columns(column_blocks(["relu"], [1], [1, 2])).names())
            ['relu:1:0', 'relu:2:0:0:0', 'relu:2:0:0:1', 'relu:2:0:1:0', 'relu:2:0:1:1']
        """
        for block, bins in self.parts:
            n = block.level
            numbers = range(n * n) if bins is None else bins
            places = [f":{i // n}:{i % n}" for i in numbers] if n > 1 else [""]
            for channel, place in itertools.product(range(block.channels), places):
                yield f"{block.layer}:{n}:{channel}{place}"

    def take(self, rows: npt.NDArray[np.floating[Any]], normalize: str) -> npt.NDArray[np.floating[Any]]:
        """Return these columns of whole descriptors ``(n, D)``, rescaled; a view if contiguous, or a copy."""
        return self.rescale(rows[:, self.numbers if self.one_range is None else self.one_range], normalize)

    def needs_rescaling(self, normalize: str) -> bool:
        """Return True if a layer lacks columns and its normalization depends on them; ``meannorm`` does not."""
        return bool(self.incomplete) and normalize in ("l2", "power")

    def rescale(self, rows: npt.NDArray[np.floating[Any]], normalize: str) -> npt.NDArray[np.floating[Any]]:
        """Rescale the remaining columns ``(n, width)`` of each incomplete layer to l2 norm 1; zeros stay zeros.

        Only the normalizations ``l2`` and ``power`` need this, and give float32; otherwise returns ``rows`` itself.
        """
        if not self.needs_rescaling(normalize):
            return rows
        scaled = rows.astype(np.float32)
        for layer, own in self.layer_ranges().items():
            if layer in self.incomplete:
                part = scaled[:, own]
                # Divide by the largest magnitude first, so that squares neither underflow nor overflow.
                peak = np.abs(part).max(axis=1, keepdims=True)
                part /= np.where((peak > 0) & np.isfinite(peak), peak, 1)
                norm = np.linalg.norm(part, axis=1, keepdims=True)
                part /= np.where(norm > 0, norm, 1)
        return scaled


def select_columns(
    blocks: Sequence[ColumnBlock],
    *,
    layers: Iterable[str] | str | None = None,
    levels: Iterable[int] | int | None = None,
    bins: Mapping[int, Iterable[tuple[int, int]]] | None = None,
) -> ColumnSelection:
    """Select columns of a descriptor by layer, level and bin; see :meth:`sppfeat.store.reader.FeatureFile.select`.

    Raises:
        ConfigError: a layer, level or bin does not exist.

    Example:
        >>> from sppfeat.store.schema import column_blocks
        >>> select_columns(column_blocks(["relu"], [2], [1, 2]), bins={2: [(0, 1)]}).numbers.tolist()
        [0, 1, 3, 7]
    """
    known_layers = list(dict.fromkeys(block.layer for block in blocks))
    known_levels = list(dict.fromkeys(block.level for block in blocks))
    wanted_layers = _chosen("layers", [layers] if isinstance(layers, str) else layers, known_layers)
    wanted_levels = _chosen("levels", [levels] if isinstance(levels, int) else levels, known_levels)
    numbers = {} if bins is None else {level: _bin_numbers(level, of) for level, of in bins.items()}
    _chosen("levels of bins", numbers or None, wanted_levels)
    parts = tuple(
        BlockPart(block, numbers.get(block.level))
        for block in blocks
        if block.layer in wanted_layers and block.level in wanted_levels
    )
    if not parts:  # layers need not have the same levels
        raise ConfigError(f"none of the layers {wanted_layers} has one of the levels {wanted_levels}")
    taken = {part.block: part for part in parts}
    incomplete = {
        block.layer
        for block in blocks
        if block.layer in wanted_layers and (block not in taken or taken[block].bins is not None)
    }
    return ColumnSelection(parts, blocks[-1].stop, frozenset(incomplete))


def _chosen(what: str, wanted: Iterable[Any] | None, known: Sequence[Any]) -> list[Any]:
    if wanted is None:
        return list(known)
    chosen = list(wanted)
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        found = ",".join(map(str, unknown)) or "none"
        raise ConfigError(f"{what} are {found}; in this file: {', '.join(map(str, known))}")
    return chosen


def _bin_numbers(level: int, bins: Iterable[tuple[int, int]]) -> tuple[int, ...] | None:
    numbers = set()
    for row, column in bins:
        if not (0 <= row < level and 0 <= column < level):
            raise ConfigError(
                f"bin ({row}, {column}) of level {level}; allowed: rows and columns 0 to {level - 1}"
            )
        numbers.add(row * level + column)
    if not numbers:
        raise ConfigError(f"no bins of level {level}; allowed: one or more (row, column)")
    return tuple(sorted(numbers)) if len(numbers) < level * level else None
