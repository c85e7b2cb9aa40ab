"""Embeddings: descriptors as points in the plane."""

import dataclasses
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import DEFAULT_EMBEDDING, EMBEDDINGS, MOST_EMBEDDED
from sppfeat.analysis.row_checks import check_described
from sppfeat.analysis.show.sampling import draw_rows
from sppfeat.config.machine import import_extra
from sppfeat.config.values import check_choice
from sppfeat.errors import ConfigError
from sppfeat.store.selection import Selection

__all__ = ["Embedding", "embed_rows"]

_N_REDUCED = 50  # principal components that t-SNE and UMAP get, as is usual
_PERPLEXITY = 30.0
_N_NEIGHBORS = 15
_FEWEST_NEIGHBORED = 5  # minimum number of rows for t-SNE and UMAP, which fail with fewer


@dataclass(frozen=True)
class Embedding:
    """Rows as points in the plane.

    Attributes:
        method: one of :data:`~sppfeat.analysis.choices.EMBEDDINGS`.
        selection: the ``n`` rows that have points.
        points: ``(n, 2)`` float64, in arbitrary units.
        explained: share of the variance along each axis, 0 to 1; None if the method is not ``"pca"``.
        n_rows: number of rows that they were drawn from.
        n_nonfinite: number of drawn rows left out because they hold NaN or infinities.
    """

    method: str
    selection: Selection
    points: npt.NDArray[np.float64]
    explained: tuple[float, float] | None
    n_rows: int
    n_nonfinite: int


def embed_rows(
    selection: Selection, *, method: str = DEFAULT_EMBEDDING, most: int = MOST_EMBEDDED, seed: int = 0
) -> Embedding:
    """Places the rows of a selection in the plane, similar ones close to each other.

    Memory holds the drawn rows twice: ``8 * most * d`` bytes.

    Args:
        selection: rows and columns of an open file.
        method: ``"pca"`` shows the two directions of largest variance; ``"tsne"`` and ``"umap"`` keep neighborhoods of
            the first 50 principal components, but distances between groups mean nothing.
        most: maximum number of rows; if there are more, this many are drawn at random.
        seed: seed of the draw and of the method.

    Raises:
        ConfigError: there is no such method, its package is missing, there are too few rows, or a row has no
            descriptor.
    """
    check_choice("method", method, EMBEDDINGS)
    check_described(selection)
    decomposition = import_extra("sklearn.decomposition", extra="sklearn", purpose="an embedding")
    drawn = draw_rows(selection, most, seed=seed)
    rows = drawn.take(np.arange(len(drawn))).astype(np.float32)
    selection.file.drop_pages()
    finite = np.isfinite(rows).all(axis=1)
    n_nonfinite = int((~finite).sum())
    if n_nonfinite:
        rows, drawn = rows[finite], dataclasses.replace(drawn, rows=drawn.rows[finite])
    if method != "pca" and len(rows) < _FEWEST_NEIGHBORED:
        raise ConfigError(
            f"method is {method!r}, which takes {_FEWEST_NEIGHBORED} rows or more, not {len(rows)}"
        )
    # Variances of large values would overflow float32; explained shares do not depend on the scale.
    peak = float(np.abs(rows).max(initial=0)) or 1.0
    rows /= np.float32(peak)
    n_components = min(2 if method == "pca" else _N_REDUCED, *rows.shape)
    points, explained = _principal(decomposition, rows, n_components, seed)
    if method == "pca":
        return Embedding(method, drawn, points[:, :2] * peak, explained, len(selection), n_nonfinite)
    spread = float(np.abs(points).max(initial=0))
    if not spread:  # with equal rows, t-SNE divides by zero and crashes the process (SIGSEGV)
        return Embedding(method, drawn, points[:, :2], None, len(selection), n_nonfinite)
    points = (_tsne if method == "tsne" else _umap)(points / spread, seed)
    return Embedding(method, drawn, points, None, len(selection), n_nonfinite)


def _principal(
    decomposition: object, rows: npt.NDArray[np.float32], n_components: int, seed: int
) -> tuple[npt.NDArray[np.float64], tuple[float, float]]:
    """Principal components ``(n, k)`` with ``k >= 2``, and the first two components' shares of the variance."""
    points = np.zeros((len(rows), max(2, n_components)))
    if len(rows) < 2 or not np.ptp(rows, axis=0).any():  # nothing varies
        return points, (0.0, 0.0)
    pca = decomposition.PCA(n_components, svd_solver="auto", random_state=seed)  # type: ignore[attr-defined]
    with np.errstate(invalid="ignore"):  # shares of a variance that underflows
        points[:, :n_components] = pca.fit_transform(rows)
    shares = [*np.nan_to_num(pca.explained_variance_ratio_).tolist(), 0.0]
    return points, (shares[0], shares[1])


def _tsne(points: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    manifold = import_extra("sklearn.manifold", extra="sklearn", purpose="an embedding by t-SNE")
    perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
    tsne = manifold.TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    return np.asarray(tsne.fit_transform(points), dtype=np.float64)


def _umap(points: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    umap = import_extra("umap", extra="umap", purpose="an embedding by UMAP")
    n_neighbors = min(_N_NEIGHBORS, len(points) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about using only one thread because of the seed
        reducer = umap.UMAP(n_components=2, n_neighbors=n_neighbors, random_state=seed)
        return np.asarray(reducer.fit_transform(points), dtype=np.float64)
