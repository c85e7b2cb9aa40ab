"""Fitted classifiers, their files (plain arrays that numpy alone can read), and their predictions of rows."""

import contextlib
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sppfeat._version import __version__
from sppfeat.analysis.choices import ProbeSettings
from sppfeat.analysis.probe.ridge import Ridge, class_numbers, labeled_rows, scaled_blocks
from sppfeat.analysis.rows import check_described
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.values import StrPath
from sppfeat.config.wording import one_line
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.outputs import check_new_file, format_suffix, replace_file, whole_file
from sppfeat.files.tables import join_fields
from sppfeat.store.comparability import descriptor_differences
from sppfeat.store.labels import LabelSource
from sppfeat.store.reader import FeatureFile, Selection
from sppfeat.store.row_table import RowColumn, TextColumn, tabulate_rows
from sppfeat.store.rows import RowsLike
from sppfeat.store.schema import ColumnBlock, check_dimension

__all__ = ["Classifier", "Predictions", "decision_blocks", "fit_classifier", "predict", "save_classifier"]

_FORMAT = "sppfeat classifier"
_VERSION = 2
_DIGEST_NBYTES = 8  # two sets of a million rows share a digest by chance once in twenty million cases
_BLOCK_NBYTES = 64 << 20  # maximum size of the rows to classify at once, as float64
_BLOCK_ROWS = 4096  # maximum number of rows to classify at once
# Normalizations that only multiply a layer by a factor. Classifiers scale layers themselves, so these are equivalent.
_LINEAR = ("none", "l2")
_UNLABELED, _UNKNOWN = -1, -2  # in place of a class


@dataclass(frozen=True, eq=False)
class Classifier:
    """A fitted classifier with a description of the rows that it accepts.

    ``scaled @ coef.T + intercept`` are the decision values ``(b, K)`` of rows that
    :func:`~sppfeat.analysis.probe.ridge.scaled_blocks` scaled.
    """

    coef: npt.NDArray[np.float32]  # (K, d)
    intercept: npt.NDArray[np.float64]  # (K,)
    classes: tuple[str, ...]  # names of the K classes; predictions are indices into them
    config: ExtractConfig  # of the descriptors that it was fitted on, as are their columns
    columns: tuple[ColumnBlock, ...]
    reduction: str | None  # fingerprint of their reduction, if they are reduced
    learned: npt.NDArray[np.uint64]  # (n,), the digests of the rows that it was fitted on


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predicted classes of rows, and their agreement with the labels of the rows.

    Attributes:
        rows: ``(k,)`` int64 row numbers in the file.
        predicted: ``(k,)`` int64 indices into ``classes``.
        scores: ``(k,)`` float64, decision value of the predicted class, rounded to its significant digits.
        classes: class names of the classifier.
        n_without: number of rows of the file that have no descriptor.
        n_learned: number of predicted rows that the classifier was fitted on, recognized by the image's path and the
            box. Accuracy on other rows is lower.
        n_known: number of predicted rows whose label is a class of the classifier.
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


def fit_classifier(selection: Selection, settings: ProbeSettings) -> Classifier:
    """Fits the classifier of a probe on all labeled rows of a selection; see :func:`sppfeat.probe` for errors."""
    labeled = labeled_rows(selection, min_per_class=settings.least_per_class)
    coef, intercept = Ridge(selection, labeled, settings).fit()
    return Classifier(
        coef=coef.astype(np.float32),
        intercept=intercept,
        classes=labeled.names,
        config=selection.file.config,
        columns=selection.columns.blocks,
        reduction=selection.file.reduction_fingerprint,
        learned=_row_digests(selection, labeled.positions),
    )


def _row_digests(selection: Selection, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Digests ``(k,)`` of rows of a selection: of the root, the image's path and the box; equal in other files."""
    file = selection.file
    root, paths = os.fsencode(file.root), file.path_table
    boxes = file.boxes[selection.rows[positions]].astype("<f8") + 0.0  # no negative zeros
    # No separator between box and path, because all boxes have the same length.
    digests = (
        hashlib.blake2b(box.tobytes() + os.path.join(root, paths[image]), digest_size=_DIGEST_NBYTES).digest()
        for box, image in zip(boxes, selection.groups[positions].tolist(), strict=True)
    )
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def save_classifier(path: Path, classifier: Classifier, *, overwrite: bool) -> None:
    """Writes a classifier as a ``.npz`` file: three arrays, and a JSON text about them."""
    about = {
        "format": _FORMAT,
        "version": _VERSION,
        "sppfeat_version": __version__,
        "classes": classifier.classes,
        "config": classifier.config.to_dict(),
        "columns": classifier.columns,
        "reduction": classifier.reduction,
    }
    content = io.BytesIO()
    np.savez(
        content,
        coef=classifier.coef,
        intercept=classifier.intercept,
        learned=classifier.learned,
        about=np.array(json.dumps(about)),  # ASCII, with escapes for bytes of names that are not UTF-8
    )
    replace_file(path, content.getbuffer(), overwrite=overwrite)


def _load_classifier(path: Path) -> Classifier:
    """Reads a classifier; nothing in the file is run, and any damage is a StoreError."""
    where = repr(str(path))
    if not path.is_file():
        raise StoreError(f"no such file: {where}")
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file) as arrays:  # loads no pickles
            return _parse_arrays(arrays)
    except Exception as error:  # the file is not trusted, and numpy passes on any exception of its parsers
        raise StoreError(
            f"{where} is damaged, or not a classifier of 'sppfeat probe --save': {one_line(str(error) or repr(error))}"
        ) from error


def _parse_arrays(arrays: Any) -> Classifier:
    """Rebuilds a classifier from its arrays; any exception means that :func:`save_classifier` did not write them."""
    about = json.loads(str(arrays["about"]))
    if about["format"] != _FORMAT or about["version"] != _VERSION:
        raise ValueError(f"it is {about['format']!r}, version {about['version']!r}")
    classes, columns = tuple(about["classes"]), tuple(ColumnBlock(*block) for block in about["columns"])
    coef, intercept, learned = arrays["coef"], arrays["intercept"], arrays["learned"]
    check_dimension(columns, coef.shape[1])
    found = [(array.shape, array.dtype) for array in (coef, intercept, learned)]
    n = len(classes)
    expected = [((n, coef.shape[1]), "f4"), ((n,), "f8"), ((len(learned),), "u8")]
    is_finite = np.isfinite(coef).all() and np.isfinite(intercept).all()
    if n < 2 or not all(isinstance(name, str) for name in classes) or found != expected or not is_finite:
        raise ValueError("its arrays do not match its classes")
    config = ExtractConfig.from_dict(about["config"])
    reduction = None if about["reduction"] is None else str(about["reduction"])
    return Classifier(coef, intercept, classes, config, columns, reduction, learned)


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
    pixels of the image as displayed) if rows are boxes; ``label`` (may be empty); ``predicted``; ``score`` (the
    decision value of the predicted class); and, on request, ``score:CLASS`` for each class. Names keep their bytes;
    lines end with ``\n``.

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
    if isinstance(output, str | os.PathLike) and format_suffix(output) not in ("", ".csv", ".txt"):
        raise ConfigError(
            f"the output {os.fspath(output)!r}: predictions are CSV; use {Path(output).stem}.csv"
        )
    with FeatureFile(Path(features)) as file, contextlib.ExitStack() as stack:
        if isinstance(output, str | os.PathLike):
            check_new_file(Path(output), inputs=[model, *file.read_paths, labels], overwrite=overwrite)
        classifier = _load_classifier(Path(model))
        classes = classifier.classes
        selection = _select_for(classifier, file, rows=rows, labels=labels)
        numbers, names = np.full(len(selection), -1), list[str]()
        if selection.labels.values is not None:
            numbers, names = class_numbers(selection)
        target = None if output is None else stack.enter_context(whole_file(output, overwrite=overwrite))
        score_names = [f"score:{name}" for name in classes] if with_scores else []
        columns = {
            **tabulate_rows(file, selection.rows, selection.labels),
            "label": TextColumn(names, numbers),
        }
        box = ("x0", "y0", "x1", "y1") if file.has_boxes else ()
        table = {
            name: columns[name] for name in ("row", "path", "image_id", *box, "label") if name in columns
        }
        if target is not None:
            _write_lines(target, [[*table, "predicted", "score", *score_names]])
        predicted, best = np.empty(len(selection), dtype=np.int64), np.empty(len(selection))
        for part, scores in decision_blocks(classifier, selection):
            predicted[part], best[part] = np.argmax(scores, axis=1), scores.max(axis=1)
            if target is not None:
                cells = [_cells(column, part) for column in table.values()]
                cells += [[classes[i] for i in predicted[part].tolist()], _cells(best, part)]
                cells += [_cells(column, slice(None)) for column in scores.T[: len(score_names)]]
                _write_lines(target, zip(*cells, strict=True))
            on_progress(part.stop, len(selection))
        index = {name: number for number, name in enumerate(classes)}
        # Rows without a label have number -1, which takes the last entry.
        true = np.array([*(index.get(name, _UNKNOWN) for name in names), _UNLABELED])[numbers]
        digests = _row_digests(selection, np.arange(len(selection)))
        return Predictions(
            rows=selection.rows,
            predicted=predicted,
            scores=best,
            classes=classes,
            n_without=file.n_rows - len(file.rows_with_descriptor()),
            n_learned=int(np.isin(digests, classifier.learned).sum()),
            n_known=int((true >= 0).sum()),
            n_right=int((true == predicted).sum()),
            n_unknown=int((true == _UNKNOWN).sum()),
        )


def _select_for(
    classifier: Classifier, file: FeatureFile, *, rows: RowsLike = None, labels: LabelSource = None
) -> Selection:
    """Selects rows of an open file, with the columns that a classifier takes; see :func:`predict`."""
    config = file.config
    ignored = {"layers", "levels"}
    if _is_linear(config) and _is_linear(classifier.config):
        ignored.add("normalize")
    differences = descriptor_differences(
        config, classifier.config, ignoring=ignored, names=("the file", "the classifier")
    )
    reduction = file.reduction_fingerprint
    if reduction != classifier.reduction:
        differences.append(
            f"reduction: the file has {(reduction or 'none')[:12]}, the classifier "
            f"{(classifier.reduction or 'none')[:12]}; apply the same one with 'sppfeat reduce --from'"
        )
    if differences:
        raise StoreError(f"{str(file.path)!r} has other descriptors: {'; '.join(differences)}")
    found = [block[:3] for block in file.columns]
    for block in classifier.columns:
        if block[:3] not in found:
            raise StoreError(
                f"{str(file.path)!r} lacks level {block.level} of layer {block.layer!r} with {block.channels} "
                "channels, which the classifier needs"
            )
    selection = file.select(
        rows=rows,
        layers=dict.fromkeys(block.layer for block in classifier.columns),
        levels=dict.fromkeys(block.level for block in classifier.columns),
        labels=labels,
    )
    if selection.columns.blocks != classifier.columns:
        raise StoreError(
            f"the layers or levels of {str(file.path)!r} are in another order than those of the classifier"
        )
    check_described(selection)
    return selection


def decision_blocks(
    classifier: Classifier, selection: Selection
) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Yields ranges of a selection, in order, and the decision values ``(b, K)`` of their rows.

    The values do not depend on the block size, the number of threads or the processor. The coefficients are float32,
    so digits below ``2**-23`` of the largest possible value of a row of norm 1 are meaningless, and values are rounded
    to the last decimal above that. Sums in another order differ by less than ``d * 2**-53`` of the same bound, which
    for ``d = 1000`` is one millionth of the rounding.
    """
    coef = classifier.coef.astype(np.float64)
    largest = float(np.max(np.linalg.norm(coef, axis=1) + np.abs(classifier.intercept)))
    # A classifier of zeros gives every row the value 0, which needs no decimals.
    decimals = math.floor(-math.log10(largest * np.finfo(np.float32).eps)) if largest > 0 else 0
    nbytes = min(_BLOCK_NBYTES, _BLOCK_ROWS * 8 * selection.dimension)
    for part, rows in scaled_blocks(selection, np.arange(len(selection)), nbytes=nbytes):
        values = rows @ coef.T + classifier.intercept
        # Adding 0.0 turns the -0.0 of small negative numbers into 0.0.
        yield part, values.round(decimals) + 0.0


def _is_linear(config: ExtractConfig) -> bool:
    return config.descriptor.normalize in _LINEAR or config.descriptor.mean_norm is not None


def _cells(column: RowColumn, part: slice) -> list[str]:
    if isinstance(column, TextColumn):
        return [text or "" for text in column[part]]
    return [str(value) if isinstance(value, int) else f"{value:.7g}" for value in column[part].tolist()]


def _write_lines(target: BinaryIO, lines: Iterable[Iterable[str]]) -> None:
    text = "".join(f"{join_fields(line)}\n" for line in lines)
    target.write(text.encode("utf-8", "surrogateescape"))
