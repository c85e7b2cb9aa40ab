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

    Args:
        path: the file.

    Attributes:
        path: the file.
        stored: its datasets and attributes as stored.
        sources: the files that hold its rows, if 'sppfeat merge' made it; None if it holds them itself.

    Raises:
        StoreError: no file, no HDF5 file, not a feature file, a newer schema, inconsistent content; or a source of a
            merged file is missing or was changed.
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
        """Some rows and columns of the file, with labels and groups that fit them; nothing is read yet.

        Args:
            rows: None for every row that has a descriptor. A slice, a mask ``(R,)``, or conditions in words, which
                all hold (of one kind: any of them): ``"label=cat*"``, ``"image=train/*"``, ``"flag=ok"``, ``"0:100"``:
                those that have a descriptor, in file order; with ``"status=failed"`` (or ``done``, ``pending``,
                ``any``) also those that have none. Row numbers: these, in this order.
            layers, levels: which; all where None.
            bins: for a level the bins ``(row, column)`` to take; of levels that are not named all.
            labels: what class each row is of: None for the classes of boxes where the file has any, else of images;
                ``"box"``, ``"image"``; a table (``.csv``, ``.tsv``) with columns ``label``, and ``path`` or
                ``row``; a mapping of paths to classes; an array of ``R`` rows or ``N`` images.

        Returns:
            The selection. Where levels or bins of a layer are left out, what is left of it is scaled again as
            the file's ``normalize`` says (``l2``, ``power``; a mean norm stays what it was).

        Raises:
            ConfigError: rows, layers, levels, bins or classes that there are not.
            LabelError: labels that are malformed, or of other images.
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
        """``X`` and ``y`` of the rows that have a descriptor, or of a selection.

        Args:
            labels, levels, layers, rows, bins: as for :meth:`select`.

        Returns:
            ``X`` ``(n, d)``: a read-only view of the memory-mapped file where these rows and columns are one range
            of it (always, when all are asked for, no image failed or is pending and every box has an area),
            else a copy. ``y`` ``(n,)`` int64, the class of each row as an index into :attr:`target_names`: of its
            box if the box file has classes, else of its image; -1 where it has none; None where no classes are
            known. With ``labels=`` the numbers are of the names that :meth:`select` gives as its ``target_names``.

        Raises:
            ConfigError: the memory cannot hold the copy; or see :meth:`select`.
        """
        return self.select(labels=labels, levels=levels, layers=layers, rows=rows, bins=bins).to_sklearn()

    def iter_batches(
        self, batch_size: int = 1024, *, seed: int | None = None, **selection: Any
    ) -> Iterator[tuple[npt.NDArray[np.floating[Any]], npt.NDArray[Any] | None]]:
        """``X`` and ``y`` as :meth:`to_sklearn`, ``batch_size`` rows at a time, for ``partial_fit``.

        Args:
            batch_size: rows at a time; the last may be fewer.
            seed: of a random order, without which a file sorted by class gives one class after the other; None
                for the order of the file.
            **selection: as for :meth:`select`.
        """
        return self.select(**selection).iter_batches(batch_size, seed=seed)

    def to_pandas(self, **selection: Any) -> Any:
        """A ``pandas.DataFrame`` of everything but the vectors, one line per row, aligned with :meth:`to_sklearn`.

        Args:
            **selection: as for :meth:`select`; ``rows="status=any"`` for the rows that failed, too.

        Returns:
            A table indexed by the row's number, see :func:`sppfeat.store.selection.row_table.to_pandas`.

        Raises:
            ConfigError: pandas is not installed; or see :meth:`select`.
        """
        return self.select(**selection).to_pandas()

    def to_torch_dataset(self, **selection: Any) -> "FeatureDataset":
        """A ``torch.utils.data.Dataset`` of ``(vector, class)``: float32 ``(d,)``, and int64 with -1 for none.

        Args:
            **selection: as for :meth:`select`.
        """
        return self.select(**selection).to_torch_dataset()

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """``(n,)`` int64: image of each row that :meth:`to_sklearn` gives, for grouped splits."""
        return self.select().groups


def open_features(path: StrPath) -> FeatureFile:
    """Open a feature file for reading; the same as ``sppfeat.open``.

    Args:
        path: the file.

    Returns:
        The open file, a context manager.

    Raises:
        StoreError: no file, no HDF5 file, not a file of this format, of a newer schema, or inconsistent.
    """
    return FeatureFile(path)
