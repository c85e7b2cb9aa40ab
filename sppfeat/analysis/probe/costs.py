"""Memory and time of the three methods of cross-validation, and the plan of the method ``sums``."""

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sppfeat.analysis.probe.ablation import DescriptorPart, ProbeTask
from sppfeat.analysis.probe.folds import fold_weights
from sppfeat.analysis.probe.kernel import products_nbytes
from sppfeat.errors import ConfigError

__all__ = [
    "SumsRun",
    "SumsShape",
    "choose_method",
    "group_parts",
    "memory_error",
    "plan_sums",
    "rows_nbytes",
    "sums_shape",
]

_BLOCK_NBYTES = 128 << 20  # maximum size of a block of rows, as float32
# A block has this many rows, or half the length of a row if that is more: with fewer, adding the products to the sums
# takes most of the time.
_LEAST_ROWS = 256
_COPIES = 4  # copies of a block in memory: the previous one, scaled, sorted, weighted
# The rows, and three copies that scikit-learn makes.
_PIPELINE_COPIES = 4
# Measured time of all steps but the large products, per value, in units of one multiplication.
_PASS_COSTS = {"products": 2000, "sums": 3000, "rows": 1000}


@dataclass(frozen=True)
class SumsShape:
    """The sizes that determine the memory of the method ``sums``.

    Attributes:
        n_rows: number of rows.
        dimension: length of a row.
        n_classes: number of classes.
        widest: length of the widest of the narrower parts, which need copies of their columns; 0 if there are none.
    """

    n_rows: int
    dimension: int
    n_classes: int
    widest: int = 0

    def folds_at_once(self, n_folds: int, max_nbytes: int) -> int:
        """Largest number of folds, up to ``n_folds``, whose sums fit the memory together; 0 if not even one fits."""
        fitting = (n for n in range(n_folds, 0, -1) if self._block_rows(n, max_nbytes) >= self._least_rows)
        return next(fitting, 0)

    def block_rows(self, folds: int, max_nbytes: int) -> int:
        """Number of rows to read at once in the memory that the sums of this many folds leave."""
        return min(self._block_rows(folds, max_nbytes), self._most_rows)

    @property
    def least_nbytes(self) -> int:
        """Minimum memory for one fold at a time, in bytes."""
        return self._sums_nbytes(1) + self._least_rows * self._row_nbytes

    def _block_rows(self, folds: int, max_nbytes: int) -> int:
        return (max_nbytes - self._sums_nbytes(folds)) // self._row_nbytes

    @property
    def _row_nbytes(self) -> int:
        """Bytes of a row and of its copies: values, a number for each class, and its place in the block."""
        return _COPIES * (4 * self.dimension + 8 * self.n_classes + 64)

    @property
    def _most_rows(self) -> int:
        return max(1, min(self.n_rows, _COPIES * _BLOCK_NBYTES // self._row_nbytes))

    @property
    def _least_rows(self) -> int:
        return min(self._most_rows, max(_LEAST_ROWS, self.dimension // 2))

    def _sums_nbytes(self, folds: int) -> int:
        """Bytes of the sums of this many folds, and of the arrays computed from them."""
        # float64 for each fold and for all rows, float32 for the product of a block; the copy of a narrower part.
        moments = self.dimension**2 * (8 * (folds + (folds > 1)) + 4) + 8 * self.widest**2
        # Class sums for each fold and for rows that no fold tests; five temporaries of the solver; the solutions.
        copies = 8 * (folds + 1) + 8 * 5 + 4 * folds * (1 + (self.widest > 0))
        return moments + self.n_classes * self.dimension * copies


class SumsRun(NamedTuple):
    """Folds and parts that are computed together, in one pass over the rows.

    Attributes:
        parts: indices into the parts of the task.
        folds: range of the folds of the task.
        block_rows: number of rows to read at once.
        n_steps: blocks to read plus folds to solve.
    """

    parts: list[int]
    folds: slice
    block_rows: int
    n_steps: int


def plan_sums(task: ProbeTask) -> list[SumsRun]:
    """Plans as few passes over the rows as the memory allows; an empty list if it allows none."""
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
    """Sizes of the sums for parts that are computed together, given by their indices."""
    first, *others = [task.narrow_to(task.parts[number]).dimension for number in parts]
    return SumsShape(task.n_rows, first, task.n_classes, max(others, default=0))


def _groups_of_folds(n_folds: int, per_repeat: int, at_once: int) -> Iterator[slice]:
    """Yields ranges of folds to compute together, each within one repeat and all about equally long."""
    n_groups = -(-per_repeat // at_once)
    ends = [per_repeat * i // n_groups for i in range(n_groups + 1)]
    for start in range(0, n_folds, per_repeat):
        for first, last in itertools.pairwise(ends):
            yield slice(start + first, start + last)


def group_parts(parts: Sequence[DescriptorPart]) -> list[list[int]]:
    """Groups the indices of parts to compute together: those with the levels and some layers of the group's first part.

    Example:
        >>> whole = DescriptorPart("all", ("a", "b"), (1, 2))
        >>> parts = [whole, DescriptorPart("level", ("a", "b"), (1,)), DescriptorPart("layer", ("a",), (1, 2))]
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


def choose_method(task: ProbeTask) -> str:
    """Chooses the fastest method that fits the memory: ``products``, ``sums`` or ``rows``.

    Args:
        task: rows, folds and parts; its settings give the method, or ``auto``, and the maximum memory.

    Raises:
        ConfigError: no method fits, or the requested one does not.
    """
    n_blocks = len(task.selection.columns.parts)
    shape = sums_shape(task, group_parts(task.parts)[0])
    nbytes = {
        "products": products_nbytes(task.n_rows, n_blocks),
        "sums": shape.least_nbytes,
        "rows": rows_nbytes(task.n_rows, task.selection.dimension),
    }
    max_nbytes = task.settings.memory_nbytes
    asked = [name for name in nbytes if task.settings.method in ("auto", name)]
    allowed = [name for name in asked if nbytes[name] <= max_nbytes]
    if not allowed:
        raise memory_error(shape, n_blocks, min(nbytes[name] for name in asked), max_nbytes)
    if len(allowed) == 1:
        return allowed[0]
    work = {"products": _work_of_products, "sums": _work_of_sums, "rows": _work_of_rows}
    return min(allowed, key=lambda name: work[name](task))


def rows_nbytes(n_rows: int, dimension: int) -> int:
    """Bytes of rows in memory, including the copies that scikit-learn makes."""
    return _PIPELINE_COPIES * 4 * n_rows * dimension


def memory_error(shape: SumsShape, n_blocks: int, needed: int, max_nbytes: int) -> ConfigError:
    """Makes the error that says how much memory is needed, and how many rows or values would fit.

    Args:
        shape: sizes of the rows.
        n_blocks: number of column blocks (one per layer and level) of a row.
        needed: bytes needed.
        max_nbytes: bytes allowed.
    """

    def least_nbytes(dimension: int) -> int:
        return dataclasses.replace(shape, dimension=dimension, widest=0).least_nbytes

    def fewest_nbytes(n_rows: int) -> int:
        return min(products_nbytes(n_rows, n_blocks), rows_nbytes(n_rows, shape.dimension))

    rows = bisect.bisect_right(range(1, shape.n_rows), max_nbytes, key=fewest_nbytes)
    values = bisect.bisect_right(range(1, shape.dimension), max_nbytes, key=least_nbytes)
    return ConfigError(
        f"{shape.n_rows} rows of {shape.dimension} values need {needed / 1e9:.2f} GB of memory, allowed are "
        f"{max_nbytes / 1e9:.2f} GB (--max-memory), enough for {rows} rows of this length, or for {values} values "
        "of each: take some of the rows (--rows), levels (--levels) or layers (--layer), or make the "
        "descriptors shorter (sppfeat reduce)"
    )


def _work_of_products(task: ProbeTask) -> float:
    solving = sum(len(fold.train) ** 3 / 3 + _PASS_COSTS["products"] * task.n_rows**2 for fold in task.folds)
    return task.n_rows**2 * task.selection.dimension / 2 + len(task.parts) * solving


def _work_of_sums(task: ProbeTask) -> float:
    work = 0.0
    for run in plan_sums(task):
        first, *others = [task.narrow_to(task.parts[number]).dimension for number in run.parts]
        weights = fold_weights(
            task.labeled.y, task.folds[run.folds], n_classes=task.n_classes, balanced=task.settings.balanced
        )
        work += weights.n_multiplied * first**2 / 2 + _PASS_COSTS["sums"] * task.n_rows * first
        work += weights.n_folds * sum(width**3 / 3 for width in (first, *others))
    return work


def _work_of_rows(task: ProbeTask) -> float:
    work = 0.0
    for part in task.parts:
        width = task.narrow_to(part).dimension
        for fold in task.folds:
            short, long = sorted((len(fold.train), width))
            work += long * short**2 / 2 + short**3 / 6 + _PASS_COSTS["rows"] * task.n_rows * width
    return work
