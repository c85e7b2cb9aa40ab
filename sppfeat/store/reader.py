"""Feature files for readers: open one, select rows and columns, hand them to scikit-learn, pandas or torch."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.values import StrPath
from sppfeat.store.descriptor_columns import select_columns
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.selection import LabelSource, RowsLike, Selection, read_labels, select_rows

if TYPE_CHECKING:
    from sppfeat.store.torch_dataset import FeatureDataset

__all__ = ["FeatureFile", "open_features"]


class FeatureFile(FeatureTable):
    """A feature file, open for reading, even while another process is filling it.

    Use :func:`sppfeat.open`. Rows of failed images hold NaN; rows of pending images are undefined.
    :meth:`to_sklearn` and :meth:`iter_batches` return only rows with a descriptor.

    Nobody may shorten the file while it is open or while arrays of it are in use: the system ends a process that
    reads missing bytes through a map (SIGBUS). Replacing it by another file is harmless.

    Everything that the file records is an attribute of :class:`~sppfeat.store.feature_table.FeatureTable`.

    Args:
        path: the file.

    Raises:
        StoreError: see :class:`~sppfeat.store.feature_table.FeatureTable`.
    """

    def select(
        self,
        *,
        rows: RowsLike = None,
        layers: Iterable[str] | str | None = None,
        levels: Iterable[int] | int | None = None,
        bins: Mapping[int, Iterable[tuple[int, int]]] | None = None,
        labels: LabelSource = None,
    ) -> Selection:
        """Select rows and columns, with their labels and groups; no descriptor is read yet.

        Args:
            rows: None for every row with a descriptor. A slice, a mask ``(R,)`` or conditions in words select among
                these, in file order: ``"label=cat*"``, ``"image=train/*"``, ``"flag=ok"``, ``"0:100"``. Rows must
                fulfill one condition of each kind. ``"status=failed"`` (or ``done``, ``pending``, ``any``) includes
                rows without a descriptor. Row numbers select these rows, in this order.
            layers, levels: the layers and levels to keep; None for all.
            bins: the bins ``(row, column)`` to keep of each level; all bins of levels not named here.
            labels: source of the classes of rows: None for the classes of boxes if the file has any, else of images;
                ``"box"``, ``"image"``; a table (``.csv``, ``.tsv``) with columns ``label``, and ``path`` or
                ``row``; a mapping of paths to classes; an array of ``R`` rows or ``N`` images.

        Returns:
            The selection. If levels or bins of a layer are left out, the rest of the layer is rescaled as the file's
            ``normalize`` demands (``l2``, ``power``; factors of a mean norm stay).

        Raises:
            ConfigError: a row, layer, level, bin or class does not exist.
            LabelError: labels are malformed, or belong to other images.
        """
        chosen = select_columns(self.columns, layers=layers, levels=levels, bins=bins)
        known = read_labels(self, labels)
        return Selection(self, select_rows(self, rows, known), chosen, known)

    def to_sklearn(
        self,
        *,
        labels: LabelSource = None,
        levels: Iterable[int] | int | None = None,
        layers: Iterable[str] | str | None = None,
        rows: RowsLike = None,
        bins: Mapping[int, Iterable[tuple[int, int]]] | None = None,
    ) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[Any] | None]:
        """Return ``X`` and ``y`` of the rows with a descriptor, or of a selection.

        Args:
            labels, levels, layers, rows, bins: as for :meth:`select`.

        Returns:
            ``X`` ``(n, d)``: a read-only view of the memory-mapped file if these rows and columns are one range of it
            (always the case for all rows if no image failed or is pending and every box has an area), else a copy.
            ``y`` ``(n,)`` int64: the class of each row as an index into :attr:`target_names`, the class of its box if
            the box file has classes, else of its image; -1 for none; None if no classes are known. With ``labels=``
            the numbers index the ``target_names`` of :meth:`select`.

        Raises:
            ConfigError: memory cannot hold the copy; or see :meth:`select`.
        """
        return self.select(labels=labels, levels=levels, layers=layers, rows=rows, bins=bins).to_sklearn()

    def iter_batches(
        self, batch_size: int = 1024, *, seed: int | None = None, **selection: Any
    ) -> Iterator[tuple[npt.NDArray[np.floating[Any]], npt.NDArray[Any] | None]]:
        """Yield ``X`` and ``y`` of :meth:`to_sklearn`, ``batch_size`` rows at a time, for ``partial_fit``.

        Args:
            batch_size: rows of a batch; the last may have fewer.
            seed: seed of a random order; None for the order of the file, which gives one class after the other if the
                file is sorted by class.
            **selection: as for :meth:`select`.
        """
        return self.select(**selection).iter_batches(batch_size, seed=seed)

    def to_pandas(self, **selection: Any) -> Any:
        """Return a ``pandas.DataFrame`` of everything but the vectors, aligned with :meth:`to_sklearn`.

        Args:
            **selection: as for :meth:`select`; ``rows="status=any"`` for the rows that failed, too.

        Returns:
            One line for each row, indexed by its number; see :func:`sppfeat.store.selection.row_table.to_pandas`.

        Raises:
            ConfigError: pandas is not installed; or see :meth:`select`.
        """
        return self.select(**selection).to_pandas()

    def to_torch_dataset(self, **selection: Any) -> "FeatureDataset":
        """Return a ``torch.utils.data.Dataset`` of ``(vector, class)``: float32 ``(d,)``, and int64 with -1 for none.

        Args:
            **selection: as for :meth:`select`.
        """
        return self.select(**selection).to_torch_dataset()

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """``(n,)`` int64: image of each row of :meth:`to_sklearn`, for grouped splits."""
        return self.select().groups


def open_features(path: StrPath) -> FeatureFile:
    """Open a feature file for reading; the same as ``sppfeat.open``.

    Args:
        path: the file.

    Returns:
        The open file, a context manager.

    Raises:
        StoreError: no file, no HDF5 file, not a feature file, a newer schema, or inconsistent content.
    """
    return FeatureFile(path)
