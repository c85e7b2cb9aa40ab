"""Predictions of a fitted classifier for the rows of a feature file, and their CSV table."""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.probe.classifier import FittedClassifier, row_digests
from sppfeat.analysis.probe.rows import class_numbers
from sppfeat.analysis.row_checks import check_described, check_finite
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.errors import StoreError
from sppfeat.files.tables import join_fields
from sppfeat.store.comparability import descriptor_differences
from sppfeat.store.selection import LabelSource, RowsLike, Selection

if TYPE_CHECKING:
    from sppfeat.store.reader import FeatureFile

__all__ = ["Predictions", "Tally", "count_learned", "predict", "select_for", "write_predictions"]

_BLOCK_NBYTES = 64 << 20  # maximum size of the rows to classify at once, as float64
_BLOCK_ROWS = 4096  # maximum number of rows to classify at once
# Normalizations that only multiply a layer by a factor. Classifiers scale layers themselves, so these are equivalent.
_LINEAR = ("none", "l2")


@dataclass(frozen=True)
class Predictions:
    """Predicted classes of some rows.

    Attributes:
        positions: ``(k,)`` int64 positions in the selection.
        predicted: ``(k,)`` int64 indices into the classifier's classes.
        scores: ``(k, n_classes)`` float64, the decision value of each class, rounded as :func:`predict` explains;
            the predicted class has the highest.
    """

    positions: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]


def select_for(
    classifier: FittedClassifier, file: "FeatureFile", *, rows: RowsLike = None, labels: LabelSource = None
) -> Selection:
    """Selects rows of a file, with the columns that a classifier takes.

    Args:
        classifier: a classifier fitted on descriptors with the same settings.
        file: an open file.
        rows, labels: see :meth:`sppfeat.store.reader.FeatureFile.select`.

    Raises:
        StoreError: the file's descriptors were made with other settings, which the message names; or the file lacks
            layers or levels.
        ConfigError: rows do not exist or have no descriptor.
    """
    config = file.config
    free = {"layers", "levels"}
    if _is_linear(config) and _is_linear(classifier.config):
        free.add("normalize")
    differences = descriptor_differences(
        config, classifier.config, ignoring=free, names=("the file", "the classifier")
    )
    reduction = file.reduction_fingerprint
    if reduction != classifier.reduction:
        differences.append(
            f"reduction: the file has {(reduction or 'none')[:12]}, the classifier "
            f"{(classifier.reduction or 'none')[:12]}; 'sppfeat reduce --from' applies the same"
        )
    if differences:
        raise StoreError(f"{str(file.path)!r} has other descriptors: {'; '.join(differences)}")
    there = [block[:3] for block in file.columns]
    lacking = [block for block in classifier.columns if block[:3] not in there]
    if lacking:
        block = lacking[0]
        raise StoreError(
            f"{str(file.path)!r} has no layer {block.layer!r}, level {block.level}, of {block.channels} channels, "
            "which the classifier takes"
        )
    selection = file.select(rows=rows, layers=classifier.layers, levels=classifier.levels, labels=labels)
    if selection.columns.blocks != classifier.columns:
        raise StoreError(
            f"{str(file.path)!r} has its layers or levels in another order than the classifier takes them"
        )
    check_described(selection)
    return selection


def predict(classifier: FittedClassifier, selection: Selection) -> Iterator[Predictions]:
    """Predicts all rows of a selection in their order, a block at a time.

    Scores do not depend on the block size, the number of threads or the processor. The coefficients are float32, so
    digits below ``2**-23`` of the largest possible score of a row of norm 1 mean nothing, and scores are rounded to
    the last decimal above that. Sums in another order differ by less than ``d * 2**-53`` of the same bound, which for
    ``d = 1000`` is one millionth of the rounding.

    Args:
        classifier: a fitted classifier.
        selection: rows from :func:`select_for`.

    Raises:
        StoreError: a row holds NaN or infinities.
    """
    decimals = _score_decimals(classifier)
    # The selection measures blocks as float32, which is half of float64.
    nbytes = min(_BLOCK_NBYTES // 2, _BLOCK_ROWS * 4 * selection.dimension)
    for part, rows in selection.blocks(nbytes=nbytes):
        positions = np.arange(part.start, part.stop)
        rows = check_finite(rows, selection, positions).astype(np.float64, copy=False)
        # Adding 0.0 turns the -0.0 of small negative numbers into 0.0.
        decision: npt.NDArray[Any] = classifier.pipeline.decision_function(rows).round(decimals) + 0.0
        # With two classes, scikit-learn returns the score of the second class, the negative of the first one's.
        scores = np.stack([0.0 - decision, decision], axis=1) if decision.ndim == 1 else decision
        yield Predictions(positions, np.argmax(scores, axis=1), scores)


def count_learned(classifier: FittedClassifier, selection: Selection) -> int | None:
    """Counts the rows of a selection that a classifier was fitted on; None if it was saved without their digests.

    Rows are recognized by the path of their image and by their box: see
    :func:`~sppfeat.analysis.probe.classifier.row_digests`.
    """
    if classifier.learned is None:
        return None
    digests = row_digests(selection, np.arange(len(selection)))
    return int(np.isin(digests, classifier.learned).sum())


def _score_decimals(classifier: FittedClassifier) -> int:
    """Number of meaningful decimals of a score, from the largest possible score of a row of norm 1."""
    linear = classifier.pipeline.steps[-1][1]
    norms = np.linalg.norm(np.atleast_2d(linear.coef_).astype(np.float64), axis=1)
    largest = float(np.max(norms + np.abs(linear.intercept_)))
    # A classifier of zeros gives every row the score 0, which needs no decimals.
    return math.floor(-math.log10(largest * np.finfo(np.float32).eps)) if largest > 0 else 0


def _is_linear(config: ExtractConfig) -> bool:
    return config.descriptor.normalize in _LINEAR or config.descriptor.mean_norm is not None


@dataclass(frozen=True)
class Tally:
    """Agreement of predictions with labels.

    Attributes:
        n_known: number of rows whose label is a class of the classifier.
        n_right: number of these rows that were predicted correctly.
        n_unknown: number of rows with another label.
    """

    n_known: int
    n_right: int
    n_unknown: int


def write_predictions(
    target: BinaryIO,
    classifier: FittedClassifier,
    selection: Selection,
    *,
    with_scores: bool = False,
    on_progress: Callable[[int], None] = lambda n: None,
) -> Tally:
    r"""Writes a header and a line for each row, in the order of the selection.

    The columns are ``row``; ``path``; ``image_id`` if the inputs gave ids; ``x0, y0, x1, y1`` (edges in pixels of the
    image as displayed) if rows are boxes; ``label`` (empty if there is none); ``predicted``; ``score`` (the decision
    value of the predicted class); and, on request, ``score:CLASS`` for each class. Names keep the bytes that they
    have in the file; lines end with ``\n``. Scores are printed as :func:`predict` rounds them, with at most 7 digits.

    Args:
        target: a binary file open for writing.
        classifier, selection: see :func:`predict`.
        with_scores: write the scores of all classes.
        on_progress: called with the number of rows written so far.
    """
    file = selection.file
    has_labels = selection.labels.values is not None
    numbers, names = class_numbers(selection) if has_labels else (None, [])
    boxes = file.boxes if file.has_boxes else None
    images = selection.groups
    known = set(classifier.classes)
    n_known = n_right = n_unknown = 0
    _write_lines(target, [_header(classifier, selection, with_scores=with_scores)])
    for found in predict(classifier, selection):
        lines = []
        for i, position in enumerate(found.positions.tolist()):
            row, image = int(selection.rows[position]), int(images[position])
            label = names[numbers[position]] if numbers is not None and numbers[position] >= 0 else ""
            predicted = classifier.classes[found.predicted[i]]
            n_known += label in known
            n_right += label == predicted
            n_unknown += label != "" and label not in known
            box = [] if boxes is None else [_short(value) for value in boxes[row].tolist()]
            every = [_short(score) for score in found.scores[i]] if with_scores else []
            called = [
                os.fsdecode(table[image])
                for table in (file.path_table, file.image_id_table)
                if table is not None
            ]
            lines.append([str(row), *called, *box, label, predicted, _short(found.scores[i].max()), *every])
        _write_lines(target, lines)
        on_progress(int(found.positions[-1]) + 1)
    return Tally(n_known, n_right, n_unknown)


def _header(classifier: FittedClassifier, selection: Selection, *, with_scores: bool) -> list[str]:
    called = ["path"] if selection.file.image_id_table is None else ["path", "image_id"]
    box = ["x0", "y0", "x1", "y1"] if selection.file.has_boxes else []
    every = [f"score:{name}" for name in classifier.classes] if with_scores else []
    return ["row", *called, *box, "label", "predicted", "score", *every]


def _write_lines(target: BinaryIO, lines: list[list[str]]) -> None:
    text = "".join(f"{join_fields(line)}\n" for line in lines)
    target.write(text.encode("utf-8", "surrogateescape"))


def _short(value: float) -> str:
    return f"{value:.7g}"
