"""Which of the ways of cross-validation fits the memory and takes the least time."""

import bisect
import dataclasses

from sppfeat.analysis.probe.costs import SumsShape, group_parts, plan_sums, sums_shape
from sppfeat.analysis.probe.fold_weights import fold_weights
from sppfeat.analysis.probe.kernel import products_nbytes
from sppfeat.analysis.probe.probe_task import ProbeTask
from sppfeat.errors import ConfigError

__all__ = ["choose_method", "rows_nbytes", "too_large"]

# scikit-learn makes three more copies of the rows that it is given.
_COPIES = 4
# What everything else takes beside multiplications, in multiplications for each value that is passed over: measured.
_PASSES = {"products": 2000, "sums": 3000, "rows": 1000}


def choose_method(task: ProbeTask) -> str:
    """Which way fits the memory, and of those that do, which takes the least time.

    Args:
        task: its settings say which ways may be chosen, and the memory.

    Raises:
        ConfigError: none fits, or the one that was asked for does not.
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
        raise too_large(shape, n_blocks, min(nbytes[name] for name in asked), max_nbytes)
    if len(allowed) == 1:
        return allowed[0]
    work = {"products": _work_of_products, "sums": _work_of_sums, "rows": _work_of_rows}
    return min(allowed, key=lambda name: work[name](task))


def rows_nbytes(n_rows: int, dimension: int) -> int:
    """Bytes of rows that scikit-learn is given, and of what it makes of them."""
    return _COPIES * 4 * n_rows * dimension


def too_large(shape: SumsShape, n_blocks: int, needed: int, max_nbytes: int) -> ConfigError:
    """The error that says what does not fit the memory, and what would.

    Args:
        shape: of the rows.
        n_blocks: of their columns.
        needed: bytes.
        max_nbytes: that are allowed.
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
    solving = sum(len(fold.train) ** 3 / 3 + _PASSES["products"] * task.n_rows**2 for fold in task.folds)
    return task.n_rows**2 * task.selection.dimension / 2 + len(task.parts) * solving


def _work_of_sums(task: ProbeTask) -> float:
    work = 0.0
    for run in plan_sums(task):
        first, *others = [task.narrowed_to(task.parts[number]).dimension for number in run.parts]
        weights = fold_weights(
            task.labelled.y, task.folds[run.folds], n_classes=task.n_classes, balanced=task.settings.balanced
        )
        work += weights.n_multiplied * first**2 / 2 + _PASSES["sums"] * task.n_rows * first
        work += weights.n_folds * sum(width**3 / 3 for width in (first, *others))
    return work


def _work_of_rows(task: ProbeTask) -> float:
    work = 0.0
    for part in task.parts:
        width = task.narrowed_to(part).dimension
        for fold in task.folds:
            short, long = sorted((len(fold.train), width))
            work += long * short**2 / 2 + short**3 / 6 + _PASSES["rows"] * task.n_rows * width
    return work
