"""What is computed together by sums over rows, so that it fits the memory and the rows are read a few times only."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sppfeat.analysis.probe.ablation import Part
from sppfeat.analysis.probe.probe_task import ProbeTask

__all__ = ["SumsRun", "SumsShape", "group_parts", "plan_sums", "sums_shape"]

_BLOCK_NBYTES = 128 << 20  # of rows that are read at once, as float32
_LEAST_ROWS = (
    256  # of a block; of long rows half as many as they have values: else adding up is what takes time
)
_COPIES = 4  # of a block: the one before, scaled, sorted, weighted


@dataclass(frozen=True)
class SumsShape:
    """What the memory depends on.

    Attributes:
        n_rows: how many rows there are.
        dimension: of a row.
        n_classes: of the rows.
        widest: dimension of the widest part that is cut out of the rows; 0 where none is.
    """

    n_rows: int
    dimension: int
    n_classes: int
    widest: int = 0

    def folds_at_once(self, n_folds: int, max_nbytes: int) -> int:
        """How many of some folds fit the memory together; 0 where not even one does."""
        fitting = (n for n in range(n_folds, 0, -1) if self._block_rows(n, max_nbytes) >= self._least_rows)
        return next(fitting, 0)

    def block_rows(self, folds: int, max_nbytes: int) -> int:
        """How many rows are read at once beside the sums of so many folds."""
        return min(self._block_rows(folds, max_nbytes), self._most_rows)

    @property
    def least_nbytes(self) -> int:
        """Bytes without which nothing can be computed."""
        return self._sums_nbytes(1) + self._least_rows * self._row_nbytes

    def _block_rows(self, folds: int, max_nbytes: int) -> int:
        return (max_nbytes - self._sums_nbytes(folds)) // self._row_nbytes

    @property
    def _row_nbytes(self) -> int:
        """Bytes of a row and of what is made of it: values, a number for each class, its place in the block."""
        return _COPIES * (4 * self.dimension + 8 * self.n_classes + 64)

    @property
    def _most_rows(self) -> int:
        return max(1, min(self.n_rows, _COPIES * _BLOCK_NBYTES // self._row_nbytes))

    @property
    def _least_rows(self) -> int:
        return min(self._most_rows, max(_LEAST_ROWS, self.dimension // 2))

    def _sums_nbytes(self, folds: int) -> int:
        """Bytes of the sums of so many folds, and of what is computed with them."""
        # In float64 for each fold and for all, in float32 for a block; and what is cut out.
        moments = self.dimension**2 * (8 * (folds + (folds > 1)) + 4) + 8 * self.widest**2
        # For each fold and the rest; five more to solve; and what came of each fold.
        copies = 8 * (folds + 1) + 8 * 5 + 4 * folds * (1 + (self.widest > 0))
        return moments + self.n_classes * self.dimension * copies


class SumsRun(NamedTuple):
    """What is computed together.

    Attributes:
        parts: numbers of the parts.
        folds: which folds.
        block_rows: rows that are read at once.
        n_steps: blocks that are read, and folds that are solved.
    """

    parts: list[int]
    folds: slice
    block_rows: int
    n_steps: int


def plan_sums(task: ProbeTask) -> list[SumsRun]:
    """All that there is to compute; nothing where it does not fit the memory."""
    max_nbytes, per_repeat = task.settings.memory_nbytes, task.folds_per_repeat
    runs = []
    for parts in group_parts(task.parts):
        shape = sums_shape(task, parts)
        at_once = shape.folds_at_once(per_repeat, max_nbytes)
        if not at_once:
            return []
        block_rows = shape.block_rows(at_once, max_nbytes)
        for folds in _groups_of_folds(len(task.folds), per_repeat, at_once):
            n_tested = sum(len(fold.test) for fold in task.folds[folds])
            n_blocks = -(-task.n_rows // block_rows) - (-n_tested // block_rows)
            runs.append(SumsRun(parts, folds, block_rows, n_blocks + folds.stop - folds.start))
    return runs


def sums_shape(task: ProbeTask, parts: Sequence[int]) -> SumsShape:
    """What the memory depends on for parts, given by number, that are computed together."""
    first, *others = [task.narrowed_to(task.parts[number]).dimension for number in parts]
    return SumsShape(task.n_rows, first, task.n_classes, max(others, default=0))


def _groups_of_folds(n_folds: int, per_repeat: int, at_once: int) -> Iterator[slice]:
    """Yield which folds are computed together: of one repeat, and about as many each time."""
    n_groups = -(-per_repeat // at_once)
    ends = [per_repeat * i // n_groups for i in range(n_groups + 1)]
    for start in range(0, n_folds, per_repeat):
        for first, last in itertools.pairwise(ends):
            yield slice(start + first, start + last)


def group_parts(parts: Sequence[Part]) -> list[list[int]]:
    """Numbers of the parts that are computed together: those that have some of the layers and all levels of the first.

    Example:
        >>> parts = [Part("all", ("a", "b"), (1, 2)), Part("level", ("a", "b"), (1,)), Part("layer", ("a",), (1, 2))]
        >>> group_parts(parts)
        [[0, 2], [1]]
    """
    groups: list[list[int]] = []
    for number, part in enumerate(parts):
        for group in groups:
            first = parts[group[0]]
            if part.levels == first.levels and set(part.layers) <= set(first.layers):
                group.append(number)
                break
        else:
            groups.append([number])
    return groups
