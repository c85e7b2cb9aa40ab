"""Opens feature files, and hands selected rows and columns to scikit-learn, pandas or torch."""

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
    """A feature file, open for reading, even while another process fills it.

    Use :func:`sppfeat.open` to make one. Everything that the file records is an attribute of the base class,
    :class:`~sppfeat.store.feature_table.FeatureTable`. In ``features``, rows of failed images hold NaN, and rows of
    pending images are undefined; selections return only rows with a descriptor unless you ask for others.

    Nobody may truncate the file while it, or an array of it, is in use: the system kills a process that reads missing
    bytes through a memory map (SIGBUS). Replacing the file by another one is harmless.
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
        """Select rows and columns, with their labels and groups, without reading descriptors yet.

        Args:
            rows: None for every row with a descriptor. A slice, a mask ``(R,)`` or textual conditions select among
                these, in file order: ``"label=cat*"``, ``"image=train/*"``, ``"flag=ok"``, ``"0:100"``. A row must meet
                one condition of each kind given. ``"status=failed"`` (or ``done``, ``pending``, ``any``) also finds
                rows without a descriptor. Row indices select those rows, in the given order.
            layers: names of the layers to keep; None for all.
            levels: pyramid levels to keep; None for all.
            bins: for some levels, the bins ``(row, column)`` to keep; other levels keep all their bins.
            labels: where class labels come from: None for the boxes' classes if the file has any, else the images';
                ``"box"`` or ``"image"``; a table (``.csv``, ``.tsv``) with the columns ``label``, and ``path`` or
                ``row``; a mapping from paths to classes; or an array with one label per row (``R``) or image (``N``).

        Returns:
            The selection. If it drops levels or bins of a layer, the remaining columns of the layer are rescaled to l2
            norm 1 where the file's ``normalize`` is ``l2`` or ``power``.

        Raises:
            ConfigError: a row, layer, level, bin or class does not exist.
            LabelError: labels are malformed, or do not match the images.
        """
        chosen = select_columns(self.columns, layers=layers, levels=levels, bins=bins)
        known = read_labels(self, labels)
        return Selection(self, select_rows(self, rows, known), chosen, known)

    def to_sklearn(self, **selection: Any) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[Any] | None]:
        """Return ``X`` and ``y`` of the rows with a descriptor, or of a selection.

        Args:
            **selection: ``rows``, ``layers``, ``levels``, ``bins``, ``labels``; see :meth:`select`.

        Returns:
            ``X`` ``(n, d)``: a read-only view of the memory-mapped file if rows and columns are contiguous and nothing
            is rescaled, else a copy. All rows are contiguous if every image is done and every box has an area.
            ``y`` ``(n,)`` int64: class of each row as an index into :attr:`target_names`, or -1; the class of the box
            if boxes have classes, else of the image. None if no classes are known. With ``labels``, ``y`` indexes the
            ``target_names`` of the selection that :meth:`select` returns.

        Raises:
            ConfigError: memory cannot hold the copy; or see :meth:`select`.
            LabelError: see :meth:`select`.
        """
        return self.select(**selection).to_sklearn()

    def iter_batches(
        self, batch_size: int = 1024, *, seed: int | None = None, **selection: Any
    ) -> Iterator[tuple[npt.NDArray[np.floating[Any]], npt.NDArray[Any] | None]]:
        """Yield ``X`` and ``y`` in batches; see :meth:`sppfeat.store.selection.Selection.iter_batches`."""
        return self.select(**selection).iter_batches(batch_size, seed=seed)

    def to_pandas(self, **selection: Any) -> Any:
        """Return a table without descriptors; see :func:`sppfeat.store.selection.row_table.to_pandas`."""
        return self.select(**selection).to_pandas()

    def to_torch_dataset(self, **selection: Any) -> "FeatureDataset":
        """Return a data set; see :meth:`sppfeat.store.selection.Selection.to_torch_dataset`."""
        return self.select(**selection).to_torch_dataset()

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """``(n,)`` int64: image index of each row of :meth:`to_sklearn`, for grouped splits."""
        return self.select().groups


def open_features(path: StrPath) -> FeatureFile:
    """Open a feature file for reading; the same as ``sppfeat.open``.

    Args:
        path: path of the file.

    Returns:
        The open file, which is also a context manager.

    Raises:
        StoreError: the file is missing, not HDF5, not a feature file, of a newer schema, or inconsistent.
    """
    return FeatureFile(path)
