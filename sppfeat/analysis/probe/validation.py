"""Cross-validation: folds of the rows, parts of the descriptors, and their scores."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import ProbeSettings
from sppfeat.analysis.probe.ridge import ClassSize, LabeledRows, Ridge, labeled_rows
from sppfeat.config.machine import import_extra
from sppfeat.config.wording import counted
from sppfeat.errors import LabelError
from sppfeat.store.descriptor_columns import select_columns
from sppfeat.store.reader import Selection
from sppfeat.store.schema import ColumnBlock, Status

__all__ = ["Ablated", "ClassRecall", "ConfusedPair", "ProbeResult", "Score", "cross_validate", "make_folds"]

_Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """A score of each fold, with mean and standard deviation over the folds of all repeats.

    Attributes:
        mean: mean over all folds.
        std: standard deviation over all folds.
        folds: score of each fold, one repeat after the other.
    """

    mean: float
    std: float
    folds: tuple[float, ...]

    @classmethod
    def of(cls, folds: Iterable[float]) -> "Score":
        """Summarizes the scores of all folds."""
        each = tuple(map(float, folds))
        return cls(float(np.mean(each)), float(np.std(each)), each)


@dataclass(frozen=True)
class ClassRecall:
    """Recall of a class.

    Attributes:
        name: the class.
        rows: number of its rows.
        recall: share of its rows that were predicted correctly, 0 to 1.
    """

    name: str
    rows: int
    recall: float


@dataclass(frozen=True)
class ConfusedPair:
    """Wrong predictions of one class for rows of another.

    Attributes:
        true: class of the rows.
        predicted: class that was predicted.
        count: number of such predictions, over all repeats.
        share: their share of all predictions for the true class, 0 to 1.
    """

    true: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Ablated:
    """Scores of one part of the descriptors, on the folds of the whole descriptors.

    Attributes:
        kind: ``all``, ``level``, ``levels up to`` or ``layer``.
        layers: layers of the part.
        levels: pyramid levels of the part.
        dimension: number of values of the part.
        accuracy: share of test rows that were predicted correctly, 0 to 1.
        class_accuracy: mean recall of the classes among the test rows, 0 to 1.
        difference: accuracy of the part minus accuracy of all columns, fold by fold.
    """

    kind: str
    layers: tuple[str, ...]
    levels: tuple[int, ...]
    dimension: int
    accuracy: Score
    class_accuracy: Score
    difference: Score


@dataclass(frozen=True)
class ProbeResult:
    """Result of a probe.

    Attributes:
        n_rows: number of rows that were probed.
        n_classes: number of their classes.
        n_images: number of their images.
        dimension: length of a descriptor.
        grouped: True if folds kept all rows of an image together.
        chance: share of the largest class.
        accuracy: share of test rows that were predicted correctly, 0 to 1.
        class_accuracy: mean recall of the classes among the test rows, 0 to 1.
        classes: recall of each class, over all folds.
        confusions: pairs of confused classes, most frequent first.
        ablation: scores of all columns, then of their parts; empty if no ablation was requested.
        left_out: classes with too few members.
        n_unlabelled: number of selected rows without a class.
        n_pending: number of images not yet extracted.
        n_failed: number of images that failed.
        method: computation: ``products`` of all pairs of rows, or ``sums`` over the rows.
    """

    n_rows: int
    n_classes: int
    n_images: int
    dimension: int
    grouped: bool
    chance: float
    accuracy: Score
    class_accuracy: Score
    classes: tuple[ClassRecall, ...]
    confusions: tuple[ConfusedPair, ...]
    ablation: tuple[Ablated, ...]
    left_out: tuple[ClassSize, ...]
    n_unlabelled: int
    n_pending: int
    n_failed: int
    method: str


def cross_validate(
    selection: Selection,
    settings: ProbeSettings,
    *,
    on_progress: Callable[[int, int], None] = lambda n, total: None,
) -> ProbeResult:
    """Cross-validates a linear classifier on labeled rows, in columns of whole levels; see :func:`sppfeat.probe`."""
    labeled = labeled_rows(selection, min_per_class=settings.least_per_class)
    metrics = import_extra("sklearn.metrics", extra="sklearn", purpose="cross-validation")
    folds = make_folds(labeled, n_folds=settings.folds, repeats=settings.repeats, seed=settings.seed)
    parts = _list_parts(selection.columns.blocks)[: None if settings.ablation else 1]
    true = [labeled.y[test] for _, test in folds]
    all_true, all_predicted, method, scores = np.concatenate(true), np.array([]), "", list[Ablated]()
    for kind, layers, levels in parts:
        columns = select_columns(selection.file.columns, layers=layers, levels=levels)
        ridge = Ridge(dataclasses.replace(selection, columns=columns), labeled, settings)
        predicted = []
        for train, test in folds:
            predicted.append(ridge.predict(train, test))
            on_progress(len(scores) * len(folds) + len(predicted), len(parts) * len(folds))
        accuracy = Score.of(map(metrics.accuracy_score, true, predicted))
        recalls = [
            metrics.recall_score(t, p, labels=np.unique(t), average="macro")
            for t, p in zip(true, predicted, strict=True)
        ]
        if not scores:
            all_predicted, method = np.concatenate(predicted), ridge.method
        whole = scores[0].accuracy if scores else accuracy
        difference = Score.of(np.subtract(accuracy.folds, whole.folds))
        scores.append(Ablated(kind, layers, levels, columns.width, accuracy, Score.of(recalls), difference))
    n_classes = len(labeled.names)
    recalls = metrics.recall_score(
        all_true, all_predicted, labels=np.arange(n_classes), average=None
    ).tolist()
    status = selection.file.status
    return ProbeResult(
        n_rows=len(labeled.y),
        n_classes=n_classes,
        n_images=len(np.unique(selection.groups[labeled.positions])),
        dimension=selection.dimension,
        grouped=labeled.groups is not None,
        chance=float(np.bincount(labeled.y).max() / len(labeled.y)),
        accuracy=scores[0].accuracy,
        class_accuracy=scores[0].class_accuracy,
        classes=tuple(map(ClassRecall, labeled.names, np.bincount(labeled.y).tolist(), recalls)),
        confusions=_confused_pairs(all_true, all_predicted, labeled.names),
        ablation=tuple(scores) if len(parts) > 1 else (),
        left_out=labeled.left_out,
        n_unlabelled=labeled.n_unlabeled,
        n_pending=int((status == Status.PENDING).sum()),
        n_failed=int((status == Status.FAILED).sum()),
        method=method,
    )


def _confused_pairs(true: _Index, predicted: _Index, names: tuple[str, ...]) -> tuple[ConfusedPair, ...]:
    """All pairs of confused classes, by descending count, then by descending share."""
    tested, wrong = np.bincount(true), true != predicted
    pairs, counts = np.unique(np.stack([true[wrong], predicted[wrong]]), axis=1, return_counts=True)
    shares = counts / tested[pairs[0]]
    return tuple(
        ConfusedPair(names[pairs[0, i]], names[pairs[1, i]], int(counts[i]), float(shares[i]))
        for i in np.lexsort((pairs[1], pairs[0], -shares, -counts))
    )


def make_folds(labeled: LabeledRows, *, n_folds: int, repeats: int, seed: int) -> list[tuple[_Index, _Index]]:
    """Makes the folds of all repeats, stratified by class and grouped by image: pairs of training and test rows.

    Rows are ``(k,)`` numbers of labeled rows, ascending. Shuffles are seeded with ``seed``, ``seed + 1``, ...

    Raises:
        LabelError: some fold would have no rows to test, or fewer than two classes to train on.
    """
    splits = import_extra("sklearn.model_selection", extra="sklearn", purpose="cross-validation")
    kind = splits.StratifiedKFold if labeled.groups is None else splits.StratifiedGroupKFold
    y = labeled.y
    folds: list[tuple[_Index, _Index]] = []
    try:
        with warnings.catch_warnings():
            # scikit-learn warns of classes with fewer rows than folds, but --min-per-class allows them.
            warnings.simplefilter("ignore", UserWarning)
            for repeat in range(repeats):
                splitter = kind(n_folds, shuffle=True, random_state=seed + repeat)
                folds += splitter.split(np.zeros(len(y)), y, labeled.groups)
    except ValueError as error:
        raise LabelError(f"{counted(len(y), 'row')} cannot be split into {n_folds} folds: {error}") from error
    for number, (train, test) in enumerate(folds):
        n_classes = len(np.unique(y[train]))
        if not len(test) or n_classes < 2:
            raise LabelError(
                f"fold {number % n_folds} of {n_folds} would have {counted(len(test), 'row')} to test and "
                f"{counted(n_classes, 'class')} to train on; at least 1 and 2 are needed. Use fewer --folds"
            )
    return folds


def _list_parts(blocks: Sequence[ColumnBlock]) -> list[tuple[str, tuple[str, ...], tuple[int, ...]]]:
    """Kind, layers and levels of each part: all columns, each level, the levels up to each, and each layer.

    A part equal to an earlier one is not listed again.

    Example:
        >>> from sppfeat.store.schema import column_blocks
        >>> [(kind, levels) for kind, _, levels in _list_parts(column_blocks(["relu"], [8], [4, 2, 1]))]
        [('all', (4, 2, 1)), ('level', (1,)), ('level', (2,)), ('level', (4,)), ('levels up to', (1, 2))]
    """
    layers = tuple(dict.fromkeys(block.layer for block in blocks))
    levels = tuple(dict.fromkeys(block.level for block in blocks))
    ascending = sorted(levels)
    parts = [("all", layers, levels)]
    if len(levels) > 1:
        parts += [("level", layers, (level,)) for level in ascending]
        parts += [("levels up to", layers, tuple(ascending[:n])) for n in range(2, len(levels))]
    if len(layers) > 1:
        parts += [("layer", (layer,), levels) for layer in layers]
    return parts
