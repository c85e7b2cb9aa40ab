"""Feature files, read: checked when opened, memory-mapped where possible, ready for scikit-learn."""

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import Shard
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.machine import drop_pages
from sppfeat.config.regions import RowFlag
from sppfeat.config.values import StrPath
from sppfeat.config.wording import counted
from sppfeat.errors import StoreError
from sppfeat.files.paths import PathTable
from sppfeat.store.reduction import Reduction
from sppfeat.store.schema import ColumnBlock, Status
from sppfeat.store.selection import LabelSource, RowsLike, Selection, select
from sppfeat.store.settings_record import read_config, read_norm_factors, read_reduction, read_shard
from sppfeat.store.stored_file import StoredFile
from sppfeat.store.virtual_features import VirtualFeatures

if TYPE_CHECKING:
    from sppfeat.store.torch_dataset import FeatureDataset

__all__ = ["FeatureFile", "open_features"]


class FeatureFile:
    """A feature file, open for reading; also while another process is filling it.

    Use :func:`sppfeat.open`. A row whose image failed holds NaN, one whose image is pending is undefined:
    :meth:`to_sklearn` and :meth:`iter_batches` hand out only rows that have a descriptor.

    Nobody may shorten the file while it is open, nor after arrays of it were handed out: the system ends a process
    (SIGBUS) that reads through a map what is no longer there. Replacing it by another file is harmless.

    Args:
        path: the file.

    Attributes:
        path: the file.
        stored: its datasets and attributes, as they are stored.
        sources: the files that have its rows, where 'sppfeat merge' made it of them; None where it has them itself.

    Raises:
        StoreError: no file, no HDF5 file, not a file of this format, of a newer schema, or inconsistent; or merged of
            files of which one is missing or was changed since.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(os.fsdecode(path))
        self.stored = StoredFile(self.path)
        try:
            self._identity = (self.attribute("fingerprint"), self.stored.features.shape)
            self.sources = self.stored.source_files()
            if self.sources is not None:
                self.sources.check()
        except BaseException:
            self.stored.close()
            raise

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        rows, images = counted(self.n_rows, "row"), counted(self.n_images, "image")
        return f"<FeatureFile {str(self.path)!r}: {rows} x {self.dimension}, {images}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and other processes open the file again: it is not in the pickle."""
        return _reopen, (os.path.abspath(self.path), self._identity)

    def close(self) -> None:
        """Close the file; arrays that were handed out stay valid."""
        self.stored.close()

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return self.stored.nbytes

    @property
    def read_paths(self) -> list[Path]:
        """The file, and those that have its rows: what nobody may write to who reads it."""
        sources = self.sources or ()
        return [self.path, *(Path(self.sources.path_of(i)) for i in range(len(sources)) if self.sources)]

    @property
    def n_rows(self) -> int:
        """Number of rows, with and without descriptor."""
        return self.stored.features.shape[0]

    @property
    def dimension(self) -> int:
        """Length of a descriptor."""
        return self.stored.features.shape[1]

    @property
    def dtype(self) -> np.dtype[np.floating[Any]]:
        """Type of the descriptors: float32 or float16."""
        return self.stored.features.dtype

    @property
    def n_images(self) -> int:
        """Number of images."""
        return self.stored.shape("images/status")[0]

    @cached_property
    def features(self) -> npt.NDArray[np.floating[Any]] | VirtualFeatures:
        """``(R, D)`` float32 or float16, memory-mapped, read-only; failed and pending rows too.

        Of a merged file whose rows lie in other files something that is indexed as an array is.
        """
        return self.stored.map("features") if self.sources is None else VirtualFeatures(self.sources)

    def drop_pages(self) -> None:
        """Give back the memory that mapped :attr:`features` were read into."""
        if isinstance(self.features, VirtualFeatures):
            self.features.drop_pages()
        elif isinstance(self.features, np.memmap):
            drop_pages(self.features._mmap)  # type: ignore[attr-defined]

    @property
    def boxes(self) -> npt.NDArray[np.float64]:
        """``(R, 4)`` float64, ``xyxy`` in pixels of the image as displayed, edges, half-open."""
        return self.stored.read("boxes")

    @property
    def image_index(self) -> npt.NDArray[np.int64]:
        """``(R,)`` int64: the image of each row."""
        return self.stored.read("image_index")

    @cached_property
    def paths(self) -> list[str]:
        """``(N,)``: path of each image, relative to :attr:`root`, as ``os.fsdecode`` has it."""
        return [os.fsdecode(path) for path in self.path_table]

    @cached_property
    def path_table(self) -> PathTable:
        """:attr:`paths` as bytes, compactly."""
        return self.stored.read_paths("images/path")

    @cached_property
    def image_ids(self) -> list[str] | None:
        """``(N,)``: what the inputs called each image, empty where nothing; None where they had no such names."""
        return None if self.image_id_table is None else [os.fsdecode(name) for name in self.image_id_table]

    @cached_property
    def image_id_table(self) -> PathTable | None:
        """:attr:`image_ids` as bytes, compactly."""
        return self.stored.read_paths("images/id") if self.stored.has("images/id") else None

    def path_of(self, image: int) -> str:
        """Path of one image, relative to :attr:`root`."""
        return os.fsdecode(self.path_table[image])

    @property
    def image_hw(self) -> npt.NDArray[np.int32]:
        """``(N, 2)`` int32: height and width of each image as displayed."""
        return self.stored.read("images/size")

    @property
    def image_rows(self) -> npt.NDArray[np.int64]:
        """``(N, 2)`` int64: half-open range of each image's rows."""
        return self.stored.read("images/rows")

    @property
    def status(self) -> npt.NDArray[np.uint8]:
        """``(N,)`` uint8: 0 pending, 1 done, 2 failed; read anew each time."""
        # Through a map: HDF5 may have cached what another process has written over since.
        return np.array(self.stored.map("images/status"))

    @property
    def errors(self) -> dict[int, str]:
        """Why images failed, by image."""
        failed = np.flatnonzero(self.status == Status.FAILED)
        texts = self.stored.map("images/error")
        return {int(i): bytes(texts[i]).decode("utf-8", "replace") for i in failed}

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """``(N,)`` int64: class of each image, an index into :attr:`classes`, or -1."""
        return self.stored.read("images/label")

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes; empty where they are not known."""
        return [os.fsdecode(name) for name in self.stored.read("classes")]

    @property
    def has_boxes(self) -> bool:
        """Whether rows are boxes; whole images otherwise, and then there is nothing in the ``row_*``."""
        return self.stored.has("row_source")

    @property
    def row_source(self) -> npt.NDArray[np.int64]:
        """``(R,)`` int64: position of each row's box in the box file."""
        return self.stored.read("row_source")

    @property
    def row_flag(self) -> npt.NDArray[np.uint8]:
        """``(R,)`` uint8: what was found of each row's box, bits of :class:`sppfeat.config.regions.RowFlag`."""
        return np.array(self.stored.map("row_flag"))

    @property
    def row_scale(self) -> npt.NDArray[np.int32]:
        """``(R,)`` int32: short side at which each row was pooled; 0 the image's own size, -1 none."""
        return np.array(self.stored.map("row_scale"))

    @property
    def row_mirrored(self) -> npt.NDArray[np.bool_]:
        """``(R,)`` bool: whether each row was pooled from the mirror image."""
        return self.stored.read("row_mirrored").astype(bool)

    @property
    def row_region(self) -> npt.NDArray[np.int32]:
        """``(R, L, 4)`` int32: cells of each layer's map, ``x0, y0, x1, y1``, half-open; zeros: none yet."""
        return np.array(self.stored.map("row_region"))

    @property
    def row_label(self) -> npt.NDArray[np.int64]:
        """``(R,)`` int64: class of each row's box, an index into :attr:`row_classes`, or -1."""
        return self.stored.read("row_label")

    @property
    def row_score(self) -> npt.NDArray[np.float64]:
        """``(R,)`` float64: score of each row's box, NaN where there is none."""
        return self.stored.read("row_score")

    @cached_property
    def row_id(self) -> list[str]:
        """``(R,)``: what the box file calls each row's box; empty where it has no name."""
        return [os.fsdecode(name) for name in self.stored.read("row_id")]

    @cached_property
    def row_classes(self) -> list[str]:
        """Names of the classes of boxes; empty where they are not known."""
        return [os.fsdecode(name) for name in self.stored.read("row_classes")] if self.has_boxes else []

    @cached_property
    def row_extra(self) -> dict[str, list[str]]:
        """Further columns of the box file by name, each ``(R,)`` texts."""
        names = [os.fsdecode(name) for name in self.stored.read("row_extra_names")]
        columns = self.stored.read("row_extra").reshape(self.n_rows, len(names)).T
        return {name: [os.fsdecode(t) for t in column] for name, column in zip(names, columns, strict=True)}

    @property
    def box_row(self) -> npt.NDArray[np.int64]:
        """For each box of the box file the row that has its descriptor; -1: its image was no input."""
        return self.stored.read("box_row")

    @property
    def target_names(self) -> list[str]:
        """What the numbers of ``y`` stand for: :attr:`row_classes` if boxes have classes, else :attr:`classes`."""
        return self.row_classes or self.classes

    @cached_property
    def columns(self) -> tuple[ColumnBlock, ...]:
        """Which column of a descriptor is what."""
        return self.stored.column_blocks()

    @property
    def is_reduced(self) -> bool:
        """Whether the descriptors were reduced to fewer dimensions: see :attr:`reduction`."""
        return self.stored.is_reduced

    @cached_property
    def reduction(self) -> Reduction | None:
        """What reduced the descriptors, to be applied to others; None where they are as extracted."""
        return read_reduction(self.stored) if self.is_reduced else None

    @property
    def reduction_fingerprint(self) -> str | None:
        """Of the :attr:`reduction`: descriptors with different ones cannot be compared; None where there is none."""
        return None if self.reduction is None else self.reduction.fingerprint

    @property
    def extracted_columns(self) -> tuple[ColumnBlock, ...]:
        """Which column was what when the descriptors were extracted; :attr:`columns` where they were not reduced."""
        return self.columns if self.reduction is None else self.reduction.record.source_columns

    @cached_property
    def config(self) -> ExtractConfig:
        """The settings that the descriptors were extracted with; a :attr:`reduction` came after that."""
        return read_config(self.stored)

    @property
    def norm_factors(self) -> tuple[float, ...] | None:
        """What ``meannorm`` multiplied each layer's part with; None where that was not asked for."""
        return read_norm_factors(self.stored)

    @property
    def shard(self) -> Shard | None:
        """Which images and rows of a whole plan the file has; None: all of them."""
        return read_shard(self.stored)

    @property
    def schema_version(self) -> int:
        """Version of the file format."""
        return self.stored.schema_version

    @property
    def root(self) -> str:
        """Folder that :attr:`paths` are relative to."""
        return self.attribute("input_root")

    def attribute(self, name: str) -> str:
        """Return a text attribute of the file.

        Raises:
            StoreError: there is none.
        """
        return self.stored.attribute(name)

    def has_descriptor(self) -> npt.NDArray[np.bool_]:
        """``(R,)`` bool, whether a row has a descriptor: its image is done, and its box has an area."""
        has_one = np.asarray(self.status[self.image_index] == Status.DONE)
        if self.has_boxes:
            has_one &= (self.row_flag & RowFlag.DEGENERATE) == 0
        return has_one

    def rows_with_descriptor(self) -> npt.NDArray[np.int64]:
        """Numbers of the rows that have a descriptor, ascending: of images that are done, and with an area."""
        return np.flatnonzero(self.has_descriptor())

    def count_boxes(self) -> dict[str, int]:
        """How many rows there are, how many have a descriptor, and how many were found what of their box."""
        flag = self.row_flag
        return {
            "rows": self.n_rows,
            "with_descriptor": len(self.rows_with_descriptor()),
            "of_failed_or_pending": int((self.status[self.image_index] != Status.DONE).sum()),
            "clipped": int(((flag & RowFlag.CLIPPED) != 0).sum()),
            "degenerate": int(((flag & RowFlag.DEGENERATE) != 0).sum()),
            "sub_cell": int(((flag & RowFlag.SUB_CELL) != 0).sum()),
        }

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
        return select(self, rows=rows, layers=layers, levels=levels, bins=bins, labels=labels)

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
            A table indexed by the row's number, see :func:`sppfeat.store.selection.pandas_table.to_pandas`.

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


def _reopen(path: str, identity: tuple[Any, ...]) -> FeatureFile:
    file = FeatureFile(path)
    if file._identity != identity:
        file.close()
        raise StoreError(f"{path!r} is another file by now")
    return file


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
