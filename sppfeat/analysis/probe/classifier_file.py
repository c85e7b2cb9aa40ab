"""Files of fitted classifiers: the scikit-learn pipeline and a description of the rows that it accepts."""

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.probe.classifier import FittedClassifier
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.machine import import_extra
from sppfeat.config.wording import one_line
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.atomic import replace_file
from sppfeat.store.schema import ColumnBlock

if TYPE_CHECKING:
    pass

__all__ = ["load_classifier", "save_classifier"]

_FORMAT = "sppfeat classifier"
_VERSION = 1
_STEPS = ("Pipeline", "ColumnTransformer", "RidgeClassifier")


def save_classifier(path: Path, classifier: FittedClassifier, *, overwrite: bool = True) -> None:
    """Writes a classifier with skops; ``skops.io.load(path)["pipeline"]`` gives the pipeline back.

    Raises:
        ConfigError: skops is not installed.
        StoreError: the file cannot be written.
    """
    skops = import_extra("skops.io", extra="sklearn", purpose="a file of a classifier")
    content = skops.dumps(
        {
            "format": _FORMAT,
            "version": _VERSION,
            "sppfeat_version": classifier.sppfeat_version,
            "classes": list(classifier.classes),
            "config": classifier.config.to_json(),
            "columns": [list(block) for block in classifier.columns],
            "reduction": classifier.reduction,
            "n_rows": classifier.n_rows,
            "learned": classifier.learned,
            "pipeline": classifier.pipeline,
        }
    )
    replace_file(path, content, overwrite=overwrite)


def load_classifier(path: Path) -> FittedClassifier:
    """Reads a classifier without running code from the file; refuses types that :func:`save_classifier` does not write.

    Raises:
        ConfigError: skops is not installed.
        StoreError: there is no such file, it is not an sppfeat classifier, or it is damaged.
    """
    skops = import_extra("skops.io", extra="sklearn", purpose="a file of a classifier")
    where = repr(str(path))
    if not path.is_file():
        raise StoreError(f"no such file: {where}")
    _check_archive(path)
    try:
        untrusted = skops.get_untrusted_types(file=path)
    except Exception as error:  # the file is not trusted, and skops passes on any exception of its parsers
        raise _not_a_classifier(where, error) from error
    if untrusted:
        raise StoreError(
            f"{where} holds {one_line(', '.join(map(str, untrusted)))}, which is not loaded; allowed: what "
            "'sppfeat probe --save' writes"
        )
    try:
        return _from_content(skops.load(path))
    except Exception as error:  # likewise
        raise _not_a_classifier(where, error) from error


def _from_content(content: Any) -> FittedClassifier:
    """Rebuilds a classifier from the content of its file.

    Raises:
        Exception: of any type, if :func:`save_classifier` did not write the content.
    """
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError("it is no classifier of sppfeat")
    if content["version"] != _VERSION:
        raise ValueError(f"it has version {content['version']!r}; allowed: {_VERSION}")
    pipeline, classes = content["pipeline"], tuple(content["classes"])
    columns = tuple(ColumnBlock(*block) for block in content["columns"])
    ends = [block.stop for block in columns]
    starts_right = [block.start for block in columns] == [0, *ends[:-1]]
    if not columns or not starts_right or not all(isinstance(name, str) for name in classes):
        raise ValueError("its columns or classes are malformed")
    kinds = (type(pipeline).__name__, *(type(step).__name__ for _, step in pipeline.steps))
    if kinds != _STEPS:
        raise ValueError(f"it is made of {one_line(', '.join(kinds))}; allowed: {', '.join(_STEPS)}")
    scalers = {type(scaler).__name__ for _, scaler, _ in pipeline.steps[0][1].transformers_}
    if scalers != {"Normalizer"}:
        raise ValueError(f"it scales by {one_line(', '.join(sorted(scalers)))}; allowed: Normalizer")
    known = pipeline.steps[-1][1].classes_
    if known.tolist() != list(range(len(classes))) or pipeline.n_features_in_ != ends[-1]:
        raise ValueError("its classifier is of other classes or columns than it says")
    decision = pipeline.decision_function(np.zeros((1, ends[-1]), dtype=np.float32))
    if (
        decision.shape != ((1,) if len(classes) == 2 else (1, len(classes)))
        or not np.isfinite(decision).all()
    ):
        raise ValueError("its classifier gives no number for each class")
    return FittedClassifier(
        pipeline=pipeline,
        classes=classes,
        config=ExtractConfig.from_dict(_json_object(content["config"])),
        columns=columns,
        reduction=None if content["reduction"] is None else str(content["reduction"]),
        n_rows=int(content["n_rows"]),
        sppfeat_version=str(content["sppfeat_version"]),
        learned=_checked_digests(content.get("learned"), int(content["n_rows"])),
    )


def _checked_digests(digests: Any, n_rows: int) -> npt.NDArray[np.uint64] | None:
    """Checks the digests of the rows fitted on; None if the file was written by a version that did not save them.

    Raises:
        ValueError: they are malformed.
    """
    if digests is None:
        return None
    if not isinstance(digests, np.ndarray) or digests.dtype != np.uint64 or digests.shape != (n_rows,):
        raise ValueError("its digests of rows are malformed")
    return digests


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ConfigError("its settings are no table")
    return value


def _check_archive(path: Path) -> None:
    """Refuses a file that is no zip archive, or that unpacks to more than its size; we write archives uncompressed."""
    where = repr(str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise _not_a_classifier(where, error) from error
    if unpacked > path.stat().st_size:
        raise StoreError(f"{where} is no classifier of sppfeat: {unpacked} bytes in {path.stat().st_size}")


def _not_a_classifier(where: str, error: Exception) -> StoreError:
    return StoreError(
        f"{where} is not what 'sppfeat probe --save' writes, or damaged: {one_line(str(error) or repr(error))}"
    )
