"""Predictions as a CSV table."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from sppfeat.analysis.probe.classifier_file import FittedClassifier
from sppfeat.analysis.probe.prediction import predict
from sppfeat.analysis.probe.rows import class_numbers
from sppfeat.files.separated_text import joined_fields
from sppfeat.store.selection import Selection

__all__ = ["Tally", "write_predictions"]


@dataclass(frozen=True)
class Tally:
    """How predictions compare with labels.

    Attributes:
        n_known: rows with a label that is a class of the classifier.
        n_right: those of them that were predicted to be of it.
        n_unknown: rows with another label.
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
    r"""Write a line for each row, in their order, under a header.

    The columns are ``row``, ``path``, ``image_id`` where the inputs named their images, with boxes ``x0, y0, x1, y1``,
    ``label`` (empty where there is none), ``predicted``, ``score`` (the decision value of what was predicted), and, if
    they are wanted, ``score:CLASS`` for each class. Names are the bytes that they are in the file; lines end with
    ``\n``. Scores are printed with the digits to which :func:`~sppfeat.analysis.probe.prediction.predict` rounds
    them: at most 7, as many as single precision tells apart.

    Args:
        target: where to write.
        classifier, selection: see :func:`sppfeat.analysis.probe.prediction.predict`.
        with_scores: whether to write the scores of all classes.
        on_progress: is told how many rows are written.
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
    text = "".join(f"{joined_fields(line)}\n" for line in lines)
    target.write(text.encode("utf-8", "surrogateescape"))


def _short(value: float) -> str:
    return f"{value:.7g}"
