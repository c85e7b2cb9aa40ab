"""Predictions of a fitted classifier for the rows of a feature file, and their CSV table."""

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.probe.classifier import Classifier, load_classifier, row_digests
from sppfeat.analysis.probe.rows import class_numbers, scale_layers
from sppfeat.analysis.row_checks import check_described, check_finite
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.values import StrPath
from sppfeat.errors import StoreError
from sppfeat.files.atomic import whole_file, write_errors
from sppfeat.files.outputs import check_new_file, refuse_input
from sppfeat.files.tables import join_fields
from sppfeat.store.comparability import descriptor_differences
from sppfeat.store.reader import FeatureFile
from sppfeat.store.selection import LabelSource, RowsLike, Selection

__all__ = ["Predictions", "decision_blocks", "predict", "select_for"]

_BLOCK_NBYTES = 64 << 20  # maximum size of the rows to classify at once, as float64
_BLOCK_ROWS = 4096  # maximum number of rows to classify at once
# Normalizations that only multiply a layer by a factor. Classifiers scale layers themselves, so these are equivalent.
_LINEAR = ("none", "l2")
_UNLABELED, _UNKNOWN = -1, -2  # in place of a class


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predicted classes of rows, and their agreement with the labels of the rows.

    Attributes:
        rows: ``(k,)`` int64 row numbers in the file.
        predicted: ``(k,)`` int64 indices into ``classes``.
        scores: ``(k,)`` float64, decision value of the predicted class, rounded to the digits that mean something.
        classes: class names of the classifier.
        n_without: number of rows of the file that have no descriptor.
        n_learned: number of these rows that the classifier was fitted on, known by the path of their image and their
            box; it gets fewer others right.
        n_known: number of these rows whose label is a class of the classifier.
        n_right: number of rows with such a label that were predicted correctly.
        n_unknown: number of rows with another label.
    """

    rows: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    classes: tuple[str, ...]
    n_without: int
    n_learned: int
    n_known: int
    n_right: int
    n_unknown: int


def predict(
    model: StrPath,
    features: StrPath,
    output: StrPath | BinaryIO | None = None,
    *,
    with_scores: bool = False,
    rows: RowsLike = None,
    labels: LabelSource = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Predictions:
    r"""Classifies rows of a feature file with a classifier that :func:`sppfeat.probe` saved.

    The table has the columns ``row``; ``path``; ``image_id`` if the inputs gave ids; ``x0, y0, x1, y1`` (edges in
    pixels of the image as displayed) if rows are boxes; ``label`` (empty if there is none); ``predicted``; ``score``
    (the decision value of the predicted class); and, on request, ``score:CLASS`` for each class. Names keep the bytes
    that they have in the file; lines end with ``\n``.

    Args:
        model: path of the classifier.
        features: path of a feature file whose descriptors were made with the same settings.
        output: path of the CSV table, or a binary file open for writing; None for no table.
        with_scores: write the scores of all classes into the table.
        rows, labels: see :meth:`sppfeat.store.reader.FeatureFile.select`; by default all rows that have a descriptor,
            and the labels of the file.
        overwrite: replace an existing output.
        on_progress: called with the number of rows predicted so far and their total number.

    Raises:
        StoreError: a file cannot be read or written, the descriptors were made with other settings, which the message
            names, the file lacks layers or levels, or a row holds NaN or infinities.
        ConfigError: rows do not exist or have no descriptor, or the output is an input.
    """
    path = Path(output) if isinstance(output, str | os.PathLike) else None
    if path is not None:
        tables = [labels] if isinstance(labels, str | os.PathLike) else []
        check_new_file(path, inputs=[model, features, *tables], overwrite=overwrite)
    classifier = load_classifier(Path(model))
    with FeatureFile(Path(features)) as file, contextlib.ExitStack() as stack:
        if path is not None:
            refuse_input(path, file.read_paths)
        selection = select_for(classifier, file, rows=rows, labels=labels)
        digests = row_digests(selection, np.arange(len(selection)))
        numbers, names = np.full(len(selection), -1), list[str]()
        if selection.labels.values is not None:
            numbers, names = class_numbers(selection)
        names.append("")  # the last is that of -1, which stands for no class
        true = np.array([_class_of(name, classifier.classes) for name in names])[numbers]
        table = None
        if output is not None:
            target = stack.enter_context(_opened(output, overwrite=overwrite))
            labels_of_rows = np.array(names, dtype=object)[numbers]
            table = _Table(target, classifier, selection, labels_of_rows, with_scores=with_scores)
        predicted, best = np.empty(len(selection), dtype=np.int64), np.empty(len(selection))
        for part, scores in decision_blocks(classifier, selection):
            predicted[part], best[part] = np.argmax(scores, axis=1), scores.max(axis=1)
            if table is not None:
                table.add(part, predicted[part], scores)
            on_progress(part.stop, len(selection))
        return Predictions(
            rows=selection.rows,
            predicted=predicted,
            scores=best,
            classes=classifier.classes,
            n_without=file.n_rows - len(file.rows_with_descriptor()),
            n_learned=int(np.isin(digests, classifier.learned).sum()),
            n_known=int((true >= 0).sum()),
            n_right=int((true == predicted).sum()),
            n_unknown=int((true == _UNKNOWN).sum()),
        )


def select_for(
    classifier: Classifier, file: FeatureFile, *, rows: RowsLike = None, labels: LabelSource = None
) -> Selection:
    """Selects rows of an open file, with the columns that a classifier takes; see :func:`predict`."""
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


def decision_blocks(
    classifier: Classifier, selection: Selection
) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Yields ranges of a selection, in order, and the decision values ``(b, K)`` of their rows.

    The values do not depend on the block size, the number of threads or the processor. The coefficients are float32,
    so digits below ``2**-23`` of the largest possible value of a row of norm 1 mean nothing, and values are rounded to
    the last decimal above that. Sums in another order differ by less than ``d * 2**-53`` of the same bound, which for
    ``d = 1000`` is one millionth of the rounding.

    Args:
        classifier: a fitted classifier.
        selection: rows from :func:`select_for`.

    Raises:
        StoreError: a row holds NaN or infinities.
    """
    coef = classifier.coef.astype(np.float64)
    largest = float(np.max(np.linalg.norm(coef, axis=1) + np.abs(classifier.intercept)))
    # A classifier of zeros gives every row the value 0, which needs no decimals.
    decimals = math.floor(-math.log10(largest * np.finfo(np.float32).eps)) if largest > 0 else 0
    layers = list(selection.columns.layer_ranges().values())
    # The selection measures blocks as float32, which is half of float64.
    nbytes = min(_BLOCK_NBYTES // 2, _BLOCK_ROWS * 4 * selection.dimension)
    for part, rows in selection.blocks(nbytes=nbytes):
        check_finite(rows, selection, np.arange(part.start, part.stop))
        values = scale_layers(rows, layers) @ coef.T + classifier.intercept
        # Adding 0.0 turns the -0.0 of small negative numbers into 0.0.
        yield part, values.round(decimals) + 0.0


def _is_linear(config: ExtractConfig) -> bool:
    return config.descriptor.normalize in _LINEAR or config.descriptor.mean_norm is not None


@contextlib.contextmanager
def _opened(output: StrPath | BinaryIO, *, overwrite: bool) -> Iterator[BinaryIO]:
    if isinstance(output, str | os.PathLike):
        with whole_file(Path(output), overwrite=overwrite) as file:
            yield file
    else:
        with write_errors(str(getattr(output, "name", "the stream"))):
            yield output
            output.flush()


def _class_of(name: str, classes: tuple[str, ...]) -> int:
    """Index of a label in the classifier's classes, or one of the numbers above."""
    if name == "":
        return _UNLABELED
    return classes.index(name) if name in classes else _UNKNOWN


class _Table:
    """The CSV table of the predictions.

    Args:
        target: binary file to write to; the header is written at once.
        classifier, selection: see :func:`decision_blocks`.
        labels: label of each row of the selection.
        with_scores: write the scores of all classes.
    """

    def __init__(
        self,
        target: BinaryIO,
        classifier: Classifier,
        selection: Selection,
        labels: npt.NDArray[np.object_],
        *,
        with_scores: bool,
    ) -> None:
        file = selection.file
        self._target, self._classes, self._with_scores = target, classifier.classes, with_scores
        self._rows, self._images, self._labels = selection.rows, selection.groups, labels
        self._names = [table for table in (file.path_table, file.image_id_table) if table is not None]
        self._boxes = file.boxes if file.has_boxes else np.empty((file.n_rows, 0))
        every = [f"score:{name}" for name in classifier.classes] if with_scores else []
        box = ["x0", "y0", "x1", "y1"] if file.has_boxes else []
        names = ["path", "image_id"][: len(self._names)]
        self._write([["row", *names, *box, "label", "predicted", "score", *every]])

    def add(self, part: slice, predicted: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> None:
        """Writes a line for each row in a range of the selection."""
        rows = self._rows[part]
        best, every = scores.max(axis=1), scores if self._with_scores else scores[:, :0]
        columns = (rows, self._images[part], self._boxes[rows], self._labels[part], predicted, best, every)
        self._write(
            [
                str(row),
                *(os.fsdecode(table[image]) for table in self._names),
                *map(_short, box),
                label,
                self._classes[number],
                _short(score),
                *map(_short, own),
            ]
            for row, image, box, label, number, score, own in zip(
                *(column.tolist() for column in columns), strict=True
            )
        )

    def _write(self, lines: Iterable[list[str]]) -> None:
        text = "".join(f"{join_fields(line)}\n" for line in lines)
        self._target.write(text.encode("utf-8", "surrogateescape"))


def _short(value: float) -> str:
    return f"{value:.7g}"
