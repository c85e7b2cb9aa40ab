"""The linear classifier: scaled per layer, then regularised least squares, one class against the others."""

import math
from typing import TYPE_CHECKING, Any

from sppfeat.config.machine import import_extra

if TYPE_CHECKING:
    from sppfeat.store.descriptor_columns import ColumnSelection

__all__ = ["make_pipeline", "regularisation"]


def regularisation(C: float) -> float:  # noqa: N803 - scikit-learn's name for it
    """What scikit-learn calls alpha, for a C as its other linear classifiers have it."""
    return 1 / (2 * C)


def make_pipeline(columns: "ColumnSelection", *, C: float, class_weight: str) -> Any:  # noqa: N803
    """A scikit-learn pipeline that has not been fitted, for ``(n, d)`` float32.

    Each layer's part of a row is scaled to l2 norm 1 / sqrt(number of layers), so that whole rows have norm 1 and
    one C suits all files; zeros stay zeros. Then ``RidgeClassifier``, for its speed on long rows: on a fold of
    Caltech-101 (3030 x 10752) it had 87.0 % in 1.7 s, ``LinearSVC(C=1)`` 84.5 % in 70 s and
    ``LogisticRegression(C=100)`` 83.3 % in 35 s.

    Args:
        columns: which the rows will have.
        C: inverse strength of the regularisation.
        class_weight: ``balanced`` or ``none``.
    """
    compose, linear_model, pipeline, preprocessing = (
        import_extra(f"sklearn.{name}", extra="sklearn", purpose="a classifier")
        for name in ("compose", "linear_model", "pipeline", "preprocessing")
    )
    layers = columns.layer_ranges()
    scaler = compose.ColumnTransformer(
        [(f"layer{i}", preprocessing.Normalizer(), part) for i, part in enumerate(layers.values())],
        transformer_weights={f"layer{i}": 1 / math.sqrt(len(layers)) for i in range(len(layers))},
    )
    classifier = linear_model.RidgeClassifier(
        alpha=regularisation(C), class_weight="balanced" if class_weight == "balanced" else None
    )
    return pipeline.Pipeline([("scale", scaler), ("classify", classifier)])
