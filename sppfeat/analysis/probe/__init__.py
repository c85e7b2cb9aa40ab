"""Probes of descriptors: cross-validate a linear classifier on a feature file, save it, and predict rows with it.

A selection of labeled rows and the settings of the probe go in. Accuracies, confused classes and scores of parts of the
descriptors come out, or a fitted classifier and its predictions. Rows may exceed the memory and are read in blocks. The
room must not know images, networks or charts.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from sppfeat.analysis.choices import ProbeSettings
from sppfeat.analysis.probe.classifier import Predictions, fit_classifier, predict, save_classifier
from sppfeat.analysis.probe.validation import ProbeResult, cross_validate
from sppfeat.config.values import StrPath
from sppfeat.errors import ConfigError
from sppfeat.files.outputs import check_new_file, format_suffix
from sppfeat.store.labels import LabelSource
from sppfeat.store.reader import FeatureFile
from sppfeat.store.rows import RowsLike

__all__ = ["Predictions", "ProbeResult", "cross_validate", "predict", "probe"]


def probe(
    features: StrPath,
    *,
    folds: int = ProbeSettings.folds,
    repeats: int = ProbeSettings.repeats,
    seed: int = ProbeSettings.seed,
    C: float = ProbeSettings.C,  # noqa: N803 - scikit-learn's name for it
    class_weight: str = ProbeSettings.class_weight,
    min_per_class: int | None = None,
    ablation: bool = True,
    rows: RowsLike = None,
    layers: Iterable[str] | str | None = None,
    levels: Iterable[int] | int | None = None,
    labels: LabelSource = None,
    save: StrPath | None = None,
    overwrite: bool = False,
    max_nbytes: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ProbeResult:
    """Cross-validates a linear classifier on the labeled rows of a feature file, and optionally saves one.

    The classifier is regularized least squares, one class against the rest, as scikit-learn's ``RidgeClassifier``, on
    rows whose layers are scaled to equal l2 norms. Folds are stratified by class; boxes of one image stay in one fold.

    Args:
        features: path of the feature file.
        folds: number of folds, 2 or more.
        repeats: number of times that the rows are shuffled into folds.
        seed: seed of the first shuffle.
        C: inverse of the regularization strength.
        class_weight: ``balanced`` (all classes count alike, whatever their size) or ``none`` (all rows count alike).
        min_per_class: minimum number of rows of a class, or of images if rows are boxes; smaller classes are left out.
            None: the number of folds.
        ablation: also score parts of the descriptors: single levels, levels up to each, and single layers.
        rows, layers, levels, labels: see :meth:`sppfeat.store.reader.FeatureFile.select`; by default all rows that
            have a descriptor, all columns, and the labels of the file.
        save: path of a ``.npz`` file for a classifier fitted on all labeled rows, for :func:`sppfeat.predict`.
        overwrite: replace an existing file at ``save``.
        max_nbytes: maximum memory to use, in bytes; None: a quarter of the available memory.
        on_progress: called with the number of classifiers trained and tested, and their total number.

    Raises:
        LabelError: the rows have no labels, or fewer than two classes have enough rows.
        ConfigError: a setting is not allowed, the memory does not suffice, scikit-learn is not installed, the file
            lacks the selected rows or columns, or ``save`` is an input.
        StoreError: a file cannot be read or written, or a row holds NaN or infinities.
    """
    settings = ProbeSettings(
        folds=folds,
        repeats=repeats,
        seed=seed,
        C=C,
        class_weight=class_weight,
        min_per_class=min_per_class,
        ablation=ablation,
        max_nbytes=max_nbytes,
    )
    model = None if save is None else Path(save)
    if model is not None and (str(model) == "-" or format_suffix(model) not in ("", ".npz")):
        name = f"{model.stem.strip('-') or 'model'}.npz"
        raise ConfigError(f"--save {str(model)!r}: classifiers are .npz files; use {name}")
    with FeatureFile(Path(features)) as file:
        if model is not None:
            check_new_file(model, inputs=[*file.read_paths, labels], overwrite=overwrite)
        selection = file.select(rows=rows, layers=layers, levels=levels, labels=labels)
        fitted = None if model is None else fit_classifier(selection, settings)
        result = cross_validate(selection, settings, on_progress=on_progress)
    if model is not None and fitted is not None:
        save_classifier(model, fitted, overwrite=overwrite)
    return result
