"""Fitted classifiers and their files: plain arrays that numpy alone can read."""

import hashlib
import io
import json
import os
import zipfile
from dataclasses import dataclass, field
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
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.atomic import replace_file
from sppfeat.store.schema import ColumnBlock
from sppfeat.store.selection import Selection

__all__ = [
    "Classifier",
    "check_model_name",
    "fit_classifier",
    "load_classifier",
    "row_digests",
    "save_classifier",
]

_FORMAT = "sppfeat classifier"
_VERSION = 2  # version 1 was a scikit-learn pipeline in a .skops file
_NBYTES = 8  # two sets of a million rows share a digest by chance once in twenty million times
_AT_ONCE = 1 << 16  # rows


@dataclass(frozen=True)
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

    coef: npt.NDArray[np.float32] = field(compare=False)
    intercept: npt.NDArray[np.float64] = field(compare=False)
    classes: tuple[str, ...]
    config: ExtractConfig
    columns: tuple[ColumnBlock, ...]
    reduction: str | None
    learned: npt.NDArray[np.uint64] = field(compare=False)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers it was fitted on."""
        return tuple(dict.fromkeys(block.layer for block in self.columns))

    @property
    def levels(self) -> tuple[int, ...]:
        """Pyramid levels it was fitted on."""
        return tuple(dict.fromkeys(block.level for block in self.columns))


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
    """Digests of the origins of rows, 8 bytes each: the root, the image's path, and the box.

    Two files extracted from the same image at the same path give its rows the same digests. Under another path or
    root the digests differ, so ``train/1.jpg`` and ``test/1.jpg`` are not confused.

    Args:
        selection: rows of an open file.
        positions: ``(k,)`` positions in the selection.

    Returns:
        ``(k,)`` uint64.
    """
    file = selection.file
    root, paths, boxes = os.fsencode(file.root), file.path_table, file.boxes
    rows, images = selection.rows[positions], selection.groups[positions]
    digests = np.empty(len(rows), dtype=np.uint64)
    for start in range(0, len(rows), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        sides = boxes[rows[part]].astype("<f8") + 0.0  # no negative zeros
        digests[part] = [
            int.from_bytes(_digest(os.path.join(root, paths[image]), box.tobytes()), "little")
            for image, box in zip(images[part].tolist(), sides, strict=True)
        ]
    return digests


def _digest(path: bytes, box: bytes) -> bytes:
    # No separator, because all boxes have the same length.
    return hashlib.blake2b(box + path, digest_size=_NBYTES).digest()


def check_model_name(path: Path) -> None:
    """Refuses the name of a file of earlier versions.

    Raises:
        ConfigError: the name ends with ``.skops``.
    """
    if path.suffix == ".skops":
        raise ConfigError(
            f"--save {str(path)!r}: classifiers are no longer .skops files; use {path.stem}.npz"
        )


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
        with zipfile.ZipFile(path) as archive:
            is_skops = "schema.json" in archive.namelist()
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if is_skops:
            raise StoreError(
                f"{where} was saved by an earlier version, as a .skops file; make a new one with "
                f"'sppfeat probe FEATURES --save {path.stem}.npz'"
            )
        if unpacked > path.stat().st_size:
            raise ValueError(f"it is compressed: {unpacked} bytes in {path.stat().st_size}")
        with np.load(path, allow_pickle=False) as arrays:
            return _checked(arrays)
    except StoreError:
        raise
    except Exception as error:  # the file is not trusted, and numpy passes on any exception of its parsers
        raise StoreError(
            f"{where} is not what 'sppfeat probe --save' writes, or damaged: {one_line(str(error) or repr(error))}"
        ) from error


def _checked(arrays: Any) -> Classifier:
    """Rebuilds a classifier from the arrays of its file.

    Raises:
        Exception: of any type, if :func:`save_classifier` did not write the arrays.
    """
    about = json.loads(str(arrays["about"]))
    if about["format"] != _FORMAT or about["version"] != _VERSION:
        raise ValueError(
            f"it is {one_line(repr(about['format']))}, version {one_line(repr(about['version']))}"
        )
    coef, intercept, learned = arrays["coef"], arrays["intercept"], arrays["learned"]
    classes = tuple(about["classes"])
    columns = tuple(ColumnBlock(*block) for block in about["columns"])
    ends = [block.stop for block in columns]
    if [block.start for block in columns] != [0, *ends[:-1]]:
        raise ValueError("its columns are malformed")
    if len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        raise ValueError("its classes are malformed")
    expected = [((len(classes), ends[-1]), np.float32), ((len(classes),), np.float64)]
    if [(array.shape, array.dtype) for array in (coef, intercept)] != expected:
        raise ValueError("its coefficients are of other classes or columns than it says")
    if not np.isfinite(coef).all() or not np.isfinite(intercept).all():
        raise ValueError("its coefficients are not finite")
    if learned.ndim != 1 or learned.dtype != np.uint64:
        raise ValueError("its digests of rows are malformed")
    return Classifier(
        coef=coef,
        intercept=intercept,
        classes=classes,
        config=ExtractConfig.from_dict(about["config"]),
        columns=columns,
        reduction=None if about["reduction"] is None else str(about["reduction"]),
        learned=learned,
    )
