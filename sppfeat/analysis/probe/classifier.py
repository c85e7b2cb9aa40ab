"""Fitted classifiers and their files: plain arrays that numpy alone can read."""

import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat._version import __version__
from sppfeat.analysis.choices import ProbeSettings
from sppfeat.analysis.probe.ridge import Ridge
from sppfeat.analysis.probe.rows import labeled_rows
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.wording import one_line
from sppfeat.errors import StoreError
from sppfeat.files.outputs import replace_file
from sppfeat.store.schema import ColumnBlock, check_dimension
from sppfeat.store.selection import Selection

__all__ = [
    "Classifier",
    "fit_classifier",
    "load_classifier",
    "row_digests",
    "save_classifier",
]

_FORMAT = "sppfeat classifier"
_VERSION = 2  # version 1 was a scikit-learn pipeline in a .skops file
_NBYTES = 8  # two sets of a million rows share a digest by chance once in twenty million times


@dataclass(frozen=True, eq=False)
class Classifier:
    """A fitted classifier with a description of the rows that it accepts.

    Attributes:
        coef: ``(K, d)`` float32; ``scaled @ coef.T + intercept`` are the decision values of rows that
            :func:`~sppfeat.analysis.probe.rows.scale_layers` scaled.
        intercept: ``(K,)`` float64.
        classes: names of the ``K`` classes; predictions are indices into them.
        config: extraction settings of the descriptors it was fitted on.
        columns: descriptor columns it was fitted on.
        reduction: fingerprint of the reduction of these descriptors; None if they are not reduced.
        learned: ``(n,)`` uint64, the :func:`row_digests` of the rows it was fitted on.
    """

    coef: npt.NDArray[np.float32]
    intercept: npt.NDArray[np.float64]
    classes: tuple[str, ...]
    config: ExtractConfig
    columns: tuple[ColumnBlock, ...]
    reduction: str | None
    learned: npt.NDArray[np.uint64]


def fit_classifier(selection: Selection, settings: ProbeSettings) -> Classifier:
    """Fits the classifier of a probe on all labeled rows of a selection.

    Raises:
        SppfeatError: a reason listed at :func:`sppfeat.analysis.probe.validation.cross_validate`.
    """
    labeled = labeled_rows(selection, min_per_class=settings.least_per_class)
    coef, intercept = Ridge(selection, labeled, settings).fit()
    return Classifier(
        coef=coef.astype(np.float32),
        intercept=intercept,
        classes=labeled.names,
        config=selection.file.config,
        columns=selection.columns.blocks,
        reduction=selection.file.reduction_fingerprint,
        learned=row_digests(selection, labeled.positions),
    )


def row_digests(selection: Selection, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Digests ``(k,)`` of the root, the image's path and the box of rows at positions ``(k,)`` of a selection.

    Two files extracted from the same image at the same path give its rows the same digests. Under another path or
    root the digests differ, so ``train/1.jpg`` and ``test/1.jpg`` are not confused.
    """
    file = selection.file
    root, paths = os.fsencode(file.root), file.path_table
    boxes = file.boxes[selection.rows[positions]].astype("<f8") + 0.0  # no negative zeros
    # No separator between box and path, because all boxes have the same length.
    digests = (
        hashlib.blake2b(box.tobytes() + os.path.join(root, paths[image]), digest_size=_NBYTES).digest()
        for box, image in zip(boxes, selection.groups[positions].tolist(), strict=True)
    )
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def save_classifier(path: Path, classifier: Classifier, *, overwrite: bool = True) -> None:
    """Writes a classifier as a ``.npz`` file, whatever its name: three arrays, and a JSON text about them.

    Raises:
        StoreError: the file cannot be written.
    """
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


def load_classifier(path: Path) -> Classifier:
    """Reads a classifier; nothing in the file is run.

    Raises:
        StoreError: there is no such file, it is not an sppfeat classifier, or it is damaged.
    """
    where = repr(str(path))
    if not path.is_file():
        raise StoreError(f"no such file: {where}")
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file) as arrays:  # loads no pickles
            if "schema.json" not in arrays:
                return _checked(arrays)
    except Exception as error:  # the file is not trusted, and numpy passes on any exception of its parsers
        raise StoreError(
            f"{where} is not what 'sppfeat probe --save' writes, or damaged: {one_line(str(error) or repr(error))}"
        ) from error
    raise StoreError(
        f"{where} was saved by an earlier version, as a .skops file; make a new one with "
        f"'sppfeat probe FEATURES --save {path.stem}.npz'"
    )


def _checked(arrays: Any) -> Classifier:
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
        raise ValueError("its arrays are not those of its classes")
    return Classifier(
        coef=coef,
        intercept=intercept,
        classes=classes,
        config=ExtractConfig.from_dict(about["config"]),
        columns=columns,
        reduction=None if about["reduction"] is None else str(about["reduction"]),
        learned=learned,
    )
