"""A scikit-learn transformer from images to descriptors, for the first step of a ``Pipeline``."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import RunOptions
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.machine import import_extra
from sppfeat.config.specs import DEFAULT_BACKBONE, DEFAULT_SIZE, DescriptorSpec
from sppfeat.extractor import Extractor
from sppfeat.store.descriptor_columns import select_columns

__all__ = ["SPPFeatures"]

_base = import_extra("sklearn.base", extra="sklearn", purpose="sppfeat.sklearn")
_exceptions = import_extra("sklearn.exceptions", extra="sklearn", purpose="sppfeat.sklearn")


class SPPFeatures(_base.TransformerMixin, _base.BaseEstimator):  # type: ignore[misc, name-defined]
    """Computes descriptors of whole images, as a scikit-learn transformer.

    Nothing is learned: ``fit`` checks the settings and loads the network. A pickle or a copy leaves the network out and
    loads it again on first use, which keeps parallel searches cheap. When you search over the settings of a later
    classifier, ``Pipeline(memory=...)`` caches the descriptors.

    Args:
        backbone: a torchvision model name, the bundled ``spp_s16``, or your own network.
        levels: pyramid levels; level ``n`` pools ``n x n`` bins. None: ``(1, 2, 4)``, or the level that ``head`` needs.
        weights, weights_dir, layer, pool, normalize, head, size, device, precision, batch_size, seed: see
            :class:`sppfeat.Extractor`.

    Attributes:
        n_features_out_: length ``D`` of a descriptor.

    Example:
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.svm import LinearSVC
        >>> model = make_pipeline(SPPFeatures(levels=(1, 2), normalize="l2"), LinearSVC())
    """

    def __init__(
        self,
        backbone: Any = DEFAULT_BACKBONE,
        *,
        levels: Any = None,
        weights: str = "DEFAULT",
        weights_dir: Any = None,
        layer: Any = None,
        pool: str = DescriptorSpec.pool,
        normalize: str = DescriptorSpec.normalize,
        head: str | None = None,
        size: int | str = DEFAULT_SIZE,
        device: str = RunOptions.device,
        precision: str = ExtractConfig.precision,
        batch_size: int | None = RunOptions.batch_size,
        seed: int = 0,
    ) -> None:
        # scikit-learn requires the constructor to store its parameters unchanged; fit checks them.
        self.backbone = backbone
        self.levels = levels
        self.weights = weights
        self.weights_dir = weights_dir
        self.layer = layer
        self.pool = pool
        self.normalize = normalize
        self.head = head
        self.size = size
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.seed = seed

    def fit(self, X: Any, y: Any = None) -> "SPPFeatures":  # noqa: N803, ARG002 - scikit-learn's names
        """Check the settings and load the network.

        Args:
            X: images, as in :meth:`transform`; they are not read.
            y: ignored.

        Raises:
            ValueError: ``X`` is not a sequence of images.
            SppfeatError: settings, network or weights are invalid.
        """
        _list_images(X)
        self._extractor = Extractor(**self.get_params(deep=False))
        self.n_features_out_ = self._extractor.dimension
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:  # noqa: N803
        """Compute the descriptors of whole images.

        Args:
            X: ``n`` images, in one of three forms: a sequence of paths, Pillow images or uint8 arrays (``(H, W, 3)``
                RGB or ``(H, W)`` gray); a column of paths from a table, ``(n,)`` or ``(n, 1)``; or one uint8 array
                ``(n, H, W, 3)`` or ``(n, H, W)``.

        Returns:
            ``(n, D)`` float32.

        Raises:
            NotFittedError: ``fit`` was not called.
            ImageError: an image cannot be read; the message names it.
        """
        descriptors: npt.NDArray[np.float32] = self._loaded()(_list_images(X))
        return descriptors

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:  # noqa: ARG002
        """Return ``(D,)`` column names such as ``features:2:17:0:1``: layer, level, channel, bin row, bin column."""
        return np.array(list(select_columns(self._loaded().columns).names()), dtype=object)

    def _loaded(self) -> Extractor:
        """Return the extractor, loading it first in a copy or an unpickled transformer."""
        if not hasattr(self, "n_features_out_"):
            raise _exceptions.NotFittedError("this SPPFeatures is not fitted yet: call fit first")
        if not hasattr(self, "_extractor"):
            self._extractor = Extractor(**self.get_params(deep=False))
        return self._extractor

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_extractor", None)
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.no_validation = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _list_images(X: Any) -> Sequence[Any]:  # noqa: N803
    """Return the images as a list.

    Raises:
        ValueError: ``X`` is a single image, or an array of another type or shape than images or paths have.
    """
    if isinstance(X, str | bytes | os.PathLike) or not isinstance(X, Iterable):
        raise ValueError(f"X is {type(X).__name__}; allowed: a sequence of images")
    # A column of a pandas or polars table. A whole table becomes an array, too: iterating over it yields column names.
    if hasattr(X, "to_numpy"):
        X = X.to_numpy()  # noqa: N806
    if isinstance(X, np.ndarray) and X.dtype != np.uint8:
        if X.dtype.kind not in "OU" or X.ndim > 2 or (X.ndim == 2 and X.shape[1] != 1):
            raise ValueError(
                f"X is {X.dtype} of shape {X.shape}; allowed: paths (n,) or (n, 1), or uint8 images"
            )
        return list(X.reshape(-1))
    if isinstance(X, np.ndarray) and X.ndim not in (3, 4):
        raise ValueError(f"X is uint8 of shape {X.shape}; allowed: n images, (n, H, W, 3) or (n, H, W)")
    return list(X)
