"""Opens feature files, and hands selected rows and columns to scikit-learn, pandas or torch."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import check_copy, row_ranges
from sppfeat.config.values import StrPath
from sppfeat.config.wording import counted, one_line
from sppfeat.errors import ConfigError, LabelError, LabelWarning
from sppfeat.store.descriptor_columns import ColumnSelection, select_columns
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.labels import Labels, LabelSource, read_labels
from sppfeat.store.row_table import to_pandas
from sppfeat.store.rows import RowsLike, select_rows

if TYPE_CHECKING:
    from sppfeat.store.torch_dataset import FeatureDataset

__all__ = ["FeatureFile", "Selection", "open_features"]


_COPIED_NBYTES = 64 << 20  # of whole descriptors, cut and rescaled at a time


@dataclass(frozen=True, repr=False)
class Selection:
    """Selected rows and columns of an open feature file; see :meth:`sppfeat.store.reader.FeatureFile.select`.

    Attributes:
        rows: ``(n,)`` int64, indices of the selected rows.
        labels: class labels of all rows in the file, selected or not.
    """

    file: FeatureTable
    rows: npt.NDArray[np.int64]
    columns: ColumnSelection
    labels: Labels

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        rows, columns = f"{len(self)} of {counted(self.file.n_rows, 'row')}", self.columns
        return f"<Selection of {str(self.file.path)!r}: {rows} x {columns.width} of {columns.dimension}>"

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the descriptors, which can be read from the file again."""
        return {name: value for name, value in vars(self).items() if name != "X"}

    @property
    def dimension(self) -> int:
        """Length of a selected descriptor."""
        return self.columns.width

    @cached_property
    def X(self) -> npt.NDArray[np.floating[Any]]:  # noqa: N802 - scikit-learn's name for it
        """``(n, d)`` descriptors in the file's type: a read-only view of the memory map if possible, else a copy.

        Raises:
            ConfigError: memory cannot hold the copy.
        """
        return self.take(np.arange(len(self.rows)))

    @property
    def y(self) -> npt.NDArray[Any] | None:
        """``(n,)``: class of each row, an index into :attr:`target_names` or -1; None if no classes are known."""
        return None if self.labels.values is None else self.labels.values[self.rows]

    @property
    def y_names(self) -> npt.NDArray[np.str_] | None:
        """``(n,)`` texts: class name of each row, empty for none; None if no classes are known.

        Raises:
            LabelError: the labels are the caller's own numbers.
        """
        return self.labels.names_of(self.rows)

    @property
    def target_names(self) -> list[str]:
        """Class names that :attr:`y` indexes."""
        return list(self.labels.names)

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """``(n,)`` int64: image index of each row, for splits that keep the boxes of an image together."""
        return self.file.image_index[self.rows]

    @property
    def paths(self) -> list[str]:
        """``(n,)`` texts: path of each row's image, relative to the file's root."""
        table = self.file.path_table
        return [os.fsdecode(table[image]) for image in self.groups.tolist()]

    def to_sklearn(
        self, *, names: bool = False
    ) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[Any] | None]:
        """Return :attr:`X`, and :attr:`y` or with ``names`` :attr:`y_names`."""
        return self.X, self.y_names if names else self.y

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` of everything but the descriptors, indexed by row index.

        If classes have names, ``label`` is categorical, with :attr:`y` as its codes; else it holds :attr:`y` itself, or
        nothing if no classes are known.

        Raises:
            ConfigError: pandas is not installed.
            LabelError: labels are not numbers, or there are several per row.
        """
        return to_pandas(self.file, self.rows, self.labels)

    def to_torch_dataset(self) -> "FeatureDataset":
        """Return a ``torch.utils.data.Dataset`` of pairs: descriptor ``(d,)`` float32, and class int64, -1 for none."""
        from sppfeat.store.torch_dataset import FeatureDataset  # imports torch, which nothing else here needs

        y = self.y
        classes = np.full(len(self), -1) if y is None else np.array(y)
        return FeatureDataset(self.take, classes, self.target_names)

    def iter_batches(
        self, batch_size: int = 1024, *, seed: int | None = None, names: bool = False
    ) -> Iterator[tuple[npt.NDArray[np.floating[Any]], npt.NDArray[Any] | None]]:
        """Yield ``X`` and ``y`` of ``batch_size`` rows at a time, for ``partial_fit``.

        Args:
            batch_size: rows per batch; the last batch may have fewer.
            seed: seed for a random order; None for file order, in which a file sorted by class yields one class after
                another.
            names: ``y`` is :attr:`y_names`.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; allowed: 1 or more")
        y = self.y_names if names else self.y
        order = np.arange(len(self.rows))
        if seed is not None:
            np.random.default_rng(seed).shuffle(order)
        parts = (order[start : start + batch_size] for start in range(0, len(order), batch_size))
        return ((self.take(part), None if y is None else y[part]) for part in parts)

    def take(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.floating[Any]]:
        """Return descriptors ``(k, d)`` at positions ``(k,)`` int64 of :attr:`rows`.

        They are a view if rows and columns are contiguous and nothing is rescaled.
        """
        rows = self.rows[positions]
        features, columns, normalize = self.file.features, self.columns.one_range, self._normalize
        is_whole = columns is not None and not self.columns.needs_rescaling(normalize)
        if is_whole and len(rows) and (np.diff(rows) == 1).all():
            return np.asanyarray(features[rows[0] : rows[-1] + 1, columns])
        check_copy(self.file.path, (len(rows), self.dimension), self.file.dtype.itemsize)
        if is_whole:
            return np.asanyarray(features[rows, columns])
        taken = np.empty((len(rows), self.dimension), dtype=self.file.dtype)
        row_nbytes = self.columns.dimension * self.file.dtype.itemsize
        for part in row_ranges(len(rows), row_nbytes=row_nbytes, nbytes=_COPIED_NBYTES):
            # Contiguous columns are read from disk alone.
            if columns is not None:
                taken[part] = self.columns.rescale(features[rows[part], columns], normalize)
            else:
                taken[part] = self.columns.take(features[rows[part]], normalize)
            if part.stop < len(rows):  # more than fits at once
                self.file.drop_pages()
        return taken

    def blocks(
        self, positions: npt.NDArray[np.int64] | None = None, *, nbytes: int = _COPIED_NBYTES
    ) -> Iterator[tuple[slice, npt.NDArray[np.floating[Any]]]]:
        """Yield the rows of :meth:`take` in blocks, holding one block in memory.

        Each is a range of ``positions``, which are all if None, and its descriptors ``(b, d)``, at most ``nbytes`` as
        float32. The pages of a block are released before the next one is read. Copy what you keep, or it is reread from
        disk.
        """
        if positions is None:
            positions = np.arange(len(self.rows))
        for part in row_ranges(len(positions), row_nbytes=4 * self.dimension, nbytes=nbytes):
            # Copy a few columns at once: reading through a view of them would read whole descriptors from disk.
            yield part, np.ascontiguousarray(self.take(positions[part]))
            self.file.drop_pages()

    def of_descriptors(self, descriptors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """Select the same columns of descriptors ``(m, D)`` from elsewhere, rescaled like those in :meth:`take`.

        The descriptors have all columns, as from :meth:`sppfeat.Extractor.from_file`, else ConfigError is raised.
        Returns ``(m, d)`` in the file's type.
        """
        if descriptors.ndim != 2 or descriptors.shape[1] != self.columns.dimension:
            raise ConfigError(
                f"descriptors of shape {descriptors.shape}; allowed: (m, {self.columns.dimension}), as in the file"
            )
        dtype = self.file.dtype
        with np.errstate(over="ignore"):  # float16 overflows to infinity, as when a file is written
            whole = descriptors.astype(dtype, copy=False)
            return self.columns.take(whole, self._normalize).astype(dtype, copy=False)

    @property
    def _normalize(self) -> str:
        """The file's ``normalize`` setting if it matters here, else ``none``: invalid settings then do no harm."""
        return self.file.config.descriptor.normalize if self.columns.incomplete else "none"


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
        classes: Iterable[str] | None = None,
        like: "FeatureFile | Selection | StrPath | None" = None,
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
                ``row``, in UTF-8, or in the encoding of an :class:`sppfeat.config.values.EncodedPath`; a mapping from
                paths to classes; or an array with one label per row (``R``) or image (``N``). Classes without an order
                of their own are numbered in the natural order of their names. A
                :class:`~sppfeat.errors.LabelWarning` counts the names that match no image, and the rows without label.
            classes: the class names that number the rows, in the order of their numbers; None for those of the labels.
            like: the file, its path, or the selection whose class numbers the rows get: the training file, for a test
                file.

        Returns:
            The selection. If it drops levels or bins of a layer, the remaining columns of the layer are rescaled to l2
            norm 1 where the file's ``normalize`` is ``l2`` or ``power``.

        Raises:
            ConfigError: a row, layer, level, bin or class does not exist.
            LabelError: labels are malformed, or do not match the images; or a selected row has a class that
                ``classes`` or ``like`` lacks.
        """
        chosen = select_columns(self.columns, layers=layers, levels=levels, bins=bins)
        known = read_labels(self, labels)
        selected = select_rows(self, rows, known)
        for note in known.notes_on(selected):
            warnings.warn(note, LabelWarning, stacklevel=2)
        if like is not None and classes is not None:
            raise ConfigError("classes and like are both given; give one of them")
        if like is not None:
            known = known.renumbered(*_classes_of(like, labels), selected)
        elif classes is not None:
            known = known.renumbered(classes, "classes", selected)
        return Selection(self, selected, chosen, known)

    def to_sklearn(
        self, *, names: bool = False, **selection: Any
    ) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[Any] | None]:
        """Return ``X`` and ``y`` of the rows with a descriptor, or of a selection.

        Args:
            names: ``y`` holds class names instead of numbers, and empty texts instead of -1.
            **selection: ``rows``, ``layers``, ``levels``, ``bins``, ``labels``, ``classes``, ``like``; see
                :meth:`select`. ``like=train_file`` gives the rows of a test file the class numbers of the training
                file.

        Returns:
            ``X`` ``(n, d)``: a read-only view of the memory-mapped file if rows and columns are contiguous and nothing
            is rescaled, else a copy. All rows are contiguous if every image is done and every box has an area.
            joblib's worker processes map the same file; it gets reversed and transposed views of any map wrong.
            ``y`` ``(n,)`` int64: class of each row as an index into :attr:`target_names`, or -1; the class of the box
            if boxes have classes, else of the image. None if no classes are known. With ``labels``, ``classes`` or
            ``like``, ``y`` indexes the ``target_names`` of the selection that :meth:`select` returns.

        Raises:
            ConfigError: memory cannot hold the copy; or see :meth:`select`.
            LabelError: see :meth:`select`.
        """
        return self.select(**selection).to_sklearn(names=names)

    def iter_batches(
        self, batch_size: int = 1024, *, seed: int | None = None, names: bool = False, **selection: Any
    ) -> Iterator[tuple[npt.NDArray[np.floating[Any]], npt.NDArray[Any] | None]]:
        """Yield ``X`` and ``y`` in batches; see :meth:`sppfeat.store.reader.Selection.iter_batches`."""
        return self.select(**selection).iter_batches(batch_size, seed=seed, names=names)

    def to_pandas(self, **selection: Any) -> Any:
        """Return a table without descriptors; see :meth:`Selection.to_pandas`."""
        return self.select(**selection).to_pandas()

    def to_torch_dataset(self, **selection: Any) -> "FeatureDataset":
        """Return a data set; see :meth:`sppfeat.store.reader.Selection.to_torch_dataset`."""
        return self.select(**selection).to_torch_dataset()

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """``(n,)`` int64: image index of each row of :meth:`to_sklearn`, for grouped splits."""
        return self.select().groups


def _classes_of(like: Any, labels: LabelSource) -> tuple[list[str], str]:
    """Return the class names of another file or selection, and its name for messages.

    Of a file, they are those of the boxes or of the images if ``labels`` asks for these.
    """
    if isinstance(like, Selection):
        names, name = like.target_names, str(like.file.path)
    elif isinstance(like, FeatureFile):  # may be closed, after its own selections were made
        of_each = {"box": like.row_classes, "image": like.classes}
        names = of_each.get(labels, like.target_names) if isinstance(labels, str) else like.target_names
        name = str(like.path)
    elif isinstance(like, str | bytes | os.PathLike):
        with FeatureFile(os.fsdecode(like)) as file:
            return _classes_of(file, labels)
    else:
        found = one_line(repr(like))
        raise LabelError(
            f"like is {found}; allowed: a feature file, its path, or a selection (class names go into classes)"
        )
    if not names:
        raise LabelError(
            f"like is {name!r}, which has no classes; allowed: a file or a selection that has some"
        )
    return names, repr(name)


def open_features(path: StrPath) -> FeatureFile:
    """Open a feature file for reading: ``sppfeat.open``. Close it with ``with`` or ``close()``.

    Raises:
        StoreError: the file is missing, not HDF5, not a feature file, of a newer schema, or inconsistent.

    Example:
        >>> with sppfeat.open("features.h5") as file:  # doctest: +SKIP
        ...     train = file.select(levels=[1, 2])
        ...     train.X.shape, train.y.shape, train.target_names
        ((20, 2560), (20,), ['brick', 'galaxies', 'grass', 'gravel'])
    """
    return FeatureFile(path)
