"""The classifier of :mod:`sppfeat.analysis.probe.classifier`, computed from inner products of rows.

For ``n`` long rows, a linear classifier needs only their ``n x n`` inner products. The products of whole descriptors
are sums of the products of their parts, so products computed once serve all folds and all choices of layers and levels.
"""

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.probe.rows import scaled_rows
from sppfeat.config.machine import import_extra, row_ranges

if TYPE_CHECKING:
    from sppfeat.store.descriptor_columns import BlockPart
    from sppfeat.store.selection import Selection

__all__ = ["PartProducts", "predict_with_kernel", "products_nbytes"]

_BLOCK_NBYTES = 256 << 20  # maximum size of the rows to multiply at once, as float32


class PartProducts:
    """Inner products of rows, separately for each layer and level of their descriptors.

    Args:
        selection: rows and columns of an open file.
        positions: ``(n,)`` positions in the selection.
        on_progress: called with the number of blocks done and the total number of blocks.

    Raises:
        StoreError: a row holds NaN or infinities.
    """

    def __init__(
        self,
        selection: "Selection",
        positions: npt.NDArray[np.int64],
        *,
        on_progress: Callable[[int, int], None] = lambda n, total: None,
    ) -> None:
        self._parts = selection.columns.parts
        n = len(positions)
        self._products = [np.empty((n, n), dtype=np.float32) for _ in self._parts]
        blocks = list(row_ranges(n, row_nbytes=4 * selection.dimension, nbytes=_BLOCK_NBYTES))
        total = len(blocks) * (len(blocks) + 1) // 2
        n_done = 0
        for i, rows in enumerate(blocks):
            left = scaled_rows(selection, positions[rows])
            for others in blocks[: i + 1]:
                right = left if others == rows else scaled_rows(selection, positions[others])
                for columns, products in zip(_ranges(self._parts), self._products, strict=True):
                    product = left[:, columns] @ right[:, columns].T
                    products[rows, others] = product
                    products[others, rows] = product.T
                n_done += 1
                on_progress(n_done, total)

    def kernel(self, layers: Collection[str], levels: Collection[int]) -> npt.NDArray[np.float64]:
        """Inner products ``(n, n)`` float64 of the rows over these layers and levels, scaled layer by layer."""
        chosen: dict[str, list[npt.NDArray[np.float32]]] = {}
        for part, products in zip(self._parts, self._products, strict=True):
            if part.block.layer in layers and part.block.level in levels:
                chosen.setdefault(part.block.layer, []).append(products)
        n = len(self._products[0])
        kernel = np.zeros((n, n))
        for of_layer in chosen.values():
            total = np.zeros((n, n))
            for products in of_layer:
                total += products
            norm = np.sqrt(total.diagonal())
            norm[norm == 0] = 1
            total /= norm
            total /= norm[:, None]
            kernel += total
        kernel /= len(chosen)
        return kernel


def predict_with_kernel(
    kernel: npt.NDArray[np.float64],
    y: npt.NDArray[np.int64],
    train: npt.NDArray[np.int64],
    test: npt.NDArray[np.int64],
    *,
    alpha: float,
    balanced: bool,
) -> npt.NDArray[np.int64]:
    """Gives the predictions of ``RidgeClassifier`` from inner products of rows alone.

    Args:
        kernel: ``(n, n)`` inner products of all rows.
        y: ``(n,)`` class of each row.
        train, test: ``(k,)`` positions of the training rows and of the test rows.
        alpha: regularization strength.
        balanced: give all classes the same total weight; if False, give all rows the same weight.

    Returns:
        ``(len(test),)`` int64, a class of the training rows for each test row.
    """
    ridge = import_extra("sklearn.kernel_ridge", extra="sklearn", purpose="cross-validation")
    classes, own = np.unique(y[train], return_inverse=True)
    weights = _balanced_weights(own) if balanced else np.ones(len(train))
    share = weights / weights.sum()
    # Centering rows and targets at their weighted means stands for the intercept, which is not regularized.
    inner, across = kernel[np.ix_(train, train)], kernel[np.ix_(test, train)]
    mean = share @ inner
    offset = float(mean @ share)
    across = across - (across @ share)[:, None] - mean + offset
    inner = inner - mean[:, None] - mean + offset
    targets = np.where(own[:, None] == np.arange(len(classes)), 1.0, -1.0)
    center = share @ targets
    model = ridge.KernelRidge(alpha=alpha, kernel="precomputed")
    model.fit(inner, targets - center, sample_weight=weights)
    predicted: npt.NDArray[np.int64] = classes[np.argmax(model.predict(across) + center, axis=1)]
    return predicted


def _balanced_weights(classes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Weights ``(n,)`` of rows, of mean 1, that give all classes the same share: scikit-learn's "balanced"."""
    counts = np.bincount(classes)
    weights: npt.NDArray[np.float64] = len(classes) / (len(counts) * counts[classes])
    return weights


def _ranges(parts: "tuple[BlockPart, ...]") -> Iterator[slice]:
    start = 0
    for part in parts:
        yield slice(start, start + part.width)
        start += part.width


def products_nbytes(n: int, n_parts: int) -> int:
    """Bytes of the products of ``n`` rows with this many parts, and of the arrays computed from them."""
    return n * n * (4 * n_parts + 8 * 6)
